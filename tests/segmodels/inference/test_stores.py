"""Predictions from a real S3 server and to it: names, what is skipped, what is stored whole or not at all."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from PIL import Image

from segmodels.data.folder import DatasetError
from segmodels.inference import stores
from segmodels.inference.files import Outcome, run
from segmodels.inference.inputs import find_inputs, plan
from segmodels.inference.stores import RemoteError, Store
from tests.segmodels.inference.test_files import Brightness, film, picture
from tests.servers import ports


@pytest.fixture
def bucket(bucket: str) -> Any:
    """An empty bucket."""
    return boto3.resource("s3").Bucket(bucket.removeprefix("s3://"))


def keys(bucket: Any) -> list[str]:
    return sorted(entry.key for entry in bucket.objects.all())


def predict(inputs: list[str], out: str, model: Brightness, **options: Any) -> Outcome:
    store = Store(out) if stores.is_remote(out) else Path(out)
    found, problems = find_inputs(inputs, store)
    assert problems == []
    return run(plan(found, store), model, **options)


def test_a_prefix_is_predicted_to_another_and_a_second_run_skips_what_is_there(bucket: Any, tmp_path: Path) -> None:
    bucket.upload_file(str(picture(tmp_path / "a.png")), "photos/a.png")
    bucket.upload_file(str(picture(tmp_path / "b.jpg")), "photos/below/b.jpg")
    bucket.upload_file(str(film(tmp_path / "c.mp4", frames=3)), "photos/c.mp4")
    bucket.put_object(Key="photos/notes.txt", Body=b"no image")
    source, out, model = f"s3://{bucket.name}/photos", f"s3://{bucket.name}/photos/results", Brightness()
    assert predict([source], out, model).written == 3
    results = [key.removeprefix("photos/results/") for key in keys(bucket) if key.startswith("photos/results/")]
    frames = [f"c.masks/{i:06d}.png" for i in range(3)]
    assert results == ["a.overlay.jpg", "a.png", "below/b.overlay.jpg", "below/b.png", *frames, "c.overlay.mp4"]
    body = bucket.Object("photos/results/a.png").get()["Body"].read()
    assert np.asarray(Image.open(io.BytesIO(body)))[0].tolist() == [0] * 15 + [1] * 15
    calls = model.calls
    assert predict([source], out, model).skipped == 3
    assert model.calls == calls


def test_what_was_cut_is_done_again(bucket: Any, tmp_path: Path) -> None:
    bucket.upload_file(str(film(tmp_path / "c.mp4", frames=3)), "in/c.mp4")
    source, out = f"s3://{bucket.name}/in", f"s3://{bucket.name}/out"
    predict([source], out, Brightness())
    # The first frame is stored last: a video that was cut while it was stored lacks it.
    bucket.Object("out/c.masks/000000.png").delete()
    outcome = predict([source], out, Brightness())
    assert (outcome.written, outcome.skipped) == (1, 0)
    assert "out/c.masks/000000.png" in keys(bucket)


def test_files_of_this_machine_go_to_a_bucket_and_objects_come_to_this_machine(bucket: Any, tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    assert predict([str(tmp_path / "a.png")], f"s3://{bucket.name}", Brightness()).written == 1
    assert keys(bucket) == ["a.overlay.jpg", "a.png"]
    out = tmp_path / "out"
    assert predict([f"s3://{bucket.name}/a.png"], str(out), Brightness()).written == 1
    assert sorted(p.name for p in out.iterdir()) == ["a.overlay.jpg", "a.png"]


def test_one_bad_object_is_told_by_its_address_and_the_others_go_on(bucket: Any, tmp_path: Path) -> None:
    bucket.put_object(Key="in/bad.png", Body=b"no image")
    bucket.upload_file(str(picture(tmp_path / "good.png")), "in/good.png")
    outcome = predict([f"s3://{bucket.name}/in"], f"s3://{bucket.name}/out", Brightness())
    assert outcome.written == 1
    assert len(outcome.problems) == 1
    assert outcome.problems[0].startswith(f"s3://{bucket.name}/in/bad.png: cannot be read as an image")
    assert "segmodels-" not in outcome.problems[0].partition(": ")[0]


def test_rasters_are_known_by_their_first_bytes(bucket: Any, tmp_path: Path) -> None:
    pytest.importorskip("rasterio")
    from tests.segmodels.inference.test_rasters import noise, raster

    bucket.upload_file(str(raster(tmp_path / "field.tif", noise(3, 60, 70))), "in/field.tif")
    assert predict([f"s3://{bucket.name}/in"], f"s3://{bucket.name}/out", Brightness()).problems == []
    assert keys(bucket) == ["in/field.tif", "out/field.overlay.tif", "out/field.tif"]


def test_an_upload_that_fails_leaves_neither_an_object_nor_its_parts(
    bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = tmp_path / "large.bin"
    large.write_bytes(bytes(20 << 20))
    store = Store(f"s3://{bucket.name}/out")
    read = shutil.copyfileobj

    def cut(source: Any, target: Any, length: int) -> None:
        read(io.BytesIO(source.read(17 << 20)), target, length)
        raise OSError("the disk went away")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", cut)
        with pytest.raises(RemoteError, match=r"out/large\.bin: the disk went away"):
            store.put(large, "large.bin")
    assert keys(bucket) == []
    assert boto3.client("s3").list_multipart_uploads(Bucket=bucket.name).get("Uploads", []) == []
    store.put(large, "large.bin")
    assert bucket.Object("out/large.bin").content_length == 20 << 20


def test_an_input_in_a_bucket_is_never_replaced(bucket: Any, tmp_path: Path) -> None:
    bucket.upload_file(str(picture(tmp_path / "a.png")), "in/a.png")
    store = Store(f"s3://{bucket.name}/in")
    found, _ = find_inputs([store.url], store)
    with pytest.raises(DatasetError, match=r"s3://.*/in/a\.png: is an input and would be replaced"):
        plan(found, store)


def test_absent_buckets_and_wrong_passwords_are_a_sentence(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found, problems = find_inputs([f"s3://{bucket.name}/absent", "s3://", "s3://no-such-bucket/x"], Path("out"))
    assert found == []
    assert "holds no image" in problems[0]
    assert problems[1] == "s3://: names no bucket; write s3://bucket/prefix"
    assert problems[2].startswith("s3://no-such-bucket/x: ")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    _, (problem,) = find_inputs([f"s3://{bucket.name}/in"], Path("out"))
    assert "access is denied" in problem
    assert "\n" not in problem


def test_a_server_that_is_away_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{ports.free()}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    _, (problem,) = find_inputs(["s3://bucket/in"], Path("out"))
    assert problem.startswith("s3://bucket/in: ")
    assert "then run this again" in problem


def test_a_key_that_leads_out_of_the_results_is_refused(bucket: Any, tmp_path: Path) -> None:
    bucket.upload_file(str(picture(tmp_path / "a.png")), "in/x/../../../evil.png")
    out = tmp_path / "deep/out"
    found, problems = find_inputs([f"s3://{bucket.name}/in"], out)
    assert found == []
    assert "key 'x/../../../evil.png' points out of the folder" in problems[0]


def test_results_beside_the_images_in_a_store_are_no_inputs(bucket: Any, tmp_path: Path) -> None:
    bucket.upload_file(str(picture(tmp_path / "a.jpg")), "in/a.jpg")
    bucket.upload_file(str(film(tmp_path / "c.avi", frames=2)), "in/c.avi")
    place = f"s3://{bucket.name}/in"
    assert predict([place], place, Brightness()).written == 2
    outcome = predict([place], place, Brightness())
    assert (outcome.written, outcome.skipped) == (0, 2)
