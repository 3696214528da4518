"""What PSPNet and ICNet, of the same authors, fix beyond the number of parameters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.layers.fuse import fuse_batch_norm
from segmodels.layers.norm import PooledBatchNorm2d
from segmodels.layers.resize import grid_means
from segmodels.models.icnet import CascadeFeatureFusion, ICNet
from segmodels.models.pspnet import PSPNet, PyramidPooling


def psp(**options: Any) -> PSPNet:
    torch.manual_seed(0)
    return PSPNet(4, **{"backbone": "test_resnet", "channels": 16, **options})


def icnet(**options: Any) -> ICNet:
    """With statistics and factors of no special value, in float64."""
    torch.manual_seed(0)
    model = ICNet(4, **{"width": 0.25, **options}).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return model


def images(height: int = 64, width: int = 96) -> Tensor:
    return torch.randn(2, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_the_pyramid_joins_the_map_with_its_means_over_four_grids() -> None:
    torch.manual_seed(0)
    pyramid = PyramidPooling(8, 2, (1, 2, 3, 6)).eval()
    x = torch.randn(1, 8, 12, 18)
    out = pyramid(x)
    assert out.shape == (1, 16, 12, 18)
    assert torch.equal(out[:, :8], x)
    levels: Any = list(pyramid.levels)
    for number, side in enumerate((1, 2, 3, 6)):
        _, conv, norm, _ = levels[number]
        means = x.unflatten(2, (side, 12 // side)).unflatten(4, (side, 18 // side)).mean((3, 5))
        level = F.interpolate(F.relu(norm(conv(means))), size=(12, 18), mode="bilinear", align_corners=True)
        torch.testing.assert_close(out[:, 8 + 2 * number : 10 + 2 * number], level)


def test_a_kernel_without_a_centre_is_refused() -> None:
    with pytest.raises(ValueError, match="kernel_size is 2; it is odd"):
        psp(kernel_size=2)


def test_exported_means_over_a_grid_follow_the_size_of_the_map() -> None:
    class Grids(nn.Module):
        def forward(self, x: Tensor) -> list[Tensor]:
            return [grid_means(x, side) for side in (1, 2, 3, 6)]

    auto = torch.export.Dim.AUTO
    program = torch.export.export(Grids(), (torch.randn(2, 3, 7, 9),), dynamic_shapes=({0: auto, 2: auto, 3: auto},))
    # Cells that divide the map and cells that overlap, also of a map smaller than the grid.
    for size in ((1, 3, 12, 18), (2, 3, 5, 13), (1, 3, 4, 3)):
        x = torch.randn(size)
        torch.testing.assert_close(program.module()(x), [F.adaptive_avg_pool2d(x, side) for side in (1, 2, 3, 6)])


def test_the_level_of_one_bin_of_one_image_takes_the_running_statistics_in_training() -> None:
    norm = PooledBatchNorm2d(3).train()
    nn.init.normal_(norm.running_mean)  # type: ignore[arg-type]
    single, pair = torch.randn(1, 3, 1, 1), torch.randn(2, 3, 1, 1)
    torch.testing.assert_close(norm(single), norm.eval()(single))
    torch.testing.assert_close(norm.train()(pair).mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)


def test_pspnet_weighs_its_auxiliary_loss_by_0_4() -> None:
    model = psp().train()
    outputs = model(torch.randn(2, 3, 64, 64))
    target = torch.randint(0, 4, (2, 64, 64))
    main, aux = (F.cross_entropy(outputs[k], target) for k in ("out", "aux"))
    torch.testing.assert_close(model.loss(outputs, {"labels": target}), main + 0.4 * aux)


def test_pspnets_auxiliary_head_sees_the_last_stage_but_one_in_training_alone() -> None:
    model = psp().train()
    seen: list[Tensor] = []
    assert model.aux_head is not None
    model.aux_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    given = torch.randn(2, 3, 64, 64)
    model(given)
    assert seen[0].shape[1] == model.backbone.channels[-2]
    model.eval()(given)
    assert len(seen) == 1
    assert set(psp(aux=False).train()(given)) == {"out"}


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_pspnets_pyramid_looks_at_the_output_stride(output_stride: int) -> None:
    model = psp(output_stride=output_stride).eval()
    seen: list[Tensor] = []
    model.pyramid.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(torch.randn(1, 3, 64, 96))
    assert seen[0].shape[-2:] == (64 // output_stride, 96 // output_stride)


def test_pspnet_drops_whole_channels_before_its_classifiers() -> None:
    drops = [m for m in psp(dropout=0.3).modules() if isinstance(m, nn.Dropout2d)]
    assert [m.p for m in drops] == [0.3, 0.3]


def test_icnets_guidance_looks_at_a_sixteenth_an_eighth_and_a_quarter() -> None:
    outputs = icnet().train()(images(64, 96))
    sizes = {name: tuple(outputs[name].shape[-2:]) for name in ("guide4", "guide2", "score")}
    # hszhao/ICNet: the classifier's map is that of an eighth with one place more between each two of its places.
    assert sizes == {"guide4": (4, 6), "guide2": (8, 12), "score": (15, 23)}


@pytest.mark.parametrize("weights", [(0.16, 0.4, 1.0), (0.0, 2.0, 0.5)])
def test_icnets_levels_are_compared_with_labels_of_their_size_and_weighed(weights: tuple[float, ...]) -> None:
    default = {} if weights == (0.16, 0.4, 1.0) else {"guidance": weights}
    model = icnet(**default).train()
    outputs = model(images(64, 96))
    target = torch.randint(0, 4, (2, 64, 96))
    target[:, :20] = 255

    def at(size: torch.Size) -> torch.Tensor:
        # The first and the last pixel of a side are in the labels, too, the rest lies evenly between.
        rows, columns = (
            torch.tensor([round(i * (before - 1) / (after - 1)) for i in range(after)])
            for before, after in zip((64, 96), size[-2:], strict=True)
        )
        return target[:, rows[:, None], columns]

    expected = torch.stack(
        [
            weight * F.cross_entropy(outputs[name], at(outputs[name].shape), ignore_index=255)
            for weight, name in zip(weights, ("guide4", "guide2", "score"), strict=True)
        ]
    ).sum()
    torch.testing.assert_close(model.loss(outputs, {"labels": target}), expected)


@torch.no_grad()
def test_icnets_fusion_up_samples_dilates_projects_and_adds() -> None:
    torch.manual_seed(0)
    unit = CascadeFeatureFusion(6, 5, 4, norm=True).eval()
    conv: Any = unit.conv[0]
    assert (conv.dilation, conv.kernel_size) == ((2, 2), (3, 3))
    coarse, fine = torch.randn(1, 6, 4, 5), torch.randn(1, 5, 8, 10)
    fused, up = unit(coarse, fine)
    torch.testing.assert_close(up, F.interpolate(coarse, size=(8, 10), mode="bilinear", align_corners=True))
    torch.testing.assert_close(fused, F.relu(unit.conv(up) + unit.project(fine)))


@torch.no_grad()
def test_icnets_branches_see_a_quarter_a_half_and_the_whole_of_the_image() -> None:
    model = icnet()
    seen: dict[str, tuple[int, ...]] = {}
    for name in ("stem", "stage3", "fine"):
        part: Any = getattr(model, name)
        part.register_forward_pre_hook(lambda _, inputs, name=name: seen.update({name: tuple(inputs[0].shape[-2:])}))
    model(images(64, 96))
    # The shared stages stand at a sixteenth; shrunk, a quarter of the image is left at an eighth of itself.
    assert seen == {"fine": (64, 96), "stem": (32, 48), "stage3": (2, 3)}


@torch.no_grad()
def test_icnet_with_merged_batch_norm_is_icnet() -> None:
    model = icnet()
    fused = fuse_batch_norm(model, images())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    merged = icnet(norm=False)
    merged.load_state_dict(fused.state_dict(), strict=True)
    for size in ((64, 96), (45, 70)):
        torch.testing.assert_close(merged(images(*size))["out"], model(images(*size))["out"])
