"""The task that runs last, whatever happened before."""

from kfp import dsl

from components.task import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def finish(status: dsl.PipelineTaskFinalStatus) -> None:
    """Say how the run ended, and why it failed; of a failure it tells whoever wants to know."""
    import os

    from components.notify import tell

    if status.state == "SUCCEEDED":
        print("the run succeeded")
    else:
        reason = f": {status.error_message}" if status.error_message else ""
        print(f"the run ended as {status.state}{reason}")
        run = os.environ.get("KFP_RUN_ID", "")
        tell(f"{status.pipeline_job_resource_name} ended as {status.state}{reason}; python -m pipeline status {run}")
