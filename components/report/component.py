"""`report` as a Kubeflow component."""

from collections.abc import Iterable
from typing import Any

from kfp import dsl

from components.task import IMAGE, for_each


def report(
    settings: str,
    data_md5: str,
    git_commit: str,
    git_dirty: str,
    image_digest: str,
    data: dsl.Input[dsl.Dataset],
    validation: dsl.Input[dsl.Artifact],
    model_each: dsl.Input[dsl.Model],
    evaluation_each: dsl.Input[dsl.Artifact],
    registered: dsl.Input[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    leaderboard: dsl.Output[dsl.Markdown],
) -> None:
    """Write the report and the leader board."""
    arguments = locals()
    import shutil
    import tempfile
    from pathlib import Path

    from components.report import step
    from components.task import paths, task

    with task(settings, git_commit, git_dirty, image_digest) as params, tempfile.TemporaryDirectory() as folder:
        result = step.run(
            params,
            data=Path(data.path),
            validation=Path(validation.path),
            models=paths(arguments, "model", params.models),
            evaluations=paths(arguments, "evaluation", params.models),
            registered=Path(registered.path),
            out=Path(folder),
        )
        shutil.copyfile(result.html, page.path)
        shutil.copyfile(result.leaderboard, leaderboard.path)
        print(f"best by mIoU: {result.winner}")


def component(keys: Iterable[str]) -> Any:
    """Return the component that takes the models of these keys."""
    return dsl.component(for_each(report, keys), base_image=IMAGE, install_kfp_package=False)
