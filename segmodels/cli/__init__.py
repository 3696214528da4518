"""The library on the command line: `segmodels list | info | train | …`.

Each group of commands has a file. A command imports what it uses when it runs; `--help` imports neither torch nor
numpy.
"""

from __future__ import annotations

from collections.abc import Sequence

from segmodels.cli.common import app, complain
from segmodels.errors import UserError, printable_output, sentence
from segmodels.runtime import set_up_process

# isort: off
# Commands stand in the help in the order in which they are registered.
from segmodels.cli import models, data, train, evaluate, predict, polygons, serve, drift, crf, export  # noqa: F401
# isort: on

EXIT_INTERRUPTED = 143
_SERVE, _EXPORT = "fastapi uvicorn prometheus-client python-multipart", "onnx onnxscript onnxruntime"
# Modules that only some commands need -> what to install, which is an extra of pyproject.toml.
EXTRAS = {
    **dict.fromkeys(("fastapi", "uvicorn", "starlette", "prometheus_client"), _SERVE),
    **dict.fromkeys(("onnx", "onnxscript", "onnxruntime"), _EXPORT),
    "av": "av",
    **dict.fromkeys(("rasterio", "pyogrio"), "'segmodels[raster]'"),
    "fsspec": "s3fs",
}


def main(args: Sequence[str] | None = None) -> int:
    """Run a command; what the user can mend is told as one sentence and gives the exit status 1."""
    set_up_process()
    printable_output()
    try:
        app(list(args) if args is not None else None, prog_name="segmodels")
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        complain(f"{error.name} is not installed; `pip install {EXTRAS[error.name]}`")
        return 1
    except (UserError, OSError) as error:
        complain(sentence(error))
        return EXIT_INTERRUPTED if type(error).__name__ == "TrainingInterrupted" else 1
    return 0
