"""`validate` as a Kubeflow component."""

from kfp import dsl

from components.task import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def validate(
    settings: str,
    data_md5: str,
    git_commit: str,
    git_dirty: str,
    image_digest: str,
    data: dsl.Input[dsl.Dataset],
    validation: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Check the dataset and describes it; the run ends here where the data has errors."""
    import shutil
    from pathlib import Path

    from components.task import task
    from components.validate import step

    with task(settings, git_commit, git_dirty, image_digest) as params:
        result = step.run(params, data=Path(data.path), out=Path(validation.path))
        print(result)
        shutil.copyfile(result.out / "validation.html", page.path)
        for name, value in {**result.splits, "warnings": len(result.warnings)}.items():
            metrics.log_metric(name, value)
