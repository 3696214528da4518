"""The server under load, and beside `mlflow models serve`: `python benchmarks/serving.py [MODEL MODEL]`.

Two models are registered in a fresh MLflow store. Clients ask for the class map of a 360x480 image all the time, and in
the middle the alias moves from one version to the other. Then one client asks `segmodels serve` and `mlflow models
serve` in turn, and what the first does for an image is done without a server. Ends with an error when a request failed,
or when two answers of one version differ.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import _common as common
from PIL import Image

import segmodels
from components.register.step import EXAMPLE, PYFUNC
from components.tracking import MODEL_TAG, Store
from segmodels.artifacts.model_folder import ModelConfig, save_model
from segmodels.catalog.weights import WEIGHTS_FILE
from segmodels.data.folder import ClassInfo
from segmodels.data.palette import default_palette
from segmodels.data.streets import render
from segmodels.files import file_sha256
from segmodels.inference.predictor import Predictor, fast_precision
from segmodels.runtime import set_up_process
from segmodels.serving.images import Upload, decode
from segmodels.settings.schema import EvaluateSettings
from segmodels.tasks.semantic.forms import class_map

NAME, ALIAS = "served", "champion"
SERVE = "import sys; from segmodels.cli import main; sys.exit(main())"


def main() -> int:
    """Prints both tables; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", type=Path, help="two model folders; small U-Nets with random weights")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--repeats", type=int, default=40, help="requests of the single client to each server")
    parser.add_argument("--precision", default="auto", help="of segmodels serve")
    args = parser.parse_args()
    common.header("torch", "mlflow", "fastapi", "uvicorn")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        os.environ |= {"MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlflow.db", "SEGMODELS_CACHE": str(root / "cache")}
        folders = args.models or [small_model(root / f"model-{seed}", seed) for seed in (0, 1)]
        store = Store("benchmark")
        versions = [register(store, path) for path in folders]
        promote(store, versions[0])
        image = photo()
        with serving(root, args.precision) as (port, pid):
            failures = load(store, versions, port, pid, image, args.clients, args.seconds)
            with mlflow_serving(root) as other:
                beside(port, other, image, args.repeats)
        common.apart(alone, folders[0], image, args.precision, args.repeats)
    for sentence in failures:
        print(f"error: {sentence}", file=sys.stderr)
    return 1 if failures else 0


def load(
    store: Store, versions: list[str], port: int, pid: int, image: bytes, clients: int, seconds: float
) -> list[str]:
    """Many clients and a promotion; prints what became of their requests and gives what went wrong."""
    ask(port, image)
    before, peak = resident(pid), 0
    latencies: list[float] = []
    bodies: dict[str, set[bytes]] = defaultdict(set)
    counts: dict[str, int] = defaultdict(int)
    failures: list[str] = []
    end = time.monotonic() + seconds

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while time.monotonic() < end:
            start = time.perf_counter()
            try:
                status, version, body = ask(port, image, connection)
            except (OSError, http.client.HTTPException) as error:
                failures.append(f"no answer ({error!r})")
                connection.close()
                continue
            latencies.append(time.perf_counter() - start)
            if status != 200:
                failures.append(f"status {status}: {body[:200]!r}")
            else:
                counts[version] += 1
                bodies[version].add(body)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    promoted, swapped = False, 0.0
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.2)
        peak = max(peak, resident(pid))
        if not promoted and time.monotonic() > end - seconds / 2:
            promote(store, versions[1])
            promoted, swapped = True, time.monotonic()
    mixtures = sum(len(found) - 1 for found in bodies.values())
    after = resident(pid)
    print(f"| {clients} clients, {seconds:g} s, a promotion in the middle | |\n|---|---:|")
    for name, value in {
        "requests": f"{len(latencies)}",
        "failed": f"{len(failures)}",
        "answers that differ from others of their version": f"{mixtures}",
        "answered by each version": ", ".join(f"{v}: {n}" for v, n in sorted(counts.items())),
        "requests a second": f"{len(latencies) / (time.monotonic() - end + seconds):.1f}",
        "latency p50, p95, ms": f"{1000 * quantile(latencies, 0.5):.0f}, {1000 * quantile(latencies, 0.95):.0f}",
        "resident memory before, at most, after, MiB": f"{before >> 20}, {peak >> 20}, {after >> 20}",
    }.items():
        print(f"| {name} | {value} |")
    print(flush=True)
    if mixtures:
        failures.append(f"{mixtures} answers are not those of their version")
    if len(counts) != 2:
        failures.append(
            f"versions {sorted(counts)} answered within {time.monotonic() - swapped:.0f} s of the promotion"
        )
    return failures


def beside(port: int, other: int, image: bytes, repeats: int) -> None:
    """One client that asks both servers in turn; prints the medians."""
    ours = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    theirs = http.client.HTTPConnection("127.0.0.1", other, timeout=120)
    rows = {"dataframe_records": [{"image": base64.b64encode(image).decode()}]}
    content = json.dumps(rows).encode()

    def ask_mlflow() -> None:
        theirs.request("POST", "/invocations", content, {"Content-Type": "application/json"})
        response = theirs.getresponse()
        answer = json.loads(response.read())
        base64.b64decode(answer["predictions"][0]["classes"])

    works: dict[str, Callable[[], object]] = {
        "segmodels serve": lambda: ask(port, image, ours),
        "mlflow models serve": ask_mlflow,
    }
    common.interleaved(works, 3)
    times = common.medians(common.interleaved(works, repeats))
    print("| one client, 360x480, the same model | median ms | times ours |\n|---|---:|---:|")
    for name, seconds in times.items():
        print(f"| {name} | {1000 * seconds:.1f} | {seconds / times['segmodels serve']:.2f} |", flush=True)


def alone(folder: Path, image: bytes, precision: str, repeats: int) -> None:
    """What an answer consists of; prints the medians, for a process of its own that begins as the server does."""
    set_up_process()
    chosen: Any = fast_precision("cpu") if precision == "auto" else precision
    predictor = Predictor(folder, "cpu", precision=chosen, fused=True)
    upload = Upload("image", image)
    pixels = decode(upload, 1 << 24)
    label = predictor.predict(pixels)
    works: dict[str, Callable[[], object]] = {
        "decode the JPEG": lambda: decode(upload, 1 << 24),
        "normalise, network, class map": lambda: predictor.predict(pixels),
        "encode the PNG": lambda: class_map(label, predictor.config.palette),
    }
    common.interleaved(works, 3)
    print("\n| without a server | median ms |\n|---|---:|")
    for name, seconds in common.medians(common.interleaved(works, repeats)).items():
        print(f"| {name} | {1000 * seconds:.1f} |", flush=True)


def ask(port: int, image: bytes, connection: http.client.HTTPConnection | None = None) -> tuple[int, str, bytes]:
    """Status, version and body of the answer to an image."""
    connection = connection or http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("POST", "/predict", image, {"Content-Type": "image/jpeg"})
    response = connection.getresponse()
    return response.status, response.headers.get("X-Model-Version", ""), response.read()


def small_model(folder: Path, seed: int) -> Path:
    """A U-Net of width 8, as `preset=quick` trains it, with random weights."""
    import torch

    torch.manual_seed(seed)
    classes = tuple(ClassInfo(f"class {i}", color) for i, color in enumerate(default_palette(11)))
    config = ModelConfig("unet", classes, {"width": 8, "batch_norm": True})
    save_model(folder, config, config.build().state_dict())
    return folder


def register(store: Store, folder: Path) -> str:
    """Registers a model folder as `components register` does, without what evaluation would add; its version."""
    sha256 = file_sha256(folder / WEIGHTS_FILE)
    run = store.create_run(folder.name, {MODEL_TAG: sha256})
    source = store.log_model(
        run,
        name="model",
        python_model=str(PYFUNC),
        artifacts={"model": str(folder.resolve())},
        code_paths=[str(Path(segmodels.__file__).parent)],
        pip_requirements=[],
        model_config=EvaluateSettings().as_json(),
        signature=False,
        input_example={"image": [EXAMPLE]},
    )
    made = store.create_version(NAME, run, source, tags={MODEL_TAG: sha256})
    return str(made.version)


def promote(store: Store, version: str) -> None:
    store.set_alias(NAME, ALIAS, version)


def photo() -> bytes:
    """A frame of `streets`, JPEG of 360x480."""
    file = io.BytesIO()
    Image.fromarray(render(0, "test", 0, height=360, width=480).image).save(file, "JPEG", quality=92)
    return file.getvalue()


@contextmanager
def serving(root: Path, precision: str) -> Iterator[tuple[int, int]]:
    """`segmodels serve`; its port and process id."""
    port = free_port()
    command = [sys.executable, "-c", SERVE, "serve", f"models:/{NAME}@{ALIAS}", f"--port={port}", "--poll=2"]
    with running([*command, f"--precision={precision}"], root / "segmodels.log", port, "/ready") as pid:
        yield port, pid


@contextmanager
def mlflow_serving(root: Path) -> Iterator[int]:
    """`mlflow models serve`; its port."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/{NAME}@{ALIAS}"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    with running(command, root / "mlflow.log", port, "/ping"):
        yield port


@contextmanager
def running(command: list[str], log: Path, port: int, path: str) -> Iterator[int]:
    """A server from when it answers 200 to the end of the block; its process id."""
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=env, start_new_session=True)
    try:
        deadline = time.monotonic() + 300
        while not answers(port, path):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command[:6]} did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.2)
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(120)


def answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return 1024 * int(line.split()[1])
    return 0


def quantile(values: list[float], fraction: float) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[round(100 * fraction) - 1]


if __name__ == "__main__":
    sys.exit(main())
