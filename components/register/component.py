"""`register` as a Kubeflow component."""

from collections.abc import Iterable
from typing import Any

from kfp import dsl

from components.task import IMAGE, for_each


def register(
    settings: str,
    data_md5: str,
    git_commit: str,
    git_dirty: str,
    image_digest: str,
    data: dsl.Input[dsl.Dataset],
    validation: dsl.Input[dsl.Artifact],
    model_each: dsl.Input[dsl.Model],
    evaluation_each: dsl.Input[dsl.Artifact],
    registered: dsl.Output[dsl.Artifact],
) -> None:
    """Record all models in MLflow and registers those that pass the gate."""
    arguments = locals()
    from pathlib import Path

    from components.lineage import collect
    from components.register import step
    from components.task import paths, task

    with task(settings, git_commit, git_dirty, image_digest) as params:
        result = step.run(
            params,
            data=Path(data.path),
            validation=Path(validation.path),
            models=paths(arguments, "model", params.models),
            evaluations=paths(arguments, "evaluation", params.models),
            out=Path(registered.path),
            lineage=collect(params, Path(data.path)),
        )
        print(result)


def component(keys: Iterable[str]) -> Any:
    """Return the component that takes the models of these keys."""
    return dsl.component(for_each(register, keys), base_image=IMAGE, install_kfp_package=False)
