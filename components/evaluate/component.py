"""`evaluate` as a Kubeflow component."""

from kfp import dsl

from components.task import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def evaluate(
    settings: str,
    key: str,
    data_md5: str,
    model_sha256: str,
    git_commit: str,
    git_dirty: str,
    image_digest: str,
    data: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    confusion: dsl.Output[dsl.ClassificationMetrics],
) -> None:
    """Evaluate one trained architecture."""
    import json
    from pathlib import Path

    from components.evaluate import step
    from components.task import task
    from segmodels.tasks import DEFAULT, task_info

    with task(settings, git_commit, git_dirty, image_digest) as params:
        out = Path(evaluation.path)
        quality = step.run(params, key, data=Path(data.path), trained=Path(model.path), out=out)
        measured = json.loads((out / "metrics.json").read_text())
        confusion.log_confusion_matrix(list(measured["per_class"]), quality.matrix.tolist())
        each = task_info(measured.get("task", DEFAULT)).each.key
        for name, value in {**measured, **{f"{each} {k}": v for k, v in measured["per_class"].items()}}.items():
            if isinstance(value, int | float):
                metrics.log_metric(name, value)
