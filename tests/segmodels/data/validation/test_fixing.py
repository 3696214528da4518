"""What is certainly wrong is left out of a new folder, and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmodels.data.folder import DatasetError, DatasetInfo, read_label
from segmodels.data.validation.checks import check
from segmodels.data.validation.fixing import fix
from segmodels.files import folder_md5


def copied(root: Path, source: str, target: str) -> None:
    """Put the image of one sample in the place of another one's."""
    shutil.copy(root / source, root / target)


def test_what_cannot_be_used_is_left_out_and_the_rest_is_valid(streets: Path, tmp_path: Path) -> None:
    info = json.loads((streets / "dataset.json").read_text())
    info["sequences"] = {"train": {"a": ["000001", "000002"], "b": ["000003"]}}
    (streets / "dataset.json").write_text(json.dumps(info))
    image = streets / "train/images/000002.png"
    image.write_bytes(image.read_bytes()[:-500])
    (streets / "train/labels/000003.png").unlink()
    (streets / "val/labels/000001.png").write_bytes(b"nothing")
    copied(streets, "test/images/000004.png", "train/images/000005.png")
    copied(streets, "test/images/000005.png", "val/images/000006.png")
    copied(streets, "train/images/000007.png", "train/images/000008.png")
    shutil.copy(streets / "train/labels/000007.png", streets / "train/labels/000008.png")
    (streets / "val/images/notes.txt").write_text("x")
    before, out = folder_md5(streets), tmp_path / "out"
    with pytest.raises(DatasetError, match="errors"):
        check(streets)
    changes = {change.why: change.names for change in fix(streets, out)}
    assert changes == {
        "the image cannot be read": ("train/images/000002.png",),
        "no label": ("train/images/000003.png",),
        "the label cannot be read": ("val/images/000001.png",),
        "its image stands in test, too": ("train/images/000005.png", "val/images/000006.png"),
        "a copy of another sample of its split": ("train/images/000008.png",),
        "is no image": ("val/images/notes.txt",),
    }
    assert folder_md5(streets) == before
    assert not [warning for warning in check(out) if "samples" not in warning and "train; consider" not in warning]
    described = DatasetInfo.read(out)
    assert described.splits == {"train": 36, "val": 8, "test": 10}
    assert described.sequences == {"train": {"a": ("000001",)}}
    assert (out / "test/images/000004.png").read_bytes() == (streets / "test/images/000004.png").read_bytes()
    assert not fix(out, tmp_path / "again")
    assert folder_md5(tmp_path / "again") == folder_md5(out)


def test_copies_with_another_label_and_salt_and_copies_within_test_stay(streets: Path, tmp_path: Path) -> None:
    copied(streets, "train/images/000007.png", "train/images/000008.png")
    copied(streets, "test/images/000001.png", "test/images/000002.png")
    noise = np.random.default_rng(0)
    label = read_label(streets / "val/labels/000001.png").copy()
    label[noise.random(label.shape) < 0.1] = 4
    Image.fromarray(label).save(streets / "val/labels/000001.png")
    assert fix(streets, tmp_path / "out") == []
    assert folder_md5(tmp_path / "out") == folder_md5(streets)


def test_nothing_is_written_over_or_into_the_data(streets: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(DatasetError, match="there: exists; name a folder that does not"):
        fix(streets, tmp_path / "there")
    with pytest.raises(DatasetError, match="lies within"):
        fix(streets, streets / "new")
    shutil.rmtree(streets / "val/labels")
    with pytest.raises(DatasetError, match="no sample of val is left"):
        fix(streets, tmp_path / "out")
    assert not (tmp_path / "out").exists()
