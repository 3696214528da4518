"""Lineage: what a result was made from."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components.errors import StepError
from components.lineage import canonical_json, code, collect, folder_md5, model_settings, params_hash
from components.params import Params
from segmodels.files import file_sha256

DVC = [sys.executable, "-m", "dvc"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with sub-folders, names that sort differently by part and by string, and an empty file."""
    root = tmp_path / "repo" / "data"
    for name, content in {
        "dataset.json": b"{}\n",
        "train/images/b.png": b"\x89PNG\r\n\x1a\n",
        "train/images/a.png": b"a\r\nb\r\n",
        "train/labels/\u00fc.png": b"\x00\x01",
        "train-extra/a.png": b"z",
        "train.txt": b"",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


@pytest.fixture
def params() -> Params:
    return Params.parse({"models": {"enet": {}, "wide": {"architecture": "unet", "train": {"lr": 0.01}}}})


def git(*arguments: str, cwd: Path) -> None:
    identity = {
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }
    subprocess.run(["git", *arguments], cwd=cwd, check=True, capture_output=True, env={**os.environ, **identity})


def test_a_folder_has_the_hash_that_dvc_gives_it(data: Path):
    repo = data.parent
    git("init", "-q", cwd=repo)
    (repo / "empty").mkdir()
    subprocess.run([*DVC, "init", "-q"], cwd=repo, check=True)
    subprocess.run([*DVC, "add", "-q", "data"], cwd=repo, check=True)
    recorded = yaml.safe_load((repo / "data.dvc").read_text())["outs"][0]["md5"]
    assert folder_md5(data) == recorded
    assert recorded.endswith(".dir") and len(recorded) == 36


def test_a_renamed_file_changes_the_hash(data: Path):
    before = folder_md5(data)
    (data / "train.txt").rename(data / "training.txt")
    assert folder_md5(data) != before


def test_a_missing_dataset_is_named(tmp_path: Path, params: Params):
    with pytest.raises(StepError, match="data: no such folder; `python -m components download`"):
        collect(params, tmp_path / "data", env={})


def test_the_commit_comes_from_git_and_a_changed_file_makes_it_dirty(data: Path, params: Params, monkeypatch):
    repo = data.parent
    monkeypatch.chdir(repo)
    assert collect(params, data, env={}).git_commit == "unknown"
    git("init", "-q", cwd=repo)
    git("add", ".", cwd=repo)
    git("commit", "-qm", "one", cwd=repo)
    clean = collect(params, data, env={})
    assert len(clean.git_commit) == 40 and clean.git_dirty == "false"
    (repo / "dvc.lock").write_text("written by dvc while it runs\n")
    assert collect(params, data, env={}).git_dirty == "false"
    (repo / "new.py").write_text("")
    assert collect(params, data, env={}).git_dirty == "true"


def test_an_image_says_itself_what_it_is(data: Path, params: Params):
    env = {"GIT_COMMIT": "c0ffee", "IMAGE_DIGEST": "sha256:12", "KFP_RUN_ID": "run-1", "DVC_STAGE": ""}
    tags = collect(params, data, env=env).tags("wide")
    assert tags == {
        "architecture": "unet",
        "task": "semantic",
        "params.hash": params_hash(params, "wide"),
        "dvc.data.md5": folder_md5(data),
        "git.commit": "c0ffee",
        "git.dirty": "unknown",
        "image.digest": "sha256:12",
        "kfp.run_id": "run-1",
    }


def test_outside_a_cluster_the_stage_is_named(data: Path, params: Params):
    tags = collect(params, data, env={"DVC_STAGE": "train@enet"}).tags("enet")
    assert tags["dvc.stage"] == "train@enet" and "kfp.run_id" not in tags


def changed(params: Params, **changes: object) -> Params:
    return Params.parse({**params.model_dump(mode="json", by_alias=True), **changes})


def test_the_settings_hash_follows_what_affects_the_model_and_nothing_else(params: Params):
    before = params_hash(params, "enet")
    assert len(before) == 16 and before != params_hash(params, "wide")
    assert params_hash(changed(params, seed=1), "enet") != before
    assert params_hash(changed(params, data={"source": "photos"}), "enet") != before
    assert params_hash(changed(params, train={"lr": 0.5}), "enet") != before
    assert params_hash(changed(params, evaluate={"flip": True}), "enet") != before
    assert params_hash(changed(params, register={"rules": {"miou": {"floor": 0.9}}}), "enet") == before
    assert params_hash(changed(params, train={"workers": 7}), "enet") == before
    assert params_hash(changed(params, data={"retries": 1}), "enet") == before
    # What came with a later release is in no hash of those that do not set it.
    assert all("max_depth" not in model_settings(params, "enet")[section] for section in ("train", "evaluate"))
    coding = {"values", "threshold", "coding", "classes", "orientation", "background", "ignore"}
    assert not coding & model_settings(params, "enet")["data"].keys()
    assert params_hash(changed(params, data={"coding": "color"}), "enet") != before
    assert params_hash(changed(params, train={"max_depth": 80}), "enet") != before
    assert params_hash(changed(params, evaluate={"max_depth": 80}), "enet") != before
    models = {"enet": {}, "wide": {"architecture": "unet", "train": {"lr": 0.02}}}
    assert params_hash(changed(params, models=models), "enet") == before
    assert params_hash(changed(params, models=models), "wide") != params_hash(params, "wide")


def test_the_settings_of_a_model_are_plain_json_with_names_that_others_read(params: Params, tmp_path: Path):
    changes = {
        "seed": 5,
        "data": {"source": "photos", "retries": 9},
        "train": {"lr": 0.5, "workers": 3, "augment": {"crop": [32, 48]}},
        "evaluate": {"models": {"wide": {"flip": True}}},
        "models": {"enet": {}, "wide": {"architecture": "unet", "backbone": "resnet18", "options": {"width": 8}}},
    }
    found = model_settings(changed(params, **changes), "wide")
    assert set(found) == {"key", "seed", "data", "model", "train", "evaluate"}
    assert (found["key"], found["seed"]) == ("wide", 5)
    assert found["model"] == {"architecture": "unet", "backbone": "resnet18", "options": {"width": 8}}
    assert found["data"]["source"] == "photos" and "retries" not in found["data"]
    assert found["train"]["lr"] == 0.5 and "workers" not in found["train"]
    assert found["train"]["augment"]["crop"] == [32, 48]
    assert found["evaluate"]["flip"] is True
    assert model_settings(changed(params, **changes), "enet")["evaluate"]["flip"] is False
    # A path is text, too.
    assert json.loads(json.dumps(found)) == found


def test_equal_values_have_one_text_and_one_hash(tmp_path: Path):
    text = '{"a":[1,2.5],"b":{"c":null,"\\u00fc":true}}'
    assert canonical_json({"b": {"\u00fc": True, "c": None}, "a": (1, 2.5)}) == text
    (tmp_path / "x").write_bytes(b"\x00\xffabc\r\n")
    assert file_sha256(tmp_path / "x") == hashlib.sha256(b"\x00\xffabc\r\n").hexdigest()


def test_without_a_repository_nothing_is_known_of_the_code(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert code({}) == ("unknown", "unknown")
    assert code({"GIT_COMMIT": "c0ffee"}) == ("c0ffee", "unknown")
    assert code({"GIT_COMMIT": "c0ffee", "GIT_DIRTY": "true"}) == ("c0ffee", "true")
    assert code({"GIT_DIRTY": "false"}) == ("unknown", "false")
    # A folder of a file's name beside the repository's own is no reason to call it changed.
    git("init", "-q", cwd=tmp_path)
    (tmp_path / "a").write_text("1")
    git("add", ".", cwd=tmp_path)
    git("commit", "-qm", "one", cwd=tmp_path)
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    (tmp_path / "dvc.lock").write_text("of dvc")
    assert code({})[1] == "false"


def test_without_a_word_of_dvc_or_kubeflow_no_stage_is_named(data: Path, params: Params):
    lineage = collect(params, data, env={"GIT_COMMIT": "c"})
    assert (lineage.dvc_stage, lineage.kfp_run_id, lineage.image_digest) == ("", "", "none")
    assert lineage.tags("enet")["dvc.stage"] == "none"
    empty = collect(params, data, env={"GIT_COMMIT": "c", "IMAGE_DIGEST": ""})
    assert empty.image_digest == "none"
