"""Targets: what their files hold, and what mirrors, zooms, crops and sizes do to them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segmodels.data.augment import Augmentation, augment
from segmodels.data.folder import DatasetError, DatasetInfo
from segmodels.data.loading import Decoded, TrainingSet
from segmodels.data.streets import write_dataset
from segmodels.data.streets.render import TARGETS as STREETS
from segmodels.data.streets.render import render
from segmodels.data.targets import target
from segmodels.data.validation import checks
from segmodels.errors import UserError

ZERO, ONE = torch.zeros(3), torch.ones(3)
SIZE = (48, 64)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("targets") / "data"
    write_dataset(root, seed=3, train=2, val=1, test=0, height=SIZE[0], width=SIZE[1], targets=STREETS)
    return root


def test_streets_are_read_as_they_were_rendered(data: Path) -> None:
    info = DatasetInfo.read(data)
    assert info.targets["depth"] == {"unit": "m", "scale": 0.01}
    frame = render(3, "train", 0, height=SIZE[0], width=SIZE[1], targets=("depth", "normals", "instances"))
    sample = Decoded(data, "train", needs=("depth", "normals", "instances", "labels"))[0]
    assert frame.depth is not None and frame.normals is not None and frame.instances is not None
    seen = np.isfinite(frame.depth)
    assert np.abs(sample["depth"].numpy()[seen] - frame.depth[seen]).max() <= 0.0051
    assert (sample["depth"].numpy()[~seen] == 0).all() and (~seen).any()
    vectors = sample["normals"].permute(1, 2, 0).numpy()
    assert np.abs(vectors[seen] - frame.normals[seen]).max() < 0.01
    assert (vectors[~seen] == 0).all()
    np.testing.assert_allclose(np.linalg.norm(vectors[seen], axis=-1), 1, rtol=1e-5)
    assert np.array_equal(sample["instances"].numpy(), frame.instances)
    assert np.array_equal(sample["labels"].numpy(), frame.label)


def test_a_mirrored_image_has_mirrored_targets_and_normals_that_face_the_other_way(data: Path) -> None:
    sample = dict(Decoded(data, "train", needs=("depth", "normals", "labels"))[0])
    image = sample.pop("image")
    how = Augmentation(flip=1.0)
    flipped = augment(image, sample, how, np.random.default_rng(0), ZERO, ONE)
    assert torch.equal(flipped["depth"], sample["depth"].flip(-1))
    assert torch.equal(flipped["labels"], sample["labels"].flip(-1).long())
    assert torch.equal(flipped["normals"][0], -sample["normals"][0].flip(-1))
    assert torch.equal(flipped["normals"][1:], sample["normals"][1:].flip(-1))


def test_what_is_shown_twice_as_large_is_half_as_far_away() -> None:
    image, depth = torch.zeros(3, 32, 40, dtype=torch.uint8), torch.full((32, 40), 8.0)
    how = Augmentation(crop=(32, 40), scale=(2.0, 2.0), flip=0.0)
    assert (augment(image, {"depth": depth}, how, np.random.default_rng(0), ZERO, ONE)["depth"] == 4).all()


def test_all_targets_of_a_sample_are_cut_and_padded_together() -> None:
    """Each pixel still belongs to its image's pixel, whatever was drawn; what was made up is void in each of them."""
    values = torch.arange(1, 31 * 37 + 1).view(31, 37)
    image = torch.stack([values % 251, values // 251, torch.zeros_like(values)]).to(torch.uint8)
    normals = torch.zeros(3, 31, 37)
    normals[1] = 1.0
    targets = {"labels": (values % 200).to(torch.uint8), "depth": values.float(), "normals": normals}
    for seed in range(20):
        how = Augmentation(crop=(40, 44), scale=(1.0, 1.0), flip=0.5)
        sample = augment(image, targets, how, np.random.default_rng(seed), ZERO, ONE)
        known = sample["depth"] > 0
        assert 0 < known.sum() < known.numel()
        depth = sample["depth"][known].long()
        assert torch.equal(sample["labels"][known], depth % 200)
        red, green = (sample["image"][c][known].mul(255).round().long() for c in (0, 1))
        assert torch.equal(red + 251 * green, depth)
        assert (sample["labels"][~known] == 255).all() and (sample["normals"][:, ~known] == 0).all()
        assert (sample["normals"][1][known] == 1).all()


def test_depths_are_taken_and_not_mixed_when_an_image_is_resized() -> None:
    depth = torch.tensor([[1.0, 1.0, 100.0, 100.0]] * 4)
    assert set(target("depth").resize(depth, (3, 3)).unique().tolist()) <= {1.0, 100.0}


def test_transforms_that_would_leave_values_wrong_are_refused(data: Path) -> None:
    how = Augmentation(extra={"RandomRotation": {"degrees": 10}})
    with pytest.raises(UserError, match=r"augment\.extra: torchvision's transforms move pixels of normals"):
        TrainingSet(Decoded(data, "train", needs=("normals",)), how, (0, 0, 0), (1, 1, 1), seed=0)
    with pytest.raises(DatasetError, match=r"augment\.focus is objects.*depth have none"):
        focus = Augmentation(focus="objects")
        TrainingSet(Decoded(data, "train", needs=("depth",)), focus, (0, 0, 0), (1, 1, 1), seed=0)


def test_the_scale_of_a_file_is_what_the_dataset_says(tmp_path: Path) -> None:
    path = tmp_path / "d.png"
    target("depth").write(np.array([[2.0, 0.0], [np.inf, 300.0]]), path, {"scale": 1 / 256})
    assert np.asarray(Image.open(path)).tolist() == [[512, 0], [0, 65535]]
    assert target("depth").read(path, {"scale": 1 / 256})[0].tolist() == [2.0, 0.0]


@pytest.mark.parametrize(
    ("break_", "message"),
    [
        (lambda p: p.unlink(), "train/images/000000.png: has no depth; train/depth/000000.png is missing"),
        (lambda p: p.write_bytes(b"nothing"), "train/depth/000000.png: cannot be read as depth"),
        (
            lambda p: Image.fromarray(np.ones((4, 4), np.uint16)).save(p),
            "train/depth/000000.png: is 4x4, but its image is 64x48",
        ),
        (lambda p: Image.fromarray(np.zeros(SIZE, np.uint16)).save(p), "train/depth/000000.png: all of it is void"),
        (lambda p: Image.new("RGB", SIZE[::-1]).save(p), "mode RGB; depth are a single-channel PNG of 8 or 16 bits"),
    ],
    ids=["missing", "no image", "other size", "void", "colours"],
)
def test_what_is_wrong_with_a_target_is_said_before_training(tmp_path: Path, break_, message: str) -> None:  # type: ignore[no-untyped-def]
    root = tmp_path / "data"
    write_dataset(root, seed=0, train=1, val=1, test=0, height=SIZE[0], width=SIZE[1], targets=["depth"])
    # A single image may lack classes; that is another complaint.
    info = json.loads((root / "dataset.json").read_text())
    assert info["targets"] == {"depth": {"unit": "m", "scale": 0.01}}
    break_(root / "train" / "depth" / "000000.png")
    with pytest.raises(DatasetError) as complaint:
        checks.check(root, needs=("depth",))
    assert message in str(complaint.value)


def test_a_list_of_targets_as_earlier_releases_wrote_it_is_read(data: Path, tmp_path: Path) -> None:
    info = json.loads((data / "dataset.json").read_text())
    info["targets"] = ["depth", "normals"]
    (tmp_path / "dataset.json").write_text(json.dumps(info))
    assert DatasetInfo.read(tmp_path).targets == {"depth": {}, "normals": {}}


def test_the_depths_of_streets_have_the_bytes_that_earlier_releases_wrote(tmp_path: Path) -> None:
    """The hash of the data is what finds their runs."""
    metres = np.random.default_rng(0).uniform(0.4, 700, (200, 200)).astype(np.float32)
    metres[:5] = np.inf
    earlier = np.where(np.isfinite(metres), np.clip(np.rint(metres * 100), 1, 65535), 0).astype(np.uint16)
    target("depth").write(metres, tmp_path / "d.png", target("depth").stored)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "d.png")), earlier)
