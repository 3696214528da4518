"""Weights by name: a file, a model folder, an address, an entry of torchvision; nothing that runs code, no halves."""

from __future__ import annotations

import hashlib
import pickle
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save, save_file
from torch import Tensor

from segmodels.artifacts.model_folder import ModelConfig, save_model
from segmodels.catalog.registry import create_model, full_size
from segmodels.catalog.weights import CheckpointError, WeightsError, download, load_weights, locate, read_tensors
from segmodels.data.folder import ClassInfo
from segmodels.models.unet import UNet


class Server:
    """Files over HTTP on a free port of this machine.

    Attributes:
        files: What is served, by name.
        cut: Names of which only the first half is sent before the connection ends.
        asked: Names in the order of the requests.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: set[str] = set()
        self.asked: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.lstrip("/").split("?")[0]
                server.asked.append(name)
                if name not in server.files:
                    self.send_error(404)
                    return
                body = server.files[name]
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if name in server.cut else body)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def address(self, name: str) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/{name}"

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SEGMODELS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "segmodels" / "weights"


def unet(seed: int = 0) -> UNet:
    torch.manual_seed(seed)
    return UNet(3, width=2)


def tensors() -> dict[str, Tensor]:
    return unet(1).state_dict()


def has(model: torch.nn.Module, wanted: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, wanted[key]) for key, value in model.state_dict().items())


def test_a_safetensors_file_fills_the_network(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "weights.safetensors")
    model = create_model("unet", 3, width=2, weights=tmp_path / "weights.safetensors")
    assert has(model, tensors())


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_checkpoint_of_tensors_alone_fills_the_network(wrapped: bool, tmp_path: Path) -> None:
    torch.save({"state_dict": tensors()} if wrapped else tensors(), tmp_path / "weights.pth")
    model = unet()
    assert load_weights(model, tmp_path / "weights.pth") == set()
    assert has(model, tensors())


def test_a_model_folder_fills_the_network(tmp_path: Path) -> None:
    config = ModelConfig("unet", tuple(ClassInfo(f"c{i}", (i, i, i)) for i in range(3)), {"width": 2})
    save_model(tmp_path / "trained", config, tensors())
    model = unet()
    assert load_weights(model, tmp_path / "trained") == set()
    assert has(model, tensors())


def test_a_classifier_of_another_number_of_classes_stays_as_it_is(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "weights.safetensors")
    model = UNet(7, width=2)
    classifier = model.classifier.weight.clone()
    assert load_weights(model, tmp_path / "weights.safetensors") == {"classifier.weight", "classifier.bias"}
    assert torch.equal(model.classifier.weight, classifier)
    assert torch.equal(model.up[0].weight, tensors()["up.0.weight"])  # type: ignore[arg-type]


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_file({"something.else": torch.zeros(3)}, tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointError, match="none of its 1 tensors fits this model; is it the same network"):
        load_weights(unet(), tmp_path / "weights.safetensors")


def test_an_address_is_fetched_once(server: Server, cache: Path) -> None:
    server.files["weights.safetensors"] = save(tensors())
    for seed in (0, 2):
        model = unet(seed)
        load_weights(model, server.address("weights.safetensors"))
        assert has(model, tensors())
    assert server.asked == ["weights.safetensors"]
    (kept,) = cache.iterdir()
    assert kept.read_bytes() == server.files["weights.safetensors"]


def test_addresses_that_end_alike_are_kept_apart(server: Server) -> None:
    server.files |= {"a/weights.safetensors": b"one", "b/weights.safetensors": b"two"}
    assert download(server.address("a/weights.safetensors")).read_bytes() == b"one"
    assert download(server.address("b/weights.safetensors")).read_bytes() == b"two"


def test_an_address_may_carry_a_query(server: Server) -> None:
    server.files["weights.safetensors"] = save(tensors())
    path = download(server.address("weights.safetensors?token=1"))
    assert path.suffix == ".safetensors"
    assert set(read_tensors(path)) == set(tensors())


@pytest.mark.parametrize("length", [8, 64])
def test_a_name_that_ends_in_the_hash_of_the_file_is_checked(length: int, server: Server, cache: Path) -> None:
    content = save(tensors())
    digest = hashlib.sha256(content).hexdigest()
    right, wrong = f"net-{digest[:length]}.safetensors", f"net-{'0' * length}.safetensors"
    server.files |= {right: content, wrong: content}
    assert download(server.address(right)).read_bytes() == content
    with pytest.raises(WeightsError, match=rf"{wrong}: is not what its name says \(its sha256 is {digest[:8]}"):
        download(server.address(wrong))
    assert [path.name.split("-", 1)[1] for path in cache.iterdir()] == [right]


def test_nothing_is_left_of_a_download_that_was_cut_off(server: Server, cache: Path) -> None:
    server.files["weights.safetensors"] = save(tensors())
    server.cut.add("weights.safetensors")
    with pytest.raises(WeightsError, match=r"weights\.safetensors: cannot be downloaded \(.* bytes are missing\)"):
        download(server.address("weights.safetensors"))
    assert list(cache.iterdir()) == []
    # The next attempt begins anew.
    server.cut.clear()
    assert download(server.address("weights.safetensors")).read_bytes() == server.files["weights.safetensors"]


def test_what_is_not_there_is_told_in_one_sentence(server: Server, cache: Path) -> None:
    with pytest.raises(CheckpointError, match=r"/nothing\.pth: cannot be downloaded \(Not Found\)$"):
        load_weights(unet(), server.address("nothing.pth"))
    assert list(cache.iterdir()) == []
    address = server.address("weights.pth")
    server.close()
    with pytest.raises(WeightsError, match=r"/weights\.pth: cannot be downloaded \(.*refused\)$"):
        download(address)


class Touch:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_a_file_that_would_run_code_is_refused_unread(form: str, tmp_path: Path, server: Server) -> None:
    content, trace = {**tensors(), "code": Touch(tmp_path / "trace")}, tmp_path / "trace"
    path = tmp_path / "weights.pth"
    if form == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(CheckpointError, match=r"weights\.pth: refused, since it holds more than tensors") as raised:
        load_weights(unet(), path)
    assert "\n" not in str(raised.value)
    server.files["weights.pth"] = path.read_bytes()
    with pytest.raises(CheckpointError, match="refused, since it holds more than tensors"):
        load_weights(unet(), server.address("weights.pth"))
    assert not trace.exists()


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_a_damaged_file_is_refused_by_its_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if path.suffix == ".pth":
        torch.save(tensors(), path)
    else:
        save_file(tensors(), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=rf"{name}: damaged, or not a file of weights"):
        load_weights(unet(), path)


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    torch.save([torch.zeros(2)], tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"weights\.pth: holds no state dict"):
        load_weights(unet(), tmp_path / "weights.pth")


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("unet", {"backbone": "test_resnet", "width": 2}),
        ("fpn", {"backbone": "test_vit", "channels": 16, "head_channels": 8}),
        ("setr_naive", {"backbone": "test_vit", "channels": 8, "image_size": 96}),
    ],
)
def test_imagenet_stands_for_timms_weights_of_the_encoder(
    architecture: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    published = timm.create_model(options["backbone"])
    save_file(published.state_dict(), tmp_path / "published.safetensors")
    # timm looks for them where its description of the network says.
    described = timm.get_pretrained_cfg(options["backbone"])
    here = replace(described, file=str(tmp_path / "published.safetensors"), hf_hub_id=None)
    monkeypatch.setitem(timm.models._registry._model_pretrained_cfgs, options["backbone"], here)
    body: Any = create_model(architecture, 3, weights="imagenet", **options).backbone.body  # type: ignore[union-attr]
    filled = body.state_dict()
    own = {name: tensor for name, tensor in published.state_dict().items() if name in filled and "pos" not in name}
    assert len(own) > 10 and all(torch.equal(filled[name], tensor) for name, tensor in own.items())
    if architecture == "setr_naive":  # positions of 160x160 pixels, for 96x96
        assert filled["pos_embed"].shape[1] == 1 + (96 // 16) ** 2
        first = published.state_dict()["pos_embed"][:, :1]
        torch.testing.assert_close(filled["pos_embed"][:, :1], first)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("unet.pth", "unet.pth: no such file of weights; give a file, a model folder, an http"),
        ("ResNet50_Weights.IMAGENET1K_V9", "ResNet50_Weights.IMAGENET1K_V9: torchvision has no weights of this name"),
        ("NoNet_Weights.IMAGENET1K_V1", "NoNet_Weights.IMAGENET1K_V1: torchvision has no weights of this name"),
        (
            "imagenet",
            "UNet: there are no ImageNet weights for its encoder; with a backbone, such as resnet34, there are",
        ),
    ],
)
def test_a_name_that_stands_for_nothing_is_told_in_one_sentence(source: str, message: str) -> None:
    with pytest.raises(WeightsError) as raised:
        locate(source, unet())
    assert str(raised.value).startswith(message)


def test_imagenet_weights_of_another_stem_are_not_tried() -> None:
    message = "^ImageNet weights of resnet50: are for its plain form, not for stem_width=64, stem_type=deep$"
    with pytest.raises(WeightsError, match=message):
        locate("imagenet", full_size("pspnet", 3, backbone="resnet50"))
