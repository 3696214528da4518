"""Within the Dockerfile, as the image's user: what the image is for can be imported, and what it must not have is not
there. A build that fails here has not failed on a cluster an hour later.
"""

import importlib
import os
import shutil
import sys

STEPS = ("download", "validate", "report")
IMPORTS = {
    "light": ["boto3", "great_expectations", "kfp.dsl.executor_main", "pandas", "scipy", "segmodels.data.streets"],
    "mlflow": ["boto3", "flask_wtf", "mlflow.server.auth.db.models", "psycopg2"],
}
IMPORTS["light"] += [f"components.{step}.{part}" for step in STEPS for part in ("step", "component")]
IMPORTS["gpu"] = [
    *IMPORTS["light"],
    *(f"components.{step}.{part}" for step in ("train", "evaluate", "register") for part in ("step", "component")),
    "components.registered",
    "components.tracking",
    "lightning",
    "mlflow.pytorch",
    "segmodels.export.export",
    "segmodels.models",
    "segmodels.serving.server",
    "timm",
    "torchvision.ops",
]

target = sys.argv[1]
for name in IMPORTS[target]:
    importlib.import_module(name)
if target == "gpu":
    import torch
    import torchvision

    # A torchvision of another torch imports and has no operators.
    torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    if torch.version.cuda is None:
        sys.exit("torch is built without CUDA")
if os.getuid() == 0:
    sys.exit("the image's user is root")
if there := [name for name in ("cc", "gcc", "g++", "clang", "ld", "make", "uv") if shutil.which(name)]:
    sys.exit(f"the image has {', '.join(there)}")
