"""What the gate asks of each figure: the rules of `register.rules`, and what earlier releases had in their place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_serializer

from segmodels.errors import UserError
from segmodels.tasks import DEFAULT, task_info
from segmodels.tasks.base import TaskError

if TYPE_CHECKING:
    from components.params import Params

COSTS = ("ms_per_image", "parameters")


class ParamsError(UserError, ValueError):
    """`params.yaml` has a key or a value that it should not have."""


def _of_rules(given: dict[str, Any]) -> dict[str, Any]:
    from segmodels.data.validation.rules import known_severity

    return known_severity(given)


# Of the rules of validation, which are no rules of the gate.
Severities = Annotated[dict[str, Literal["critical", "warning", "ignore"]], AfterValidator(_of_rules)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Rule(Section):
    """What the gate asks of one figure; what is not set is not asked. Shares are in fractions: 0.05 is five points.

    Attributes:
        floor: The worst value with which a model gets a version.
        gain: By which it must be better than the champion's, by more than noise.
        loss: By which it may be worse than the champion's.
        times: How many times the champion's it may be; for `ms_per_image` and `parameters`.
    """

    floor: float | None = None
    gain: float | None = Field(None, ge=0)
    loss: float | None = Field(None, ge=0)
    times: float | None = Field(None, ge=1)

    @model_serializer(mode="wrap")
    def _given(self, handler: Any) -> dict[str, Any]:
        """Leave out what is not set: null would take the place of the task's own rule where it is read again."""
        return {key: value for key, value in handler(self).items() if key in self.model_fields_set}


def gate_rules(params: Params) -> dict[str, Rule]:
    """Return what the gate asks of each figure: the task's rules under those of `register.rules`.

    Raises:
        TaskError: A rule is of no figure of the task.
    """
    info = task_info(params.task)
    rules = {key: Rule(**rule) for key, rule in info.rules.items()}
    for key, own in params.register_.rules.items():
        if key not in COSTS:
            info.figure(key)
            if own.times is not None:
                raise TaskError(f"register.rules.{key}: `times` is a rule of {' and '.join(COSTS)} alone")
        elif own.floor is not None or own.gain is not None or own.loss is not None:
            raise TaskError(f"register.rules.{key}: a cost has `times` and nothing else")
        # A rule of one class stands upon that of all.
        base = rules.get(key) or (rules.get(f"{info.each.key}/*") if "/" in key else None) or Rule()
        rules[key] = base.model_copy(update=own.model_dump(exclude_unset=True))
    return rules


def refuse_former(raw: Mapping[str, Any], source: str) -> None:
    """Refuse a rule of the gate as earlier releases had it, with the line that says the same now."""
    given = raw.get("register")
    if not isinstance(given, Mapping):
        return
    former = task_info(DEFAULT).former
    for key in sorted(former.keys() & given.keys()):
        figure, rule = former[key]
        shown_as = f'"{figure}"' if "*" in figure else figure
        raise ParamsError(
            f"{source}: register.{key} is a rule of its figure now; write under register: "
            f"`rules: {{{shown_as}: {{{rule}: {given[key]}}}}}`"
        )
