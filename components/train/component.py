"""`train` as a Kubeflow component."""

from kfp import dsl

from components.task import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def train(
    settings: str,
    key: str,
    data_md5: str,
    git_commit: str,
    git_dirty: str,
    image_digest: str,
    data: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> str:
    """Train one architecture; give the hash of its weights."""
    from pathlib import Path

    from components.task import task
    from components.train import step
    from segmodels.files import file_sha256

    with task(settings, git_commit, git_dirty, image_digest) as params:
        trained = step.run_tracked(params, key, data=Path(data.path), out=Path(model.path))
        sha256 = file_sha256(trained.folder / "model.safetensors")
        model.metadata.update(key=key, architecture=params.architecture(key), sha256=sha256, data_md5=data_md5)
        for name, value in trained.figures.items():
            metrics.log_metric(name, value)
        metrics.log_metric("epoch", trained.epoch)
    return sha256
