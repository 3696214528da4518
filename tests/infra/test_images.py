"""The images, built from the real Dockerfile and run as on a cluster: read-only, without rights, as nobody special.

A container engine is needed. Where there is podman with debootstrap and root, the base is made from Debian's packages,
so that no registry for images has to be reached; elsewhere it is the one that the Dockerfile pins.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from components.lineage import folder_md5
from infra.k8s import check, policy
from tests.servers import ports
from tests.servers.containers import (
    BUILD_SECONDS,
    LOCKED_DOWN,
    Engine,
    NotInstalledError,
    find_engine,
    run_in_containers,
    speaking_docker,
)
from tests.servers.postgres import PASSWORD, Postgres
from tests.servers.swift import Swift

ROOT = check.ROOT


@pytest.fixture(scope="session")
def engine() -> Engine:
    try:
        return find_engine()
    except NotInstalledError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def light(engine: Engine) -> str:
    return engine.image("light")


@pytest.fixture(scope="session")
def mlflow(engine: Engine) -> str:
    return engine.image("mlflow")


@pytest.fixture(scope="session")
def gpu(engine: Engine) -> str:
    return engine.image("gpu")


@pytest.fixture(params=["light", "mlflow", "gpu"])
def image(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


building = pytest.mark.timeout(BUILD_SECONDS)


@building
def test_the_image_says_what_it_was_built_from_and_its_user_is_nobody_special(engine, image):
    (config,) = json.loads(engine("image", "inspect", image).stdout)
    labels = {k.removeprefix("org.opencontainers.image."): v for k, v in config["Config"]["Labels"].items()}
    commits = subprocess.run(["git", "log", "--format=%H"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert labels["revision"] in commits.split()
    assert labels["segmodels.git.dirty"] in ("true", "false")
    assert image.endswith(f":{labels['version']}")
    assert config["Config"]["User"] == "10001:10001"
    print(f"{image}: {config['Size'] / 1e9:.2f} GB")


@building
def test_no_layer_has_a_secret_a_compiler_or_the_tools_it_was_built_with(engine, image):
    history = engine("history", "--no-trunc", image).stdout
    assert not re.search(r"hunter2|AWS_|TOKEN=|PASSWORD=", history)
    looked = """
import os, shutil
print([name for name in ("cc", "gcc", "g++", "clang", "make", "uv", "git") if shutil.which(name)])
print([name for name in ("/tools", "/locks", "/wheels", "/install", "/root/.cache") if os.path.exists(name)])
print([path for path in ("/opt/segmodels", "/usr/bin", "/etc") if os.access(path, os.W_OK)])
setuid = []
for folder, _, files in os.walk("/usr"):
    for name in files:
        path = os.path.join(folder, name)
        if not os.path.islink(path) and os.stat(path).st_mode & 0o6000:
            setuid.append(path)
print(setuid, os.getuid())
"""
    assert engine.python(image, looked).stdout.split("\n")[:4] == ["[]", "[]", "[]", "[] 10001"]


@building
def test_versions_are_those_of_the_lock_files(engine, image):
    locks = (ROOT / "requirements.lock", ROOT / "infra/images/extra.lock")
    locked = {found for lock in locks for found in re.findall(r"^([\w.-]+)==(\S+)", lock.read_text(), re.M)}
    listing = """
from importlib.metadata import distributions
for found in distributions(path=["/opt/segmodels/lib/python3.11/site-packages"]):
    print(found.name, found.version)
"""
    said = engine.python(image, listing).stdout
    installed = {(re.sub(r"[-_.]+", "-", name).lower(), version) for name, version in map(str.split, said.splitlines())}
    assert len(installed) > 20
    assert {name for name, _ in installed - locked} <= {"segmodels"}


@building
def test_a_package_whose_content_is_another_than_the_locks_is_not_installed(engine, light, tmp_path):
    """The build's own script, with a lock file in which a hash has changed."""
    script = (ROOT / "infra/images/install").read_text()
    assert "--require-hashes" in script
    lock = (ROOT / "requirements.lock").read_text()
    changed = re.sub(
        r"(?m)(^six==[^\n]+\n)((?:    --hash=[^\n]+\n?)+)", r"\1    --hash=sha256:" + "0" * 64 + "\n", lock
    )
    assert changed != lock
    (tmp_path / "lock").write_text(changed)
    uv = shutil.which("uv") or str(ROOT / ".uv/bin/uv")
    if not Path(uv).is_file():
        pytest.skip("uv is not installed")
    (tmp_path / "wanted").write_text(re.findall(r"(?m)^six==\S+", lock)[0])
    command = [uv, "pip", "install", "--require-hashes", "--constraint", "lock", "-r", "wanted", "--target", "out"]
    done = subprocess.run([*command, "--no-cache"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0 and "Hash mismatch" in done.stderr


@building
@pytest.mark.parametrize("target", ["light", "gpu"])
def test_the_steps_start_read_only_and_without_rights(target, engine, request):
    image = request.getfixturevalue(target)
    said = engine("run", "--rm", *LOCKED_DOWN, image, "python", "-m", "components", "--help").stdout
    assert all(step in said for step in ("download", "validate", "train", "evaluate", "register", "report"))


@building
def test_light_steps_work_in_the_light_image(engine, light, tmp_path):
    shutil.copy(ROOT / "tests/pipeline/settings/tiny.yaml", tmp_path / "params.yaml")
    tmp_path.chmod(0o777)
    for step in ("download", "validate"):
        engine("run", "--rm", *LOCKED_DOWN, f"--volume={tmp_path}:/work", light, "python", "-m", "components", step)
    assert (tmp_path / "outputs/validation/validation.html").is_file()
    assert (tmp_path / "data/dataset.json").stat().st_uid == 10001
    assert "No module named" in engine.python(light, "import torch", check=False).stderr


@building
def test_the_gpu_image_has_cuda_and_works_without_a_gpu(engine, gpu):
    code = "import torch; print(torch.version.cuda is not None, torch.ones(2).sum().item())"
    assert engine.python(gpu, code).stdout.split() == ["True", "2.0"]


# --- the whole pipeline in containers ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def docker_host(engine: Engine) -> Iterator[str]:
    with speaking_docker(engine) as address:
        yield address


@building
def test_the_whole_pipeline_runs_in_containers(engine, gpu, docker_host, tmp_path):
    settings = (ROOT / "tests/pipeline/settings/tiny.yaml").read_text()
    (tmp_path / "params.yaml").write_text(settings)
    done = run_in_containers(tmp_path, gpu, docker_host)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert "finished with status" in done.stdout and "FAILURE" not in done.stdout
    (page,) = (tmp_path / "run").glob("*/report/page*")
    assert page.read_text().startswith("<!")
    left = engine("ps", "--all", "--format", "{{.Image}}").stdout
    assert gpu not in left


@building
def test_a_step_that_fails_in_its_container_is_reported_as_failed(engine, gpu, docker_host, tmp_path):
    settings = (ROOT / "tests/pipeline/settings/tiny.yaml").read_text()
    (tmp_path / "params.yaml").write_text(settings.replace("source: streets", "source: missing.zip"))
    done = run_in_containers(tmp_path, gpu, docker_host)
    assert done.returncode != 0
    assert "data.source: missing.zip: no such file or folder" in done.stdout
    assert "FAILURE" in done.stdout and "validate" not in done.stdout


# --- the MLflow server, as the cluster starts it ----------------------------------------------------------------------


@dataclass
class Server:
    url: str
    container: str
    engine: Engine

    def __call__(
        self, path: str, body: Any = None, *, login: str | None = None, host: str | None = None
    ) -> tuple[int, Any]:
        """Status and content of the answer to a request."""
        headers = {"Content-Type": "application/json"}
        if login:
            headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
        if host:
            headers["Host"] = host
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"{self.url}{path}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text = answer.read().decode()
                return answer.status, json.loads(text) if text.startswith("{") else text
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


ADMIN = "admin:correct-horse-battery"


@pytest.fixture(scope="module")
def server(
    engine: Engine, mlflow: str, postgres: Postgres, swift: Swift, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """MLflow's container with the manifest's own arguments, environment and security context."""
    postgres.create("mlflow")
    resources = check.render(check.HERE / "overlays/local")
    (deployment,) = (r for r in resources if policy.name(r) == "Deployment mlflow/mlflow")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (config,) = (r["data"] for r in resources if r["kind"] == "ConfigMap")
    folder = tmp_path_factory.mktemp("mlflow")
    folder.chmod(0o755)
    (folder / "basic_auth.ini").write_text(config.pop("basic_auth.ini"))
    given = config | {v["name"]: v["value"] for v in container["env"]}
    # What is inside the cluster there is on loopback here; the rest is as the manifest has it.
    given |= {"PGHOST": "127.0.0.1", "PGPORT": str(postgres.port)}
    given |= {**swift.environment, "MLFLOW_ARTIFACTS_DESTINATION": swift.bucket("mlflow")}
    secrets = {
        "PGPASSWORD": PASSWORD,
        "MLFLOW_AUTH_ADMIN_USERNAME": ADMIN.partition(":")[0],
        "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN.partition(":")[2],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "not-so-secret",
    }
    (folder / "env").write_text("".join(f"{k}={v}\n" for k, v in (given | secrets).items()))
    port = ports.free()
    arguments = [a.replace("--port=5000", f"--port={port}").replace("0.0.0.0", "127.0.0.1") for a in container["args"]]
    (mount,) = (m["mountPath"] for m in container["volumeMounts"] if m["name"] == "config")
    name = f"segmodels-test-mlflow-{os.getpid()}"
    user = f"--user={pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
    options = (f"--name={name}", user, f"--env-file={folder / 'env'}", f"--volume={folder}:{mount}:ro")
    engine("run", "--detach", *LOCKED_DOWN, *options, mlflow, *arguments)
    made = Server(f"http://localhost:{port}", name, engine)
    try:
        deadline = time.monotonic() + 600
        while True:
            with contextlib.suppress(OSError):
                if made(container["readinessProbe"]["httpGet"]["path"])[0] == 200:
                    break
            running = engine("inspect", "--format", "{{.State.Running}}", name).stdout.strip() == "true"
            if not running or time.monotonic() > deadline:
                logs = engine("logs", name, check=False)
                pytest.fail(f"MLflow did not start: {logs.stdout[-3000:]}{logs.stderr[-3000:]}")
            time.sleep(1)
        yield made
    finally:
        engine("rm", "--force", name)


@building
def test_mlflow_asks_for_a_password_and_answers_by_its_own_names_only(server):
    search = "/api/2.0/mlflow/experiments/search"
    assert server("/health") == (200, "OK")
    assert server(search, {"max_results": 1})[0] == 401
    assert server(search, {"max_results": 1}, login="admin:password")[0] == 401
    assert server(search, {"max_results": 1}, login=ADMIN)[0] == 200
    assert server(search, {"max_results": 1}, login=ADMIN, host="mlflow.mlflow:5000")[0] == 200
    assert server(search, {"max_results": 1}, login=ADMIN, host="evil.example")[0] == 403


@building
def test_mlflow_is_in_postgresql_and_starts_no_jobs(server, engine):
    code, made = server("/api/2.0/mlflow/experiments/create", {"name": "kept"}, login=ADMIN)
    assert code == 200
    assert server(f"/api/2.0/mlflow/experiments/get?experiment_id={made['experiment_id']}", login=ADMIN)[0] == 200
    count = """
import os, psycopg2
with psycopg2.connect("") as db, db.cursor() as cursor:
    cursor.execute("select count(*) from experiments where name = 'kept'")
    print(cursor.fetchone()[0], len([p for p in os.listdir("/proc") if p.isdigit()]) < 10)
"""
    # With the host's processes hidden the container has but a few: server and two workers.
    said = engine("exec", server.container, "python", "-c", count).stdout
    assert said.split() == ["1", "True"]


@building
def test_the_pipelines_user_is_made_and_is_no_administrator(server, engine):
    values = {"MLFLOW_TRACKING_USERNAME": "pipeline", "MLFLOW_TRACKING_PASSWORD": "first-password-1"}
    script = (check.HERE / "mlflow_user.py").read_text().replace("http://localhost:5000", server.url)

    def make() -> str:
        secret = {"data": {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}}
        return engine(
            "exec", "--interactive", server.container, "python", "-c", script, input=json.dumps(secret)
        ).stdout.strip()

    assert make() == "made the user pipeline"
    values["MLFLOW_TRACKING_PASSWORD"] = "second-password-2"
    assert make() == "the user pipeline was there; it has the secret's password now"
    first, second = "pipeline:first-password-1", "pipeline:second-password-2"
    assert server("/api/2.0/mlflow/experiments/create", {"name": "x"}, login=first)[0] == 401
    code, mine = server("/api/2.0/mlflow/experiments/create", {"name": "segmentation"}, login=second)
    assert code == 200
    run = {"experiment_id": mine["experiment_id"], "start_time": 1}
    assert server("/api/2.0/mlflow/runs/create", run, login=second)[0] == 200
    assert server("/api/2.0/mlflow/registered-models/create", {"name": "segmentation"}, login=second)[0] == 200
    assert server("/api/2.0/mlflow/users/create", {"username": "y", "password": "z" * 12}, login=second)[0] == 403
    _, kept = server("/api/2.0/mlflow/experiments/create", {"name": "admins"}, login=ADMIN)
    run = {"experiment_id": kept["experiment_id"], "start_time": 1}
    assert server("/api/2.0/mlflow/runs/create", run, login=second)[0] == 403


@building
def test_a_run_like_the_clusters_ends_with_the_metrics_of_this_machine(
    server, swift, engine, gpu, docker_host, tmp_path
):
    """Data from the DVC remote in the object store, MLflow on PostgreSQL with its artifacts in a bucket, each step in a
    container; beside it the same steps here, as `dvc repro` runs them."""
    bucket = swift.bucket("run")
    here, there = tmp_path / "here", tmp_path / "there"
    settings = (ROOT / "tests/pipeline/settings/tiny.yaml").read_text()
    for folder in (here, there):
        folder.mkdir()
        (folder / "params.yaml").write_text(settings)
    env = (
        os.environ | swift.environment | {"OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": f"sqlite:///{here}/mlflow.db"}
    )

    def run(*arguments: str) -> None:
        done = subprocess.run([sys.executable, "-m", *arguments], cwd=here, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    run("components", "download")
    run("dvc", "init", "--no-scm")
    run("dvc", "remote", "add", "-d", "storage", f"{bucket}/dvc")
    run("dvc", "add", "data")
    run("dvc", "push")
    version = folder_md5(here / "data")
    for step in (["validate"], ["train", "--model", "unet"], ["evaluate", "--model", "unet"], ["register"]):
        run("components", *step)

    login, _, password = ADMIN.partition(":")
    secrets = {"MLFLOW_TRACKING_USERNAME": login, "MLFLOW_TRACKING_PASSWORD": password}
    done = run_in_containers(
        there,
        gpu,
        docker_host,
        environment={**swift.environment, **secrets, "SEGMODELS_STATE": f"{bucket}/states"},
        cluster={"tracking_uri": server.url, "data_remote": f"{bucket}/dvc", "data_md5": version},
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]

    (evaluation,) = (there / "run").glob("*/evaluate-unet/evaluation")
    (model,) = (there / "run").glob("*/train-unet/model")
    for made, name in ((evaluation, "evaluation/unet/metrics.json"), (model, "models/unet/model.safetensors")):
        assert (made / Path(name).name).read_bytes() == (here / "outputs" / name).read_bytes(), name
    status, found = server("/api/2.0/mlflow/registered-models/get?name=segmentation", login=ADMIN)
    assert status == 200
    tags = {tag["key"]: tag["value"] for tag in found["registered_model"]["latest_versions"][0]["tags"]}
    assert tags["dvc.data.md5"] == version
    stored = swift.client().list_objects_v2(Bucket="mlflow")["Contents"]
    assert any(entry["Key"].endswith("model.safetensors") for entry in stored)
    assert not any(
        entry["Key"].startswith("states/") for entry in swift.client().list_objects_v2(Bucket="run")["Contents"]
    )
