"""The step `register`, against a real MLflow store."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from components.errors import StepError
from components.params import Params
from components.register import step
from components.tracking import Store
from tests.servers import ports


def register(results, params: Params | None = None):
    out = Path("outputs/register.json")
    return step.run(params or results.params, **results.folders, out=out, lineage=results.lineage)


def changed(results, **settings) -> Params:
    content = {**results.params.model_dump(mode="json", by_alias=True), "register": settings}
    return Params.parse(content)


def snapshot(client) -> dict:
    """Everything that a second registration could double."""
    experiment = client.get_experiment_by_name("segmentation").experiment_id
    runs = client.search_runs([experiment])
    names = {run.info.run_id: sorted(run.data.metrics) for run in runs}
    return {
        "experiments": len(client.search_experiments()),
        "points": {r: {n: len(client.get_metric_history(r, n)) for n in ns} for r, ns in names.items()},
        "tags": {run.info.run_id: dict(run.data.tags) for run in runs},
        "versions": [(v.version, v.run_id, v.source, v.tags) for v in client.search_model_versions()],
        "aliases": [(m.name, m.aliases) for m in client.search_registered_models()],
        "models": [m.model_id for m in client.search_logged_models([experiment])],
    }


def test_every_model_gets_a_run_a_version_and_the_best_the_alias(results):
    result = register(results)
    assert [(v.key, v.passed) for v in result.versions] == [("enet", True), ("unet", True)]
    assert result.challenger == "unet"
    assert result.tracking_uri == "sqlite:///mlflow.db"
    store = Store("segmentation")
    client = store.client

    challenger = client.get_model_version_by_alias("segmentation", "challenger")
    assert challenger.run_id == result.versions[1].run_id
    assert {k: challenger.tags[k] for k in results.lineage.tags("unet")} == results.lineage.tags("unet")
    assert "mIoU **61.0 %**" in challenger.description and "covers 0.05 % of train" in challenger.description

    run = client.get_run(result.versions[0].run_id)
    assert run.info.status == "FINISHED"
    assert results.lineage.tags("enet").items() <= run.data.tags.items()
    assert run.data.tags["gate"] == "passed"
    assert (
        run.data.params["train.lr"] == str(results.params.train.lr) and run.data.params["model.architecture"] == "enet"
    )
    assert run.data.metrics["miou"] == 0.42 and run.data.metrics["ms_per_image"] == 8.5
    assert run.data.metrics["iou/road"] == pytest.approx(0.62)
    assert [p.step for p in client.get_metric_history(run.info.run_id, "train_loss")] == [1, 2, 3, 4, 5]
    assert [p.step for p in client.get_metric_history(run.info.run_id, "val_miou")] == [1, 3, 4, 5]
    assert run.inputs.dataset_inputs[0].dataset.digest == results.lineage.data_md5
    folders = {"evaluation", "pictures", "training", "validation"}
    assert folders <= {f.path for f in client.list_artifacts(run.info.run_id)}
    assert len(client.list_artifacts(run.info.run_id, "pictures")) == 3

    written = json.loads(Path("outputs/register.json").read_text())
    assert written["challenger"] == "unet" and written["model_name"] == "segmentation"
    assert written["versions"][1]["version"] == str(challenger.version)
    assert {p.name for p in results.root.iterdir()} == {
        "data",
        "outputs",
        "mlflow.db",
        "mlflow.db.lock",
        "mlartifacts",
    }

    files = [p for p in Path("mlartifacts").rglob("*") if p.is_file()]
    assert not [p for p in files if p.suffix in {".pkl", ".pickle", ".pt", ".pth", ".joblib"}]
    assert [p for p in files if p.name == "model.safetensors"]

    before = snapshot(client)
    assert register(results) == result
    assert snapshot(client) == before


def test_what_fails_the_gate_is_recorded_with_the_reason_and_gets_no_version(results):
    result = register(results, changed(results, rules={"miou": {"floor": 0.5}}))
    enet, unet = result.versions
    assert (enet.version, enet.passed) == (None, False)
    assert enet.reason == "mIoU is 42.0 %, below register.rules.miou.floor, 50.0 %"
    assert unet.passed and result.challenger == "unet"
    client = Store("segmentation").client
    assert client.get_run(enet.run_id).data.tags["gate"] == enet.reason
    assert len(client.search_model_versions()) == 1


def test_other_weights_under_the_same_settings_get_a_run_and_a_version_of_their_own(results):
    first = register(results, changed(results, rules={"miou": {"floor": 0.5}}))
    weights = results.models["unet"] / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"\0")
    second = register(results, changed(results, rules={"miou": {"floor": 0.5}}))
    assert first.versions[0].run_id == second.versions[0].run_id
    assert first.versions[1].run_id != second.versions[1].run_id
    assert second.versions[1].version == "2"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("architectures", {"enet": "enet", "unet": "linknet"}),
        ("params_hashes", {"enet": "0" * 16, "unet": "1" * 16}),
        ("data_md5", "f" * 32),
    ],
)
def test_a_run_belongs_to_its_architecture_its_settings_and_its_data(results, field, value):
    first = register(results)
    lineage = replace(results.lineage, **{field: value})
    out = Path("outputs/register.json")
    second = step.run(results.params, **results.folders, out=out, lineage=lineage)
    assert first.versions[1].run_id != second.versions[1].run_id
    # And of its code alone there is none of its own: the same weights are the same model.
    other = replace(results.lineage, git_commit="e" * 40)
    third = step.run(results.params, **results.folders, out=out, lineage=other)
    assert third.versions[1].run_id == first.versions[1].run_id


def test_with_mlflow_away_one_sentence_says_what_to_do_and_a_later_run_completes_it(results, monkeypatch):
    port = ports.free()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{port}")
    with pytest.raises(StepError) as caught:
        register(results)
    sentence = str(caught.value)
    assert sentence.startswith(f"MLflow at http://127.0.0.1:{port} does not answer; nothing is lost")
    assert "outputs/models and outputs/evaluation" in sentence and "dvc repro register" in sentence
    assert "secret" not in sentence and "\n" not in sentence
    assert not Path("outputs/register.json").exists()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert register(results, changed(results, rules={"miou": {"floor": 0.5}})).challenger == "unet"


def test_a_missing_result_is_named_before_mlflow_is_asked(results, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    (results.evaluations["enet"] / "metrics.json").unlink()
    with pytest.raises(
        StepError, match=r"outputs/evaluation/enet/metrics.json: no such file; `python -m components eval"
    ):
        register(results)


def test_the_same_model_data_and_settings_make_no_second_version_and_others_make_their_own(results):
    def versions_after(**changes) -> list[str]:
        lineage = replace(results.lineage, **changes)
        step.run(results.params, **results.folders, out=Path("outputs/register.json"), lineage=lineage)
        return sorted(str(v.version) for v in Store("segmentation").client.search_model_versions())

    assert versions_after() == versions_after() == ["1", "2"]
    assert versions_after(git_commit="e" * 40, git_dirty="true", dvc_stage="other") == ["1", "2"]
    others = {"enet": "0" * 16, "unet": results.lineage.params_hashes["unet"]}
    assert versions_after(params_hashes=others) == ["1", "2", "3"]
    assert versions_after(data_md5="f" * 32) == ["1", "2", "3", "4", "5"]
    assert versions_after(architectures={"enet": "enet", "unet": "linknet"}) == ["1", "2", "3", "4", "5", "6"]
    assert versions_after() == ["1", "2", "3", "4", "5", "6"]


def test_a_rule_of_a_class_that_the_models_have_not_is_an_error(results):
    with pytest.raises(StepError, match=r"register\.rules\.iou/rode: enet has no such figure; known are .*iou/road"):
        register(results, changed(results, rules={"iou/rode": {"floor": 0.1}}))


def test_an_evaluation_of_another_task_is_told_in_a_sentence(results):
    params = results.params.model_copy(update={"task": "depth"})
    with pytest.raises(StepError, match="evaluated as semantic, but task is depth; train and evaluate enet again"):
        register(results, params)
