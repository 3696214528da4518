"""The registered model: loaded without a checkout, and served over HTTP."""

import base64
import io
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.register import step
from segmodels.artifacts.model_folder import ModelConfig, save_model
from segmodels.catalog.registry import create_model
from segmodels.data.folder import ClassInfo
from segmodels.inference.predictor import Predictor
from tests.servers import ports

ADDRESS = "models:/segmentation@challenger"


@pytest.fixture(scope="module")
def registered(module_results) -> Path:
    """The repository of a run whose challenger is a real, untrained ENet; the tracking store lies in it."""
    results = module_results
    folder = results.models["unet"]
    history = (folder / "history.csv").read_bytes()
    classes = tuple(ClassInfo(name, (i, i, i)) for i, name in enumerate(("road", "sky", "pole")))
    model = create_model("enet", 3)
    save_model(folder, ModelConfig("enet", classes), model.state_dict())
    (folder / "history.csv").write_bytes(history)
    only: dict[str, Any] = {
        name: value if name in ("data", "validation") else {"unet": value["unet"]}
        for name, value in results.folders.items()
    }
    step.run(results.params, **only, out=Path("outputs/register.json"), lineage=results.lineage)
    return results.root


def environment(root: Path) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    safe = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "PATH": path}
    # A process that loads the model may cache bytecode beside it; what was logged has none.
    safe["PYTHONDONTWRITEBYTECODE"] = "1"
    return {**clean, **safe, "MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlflow.db"}


def encoded(image: np.ndarray, kind: str = "PNG") -> str:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


def decoded(text: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        assert image.mode == "L"
        return np.asarray(image)


LOADED = """
import base64, io, sys
import mlflow, numpy as np, pandas as pd
from PIL import Image
model = mlflow.pyfunc.load_model(sys.argv[1])
import segmodels
assert "mlartifacts" in segmodels.__file__, segmodels.__file__
image = np.load("image.npy")
expected = np.load("expected.npy")
one = model.predict(image)
assert one.dtype == np.uint8 and one.shape == image.shape[:2] and (one == expected).all()
many = model.predict(np.stack([image, image]))
assert many.shape == (2, *image.shape[:2]) and (many[1] == expected).all()
assert (model.predict(image.astype(np.int64)) == expected).all()
text = open("image.txt").read()
columns = {"image": [text, text]}
for rows in (pd.DataFrame(columns), columns, [{"image": text}, {"image": text}], [text, text]):
    found = model.predict(rows)
    assert list(found.columns) == ["classes", "height", "width"] and len(found) == 2
    assert found.height[0] == image.shape[0] and found.width[1] == image.shape[1]
    assert (np.asarray(Image.open(io.BytesIO(base64.b64decode(found.classes[1])))) == expected).all()
assert len(model.predict({"image": "data:image/png;base64," + text})) == 1
for bad, reason in (
    (image[..., 0], "[H, W, 3]"),
    (image - 300.0, "0..255"),
    ({"image": ["no image"]}, "row 0: 'image' is not the base64"),
    ([{"picture": text}], "column 'image'"),
    (image[:0], "has no pixels"),
):
    try:
        model.predict(bad)
    except mlflow.exceptions.MlflowException as error:
        assert reason in str(error), error
    else:
        raise AssertionError(f"{reason} is not refused")
"""


def test_the_model_loads_without_a_checkout_or_pickles_and_takes_rows_and_arrays(registered: Path, tmp_path: Path):
    image = np.random.default_rng(0).integers(0, 256, (53, 75, 3), dtype=np.uint8)
    np.save(tmp_path / "image.npy", image)
    np.save(tmp_path / "expected.npy", Predictor("outputs/models/unet", device="cpu").predict(image))
    (tmp_path / "image.txt").write_text(encoded(image))
    done = subprocess.run(
        [sys.executable, "-c", LOADED, ADDRESS],
        cwd=tmp_path,
        env=environment(registered),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    files = [p for p in (registered / "mlartifacts").rglob("*") if p.is_file()]
    assert not [p for p in files if p.suffix in {".pkl", ".pickle", ".pt", ".pth", ".pyc", ".joblib"}]
    requirements = next(p for p in files if p.name == "requirements.txt").read_text().splitlines()
    assert all("==" in line for line in requirements) and any(line.startswith("torch==") for line in requirements)


@pytest.fixture(scope="module")
def served(registered: Path) -> Iterator[str]:
    """The address of the served challenger."""
    port = ports.free()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", ADDRESS, "--env-manager", "local"]
    log = registered / "serve.log"
    with log.open("wb") as out:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            env=environment(registered),
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 120
        while True:
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                break
            except OSError:
                time.sleep(0.3)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(server.pid, 15)
        server.wait(20)


def ask(address: str, content: dict) -> dict:
    request = urllib.request.Request(address, json.dumps(content).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        answer: dict = json.load(response)
    return answer


def test_the_served_model_answers_encoded_images_and_arrays(served: str):
    image = np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    expected = Predictor("outputs/models/unet", device="cpu").predict(image)
    rows = [{"image": encoded(image)}, {"image": encoded(np.full((33, 47, 3), 128, np.uint8), "JPEG")}]
    first, second = ask(served, {"dataframe_records": rows})["predictions"]
    assert (decoded(first["classes"]) == expected).all() and (first["height"], first["width"]) == (40, 60)
    assert decoded(second["classes"]).shape == (33, 47)
    assert np.array_equal(ask(served, {"inputs": image.tolist()})["predictions"], expected)
    example = next(Path("mlartifacts").rglob("serving_input_example.json"))
    assert len(ask(served, json.loads(example.read_text()))["predictions"]) == 1
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(served, {"dataframe_records": [{"image": "no image"}]})
    assert refused.value.code == 400 and "row 0" in refused.value.read().decode()
