"""What the built-in dataset promises: the same key gives the same bytes, and the truth is true."""

from __future__ import annotations

import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segmodels.data.folder import DatasetInfo, read_image, read_label, samples
from segmodels.data.streets import CLASSES, TARGETS, Frame, render, render_sequence, write_dataset
from segmodels.data.streets.camera import View
from segmodels.data.streets.classes import PAVEMENT, ROAD, SKY, THINGS
from segmodels.data.streets.common import Dice
from segmodels.data.streets.layout import make_scene
from segmodels.data.streets.render import FRAMES_PER_SECOND, camera_at
from segmodels.data.streets.scene import KERB_HEIGHT

SIZE: dict[str, Any] = {"height": 120, "width": 160}


def digest(frame: Frame) -> str:
    parts = [frame.image, frame.label, frame.instances, frame.depth, frame.normals, frame.flow]
    return sha256(b"".join(p.tobytes() for p in parts if p is not None)).hexdigest()


def world_points(frame: Frame, index: int, time: float = 0.0, seed: int = 0) -> tuple[np.ndarray, View]:
    """World coordinates [H, W, 3] of what a frame of the split train sees, from its depth and the camera alone."""
    assert frame.depth is not None
    height, width = frame.depth.shape
    view = View(camera_at(make_scene(Dice(seed, "train", index)), time), height, width)
    rays = np.stack(np.broadcast_arrays(view.xs, view.ys, np.float32(1)), -1)
    with np.errstate(invalid="ignore"):
        return rays * frame.depth[..., None] @ view.camera.rotation + view.camera.position, view


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    return [render(0, "train", index, targets=TARGETS, **SIZE) for index in range(40)]


def test_a_key_gives_the_same_bytes_whatever_was_rendered_before() -> None:
    first = digest(render(3, "val", 5, targets=TARGETS, **SIZE))
    for index in (9, 2, 7):
        render(3, "val", index, **SIZE)
    assert digest(render(3, "val", 5, targets=TARGETS, **SIZE)) == first


def test_a_key_gives_the_same_bytes_in_another_process() -> None:
    script = (
        "import hashlib\nfrom segmodels.data.streets import render\n"
        "f = render(3, 'val', 5, height=120, width=160)\n"
        "print(hashlib.sha256(f.image.tobytes() + f.label.tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    frame = render(3, "val", 5, **SIZE)
    assert sha256(frame.image.tobytes() + frame.label.tobytes()).hexdigest() == other


def test_other_keys_give_other_frames() -> None:
    keys = [(0, "train", 0), (0, "train", 1), (0, "val", 0), (1, "train", 0), (1, "test", 0)]
    assert len({digest(render(*key, **SIZE)) for key in keys}) == len(keys)


def test_asking_for_targets_does_not_change_the_image(frames: list[Frame]) -> None:
    plain = render(0, "train", 4, **SIZE)
    assert np.array_equal(plain.image, frames[4].image) and np.array_equal(plain.label, frames[4].label)
    assert plain.instances is None and plain.depth is None and plain.normals is None and plain.flow is None


@pytest.mark.parametrize(("height", "width"), [(32, 32), (61, 97), (240, 320)])
def test_every_size_works(height: int, width: int) -> None:
    frame = render(0, "train", 1, height=height, width=width, targets=TARGETS)
    assert frame.image.shape == (height, width, 3) and frame.image.dtype == np.uint8
    assert frame.label.shape == (height, width) and frame.label.dtype == np.uint8
    assert frame.instances is not None and frame.instances.dtype == np.uint16
    assert frame.depth is not None and frame.depth.dtype == np.float32
    assert frame.normals is not None and frame.normals.shape == (height, width, 3)


def test_an_unknown_target_is_named() -> None:
    with pytest.raises(ValueError, match=r"albedo: no such target; streets has instances, depth, normals"):
        render(0, "train", 0, targets=("albedo",))


def test_labels_are_the_eleven_classes_and_each_occurs(frames: list[Frame]) -> None:
    counts = np.zeros(256, np.int64)
    in_frames = np.zeros(len(CLASSES), np.int64)
    for frame in frames:
        found = np.bincount(frame.label.ravel(), minlength=256)
        counts += found
        in_frames += found[: len(CLASSES)] > 0
    assert counts[len(CLASSES) :].sum() == 0
    assert (in_frames >= len(frames) / 10).all(), dict(zip([c.name for c in CLASSES], in_frames, strict=True))
    share = counts[: len(CLASSES)] / counts.sum()
    assert 0.2 < share[ROAD] < 0.45 and 0.1 < share[SKY] < 0.3


def test_images_are_neither_black_nor_flat(frames: list[Frame]) -> None:
    assert all(frame.image.mean() > 10 and frame.image.std() > 10 for frame in frames)


def test_road_and_pavement_lie_where_the_camera_geometry_says(frames: list[Frame]) -> None:
    for index, frame in enumerate(frames[:8]):
        height = world_points(frame, index)[0][..., 1]
        assert np.percentile(np.abs(height[frame.label == ROAD]), 99) < 0.02
        assert np.percentile(height[frame.label == PAVEMENT], 5) > -0.02
        assert np.percentile(height[frame.label == PAVEMENT], 95) < KERB_HEIGHT + 0.02


def test_depth_of_the_road_grows_towards_the_horizon(frames: list[Frame]) -> None:
    for frame in frames[:8]:
        assert frame.depth is not None
        both = (frame.label[1:] == ROAD) & (frame.label[:-1] == ROAD)
        assert (frame.depth[:-1] >= frame.depth[1:])[both].mean() > 0.99


def test_depth_is_infinite_in_the_sky_and_only_there(frames: list[Frame]) -> None:
    for frame in frames:
        assert frame.depth is not None
        assert np.array_equal(np.isinf(frame.depth), frame.label == SKY)
        assert frame.depth.min() > 0.2


def test_normals_are_unit_vectors_that_face_the_camera(frames: list[Frame]) -> None:
    for index, frame in enumerate(frames[:8]):
        assert frame.normals is not None
        length = np.linalg.norm(frame.normals, axis=-1)
        assert np.allclose(length[frame.label != SKY], 1, atol=1e-4) and (length[frame.label == SKY] == 0).all()
        view = world_points(frame, index)[1]
        rays = np.stack(np.broadcast_arrays(view.xs, view.ys, np.float32(1)), -1)
        assert (rays * frame.normals).sum(-1).max() < 1e-3
        up = view.camera.rotation[:, 1]
        assert np.allclose(frame.normals[frame.label == ROAD], up, atol=1e-5)
        assert up[1] < -0.95


def test_normals_agree_with_depth(frames: list[Frame]) -> None:
    frame = render(0, "train", 2, targets=TARGETS)
    points, view = world_points(frame, 2)
    points = points @ view.camera.rotation.T
    across, down = points[1:-1, 2:] - points[1:-1, :-2], points[2:, 1:-1] - points[:-2, 1:-1]
    normal = np.cross(down, across)
    with np.errstate(invalid="ignore"):
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    assert frame.normals is not None
    agreement = (normal * frame.normals[1:-1, 1:-1]).sum(-1)
    assert np.median(agreement[frame.label[1:-1, 1:-1] == ROAD]) > 0.999
    assert (agreement[(frame.label != SKY)[1:-1, 1:-1]] > 0.98).mean() > 0.7


def test_an_instance_has_one_class_and_is_a_thing(frames: list[Frame]) -> None:
    for frame in frames:
        assert frame.instances is not None
        assert set(np.unique(frame.label[frame.instances > 0])) <= set(THINGS)
        pairs = np.unique(frame.instances.astype(np.int64) * 16 + frame.label)
        pairs = pairs[pairs >= 16]
        assert len(np.unique(pairs // 16)) == len(pairs)
        for thing in THINGS:
            if CLASSES[thing].name != "tree":  # hedges and tree lines are stuff
                assert (frame.instances[frame.label == thing] > 0).all()


def test_flow_of_the_still_world_is_its_projection() -> None:
    for index in (0, 3, 6):
        frame = render_sequence(0, "train", index, frames=1, targets=("depth",), **SIZE)[0]
        points, view = world_points(frame, index)
        later = View(camera_at(make_scene(Dice(0, "train", index)), 1 / FRAMES_PER_SECOND), view.height, view.width)
        still = np.isin(frame.label, (ROAD, PAVEMENT, 1)) & (points[..., 2] - later.camera.z > 1.0)
        before, after = view.project(view.camera.to_camera(points)), later.project(later.camera.to_camera(points))
        assert frame.flow is not None
        assert np.abs((after - before) - frame.flow)[still].max() < 0.02


def test_what_is_seen_at_a_pixel_is_seen_where_its_flow_leads() -> None:
    agree, total = 0, 0
    for index in (0, 3, 6, 8):
        first, second = render_sequence(0, "train", index, frames=2, targets=("instances",), **SIZE)
        assert first.flow is not None and first.instances is not None and second.instances is not None
        rows, columns = np.mgrid[0 : SIZE["height"], 0 : SIZE["width"]]
        x = np.rint(columns + first.flow[..., 0]).astype(int)
        y = np.rint(rows + first.flow[..., 1]).astype(int)
        inside = (x >= 0) & (x < SIZE["width"]) & (y >= 0) & (y < SIZE["height"])
        same = first.label[inside] == second.label[y[inside], x[inside]]
        agree, total = agree + int(same.sum()), total + int(inside.sum())
    assert agree / total > 0.93


def test_a_sequence_begins_with_the_frame_of_its_key() -> None:
    first = render_sequence(0, "val", 3, frames=2, **SIZE)[0]
    single = render(0, "val", 3, **SIZE)
    assert np.array_equal(first.image, single.image) and np.array_equal(first.label, single.label)


def test_the_folder_is_complete_and_reads_back(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    info = write_dataset(tmp_path / "streets", seed=2, train=3, val=2, test=1, targets=TARGETS,
                         progress=lambda done, total: seen.append((done, total)), **SIZE)  # fmt: skip
    assert info == DatasetInfo.read(tmp_path / "streets")
    assert dict(info.splits) == {"train": 3, "val": 2, "test": 1} and info.classes == CLASSES
    assert info.targets == {
        "instances": {},
        "depth": {"unit": "m", "scale": 0.01},
        "normals": {"frame": "camera: x right, y down, z forward"},
    }
    assert tuple(info.targets) == TARGETS and info.name == "streets"
    assert dict(info.source) == {"generator": "streets", "seed": 2, **SIZE, "version": 1, "licence": "CC0-1.0"}
    assert seen == [(n, 6) for n in range(1, 7)]
    for split in info.splits:
        for index, sample in enumerate(samples(tmp_path / "streets", split)):
            frame = render(2, split, index, targets=TARGETS, **SIZE)
            assert np.array_equal(read_image(sample.image), frame.image)
            assert np.array_equal(read_label(sample.label), frame.label)
            folder = tmp_path / "streets" / split
            assert frame.instances is not None
            assert np.array_equal(np.asarray(Image.open(folder / "instances" / f"{sample.id}.png")), frame.instances)
            depth = np.asarray(Image.open(folder / "depth" / f"{sample.id}.png")) / 100
            assert frame.depth is not None and frame.normals is not None
            assert ((depth == 0) == np.isinf(frame.depth)).all()
            near = frame.depth < 600
            assert np.abs(depth - frame.depth)[near].max() < 0.006
            normals = np.asarray(Image.open(folder / "normals" / f"{sample.id}.png")) / 127.5 - 1
            assert np.abs(normals - frame.normals).max() < 0.005


def test_a_write_that_is_interrupted_leaves_no_folder(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "streets", seed=0, train=4, val=0, test=0, progress=stop, **SIZE)
    assert list(tmp_path.iterdir()) == []
