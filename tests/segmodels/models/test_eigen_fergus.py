"""The three scales of Eigen and Fergus: what each sees, reads and learns by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torchvision.models import vgg16

from segmodels.catalog.registry import create_model
from segmodels.models.eigen_fergus import EigenFergus, _placed
from tests.segmodels.models.small import small

SIZE = (64, 80)  # of what scale 1 sees


def model(num_classes: int = 5, **options: Any) -> EigenFergus:
    torch.manual_seed(0)
    given = {"width": 0.0625, "input_size": SIZE, **options}
    return EigenFergus(num_classes, **given)


def lively(network: EigenFergus) -> EigenFergus:
    """Weights that let everything through: the paper's are small."""
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
    return network


def seen(module: torch.nn.Module, call: Any) -> tuple[list[Tensor], Tensor]:
    """What a module is given and what it gives."""
    found: list[Any] = []
    hook = module.register_forward_hook(lambda _, inputs, output: found.append((list(inputs), output)))
    call()
    hook.remove()
    return found[0]


@pytest.mark.parametrize(("trunk", "left"), [("vgg16", (7, 9)), ("alexnet", (6, 8))])
def test_at_the_papers_size_every_scale_has_the_papers_map(trunk: Any, left: tuple[int, int]) -> None:
    network = model(1, trunk=trunk, input_size=(228, 304), width=0.02).eval()
    images = torch.randn(1, 3, 228, 304)
    sizes = {}
    for name in ("scale1.trunk", "scale1", "scale2", "scale3"):
        _, output = seen(network.get_submodule(name), lambda: network(images))
        sizes[name] = tuple(output.shape[-2:])
    assert sizes == {"scale1.trunk": left, "scale1": (55, 74), "scale2": (55, 74), "scale3": (109, 147)}
    given, _ = seen(network.scale1.trunk, lambda: network(images))
    assert torch.equal(given[0], images), "an image of the size that scale 1 sees is not changed"


def test_scale_1_sees_the_whole_of_an_image_of_any_size() -> None:
    network = model().eval()
    image = torch.randn(1, 3, 2 * SIZE[0], 3 * SIZE[1])
    given, _ = seen(network.scale1.trunk, lambda: network(image))
    torch.testing.assert_close(given[0], F.avg_pool2d(image, (2, 3)))


def test_a_predictions_pixels_lie_where_what_they_see_has_its_centre() -> None:
    """And what is outside the outermost repeats them."""
    rows, columns = torch.meshgrid(torch.arange(109.0), torch.arange(147.0), indexing="ij")
    where = torch.stack([5 + 2 * rows, 5 + 2 * columns])[None]
    placed = _placed(where, 2, torch.Size((1, 2, 228, 304)))
    wanted = torch.stack(torch.meshgrid(torch.arange(228.0), torch.arange(304.0), indexing="ij"))[None]
    wanted[:, 0].clamp_(5, 221)
    wanted[:, 1].clamp_(5, 297)
    torch.testing.assert_close(placed, wanted)


@pytest.mark.parametrize(("scale", "apart"), [("scale2", 4), ("scale3", 2)])
def test_features_of_the_image_lie_around_the_pixels_that_they_see(scale: str, apart: int) -> None:
    network, image = model(1).eval(), torch.zeros(1, 3, 64, 80)
    image[..., 25, 33] = torch.nan
    given, _ = seen(network.get_submodule(f"{scale}.conv2"), lambda: network(image))
    there = given[0][0, -1].isnan().nonzero()
    middle = (there.amin(0) + there.amax(0)) / 2
    assert (5 + apart * middle).tolist() == [25, 33] and len(there) < 50


def test_no_gradient_goes_from_scale_3_into_the_others() -> None:
    network = model().train()
    assert network.scale3 is not None
    outputs = network(torch.randn(2, 3, 64, 64))
    outputs["out"].square().sum().backward(retain_graph=True)
    assert all(p.grad is None for part in (network.scale1, network.scale2) for p in part.parameters())
    assert all(p.grad is not None for p in network.scale3.parameters())
    network.zero_grad()
    outputs["aux"].square().sum().backward()
    assert all(p.grad is None for p in network.scale3.parameters())
    assert all(p.grad is not None for part in (network.scale1, network.scale2) for p in part.parameters())


def test_both_predictions_are_compared_with_the_truth_alike() -> None:
    network = model().train()
    outputs, labels = network(torch.randn(2, 3, 40, 40)), torch.randint(0, 5, (2, 40, 40))
    wanted = F.cross_entropy(outputs["out"], labels) + F.cross_entropy(outputs["aux"], labels)
    torch.testing.assert_close(network.loss(outputs, {"labels": labels}), wanted)


def test_scale_3_is_trained_after_the_others_and_leaves_them_as_they_are(tmp_path: Path) -> None:
    coarse, images = lively(small("eigen_fergus", stage="coarse")), torch.randn(2, 3, 64, 64)
    assert set(coarse.train()(images)) == {"out"}
    save_file(coarse.state_dict(), tmp_path / "coarse.safetensors")
    options: dict[str, Any] = {"width": 0.0625, "input_size": SIZE, "weights": tmp_path / "coarse.safetensors"}
    fine: Any = create_model("eigen_fergus", 5, stage="fine", **options)
    for name, value in coarse.state_dict().items():
        assert torch.equal(fine.state_dict()[name], value), name
    assert {name.split(".")[0] for name, p in fine.named_parameters() if p.requires_grad} == {"scale3"}
    assert set(fine.train()(images)) == {"out"}
    _, whole = seen(fine.eval().scale2, lambda: fine(images))
    _, before = seen(coarse.eval().scale2, lambda: coarse(images))
    torch.testing.assert_close(whole, before)


@pytest.mark.parametrize(
    ("num_classes", "options", "read"),
    [
        (1, {}, lambda maps: maps),
        (3, {}, lambda maps: maps / (maps.square().sum(1, keepdim=True) + 1e-4).sqrt()),
        (5, {}, lambda maps: maps.softmax(1)),
        (3, {"predicts": "labels"}, lambda maps: maps.softmax(1)),
    ],
)
def test_scale_3_reads_depths_unit_vectors_or_probabilities(num_classes: int, options: Any, read: Any) -> None:
    network = lively(model(num_classes, **options)).eval()
    images = torch.randn(1, 3, 64, 80)
    assert network.scale3 is not None
    _, coarse = seen(network.scale2, lambda: network(images))
    given, _ = seen(network.scale3, lambda: network(images))
    torch.testing.assert_close(given[1], read(coarse))


@pytest.mark.parametrize(("num_classes", "rectified"), [(1, True), (3, True), (5, False)])
def test_the_second_full_layer_has_relu_for_depth_and_normals_alone(num_classes: int, rectified: bool) -> None:
    network = lively(model(num_classes)).eval()
    _, features = seen(network.scale1, lambda: network(torch.randn(1, 3, 64, 80)))
    assert bool((features >= 0).all()) == rectified and features.abs().sum() > 0


def test_dropout_leaves_what_it_keeps_and_testing_takes_the_mean() -> None:
    network, images = lively(model(dropout=0.75)), torch.randn(1, 3, 64, 80)
    (tested,), _ = seen(network.eval().scale1.full2, lambda: network(images))
    (trained,), _ = seen(network.train().scale1.full2, lambda: network(images))
    kept = trained != 0
    assert 0 < kept.sum() < (tested != 0).sum()
    torch.testing.assert_close(trained[kept], 4 * tested[kept])


def test_imagenet_weights_fill_all_of_the_trunk() -> None:
    network = model(2, width=1.0)
    given = vgg16().features.state_dict(prefix="features.")
    translated = network.translate(given)
    own = {name: value.shape for name, value in network.state_dict().items() if name.startswith("scale1.trunk")}
    assert {name: value.shape for name, value in translated.items()} == own


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"stage": "medium"}, "stage is 'medium'; the scales are trained in the stages 'coarse' and 'fine'"),
        ({"trunk": "vgg19"}, "trunk is 'vgg19'; it is one of vgg16, alexnet"),
        ({"predicts": "flow"}, "predicts is 'flow'; it is one of depth, normals, labels"),
        ({"trunk": "alexnet", "input_size": (228, 60)}, "nothing is left of it after the convolutions of alexnet"),
    ],
)
def test_forms_that_there_are_not_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        model(**options)
