"""A served model folder: what is answered, what is refused, and that it lives on."""

from __future__ import annotations

import http.client
import io
import json
import re
import shutil
import signal
import socket
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from shapely.geometry import shape

from segmodels.data.folder import read_image
from segmodels.inference.predictor import Predictor
from segmodels.serving.answers import negotiate
from segmodels.serving.images import RefusedError
from segmodels.tasks.semantic.pictures import overlay
from tests.segmodels.serving.running import CLASSES, SECONDS, Server, encoded, form, serving, write_model

MEGAPIXELS, MEGABYTES, IMAGES = 0.25, 0.3, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("served") / "boxes")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    limits = (f"--max-pixels={MEGAPIXELS}", f"--max-body={MEGABYTES}", f"--max-images={IMAGES}", "--body-timeout=1")
    with serving(folder, folder.with_name("serve.log"), *limits) as running:
        running.wait(running.is_ready)
        yield running


@pytest.fixture(scope="module")
def expected(folder: Path, picture: np.ndarray) -> np.ndarray:
    """What `segmodels predict` gives."""
    return Predictor(folder, "cpu").predict(picture)


def agree(found: np.ndarray, expected: np.ndarray) -> None:
    # Batch norm that is merged into convolutions rounds otherwise: pixels between two classes may fall to either.
    assert found.shape == expected.shape and (found == expected).mean() > 0.999


def test_the_class_map_is_that_of_predict_and_names_its_model(server: Server, folder, picture, expected) -> None:
    reply = server.ask("/predict", encoded(picture))
    assert reply.status == 200 and reply.headers["Content-Type"] == "image/png"
    agree(reply.classes, expected)
    with Image.open(io.BytesIO(reply.body)) as image:
        assert tuple(image.getpalette()[: 3 * len(CLASSES)]) == tuple(v for c in CLASSES for v in c.color)  # type: ignore[index]
    name, version, sha256 = reply.model
    assert (name, version) == ("boxes", sha256[:12]) and re.fullmatch("[0-9a-f]{64}", sha256)
    assert server.ask("/health").model == reply.model == server.ask("/nowhere").model


def test_overlays_are_jpeg_or_png(server: Server, picture, expected) -> None:
    palette = [c.color for c in CLASSES]
    reply = server.ask("/predict?output=overlay&alpha=0.3", encoded(picture), {"Accept": "image/png"})
    pixels = np.asarray(Image.open(io.BytesIO(reply.body)))
    assert (pixels == overlay(picture, expected, palette, 0.3)).mean() > 0.999
    reply = server.ask("/predict", encoded(picture), {"Accept": "image/jpeg, */*;q=0.1"})
    assert reply.headers["Content-Type"] == "image/jpeg"
    assert Image.open(io.BytesIO(reply.body)).size == (100, 72)


def test_polygons_cover_the_class_map(server: Server, picture) -> None:
    label = server.ask("/predict", encoded(picture)).classes
    reply = server.ask("/predict?output=geojson", encoded(picture))
    assert reply.headers["Content-Type"] == "application/geo+json"
    areas = dict.fromkeys(range(3), 0.0)
    for feature in reply.json["features"]:
        areas[feature["properties"]["class_id"]] += shape(feature["geometry"]).area
    assert areas == {i: float((label == i).sum()) for i in range(3)}
    document = server.ask("/predict", encoded(picture), {"Accept": "application/json"}).json
    assert [c["name"] for c in document["categories"]] == [c.name for c in CLASSES]
    found = np.full(label.shape, 255, np.uint8)
    for annotation in document["annotations"]:
        regions = coco_mask.frPyObjects(annotation["segmentation"], *label.shape)
        found[coco_mask.decode(coco_mask.merge(regions)).astype(bool)] = annotation["category_id"]
    assert np.array_equal(found, label)


def test_several_images_come_back_as_a_zip_or_one_coco_document(server: Server, picture, expected) -> None:
    files = {"../a.png": encoded(picture), "b.png": encoded(picture[:40, :50])}
    reply = server.ask("/predict/batch", *form(files))
    assert reply.status == 200 and reply.headers["Content-Type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(reply.body)) as made:
        assert made.namelist() == ["000-a.png", "001-b.png"]
        agree(np.asarray(Image.open(io.BytesIO(made.read("000-a.png")))), expected)
        assert Image.open(io.BytesIO(made.read("001-b.png"))).size == (50, 40)
    document = server.ask("/predict/batch?output=coco", *form(files)).json
    assert [(i["file_name"], i["width"]) for i in document["images"]] == [("a.png", 100), ("b.png", 50)]
    assert {a["image_id"] for a in document["annotations"]} == {1, 2}


def test_odd_files_are_read_as_predict_reads_them(server: Server, folder, picture, tmp_path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6  # to be seen after a quarter turn
    kinds = {
        "turned.jpg": Image.fromarray(picture),
        "cmyk.jpg": Image.fromarray(picture).convert("CMYK"),
        "grey.png": Image.fromarray(picture).convert("L"),
        "palette.png": Image.fromarray(picture).quantize(16),
        "transparent.png": Image.fromarray(picture).convert("RGBA"),
        "bits.tiff": Image.fromarray(picture).convert("1"),
        "lossy.webp": Image.fromarray(picture),
    }
    predictor = Predictor(folder, "cpu")
    for name, image in kinds.items():
        options: dict[str, Any] = {"exif": turned} if name == "turned.jpg" else {}
        image.save(tmp_path / name, **options)
        reply = server.ask("/predict", (tmp_path / name).read_bytes(), {"Content-Type": "application/octet-stream"})
        assert reply.status == 200, (name, reply.body)
        agree(reply.classes, predictor.predict(read_image(tmp_path / name)))
    assert server.ask("/predict", (tmp_path / "turned.jpg").read_bytes()).classes.shape == (100, 72)


def test_the_interface_describes_itself(server: Server) -> None:
    document = server.ask("/openapi.json").json
    assert document["openapi"].startswith("3.") and document["info"]["title"] == "segmodels"
    predict = document["paths"]["/predict"]["post"]
    assert "image/*" in predict["requestBody"]["content"] and "multipart/form-data" in predict["requestBody"]["content"]
    assert {"200", "408", "413", "415", "422", "429", "503"} <= set(predict["responses"])
    assert "X-Model-Version" in predict["responses"]["200"]["headers"]
    card = server.ask("/model").json
    assert card["architecture"] == "unet" and "U-Net" in card["paper"] and card["metrics"] == {"val_miou": 0.5}
    assert [(c["id"], c["name"], c["color"]) for c in card["classes"]][1] == (1, "box", "#c81e1e")
    assert card["task"] == "semantic" and list(card["forms"]) == ["classes", "overlay", "coco", "geojson"]
    assert card["forms"]["overlay"] == ["image/jpeg", "image/png"]
    page = server.ask("/")
    assert page.headers["Content-Type"].startswith("text/html") and b"<title>segmodels</title>" in page.body
    assert not re.search(rb"(src|href)=.?https?:", page.body)


def test_metrics_count_what_was_answered_and_refused(server: Server, picture) -> None:
    names = ("segmodels_requests_total", "segmodels_images_total", "segmodels_rejected_total")
    before = [server.metric(name) for name in names]
    server.ask("/predict/batch", *form({"a.png": encoded(picture), "b.png": encoded(picture)}))
    server.ask("/predict", b"no image")
    after = [server.metric(name) for name in names]
    assert after[0] - before[0] >= 2 and after[1] - before[1] == 2 and after[2] - before[2] == 1
    assert server.metric("segmodels_model_info") == server.metric("segmodels_source_up") == 1
    assert server.metric("segmodels_in_flight") == server.metric("segmodels_queue") == 0


# --- what is refused --------------------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises more than its few bytes hold."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def animated(kind: str) -> bytes:
    file = io.BytesIO()
    frames = [Image.new("RGB", (40, 40), color) for color in ("red", "green", "blue")]
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    return file.getvalue()


NOISE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
PNG, JPEG = encoded(NOISE), encoded(NOISE, "JPEG")
DEEP = encoded(np.zeros((40, 40), np.uint16))
FLOAT = encoded(np.zeros((40, 40), np.float32), "TIFF")
LONG_TEXT = PNG[:33] + chunk(b"zTXt", b"x\0\0" + zlib.compress(b" " * 80_000_000, 9)) + PNG[33:]
IMAGE, TEXT = {"Content-Type": "image/png"}, {"Content-Type": "text/plain"}
FORM = {"Content-Type": "multipart/form-data; boundary=edge"}
PART = b'--edge\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'

HOSTILE: dict[str, tuple[int, str, object, dict[str, str]]] = {
    "empty": (422, "/predict", b"", IMAGE),
    "text": (422, "/predict", b"hello", IMAGE),
    "zeros": (422, "/predict", bytes(1000), IMAGE),
    "html": (422, "/predict", b"<html><script>alert(1)</script>", IMAGE),
    "svg": (415, "/predict", b"<svg xmlns='http://www.w3.org/2000/svg'/>", {"Content-Type": "image/svg+xml"}),
    "svg called png": (422, "/predict", b"<svg xmlns='http://www.w3.org/2000/svg'/>", IMAGE),
    "postscript": (422, "/predict", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n", IMAGE),
    "pdf": (422, "/predict", b"%PDF-1.4\n%\xe2\xe3", IMAGE),
    "zip": (422, "/predict", b"PK\x03\x04" + bytes(100), IMAGE),
    "pickle": (422, "/predict", b"\x80\x04cos\nsystem\n(S'true'\ntR.", IMAGE),
    "bomb": (413, "/predict", bomb(60_000, 60_000), IMAGE),
    "bomb of one row": (413, "/predict", bomb(2**31 - 1, 1), IMAGE),
    "a little too large": (413, "/predict", bomb(501, 500), IMAGE),
    "bomb in a text": (422, "/predict", LONG_TEXT, IMAGE),
    "no pixels": (422, "/predict", bomb(0, 0), IMAGE),
    "header alone": (422, "/predict", PNG[:33], IMAGE),
    "signature alone": (422, "/predict", PNG[:8], IMAGE),
    "promises more": (422, "/predict", bomb(400, 400), IMAGE),
    "truncated png": (422, "/predict", PNG[: len(PNG) // 2], IMAGE),
    "truncated jpeg": (422, "/predict", JPEG[: len(JPEG) // 2], IMAGE),
    "jpeg without end": (422, "/predict", JPEG[:200], IMAGE),
    "damaged png": (422, "/predict", PNG[:100] + b"\xff" * 40 + PNG[140:], IMAGE),
    "tiny": (422, "/predict", encoded(NOISE[:1, :1]), IMAGE),
    "thin": (422, "/predict", encoded(np.zeros((4, 4000, 3), np.uint8)), IMAGE),
    "16 bit": (422, "/predict", DEEP, IMAGE),
    "float": (422, "/predict", FLOAT, IMAGE),
    "animated gif": (422, "/predict", animated("GIF"), IMAGE),
    "animated png": (422, "/predict", animated("PNG"), IMAGE),
    "animated webp": (422, "/predict", animated("WEBP"), IMAGE),
    "pages": (422, "/predict", animated("TIFF"), IMAGE),
    "huge body": (413, "/predict", bytes(400_000), IMAGE),
    "huge body in chunks": (413, "/predict", iter([bytes(100_000)] * 5), IMAGE),
    "huge form": (413, "/predict", PART + bytes(400_000), FORM),
    "wrong type": (415, "/predict", PNG, TEXT),
    "json": (415, "/predict", b'{"image": "x"}', {"Content-Type": "application/json"}),
    "odd type": (415, "/predict", PNG, {"Content-Type": "\xff/;;;="}),
    "compressed": (415, "/predict", zlib.compress(PNG), {**IMAGE, "Content-Encoding": "gzip"}),
    "form without boundary": (422, "/predict", PART, {"Content-Type": "multipart/form-data"}),
    "form that is none": (422, "/predict", PNG, FORM),
    "form cut off": (422, "/predict", PART + PNG[:50], FORM),
    "form without file": (422, "/predict", PART.replace(b'; filename="a.png"', b"") + b"x\r\n--edge--\r\n", FORM),
    "form of two for one": (422, "/predict", *form({"a": PNG, "b": PNG})),
    "too many": (413, "/predict/batch", *form({str(i): PNG for i in range(IMAGES + 1)})),
    "one bad of two": (422, "/predict/batch", *form({"good.png": PNG, "bad.png": b"x"})),
    "form with paths": (422, "/predict", *form({"../../etc/passwd": b"root:x:0:0"})),
    "unknown output": (422, "/predict?output=../../etc/passwd", PNG, IMAGE),
    "alpha too large": (422, "/predict?output=overlay&alpha=1e308", PNG, IMAGE),
    "alpha no number": (422, "/predict?alpha=nan;drop", PNG, IMAGE),
    "unknown answer": (406, "/predict", PNG, {**IMAGE, "Accept": "text/html"}),
    "path trick": (404, "/../../etc/passwd", None, {}),
    "encoded path trick": (404, "/%2e%2e/%2e%2e/etc/passwd", None, {}),
    "path below": (404, "/predict/../../model.safetensors", PNG, IMAGE),
    "nul in the path": (404, "/predict%00.png", PNG, IMAGE),
    "long path": (404, "/" + "a" * 5000, None, {}),
    "wrong method": (405, "/predict", None, {}),
}  # fmt: skip


def test_there_are_fifty_hostile_requests() -> None:
    assert len(HOSTILE) >= 50


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_request_is_refused_in_one_sentence_and_the_server_lives_on(name: str, server: Server) -> None:
    status, path, body, headers = HOSTILE[name]
    reply = server.ask(path, body, headers)
    assert reply.status == status, reply.body
    sentence = reply.json["error"]
    assert 10 < len(sentence) < 300 and "\n" not in sentence and "Traceback" not in sentence
    assert "root:" not in sentence and "segmodels/" not in sentence
    assert server.ask("/health").status == 200


@pytest.mark.parametrize(
    "head",
    [
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: -5\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
    ],
    ids=["negative length", "two lengths", "bad chunk", "no host", "no request", "a header without end", "tls"],
)
def test_what_is_no_http_is_refused(head: bytes, server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as raw:
        raw.sendall(head + (b"\r\n\r\n" if head[0] == 0x16 else b""))
        answer = raw.recv(1000)
    assert re.match(rb"HTTP/1.1 4\d\d ", answer), answer
    assert server.ask("/health").status == 200


def test_a_body_that_does_not_come_is_given_up(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as raw:
        raw.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 500\r\n\r\n\x89PNG"
        )
        answer = b"".join(iter(lambda: raw.recv(1000), b""))
    assert answer.startswith(b"HTTP/1.1 408 ") and b"did not come within 1 s" in answer
    assert server.ask("/health").status == 200


def test_a_client_that_leaves_takes_nothing_with_it(server: Server, picture) -> None:
    data = encoded(picture)
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(data)}\r\n\r\n"
    for sent in (head.encode() + data[:100], head.encode() + data):
        with socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as raw:
            raw.sendall(sent)
    server.wait(lambda: server.metric("segmodels_in_flight") == 0)
    assert server.ask("/predict", data).status == 200


@pytest.mark.parametrize(
    ("output", "accept", "found"),
    [
        (None, "*/*", ("classes", "image/png")),
        (None, "text/html, image/jpeg;q=0.5, application/json;q=0.9", ("coco", "application/json")),
        (None, "image/avif,image/webp,image/*;q=0.8", ("classes", "image/png")),
        ("overlay", "*/*", ("overlay", "image/jpeg")),
        ("overlay", "image/png", ("overlay", "image/png")),
        ("geojson", "text/html", ("geojson", "application/geo+json")),
    ],
)
def test_the_form_is_what_is_named_or_what_is_accepted(output, accept, found) -> None:
    assert negotiate("semantic", output, accept) == found


def test_a_type_that_no_form_has_is_refused() -> None:
    with pytest.raises(RefusedError, match="no answer has that type"):
        negotiate("semantic", None, "text/html;q=0.9, image/png;q=0")


# --- other models, load and the end -----------------------------------------------------------------------------------


def test_a_folder_that_is_replaced_is_served_and_a_broken_one_is_not(server: Server, folder: Path, picture) -> None:
    before = server.ask("/predict", encoded(picture))
    weights = folder / "model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:1000])
    server.wait(lambda: server.metric("segmodels_swap_failures_total") > 0)
    reply = server.ask("/predict", encoded(picture))
    assert reply.model == before.model and reply.body == before.body
    assert "goes on serving" in server.log.read_text()
    shutil.rmtree(folder)
    server.wait(lambda: server.metric("segmodels_source_up") == 0)
    assert server.ask("/predict", encoded(picture)).body == before.body
    write_model(folder, always=2)
    server.wait(lambda: server.ask("/ready").model != before.model)
    assert (server.ask("/predict", encoded(picture)).classes == 2).all()


def together(count: int, work: Callable[[int], None]) -> None:
    """Calls a function in many threads at once."""
    threads = [threading.Thread(target=work, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)


def test_too_many_are_told_to_come_again_and_what_has_come_is_answered_before_the_end(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "boxes")
    log = tmp_path / "serve.log"
    image = encoded(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8), "JPEG")
    with serving(folder, log, "--queue=2", "--batch=4", "--batch-wait=20") as server:
        assert server.ask("/ready").status in (200, 503) and server.ask("/health").status == 200
        server.wait(server.is_ready)
        replies = []
        together(40, lambda _: replies.append(server.ask("/predict", image)))
        codes = {reply.status for reply in replies}
        assert len(replies) == 40 and codes == {200, 429}
        assert len({reply.body for reply in replies if reply.status == 200}) == 1, "alone or in a batch"
        refused = next(reply for reply in replies if reply.status == 429)
        assert refused.headers["Retry-After"] == "1" and "try again" in refused.json["error"]

        open_ = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)
        open_.putrequest("POST", "/predict")
        for header in (("Content-Type", "image/jpeg"), ("Content-Length", str(len(image)))):
            open_.putheader(*header)
        open_.endheaders(image[:1000])
        server.wait(lambda: server.metric("segmodels_in_flight") == 1)
        server.process.send_signal(signal.SIGTERM)
        server.wait(lambda: "Shutting down" in log.read_text())
        with pytest.raises(OSError):
            server.ask("/health")
        open_.send(image[1000:])
        answer = open_.getresponse()
        assert answer.status == 200 and answer.read() == next(r.body for r in replies if r.status == 200)
        assert server.process.wait(SECONDS) == 0
    assert "Traceback" not in log.read_text()


def test_what_can_never_be_served_is_refused_at_once(tmp_path: Path) -> None:
    from segmodels.artifacts.sources import AddressError, open_source

    for target, said in {
        str(tmp_path / "gone"): "no such model folder",
        "models:/name": "models:/NAME@ALIAS or models:/NAME/1",
        "models:/a/b/c": "not the address of a version",
        "ftp://host/model": "no installed package knows addresses of ftp",
    }.items():
        with pytest.raises(AddressError, match=said):
            open_source(target, tmp_path)
    assert json.dumps(str(tmp_path))  # nothing was written below it
    assert list(tmp_path.iterdir()) == []
