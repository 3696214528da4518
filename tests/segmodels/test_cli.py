"""The command line: what it prints, writes and refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segmodels.artifacts.model_folder import ModelConfig, read_config, save_model
from segmodels.catalog import figures
from segmodels.catalog.registry import list_models, model_info
from segmodels.cli import main
from segmodels.data.folder import ClassInfo, DatasetInfo, read_image, read_label, samples
from segmodels.evaluation import speed

Run = Callable[..., tuple[int, str, str]]
CLASSES = (ClassInfo("ground", (120, 80, 40)), ClassInfo("box", (200, 30, 30)), ClassInfo("sky", (90, 160, 220)))

SMALL = ("--height", 32, "--width", 48)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in this process; gives its exit status, its output and its errors."""
    monkeypatch.setenv("COLUMNS", "100")

    def call(*args: object) -> tuple[int, str, str]:
        try:
            status = main([str(arg) for arg in args])
        except SystemExit as end:
            status = int(end.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def two_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, figures.Entry]:
    """A file of figures with two architectures, one of them measured."""
    entries = {
        "enet": figures.Entry("enet", "ENet", 2016, "dense", 363_791, 363_791, 2.5, 12.3, "a processor", "2026-01-31"),
        "segnet_basic": figures.Entry("segnet_basic", "SegNet", 2015, "dense", 1_416_587, 1_416_587, 118.4),
    }
    figures.write(entries.values(), tmp_path / "figures.csv")
    monkeypatch.setattr(figures, "read", partial(figures.read, tmp_path / "figures.csv"))
    return entries


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "unet"
    torch.manual_seed(0)
    config = ModelConfig("unet", CLASSES, {"width": 4})
    save_model(folder, config, config.build().state_dict())
    return folder


def _cells(table: str) -> list[list[str]]:
    """The cells of a Markdown table."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from segmodels.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print([m for m in ('torch', 'numpy', 'torchvision', 'lightning', 'pydantic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in ("list", "info", "train", "predict", "export"))
    assert done.stdout.splitlines()[-1] == "[]"


def test_list_has_every_architecture_in_a_hundred_columns(run: Run) -> None:
    status, out, _ = run("list")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()[1:]] == list_models()
    assert max(len(line.rstrip()) for line in out.splitlines()) <= 100
    row = next(line for line in out.splitlines() if line.startswith("enet"))
    assert " 363,791     2.5" in row


def test_list_knows_its_figures_without_torch() -> None:
    code = "import sys; from segmodels.cli import main\ntry: main(['list'])\nexcept SystemExit: pass\n"
    code += "print([m for m in ('torch', 'numpy', 'timm', 'segmodels.catalog.registry') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_list_computes_what_the_file_does_not_have(
    run: Run, two_known: dict[str, figures.Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segmodels.catalog.registry.list_models", lambda: list(two_known))
    headings, _, *rows = _cells(run("list", "--markdown", "--classes", 19)[1])
    assert headings == ["name", "paper", "year", "task", "parameters", "GFLOPs"]
    assert [row[4] for row in rows] == ["364,311", "1,417,107"]


def test_list_prints_known_milliseconds_and_leaves_unknown_ones_empty(
    run: Run, two_known: dict[str, figures.Entry]
) -> None:
    headings, rule, *rows = _cells(run("list", "--markdown")[1])
    assert headings[-2:] == ["GFLOPs", "ms"]
    assert rule[3:] == ["---", "---:", "---:", "---:"]
    assert [(row[0], row[-1]) for row in rows] == [("enet", "12"), ("segnet_basic", "")]


def test_list_measures_on_this_machine_where_asked_to(
    run: Run, two_known: dict[str, figures.Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []

    def milliseconds(name: str, classes: int) -> float:
        asked.append((name, classes))
        return 7.4

    monkeypatch.setattr(speed, "street_milliseconds", milliseconds)
    _, _, *rows = _cells(run("list", "--markdown", "--time")[1])
    assert asked == [("enet", 11), ("segnet_basic", 11)]
    assert [row[-1] for row in rows] == ["7", "7"]


def test_info_prints_exact_parameters_for_any_number_of_classes(run: Run) -> None:
    for classes, count in ((11, 363_791), (19, 364_311)):
        status, out, _ = run("info", "enet", "--classes", classes, "--json")
        card = json.loads(out)
        assert status == 0
        assert card["parameters"] == card["parameters_training"] == count
    assert card["arxiv"] == "1606.02147"
    assert card["published"]["CamVid test mIoU"] == "51.3"
    assert card["options"] == {"stage": "full", "width": 1.0, "row_first": True}
    assert json.loads(run("info", "unet", "-o", "width=32", "--json")[1])["parameters"] < 10_000_000


def test_info_counts_auxiliary_heads_apart_and_lists_known_variants(run: Run) -> None:
    card = json.loads(run("info", "pspnet", "--classes", 19, "--json")[1])
    assert (card["parameters"], card["parameters_training"]) == (65_707_475, 68_072_166)
    known = {"options": {"backbone": "resnet50"}, "parameters": {"150": 46_782_550, "21": 46_716_373, "19": 46_715_347}}
    assert card["parameters_of_variants"] == [known]
    assert card["training_parameters_of_variants"][1] == {"options": {}, "parameters": {"19": 68_072_166}}
    text = run("info", "pspnet", "--classes", 19)[1]
    assert "65,707,475 (19 classes); 68,072,166 in training" in text
    assert 'backbone="resnet50": 46,782,550 (150 classes), 46,716,373 (21), 46,715,347 (19)' in text
    assert "defaults: 68,072,166 (19 classes) in training" in text


def test_info_tells_how_the_paper_tests_and_why_there_is_no_onnx(run: Run) -> None:
    card = json.loads(run("info", "deeplabv2", "--json")[1])
    assert card["testing"] == {"crf": {"spatial_weight": 3.0, "spatial_xy": 3.0, "iterations": 10}}
    assert card["onnx"] is None
    assert json.loads(run("info", "crfasrnn", "--json")[1])["onnx"] == model_info("crfasrnn").onnx
    assert "testing" in run("info", "deeplabv2")[1]
    assert "no ONNX the lattice of its filters" in " ".join(run("info", "crfasrnn")[1].split())


def test_info_has_milliseconds_only_of_what_was_measured(run: Run, two_known: dict[str, figures.Entry]) -> None:
    card = json.loads(run("info", "enet", "--json")[1])
    assert (card["gflops"], card["milliseconds"], card["image_size"]) == (2.5, 12.3, [360, 480])
    assert card["measured_on"] == "a processor, 2026-01-31"
    assert "12 (a processor, 2026-01-31)" in run("info", "enet")[1]
    for other in (("-o", "width=0.5"), ("--classes", 12)):
        card = json.loads(run("info", "enet", "--json", *other)[1])
        assert card["gflops"] not in (0, 2.5)
        assert card["milliseconds"] is card["measured_on"] is None


def test_info_for_reading_has_citation_and_differences(run: Run) -> None:
    _, out, _ = run("info", "unet")
    for text in ("Ronneberger", "MICCAI 2015", "1505.04597", "31,032,395", "259.9 (360x480)", "padding = ", "padded"):
        assert text in out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("info", "ent"), "error: unknown architecture 'ent'; did you mean 'enet'?"),
        (("info", "enet", "-o", "widht=2"), "error: enet: unknown keyword 'widht'; did you mean 'width'?"),
        (("info", "enet", "-o", "width=wide"), 'error: enet: width is "wide"; its default is 1.0'),
        (("info", "enet", "-o", "stage=third"), "error: enet: stage is 'third'"),
        (
            ("train", "DATA", "--model", "unte", "--out", "m"),
            "error: unknown architecture 'unte'; did you mean 'unet'?",
        ),
        (("train", "DATA", "--model", "unet", "--out", "m", "-s", "augment.flpi=1"), "did you mean 'flip'?"),
        (
            ("train", "DATA", "--model", "unet", "--out", "m", "-s", "lr=fast"),
            'error: lr is "fast"; it must be a number',
        ),
        (("train", "absent", "--model", "unet", "--out", "m"), "error: absent: no such folder"),
        (("train", "DATA", "--model", "unet", "--out", "DATA"), "exists and is not a model folder"),
        (("predict", "DATA", "--model", "absent", "--out", "p"), "error: absent: no such model folder; give one"),
        (("predict", "DATA", "--model", "MODEL", "--out", "p", "--window", "9"), "error: --window is '9'"),
        (("predict", "DATA", "--model", "MODEL", "--out", "p", "--scales", "1,x"), "error: --scales is '1,x'"),
        (("predict", "DATA", "--model", "MODEL", "--out", "p", "--device", "tpu"), "error: --device is 'tpu'"),
        (("export", "absent", "--format", "pt2", "--out", "x"), "error: absent/model.json: no such file"),
    ],
)
def test_a_mistake_is_one_sentence_and_writes_nothing(
    args: tuple[str, ...],
    message: str,
    run: Run,
    dataset: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"DATA": str(dataset), "MODEL": str(model)}
    status, _, err = run(*[places.get(arg, arg) for arg in args])
    assert status == 1
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_train_takes_a_plain_folder_and_predict_takes_its_model(run: Run, dataset: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    for kind in ("images", "labels"):
        (own / kind).mkdir(parents=True)
    for split in ("train", "val", "test"):
        for sample in samples(dataset, split):
            Image.open(sample.image).save(own / "images" / f"{split}{sample.id}.png")
            Image.open(sample.label).save(own / "labels" / f"{split}{sample.id}.png")
    out = tmp_path / "models" / "unet"
    command = ("train", own, "--model", "unet", "--out", out, "-o", "width=4", "--epochs", 1, "-s", "precision=32")
    status, text, err = run(*command, "-s", "augment.crop=[32, 48]")
    assert (status, err) == (0, "")
    assert "best validation mIoU" in text
    config = read_config(out)
    assert (config.architecture, config.options) == ("unet", {"width": 4})
    assert DatasetInfo.read(out.with_name("unet.data")).num_classes == 3
    assert sorted(p.name for p in out.parent.iterdir()) == ["unet", "unet.data"]

    status, _, err = run(*command)
    assert status == 1
    assert "is a model folder already" in err

    status, text, _ = run("predict", own / "images", "--model", out, "--out", tmp_path / "predictions")
    assert status == 0
    assert text.startswith("17 written;")


def test_the_papers_recipe_lies_under_the_command_line() -> None:
    from segmodels.cli.train import _settings

    settings = _settings(model_info("enet"), ["recipe=paper", "augment.flip=0.5"], {"epochs": 3})
    assert (settings.optimizer, settings.lr, settings.class_weights, settings.epochs) == ("adam", 5e-4, "enet", 3)
    assert (settings.augment.flip, settings.augment.color) == (0.5, 0.0)


def test_predict_goes_on_past_what_cannot_be_read(run: Run, dataset: Path, model: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    image = read_image(dataset / "val" / "images" / "000.png")
    for name in ("a.png", "c.png"):
        Image.fromarray(image).save(photos / name)
    (photos / "b.png").write_bytes((photos / "a.png").read_bytes()[:500])
    status, text, err = run("predict", photos, tmp_path / "absent.jpg", "--model", model, "--out", out)
    assert status == 1
    assert text.startswith("2 written, 2 failed")
    assert err.count("error: ") == err.count("\n") == 2
    assert "absent.jpg: no such file" in err
    assert "b.png: cannot be read as an image" in err
    assert sorted(p.name for p in out.iterdir()) == ["a.overlay.jpg", "a.png", "c.overlay.jpg", "c.png"]

    status, text, _ = run("predict", photos / "a.png", "--model", model, "--out", out)
    assert (status, text.split(";")[0]) == (0, "0 written, 1 skipped since their results exist")

    config = read_config(model)
    from segmodels.inference.predictor import Predictor

    assert np.array_equal(read_label(out / "a.png"), Predictor(model, "cpu").predict(image))
    palette = Image.open(out / "a.png").getpalette()
    assert palette is not None and palette[:9] == [c for entry in config.palette for c in entry]


def test_predict_options_change_what_is_written(run: Run, dataset: Path, model: Path, tmp_path: Path) -> None:
    image = dataset / "val" / "images" / "000.png"
    extra = ("--flip", "--scales", "0.8,1", "--window", "32x40", "--no-overlay", "--device", "cpu")
    status, _, err = run("predict", image, "--model", model, "--out", tmp_path, *extra)
    assert (status, err) == (0, "")
    assert [p.name for p in tmp_path.iterdir()] == ["000.png"]
    assert read_label(tmp_path / "000.png").shape == read_image(image).shape[:2]
    assert run("predict", image, "--model", model, "--out", tmp_path, "--no-overlay", "--no-masks")[0] == 1


def test_data_is_checked_trained_on_and_evaluated_from_the_command_line(run: Run, tmp_path: Path) -> None:
    streets = tmp_path / "streets"
    status, said, _ = run("dataset", "streets", "--out", streets, "--train", 4, "--val", 2, "--test", 0, *SMALL)
    assert status == 0 and "4 train, 2 val" in said
    status, said, _ = run("validate", streets)
    assert status == 0 and "4 train, 2 val; 11 classes: " in said
    status, said, _ = run("train", streets, "--model", "unet", "--out", tmp_path / "m", "--epochs", 1, "-o", "width=2")
    assert status == 0
    assert all(f"segmodels {command} " in said for command in ("evaluate", "predict", "serve", "export"))
    status, said, _ = run("evaluate", tmp_path / "m", streets, "--out", tmp_path / "e", "-s", "flip=true")
    assert status == 0 and "val, 2 images: mIoU " in said
    miou = json.loads((tmp_path / "e/metrics.json").read_text())["miou"]
    assert f"mIoU {100 * miou:.1f} %" in said
    status, _, said = run("evaluate", tmp_path / "m", streets, "--out", tmp_path / "e")
    assert status == 1 and "is an evaluation already; choose another --out, or --overwrite" in said


def test_bad_data_is_told_by_validate_with_the_file(run: Run, tmp_path: Path) -> None:
    streets, copied = tmp_path / "streets", tmp_path / "copied"
    run("dataset", "streets", "--out", streets, "--train", 2, "--val", 1, "--test", 0, *SMALL)
    status, said, _ = run("dataset", "convert", streets, "--out", copied, "--name", "mine")
    assert status == 0 and json.loads((copied / "dataset.json").read_text())["classes"]
    label = next((copied / "train/labels").iterdir())
    Image.fromarray(np.full((32, 48), 200, np.uint8)).save(label)
    status, _, said = run("validate", copied)
    assert status == 1 and label.name in said and "200" in said
    few = ("--severity", "class_not_in_train=ignore")
    status, said, _ = run("validate", copied, "--severity", "unknown_ids=warning", *few)
    assert status == 0 and "warning: train/labels/" in said
    status, _, said = run("validate", copied, "--severity", "unknown_id=warning")
    assert status == 1 and "no rule is called 'unknown_id'; did you mean 'unknown_ids'?" in said
    label.write_bytes(b"nothing")
    status, said, _ = run("validate", copied, "--fix", tmp_path / "fixed", *few)
    assert status == 0 and "1 left out: the label cannot be read: train/images/" in said
    assert f"{tmp_path / 'fixed'}: 1 train, 1 val; 11 classes" in said
    status, _, said = run("validate", copied, "--fix", tmp_path / "fixed")
    assert status == 1 and "fixed: exists; choose another --fix" in said


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("segmodels train --model segn", ["segnet", "segnet_basic"]),
        ("segmodels info hour", ["hourglass"]),
        ("segmodels train --task d", ["depth"]),
        ("segmodels eval", ["evaluate"]),
    ],
)
def test_a_shell_completes_commands_architectures_and_tasks(words: str, expected: list[str]) -> None:
    """As the script of `segmodels --install-completion` asks."""
    asked = {"_SEGMODELS_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    script = Path(sys.executable).with_name("segmodels")
    done = subprocess.run([script], env=os.environ | asked, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == expected, done.stderr
