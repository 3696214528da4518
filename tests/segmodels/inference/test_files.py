"""Predictions for files: names, videos, what is skipped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from segmodels.data.bands import PLAIN, Bands
from segmodels.data.folder import DatasetError, read_image, read_label
from segmodels.inference.files import run
from segmodels.inference.inputs import Job, find_inputs, plan
from segmodels.tasks import get_task


@dataclass
class Config:
    palette: list[tuple[int, int, int]]
    bands: Bands = PLAIN
    part_names: tuple[str, ...] = ("dark", "bright")


class Brightness:
    """A model that needs no network: bright pixels are class 1."""

    config = Config([(0, 0, 200), (200, 200, 0)])
    task = get_task("semantic")

    def __init__(self) -> None:
        self.calls = 0

    def maps(self, image: np.ndarray) -> torch.Tensor:
        classes = torch.from_numpy(self.predict(image)).long()
        return torch.nn.functional.one_hot(classes, 2).permute(2, 0, 1).float()

    def fingerprint(self) -> str:
        return "brightness"

    def predict(self, image: np.ndarray) -> np.ndarray:
        self.calls += 1
        if min(image.shape[:2]) < 8:
            raise RuntimeError("too small\nand more")
        return (image.mean(2) > 127).astype(np.uint8)


def picture(path: Path, size: tuple[int, int] = (20, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.zeros((*size, 3), np.uint8)
    image[:, size[1] // 2 :] = 255
    Image.fromarray(image).save(path)
    return path


def film(path: Path, frames: int = 5, size: tuple[int, int] = (32, 48), rate: int = 10) -> Path:
    """A white square that moves to the right."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for index in range(frames):
            image = np.zeros((*size, 3), np.uint8)
            image[8:24, 8 * index : 8 * index + 8] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def jobs(paths: list[Path], out: Path) -> list[Job]:
    found, problems = find_inputs(paths, out)
    assert problems == []
    return plan(found, out)


def names(paths: list[Path], out: Path) -> list[str]:
    return [job.masks.relative_to(out).as_posix() for job in jobs(paths, out) if job.masks]


def test_files_keep_their_names_and_folders_their_structure(tmp_path: Path) -> None:
    one = picture(tmp_path / "one.jpg")
    picture(tmp_path / "many" / "a.png")
    picture(tmp_path / "many" / "below" / "a.png")
    picture(tmp_path / "many" / ".hidden.png")
    (tmp_path / "many" / "notes.txt").write_text("no image")
    assert names([one, tmp_path / "many"], tmp_path / "out") == ["one.png", "a.png", "below/a.png"]


def test_names_that_collide_are_told_apart(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("x/a.jpg", "x/a.png", "x/b.png", "y/b.png", "x/C.png", "y/c.png")]
    given = names([picture(p) for p in paths], tmp_path / "out")
    assert given == ["a.jpg.png", "a.png.png", "x/b.png.png", "y/b.png.png", "x/C.png.png", "y/c.png.png"]
    same = [picture(tmp_path / place / "same" / "b.png") for place in ("p", "q")]
    assert len(set(names(same, tmp_path / "out"))) == 2
    assert names([paths[0], paths[0]], tmp_path / "out") == ["a.png"]


def test_results_are_no_inputs_of_the_next_run(tmp_path: Path) -> None:
    picture(tmp_path / "photos" / "a.jpg")
    out = tmp_path / "photos" / "results"
    for _ in range(2):
        assert names([tmp_path / "photos"], out) == ["a.png"]
        run(jobs([tmp_path / "photos"], out), Brightness())


def test_an_input_is_never_replaced(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    found, _ = find_inputs([tmp_path], tmp_path)
    with pytest.raises(DatasetError, match=r"a\.png: is an input and would be replaced"):
        plan(found, tmp_path)


def test_an_image_becomes_a_palette_png_and_an_overlay(tmp_path: Path) -> None:
    outcome = run(jobs([picture(tmp_path / "a.jpg")], tmp_path / "out"), Brightness())
    assert (outcome.written, outcome.skipped, outcome.problems) == (1, 0, [])
    label = read_label(tmp_path / "out" / "a.png")
    assert label[:, :12].max() == 0
    assert label[:, 18:].min() == 1
    shown = read_image(tmp_path / "out" / "a.png")
    assert shown[0, 0].tolist() == [0, 0, 200]
    assert shown[0, -1].tolist() == [200, 200, 0]
    assert np.abs(read_image(tmp_path / "out" / "a.overlay.jpg")[10, 2].astype(int) - [0, 0, 100]).max() < 12


def test_what_exists_is_skipped_until_told_otherwise(tmp_path: Path) -> None:
    todo, model = jobs([picture(tmp_path / "a.png"), film(tmp_path / "b.avi")], tmp_path / "out"), Brightness()
    assert run(todo, model).written == 2
    calls = model.calls
    assert run(todo, model).skipped == 2
    assert model.calls == calls
    (tmp_path / "out" / "a.overlay.jpg").unlink()
    assert run(todo, model).written == 1
    assert run(todo, model, overwrite=True).written == 2


@pytest.mark.parametrize(("name", "size"), [("clip.mp4", (32, 48)), ("clip.mkv", (34, 46)), ("clip.avi", (32, 48))])
def test_a_video_becomes_a_mask_for_each_frame_and_an_overlay(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    path = film(tmp_path / name, size=size)
    assert run(jobs([path], tmp_path / "out"), Brightness()).problems == []
    masks = sorted((tmp_path / "out" / "clip.masks").iterdir())
    assert [p.name for p in masks] == [f"{i:06d}.png" for i in range(5)]
    for index, mask in enumerate(masks):
        columns = np.flatnonzero(read_label(mask)[10:20].mean(0) > 0.5)
        assert abs(columns.mean() - (8 * index + 3.5)) < 2
    with av.open(str(tmp_path / "out" / "clip.overlay.mp4")) as container:
        frames = list(container.decode(video=0))
    assert [round(float(f.pts * f.time_base), 3) for f in frames] == [0.0, 0.1, 0.2, 0.3, 0.4]
    assert (frames[0].height, frames[0].width) == size
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["clip.masks", "clip.overlay.mp4"]


def test_what_cannot_be_read_leaves_nothing_behind_and_the_rest_goes_on(tmp_path: Path) -> None:
    whole = film(tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    (tmp_path / "text.bin").write_text("neither image nor video")
    picture(tmp_path / "small.png", (4, 4))
    last = picture(tmp_path / "z.png")
    heard: list[str] = []
    todo = jobs([tmp_path / "cut.mp4", tmp_path / "text.bin", tmp_path / "small.png", last], tmp_path / "out")
    outcome = run(todo, Brightness(), on_problem=heard.append)
    assert outcome.written == 1
    assert outcome.problems == heard
    assert [text.split(":")[0].rpartition("/")[2] for text in heard] == ["cut.mp4", "text.bin", "small.png"]
    assert "the network failed (too small)" in heard[2]
    assert all("\n" not in text for text in heard)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["z.overlay.jpg", "z.png"]


def test_a_bad_path_is_told_and_the_others_are_found(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    paths = [tmp_path / "absent", tmp_path / "empty", picture(tmp_path / "a.png")]
    found, problems = find_inputs(paths, tmp_path / "out")
    assert [item.place.name for item in found] == ["a.png"]
    assert [text.split(": ")[1] for text in problems] == ["no such file or folder", "holds no image and no video"]


def test_results_among_the_images_are_no_inputs(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        picture(tmp_path / name)
    film(tmp_path / "d.avi")
    Image.open(picture(tmp_path / "held.jpg")).save(tmp_path / "e.tif")
    (tmp_path / "held.jpg").unlink()
    given = sorted(p for p in tmp_path.iterdir())
    for number in range(3):
        # As a folder, and as a shell's * gives it.
        todo = [tmp_path] if number != 1 else sorted(tmp_path.iterdir())
        found, problems = find_inputs(todo, tmp_path)
        assert sorted(item.path for item in found) == given
        assert problems == []
        outcome = run(plan(found, tmp_path), Brightness())
        assert (outcome.written, outcome.skipped) == ((5, 0) if number == 0 else (0, 5))


def test_a_folder_inside_that_of_the_results_is_predicted(tmp_path: Path) -> None:
    picture(tmp_path / "photos" / "a.jpg")
    for _ in range(2):
        assert names([tmp_path / "photos"], tmp_path) == ["a.png"]
        run(jobs([tmp_path / "photos"], tmp_path), Brightness())


def test_a_playlist_named_as_a_film_reads_no_other_file(tmp_path: Path) -> None:
    film(tmp_path / "secret.ts")
    listing = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nsecret.ts\n#EXT-X-ENDLIST\n"
    (tmp_path / "a.avi").write_text(listing)
    (tmp_path / "b.mkv").write_text("ffconcat version 1.0\nfile secret.ts\n")
    outcome = run(jobs([tmp_path / "a.avi", tmp_path / "b.mkv"], tmp_path / "out"), Brightness())
    assert outcome.written == 0
    assert [text.split(": ")[0].rpartition("/")[2] for text in outcome.problems] == ["a.avi", "b.mkv"]
