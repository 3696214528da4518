"""`download` as a Kubeflow component, and the hash of what it would give."""

from kfp import dsl

from components.task import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def download(
    settings: str,
    git_commit: str,
    git_dirty: str,
    image_digest: str,
    dvc_remote: str,
    dvc_md5: str,
    data: dsl.Output[dsl.Dataset],
) -> str:
    """Fetch or generate the dataset folder, or take a version that is pinned; give its hash, the cache's key."""
    from pathlib import Path

    from components.download import step
    from components.errors import StepError
    from components.lineage import folder_md5
    from components.task import task

    with task(settings, git_commit, git_dirty, image_digest) as params:
        result = step.run(params, out=Path(data.path), remote=dvc_remote, md5=dvc_md5)
        print(result)
        md5 = folder_md5(result.data)
        if dvc_md5 not in ("", md5):
            raise StepError(f"{params.data.source}: it has changed since its hash was taken; run the pipeline again")
        data.metadata.update(name=result.name, format=result.format, md5=md5, **result.splits)
    return md5


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def fingerprint(settings: str, git_commit: str, git_dirty: str, image_digest: str) -> str:
    """Fetch the dataset folder and keep its hash alone: it tells whether the source has changed."""
    import tempfile
    from pathlib import Path

    from components.download import step
    from components.lineage import folder_md5
    from components.task import task

    with task(settings, git_commit, git_dirty, image_digest) as params, tempfile.TemporaryDirectory() as folder:
        result = step.run(params, out=Path(folder) / "data")
        print(result)
        return folder_md5(result.data)
