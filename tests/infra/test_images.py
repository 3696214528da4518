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
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.k8s import check, policy

ROOT = check.ROOT
BUILD_SECONDS = 3600
DEBIAN_BASE = "localhost/segmodels-test-base:bookworm"
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
# Sandboxes refuse higher limits, a network of the container's own and systemd.
CONTAINERS_CONF = """
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=32768:32768"]
netns = "host"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
"""
LOCKED_DOWN = ("--read-only", "--tmpfs=/tmp", "--cap-drop=all", "--security-opt=no-new-privileges", "--network=host")


@dataclass
class Engine:
    """A container engine, and how it is called here."""

    name: str
    env: dict[str, str]
    build: dict[str, str]

    def __call__(self, *arguments: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        options = {"timeout": 300, "capture_output": True, "text": True} | options
        done = subprocess.run([self.name, *arguments], env=self.env, **options)
        if check and done.returncode != 0:
            pytest.fail(f"{self.name} {' '.join(arguments)}: {done.stderr[-2000:]}")
        return done

    def image(self, target: str) -> str:
        """Builds a target; gives its name."""
        command = [str(ROOT / "infra/images/build"), target]
        done = subprocess.run(command, env=self.env | self.build, capture_output=True, text=True, timeout=BUILD_SECONDS)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout.splitlines()[-1].partition(",")[0]

    def python(self, image: str, code: str, *options: str, **more: Any) -> subprocess.CompletedProcess[str]:
        return self("run", "--rm", *LOCKED_DOWN, *options, image, "python", "-c", code, **more)


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    name = next((name for name in ("docker", "podman") if usable(name)), None)
    if name is None:
        pytest.skip("no container engine is installed (docker, podman): the images are not built")
    env = dict(os.environ)
    build = {"ENGINE": name, "OPTIONS": f"--secret id=ca,src={AUTHORITIES}"}
    if name == "podman" and os.getuid() == 0 and shutil.which("debootstrap"):
        conf = tmp_path_factory.mktemp("containers") / "containers.conf"
        conf.write_text(CONTAINERS_CONF)
        env["CONTAINERS_CONF"] = str(conf)
        build["OPTIONS"] += " --isolation chroot --network host --layers"
        build["BASE"] = DEBIAN_BASE
        made = Engine(name, env, build)
        if made("image", "exists", DEBIAN_BASE, check=False).returncode != 0:
            make_base(made, tmp_path_factory.mktemp("debian") / "root")
        return made
    return Engine(name, env, build)


def usable(name: str) -> bool:
    """Whether it is installed and works; a docker client without its daemon does not."""
    return shutil.which(name) is not None and subprocess.run([name, "info"], capture_output=True).returncode == 0


def make_base(engine: Engine, root: Path) -> None:
    """Debian 12 with its Python 3.11, in place of the official image of the same."""
    packages = "--include=ca-certificates,python3,python3-venv"
    command = ["debootstrap", "--variant=minbase", packages, "bookworm", str(root)]
    subprocess.run(command, check=True, capture_output=True, timeout=BUILD_SECONDS)
    with subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as tar:
        engine("import", "-", DEBIAN_BASE, stdin=tar.stdout, timeout=BUILD_SECONDS)
    shutil.rmtree(root)


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

# kfp removes containers by itself before it has asked how they ended, and podman then says nothing: a step that failed
# passed for one that succeeded. This one function asks first.
RUN_IN_CONTAINERS = """
import json, os, sys
from kfp import local
from kfp.local import docker_task_handler

def run_docker_container(client, image, command, volumes, **options):
    container = client.containers.create(image=image, command=command, volumes=volumes, **options)
    try:
        container.start()
        for line in container.logs(stream=True, follow=True):
            print(line.decode(), end="")
        return container.wait()["StatusCode"]
    finally:
        container.remove(force=True)

docker_task_handler.run_docker_container = run_docker_container

from components.params import Params
from pipeline import dag

image, root = sys.argv[1:]
local.init(local.DockerRunner(**json.loads(os.environ["RUN_OPTIONS"])), pipeline_root=root)
dag.build(Params.read())()
"""


@pytest.fixture(scope="session")
def docker_host(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address at which the engine speaks docker's protocol."""
    if engine.name == "docker":
        yield os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
        return
    path = tmp_path_factory.mktemp("podman") / "podman.sock"
    command = ["podman", "system", "service", "--time=0", f"unix://{path}"]
    with subprocess.Popen(command, env=engine.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as service:
        deadline = time.monotonic() + 60
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        yield f"unix://{path}"
        service.terminate()


def run_in_containers(folder: Path, image: str, docker_host: str) -> subprocess.CompletedProcess[str]:
    """The DAG, each task in a container; the store of MLflow is a file below the folder that all of them see."""
    root = folder / "run"
    root.mkdir()
    root.chmod(0o777)
    options = {
        "user": "10001:10001",
        "read_only": True,
        "tmpfs": {"/tmp": ""},
        "cap_drop": ["ALL"],
        "network_mode": "host",
        "environment": {"MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlflow.db", "OMP_NUM_THREADS": "1"},
    }
    env = os.environ | {"DOCKER_HOST": docker_host, "RUN_OPTIONS": json.dumps(options), "PYTHONPATH": str(ROOT)}
    script = folder / "run.py"
    # The components name their image when they are imported.
    patched = RUN_IN_CONTAINERS.replace(
        "from components.params",
        "import components.task\ncomponents.task.IMAGE = sys.argv[1]\nfrom components.params",
        1,
    )
    script.write_text(patched)
    command = [sys.executable, str(script), image, str(root)]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=BUILD_SECONDS)


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


@pytest.fixture(scope="module")
def postgres() -> Iterator[int]:
    """A PostgreSQL on loopback with the user and database `mlflow`; gives its port."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))  # Debian keeps the server's programs off the PATH
    initdb = str(found[-1]) if found else shutil.which("initdb")
    if initdb is None:
        pytest.skip("PostgreSQL is not installed: MLflow's image is not started on it")
    bin_ = Path(initdb).parent
    # PostgreSQL refuses to run as root, and only root gets into pytest's folders.
    user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="segmodels-postgres-"))
    if user:
        shutil.chown(folder, "postgres")
    (folder / "password").write_text("hunter2")
    (folder / "password").chmod(0o644)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = str(folder / "data")
    init = ["--username=mlflow", "--auth=scram-sha-256", f"--pwfile={folder}/password", "-D", data]
    subprocess.run([*user, initdb, *init], check=True, capture_output=True, timeout=300)
    server = [*user, str(bin_ / "pg_ctl"), "-D", data, "-w", "-t", "120", "-l", f"{data}/log"]
    listen = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
    subprocess.run([*server, "-o", listen, "start"], check=True, timeout=300)
    try:
        environment = os.environ | {"PGPASSWORD": "hunter2"}
        create = [str(bin_ / "createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", "mlflow", "mlflow"]
        subprocess.run(create, check=True, env=environment, timeout=120)
        yield port
    finally:
        subprocess.run([*server, "-m", "fast", "stop"], check=True, timeout=300)
        shutil.rmtree(folder)


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
def server(engine: Engine, mlflow: str, postgres: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """MLflow's container with the manifest's own arguments, environment and security context."""
    resources = check.render(check.HERE / "overlays/local")
    (deployment,) = (r for r in resources if policy.name(r) == "Deployment mlflow/mlflow")
    ((_, container, pod),) = policy.containers([deployment])
    (config,) = (r["data"] for r in resources if r["kind"] == "ConfigMap")
    folder = tmp_path_factory.mktemp("mlflow")
    folder.chmod(0o755)
    (folder / "basic_auth.ini").write_text(config.pop("basic_auth.ini"))
    given = config | {v["name"]: v["value"] for v in container["env"]}
    # What is inside the cluster there is on loopback here; the rest is as the manifest has it.
    given |= {"PGHOST": "127.0.0.1", "PGPORT": str(postgres), "MLFLOW_ARTIFACTS_DESTINATION": "/tmp/artifacts"}
    secrets = {
        "PGPASSWORD": "hunter2",
        "MLFLOW_AUTH_ADMIN_USERNAME": ADMIN.partition(":")[0],
        "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN.partition(":")[2],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "not-so-secret",
    }
    (folder / "env").write_text("".join(f"{k}={v}\n" for k, v in (given | secrets).items()))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
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


def test_the_targets_of_the_dockerfile_are_those_that_the_build_script_knows():
    targets = set(re.findall(r"(?m)^FROM \S+ AS (\S+)$", (ROOT / "infra/images/Dockerfile").read_text()))
    known = set(re.findall(r"\[(\w+)\]=", (ROOT / "infra/images/build").read_text()))
    assert known == targets - {"tools", "common", "light-packages", "gpu-packages"}


def test_the_overlays_run_images_that_the_build_script_makes():
    made = set(re.findall(r"\[\w+\]=([\w-]+)", (ROOT / "infra/images/build").read_text()))
    named = {
        entry["name"]
        for path in (check.HERE / "overlays").glob("*/kustomization.yaml")
        for entry in yaml.safe_load(path.read_text())["images"]
    }
    assert named <= made
