"""The library's rules as great-expectations suites over the four tables of a dataset.

A rule is one expectation on one table; a critical one stops the pipeline, a warning goes on to the model's card.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from segmodels.data.folder import DatasetInfo
from segmodels.data.validation.checks import Outcome
from segmodels.data.validation.rules import Limits, Rule, rules
from segmodels.data.validation.table import Table


def judge(
    tables: Mapping[str, Table], info: DatasetInfo, limits: Limits, severity: Mapping[str, str] | None = None
) -> list[Outcome]:
    """Run every rule and return its outcome, in order.

    Args:
        tables: As `segmodels.data.validation.tables.tables` makes them.
        info: The dataset's description.
        limits: `validate` of the parameters.
        severity: Key of a rule -> `critical`, `warning` or `ignore`, in place of its own.
    """
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # it would send usage statistics
    import great_expectations as gx

    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    source = context.data_sources.add_pandas("manifest")
    known = rules(info, limits, severity)
    outcomes = {}
    for table, rows in tables.items():
        mine = [rule for rule in known if rule.table == table]
        batch = source.add_dataframe_asset(table).add_batch_definition_whole_dataframe("all")
        suite = context.suites.add(gx.ExpectationSuite(name=table, expectations=[_expectation(r) for r in mine]))
        definition = context.validation_definitions.add(gx.ValidationDefinition(name=table, data=batch, suite=suite))
        wanted = {"result_format": "COMPLETE", "unexpected_index_column_names": ["row"]}
        result = definition.run(batch_parameters={"dataframe": _frame(rows, mine)}, result_format=wanted)
        by_name = {entry.expectation_config.meta["check"]: entry for entry in result.results}
        for rule in mine:
            outcomes[rule.name] = Outcome.of(rule, rows, _broken(rule, by_name[rule.name]))
    return [outcomes[rule.name] for rule in known]


def _expectation(rule: Rule) -> Any:
    from great_expectations import expectations as gxe

    kept: dict[str, Any] = {"severity": rule.severity, "meta": {"check": rule.name}}
    first, *others = rule.columns
    if rule.holds == "absent":
        return gxe.ExpectColumnValuesToBeNull(column=first, **kept)
    if rule.holds == "present":
        return gxe.ExpectColumnValuesToNotBeNull(column=first, **kept)
    if rule.holds == "between":
        return gxe.ExpectColumnValuesToBeBetween(column=first, min_value=rule.least, max_value=rule.most, **kept)
    if rule.holds == "unique":
        return gxe.ExpectCompoundColumnsToBeUnique(column_list=[first, *others], **kept)
    return gxe.ExpectColumnPairValuesToBeEqual(
        column_A=first, column_B=others[0], ignore_row_if="either_value_is_missing", **kept
    )


def _frame(table: Table, mine: Sequence[Rule]) -> pd.DataFrame:
    """Return what the rules look at, with a missing number as pandas has it."""
    frame = pd.DataFrame({"row": range(len(table))})
    for rule in mine:
        for column in rule.columns:
            values = table.columns[column]
            numbers = all(v is None or isinstance(v, int | float) for v in values) and rule.holds in (
                "between",
                "equal",
            )
            frame[column] = pd.Series(values, dtype="Float64" if numbers else "object")
    return frame


def _broken(rule: Rule, result: Any) -> list[int]:
    if result.exception_info.get("raised_exception"):
        raise RuntimeError(f"{rule.name}: {result.exception_info['exception_message']}")
    return [] if result.success else sorted({int(entry["row"]) for entry in result.result["unexpected_index_list"]})
