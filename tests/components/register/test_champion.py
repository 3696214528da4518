"""The step `register` where there is a champion: what passes, what does not, and on which images they are compared."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from components import promotion
from components.errors import StepError
from components.lineage import params_hash
from components.params import Params
from components.register import step
from components.register.card import LONGEST, Card
from components.register.gate import Gate, decide
from components.register.trained import read_model
from components.tracking import Store
from segmodels.artifacts.model_folder import ModelConfig, save_model
from segmodels.data.folder import ClassInfo, DatasetInfo
from segmodels.tasks.per_image import PerImage

# The made-up figures of these models have nothing to do with their weights' number and speed.
COSTS = {"parameters": {"times": 1e6}, "ms_per_image": {"times": 1e6}}


def register(results, name: str, **settings):
    own = {"model_name": name, "rules": COSTS, **settings}
    params = Params.parse({**results.params.model_dump(mode="json", by_alias=True), "register": own})
    return step.run(params, **results.folders, out=Path("outputs/register.json"), lineage=results.lineage)


def real_weights(folder: Path, classes: tuple[ClassInfo, ...], seed: int = 0) -> None:
    """Weights that can be evaluated, in place of the made-up ones."""
    torch.manual_seed(seed)
    config = ModelConfig("unet", classes, {"width": 2})
    history = (folder / "history.csv").read_text()
    save_model(folder, config, config.build().state_dict())
    (folder / "history.csv").write_text(history)


def other_weights(results) -> None:
    weights = results.models["unet"] / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"\0")


def better(results) -> None:
    """The unet that is registered next: other weights, and figures 5 points above the champion's."""
    other_weights(results)
    evaluation = results.evaluations["unet"]
    metrics = json.loads((evaluation / "metrics.json").read_text())
    metrics["per_class"] = {name: iou + 0.05 for name, iou in metrics["per_class"].items()}
    metrics["miou"] += 0.05
    (evaluation / "metrics.json").write_text(json.dumps(metrics))
    each = PerImage.read(evaluation / "per_image.npz")
    hits = each.counts["hits"] + 50
    counts = {**each.counts, "hits": hits, "predicted": hits}
    PerImage(each.ids, each.classes, counts, each.sequences).write(evaluation / "per_image.npz")


@pytest.fixture(scope="module")
def made(module_results):
    real_weights(module_results.models["unet"], DatasetInfo.read(module_results.data).classes)
    return module_results


@pytest.fixture
def name(request) -> str:
    """A registered model of the test's own; the runs are shared."""
    return request.node.name


@pytest.fixture
def promoted(made, name, tmp_path):
    """Both models are registered, and unet (61 % mIoU), version 2, is the champion."""
    for folder in ("data", "outputs"):
        shutil.copytree(folder, tmp_path / folder)
    register(made, name)
    promotion.promote(Store(None), name, "2", why="first", who="ada")
    yield made
    for folder in ("data", "outputs"):
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / folder, folder)


def test_what_is_worse_than_the_champion_keeps_its_version_and_loses_the_alias(promoted, name):
    client = Store(None).client
    client.set_registered_model_alias(name, "challenger", "1")
    result = register(promoted, name)
    enet, unet = result.versions
    assert (enet.version, enet.passed) == ("1", False)
    assert enet.reason.startswith("worse than the champion (version 2): mIoU -")
    assert (unet.version, unet.passed) == ("2", True), "the champion keeps the decision that put it there"
    assert (result.challenger, result.champion) == (None, "2")
    model = client.get_registered_model(name)
    assert {alias: str(version) for alias, version in model.aliases.items()} == {"champion": "2"}
    tags = client.get_model_version(name, "1").tags
    assert tags["gate"] == enet.reason and tags["gate.champion"] == "2"
    assert tags["gate.found"].startswith("mIoU -")
    assert client.get_run(enet.run_id).data.tags["gate"] == enet.reason
    assert str(result).splitlines()[0] == f"enet: version 1, {enet.reason}"
    assert register(promoted, name) == result


def test_an_equal_model_gets_a_version_and_no_alias(promoted, name):
    other_weights(promoted)
    result = register(promoted, name)
    unet = result.versions[1]
    assert (unet.version, unet.passed, result.challenger) == ("3", False, None)
    assert unet.reason.startswith(
        "no significant difference from the champion (version 2) on 6 images, 2 models compared at once: mIoU 0.0 po"
    )
    assert Store(None).alias(name, "champion") == "2"


def test_a_better_model_is_the_challenger_and_no_machine_makes_it_the_champion(promoted, name):
    better(promoted)
    result = register(promoted, name)
    assert (result.challenger, result.champion) == ("unet", "2")
    client = Store(None).client
    version = client.get_model_version_by_alias(name, "challenger")
    assert (str(version.version), version.tags["gate"]) == ("3", "passed")
    card = version.description
    assert "**Gate: passed** (better than the champion (version 2))." in card
    card = card.replace("&emsp;", " ")
    assert "| mIoU | 66.0 % | 61.0 % | +5.0 | +5.0 to +5.0 | yes |" in card
    assert "| pole &amp; &lt;sign&gt; | 66.0 % | 61.0 % | +5.0 | +5.0 to +5.0 | yes | 5.0 % |" in card
    assert len(promotion.trail(Store(None), name)) == 1


def test_the_card_says_of_how_many_a_model_is_the_best(promoted, name):
    better(promoted)
    register(promoted, name)
    card = Store(None).client.get_model_version_by_alias(name, "challenger").description
    assert "on the same 6 images, 2 models compared at once." in card and "Best of 2: " in card


def test_a_challenger_stays_before_what_is_worse_on_the_same_data(promoted, name):
    better(promoted)
    register(promoted, name)
    client = Store(None).client
    # Another good model, between the champion and the challenger.
    metrics = json.loads((promoted.evaluations["unet"] / "metrics.json").read_text())
    metrics["miou"] -= 0.02
    (promoted.evaluations["unet"] / "metrics.json").write_text(json.dumps(metrics))
    other_weights(promoted)
    again = register(promoted, name)
    assert again.versions[1].passed and again.versions[1].version == "4" and again.challenger is None
    assert str(client.get_model_version_by_alias(name, "challenger").version) == "3"
    told = "challenger of {}: version 3 (unet) stays: mIoU 66.0 % on the same data, the best of these 64.0 %"
    assert told.format(name) in str(again)
    # On other data its figures say nothing.
    moved = replace(promoted, lineage=replace(promoted.lineage, data_md5=f"{'c' * 32}.dir"))
    assert register(moved, name).challenger == "unet"


def test_a_challenger_that_was_promoted_is_none_any_more(promoted, name):
    better(promoted)
    register(promoted, name)
    client = Store(None).client
    client.set_registered_model_alias(name, "champion", "3")  # in the UI, which leaves the other alias
    assert register(promoted, name).champion == "3"
    assert "challenger" not in client.get_registered_model(name).aliases


def test_where_the_settings_say_so_the_challenger_is_promoted_at_once_and_once(promoted, name):
    better(promoted)
    result = register(promoted, name, auto_promote=True)
    assert result.champion == "3"
    _, second = promotion.trail(Store(None), name)
    assert (second.who, second.source, second.target, second.why) == ("register", "2", "3", "register.auto_promote")
    assert register(promoted, name, auto_promote=True).champion == "3"
    assert len(promotion.trail(Store(None), name)) == 2


def test_other_data_leads_to_an_evaluation_of_the_champion_and_to_no_other_comparison(promoted, name, capsys):
    better(promoted)
    moved = replace(promoted, lineage=replace(promoted.lineage, data_md5=f"{'a' * 32}.dir"))
    capsys.readouterr()
    result = register(moved, name)
    assert "the champion (version 2) was evaluated on other data; evaluating it on data" in capsys.readouterr().out
    # Untrained weights are far below the figures that were made up for them.
    version = Store(None).client.get_model_version(name, result.versions[1].version)
    assert result.versions[1].passed
    assert "It was evaluated again for this comparison" in version.description
    assert "61.0 %" not in version.description
    kept = [f.path for f in Store(None).client.list_artifacts(Store(None).find(f"models:/{name}/2").run_id)]
    assert f"evaluation-{'a' * 32}-3px" in kept
    assert register(moved, name) == result
    assert "evaluating it" not in capsys.readouterr().out, "one evaluation is enough"


def test_on_other_data_the_champion_is_evaluated_as_it_is_served(promoted, name):
    def evaluated(results, **settings):
        params = {**results.params.model_dump(mode="json", by_alias=True), "evaluate": settings}
        return replace(results, params=Params.parse(params))

    real_weights(promoted.models["unet"], DatasetInfo.read(promoted.data).classes, seed=1)
    assert register(evaluated(promoted, flip=True), name).versions[1].version == "3"
    promotion.promote(Store(None), name, "3", why="flips", who="ada", force=True)
    moved = replace(promoted, lineage=replace(promoted.lineage, data_md5=f"{'d' * 32}.dir"))
    register(evaluated(moved, flip=False, boundary_px=5), name)
    run_id = Store(None).find(f"models:/{name}/3").run_id
    speed = Path(Store(None).client.download_artifacts(run_id, f"evaluation-{'d' * 32}-5px/speed.json"))
    assert json.loads(speed.read_text())["prediction"]["flip"] is True


def test_a_champion_whose_depths_ended_elsewhere_is_evaluated_again(promoted, name, capsys):
    run_id = Store(None).find(f"models:/{name}/2").run_id
    params = Params.parse({**promoted.params.model_dump(mode="json", by_alias=True), "evaluate": {"max_depth": 12.5}})
    lineage = replace(promoted.lineage, params_hashes={key: params_hash(params, key) for key in params.models})
    register(replace(promoted, params=params, lineage=lineage), name)
    assert "evaluating it on" in capsys.readouterr().out
    folder = f"evaluation-{promoted.lineage.data_md5.removesuffix('.dir')}-3px-12.5m"
    assert folder in [file.path for file in Store(None).client.list_artifacts(run_id)]


def test_a_champion_of_other_classes_is_no_measure(promoted, name):
    content = json.loads((promoted.data / "dataset.json").read_text())
    content["classes"][1]["name"] = "heaven"
    (promoted.data / "dataset.json").unlink()
    (promoted.data / "dataset.json").write_text(json.dumps(content))
    better(promoted)
    result = register(replace(promoted, lineage=replace(promoted.lineage, data_md5=f"{'b' * 32}.dir")), name)
    assert not result.versions[1].passed and result.challenger is None
    assert result.versions[1].reason == (
        "the champion (version 2) has other classes (road, sky, pole & <sign>) than this data (road, heaven, "
        "pole & <sign>): register it under another register.model_name"
    )


def test_a_champion_of_another_task_is_no_measure(promoted, name):
    Store(None).client.set_model_version_tag(name, "2", "task", "depth")
    better(promoted)
    result = register(promoted, name)
    assert not result.versions[1].passed and result.challenger is None
    assert result.versions[1].reason == (
        "the champion (version 2) predicts another task (depth): register this one under another register.model_name"
    )


def test_what_an_earlier_release_registered_is_found_and_compared(promoted, name, capsys):
    """Its runs, versions and counts say nothing of a task."""
    client = Store(None).client
    versions = {str(v.version): v for v in client.search_model_versions(f"name = '{name}'")}
    for number, version in versions.items():
        client.delete_model_version_tag(name, number, "task")
        client.delete_tag(version.run_id, "task")
    again = register(promoted, name)
    assert [(v.version, v.run_id) for v in again.versions] == [(n, versions[n].run_id) for n in ("1", "2")]
    assert again.versions[0].reason.startswith("worse than the champion (version 2): mIoU -")
    assert client.get_run(versions["2"].run_id).data.tags["task"] == "semantic"
    better(promoted)
    capsys.readouterr()
    result = register(promoted, name)
    assert (result.challenger, result.versions[1].version) == ("unet", "3")
    assert "evaluating it" not in capsys.readouterr().out
    assert client.get_model_version(name, "3").tags["task"] == "semantic"


def test_an_evaluation_without_counts_is_named(results):
    (results.evaluations["enet"] / "per_image.npz").unlink()
    with pytest.raises(StepError, match=r"enet/per_image\.npz: no such file; `python -m components evaluate` writes"):
        register(results, "counts")


# --- the card --------------------------------------------------------------------------------------------------------


def card(results, key: str = "unet", **changes):
    model = read_model(key, results.models[key], results.evaluations[key])
    gate = Gate.of(results.params)
    facts = {
        "model": model,
        "decision": decide(gate, model.metrics, model.measured, None),
        "dataset": json.loads((results.data / "dataset.json").read_text()),
        "validation": json.loads((results.validation / "validation.json").read_text()),
        "tags": results.lineage.tags(key),
        "name": "segmentation",
        "run_id": "0123abc",
        "version": "7",
        "gate": gate,
    }
    return Card(**{**facts, **changes})


def test_the_card_says_what_a_decision_needs(results):
    text = card(results).description().replace("&emsp;", " ")
    for fact in (
        "U-Net: Convolutional Networks for Biomedical Image Segmentation",
        "https://arxiv.org/abs/1505.04597",
        "mIoU **61.0 %** on 6 images of the test split",
        "no champion yet, so only the floors counted",
        "stripes: 4 train, 2 val, 6 test images; licence CC0; DVC hash `",
        "with 1 warning:\n\n- 'pole &amp; &lt;sign&gt;' covers 0.05 % of train",
        "| ms per image of 48 x 64 on cpu | 31.0 |",
        "Weakest, by IoU of each class: sky (41.0 %)",
        'mlflow.pyfunc.load_model("models:/segmentation/7")',
        "Code `c0ffee`, image `none`, settings `",
        "`python -m pipeline trace models:/segmentation/7`",
        "![worst](get-artifact?path=pictures%2Fworst-0002.png&run_id=0123abc)",
    ):
        assert fact in text, fact
    assert "<sign>" not in text
    assert "get-artifact" not in card(results).markdown()


def test_a_class_that_was_not_measured_has_a_dash(results):
    assert "| pole &amp; &lt;sign&gt; | - | 5.0 % |" in card(results, "enet").markdown()


def test_a_card_of_many_classes_fits_into_a_description_and_names_the_worst(results):
    full = card(results)
    per_class = {f"class number {i:03}": i / 200 for i in range(150)}
    many = replace(full, model=replace(full.model, metrics={**full.model.metrics, "per_class": per_class}))
    assert len(many.markdown()) > LONGEST
    text = many.description()
    assert len(text) <= LONGEST and "class number 000" in text and "class number 149" not in text
    assert "worst of 150; all stand in the run's `card.md`" in text
    assert "### Lineage" in text


def test_no_name_becomes_markup(results):
    data = {"name": "a|b @everyone <script>", "source": {}}
    text = card(results, dataset=data).markdown()
    assert "<script>" not in text and "@everyone" not in text.replace("&#64;", "")
    assert "licence not stated" in text
