"""Independent implementations with the same weights give the same output, to 1e-5 in float64."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.registry import create_model, model_info

IMAGES = (2, 3, 65, 97)


def same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def randomised(model: Any) -> Any:
    """Weights and statistics of no special value: batch norm that is the identity would hide a missing one."""
    torch.manual_seed(0)
    model = model.double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
        if getattr(module, "bias", None) is not None:
            nn.init.normal_(module.bias, std=0.1)
        if getattr(module, "running_var", None) is not None:
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def load(ours: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Fills our network with published names; every tensor must find its place."""
    ours = ours.double().eval()
    ours.load_state_dict(ours.translate(tensors), strict=True)
    return ours


def images() -> Tensor:
    return torch.randn(*IMAGES, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("depth", ["resnet50", "resnet101"])
def test_fcn_is_torchvisions(depth: str) -> None:
    from torchvision.models import segmentation

    theirs = randomised(getattr(segmentation, f"fcn_{depth}")(weights=None, weights_backbone=None, aux_loss=True))
    ours = load(create_model("fcn", 21, backbone=depth, aux=True), theirs.state_dict())
    with torch.no_grad():
        same(ours(images())["out"], theirs(images())["out"])
        for model in (ours, theirs):  # in training mode, but for what is random or differs by batch
            model.train()
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d | nn.Dropout):
                    module.eval()
        same(ours(images())["aux"], theirs(images())["aux"])


@pytest.mark.parametrize("depth", ["resnet50", "resnet101"])
def test_deeplabv3_is_torchvisions(depth: str) -> None:
    from torchvision.models import segmentation

    theirs = randomised(getattr(segmentation, f"deeplabv3_{depth}")(weights=None, weights_backbone=None, aux_loss=True))
    form: dict[str, Any] = {
        "output_stride": 8,
        "test_output_stride": None,
        "multi_grid": None,
        "rates": (12, 24, 36),
        "aux": True,
    }
    ours = load(create_model("deeplabv3", 21, backbone=depth, **form), theirs.state_dict())
    with torch.no_grad():
        same(ours(images())["out"], theirs(images())["out"])


def test_deeplabv3plus_is_that_of_segmentation_models_pytorch() -> None:
    import segmentation_models_pytorch as smp  # type: ignore[import-untyped]

    theirs = randomised(smp.DeepLabV3Plus("resnet50", encoder_weights=None, classes=21, encoder_output_stride=16))
    form: dict[str, Any] = {"norm_between": False, "encoder_conv": True, "decoder_convs": 1}
    ours: Any = create_model("deeplabv3plus", 21, backbone="resnet50", **form).double().eval()
    ours.load_state_dict(translated_from_smp(theirs.state_dict()), strict=True)
    # Three habits differ: corners aligned, all convolutions of a dilated stage dilated alike, no stride there.
    theirs.decoder.up = nn.Upsample(scale_factor=4, mode="bilinear", align_corners=False)
    theirs.segmentation_head[1] = nn.Upsample(scale_factor=4, mode="bilinear", align_corners=False)
    first = ours.backbone.body.layer4[0].conv2
    first.dilation = first.padding = (2, 2)
    square = images()[..., :64, :96]
    with torch.no_grad():
        same(ours(square)["out"], theirs(square))


def test_semantic_fpn_is_that_of_segmentation_models_pytorch() -> None:
    import segmentation_models_pytorch as smp

    theirs = randomised(smp.FPN("resnet50", encoder_weights=None, classes=21))
    ours: Any = create_model("fpn", 21, backbone="resnet50", smooth=False).double().eval()
    # Theirs aligns corners.
    for module in ours.head.modules():
        if isinstance(module, nn.Upsample):
            module.align_corners = True
    theirs.segmentation_head[1] = nn.Upsample(scale_factor=4, mode="bilinear", align_corners=False)
    names = [(r"^encoder\.", "backbone.body."), (r"^segmentation_head\.0\.", "classifier.")]
    for level in range(4):
        names.append((rf"^decoder\.p{level + 2}\.(skip_conv\.)?", f"pyramid.lateral.{level}."))
        # A convolution, a norm, a ReLU and, but on the finest level, a doubling.
        for number in range(max(1, level)):
            for part in (0, 1):
                old = rf"^decoder\.seg_blocks\.{3 - level}\.block\.{number}\.block\.{part}\."
                names.append((old, f"head.branches.{level}.{4 * number + part}."))
    ours.load_state_dict(renamed(theirs.state_dict(), names), strict=True)
    square = images()[..., :64, :96]
    with torch.no_grad():
        same(ours(square)["out"], theirs(square))


def test_unet_is_that_of_segmentation_models_pytorch() -> None:
    import segmentation_models_pytorch as smp

    theirs = smp.Unet("resnet34", encoder_weights=None, classes=21)
    # Its classifier sees 3x3 pixels, the paper's one.
    theirs.segmentation_head[0] = nn.Conv2d(16, 21, 1)
    theirs = randomised(theirs)
    form: dict[str, Any] = {"backbone": "resnet34", "width": 16, "up": "nearest", "batch_norm": True}
    ours: Any = create_model("unet", 21, **form).double().eval()
    names = [(r"^encoder\.", "backbone.body."), (r"^segmentation_head\.0\.", "classifier.")]
    for block in range(5):
        for number, (conv, part) in enumerate([(1, 0), (1, 1), (2, 0), (2, 1)]):
            place = 3 * (number // 2) + part  # of a convolution, a norm, a ReLU; twice
            names.append((rf"^decoder\.blocks\.{block}\.conv{conv}\.{part}\.", f"merge.{block}.{place}."))
    translated = renamed(theirs.state_dict(), names)
    # The encoder's map is joined in front of the doubled one, as in the paper's figure; there it is the other way.
    for block, skip in enumerate([256, 128, 64, 64, 0]):
        name = f"merge.{block}.0.weight"
        translated[name] = translated[name].roll(skip, dims=1)
    ours.load_state_dict(translated, strict=True)
    with torch.no_grad():
        same(ours(images())["out"], theirs(images()))


def test_pspnet_is_that_of_segmentation_models_pytorch() -> None:
    import segmentation_models_pytorch as smp

    theirs = smp.PSPNet("resnet50", encoder_weights=None, classes=21, encoder_depth=5, output_stride=8)
    # Its classifier sees 3x3 places, the authors' one.
    theirs.segmentation_head[0] = nn.Conv2d(512, 21, 1)
    theirs = randomised(theirs)
    form: dict[str, Any] = {"backbone": "resnet50", "kernel_size": 1, "deep_stem": False, "aux": False}
    ours: Any = create_model("pspnet", 21, **form).double().eval()
    # All convolutions of a dilated stage are dilated alike there.
    for stage, dilation in ((ours.backbone.body.layer3, 2), (ours.backbone.body.layer4, 4)):
        stage[0].conv2.dilation = stage[0].conv2.padding = (dilation, dilation)
    # The coarsest level has a bias in place of batch norm, which one image's single place cannot train.
    ours.pyramid.levels[0][1], ours.pyramid.levels[0][2] = nn.Conv2d(2048, 512, 1).double(), nn.Identity()
    names = [
        (r"^encoder\.", "backbone.body."),
        (r"^segmentation_head\.0\.", "classifier.4."),
        (r"^decoder\.conv\.", "classifier."),
        (r"^decoder\.psp\.blocks\.(\d)\.pool\.1\.0\.", r"pyramid.levels.\1.1."),
        (r"^decoder\.psp\.blocks\.(\d)\.pool\.1\.1\.", r"pyramid.levels.\1.2."),
    ]
    translated = renamed(theirs.state_dict(), names)
    # The map comes before its levels here, after them there.
    translated["classifier.0.weight"] = translated["classifier.0.weight"].roll(2048, dims=1)
    ours.load_state_dict(translated, strict=True)
    square = images()[..., :64, :96]
    with torch.no_grad():
        same(ours(square)["out"], theirs(square))


@pytest.mark.parametrize("size", ["b0", "b2"])
def test_segformer_is_that_of_transformers(size: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    options = model_info(f"segformer_{size}").options
    form: dict[str, Any] = {
        "num_labels": 21,
        "hidden_sizes": options["widths"],
        "depths": options["depths"],
        "num_attention_heads": options["heads"],
        "decoder_hidden_size": options["channels"],
    }
    theirs = randomised(SegformerForSemanticSegmentation(SegformerConfig(**form)))
    # Files keep the names under which the authors' weights are published; the modules' own change by release.
    theirs.save_pretrained(tmp_path)
    ours = load(create_model(f"segformer_{size}", 21), load_file(tmp_path / "model.safetensors"))
    with torch.no_grad():
        # Theirs stops at a quarter of the size.
        logits = theirs(images()).logits
        same(ours(images())["out"], F.interpolate(logits, size=IMAGES[2:], mode="bilinear", align_corners=False))


def translated_from_smp(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = (
        (r"^encoder\.", "backbone.body."),
        (r"^decoder\.aspp\.0\.convs\.0\.", "encoder.0.convs.0."),
        (r"^decoder\.aspp\.0\.convs\.([123])\.0\.0\.", r"encoder.0.convs.\1.0."),
        (r"^decoder\.aspp\.0\.convs\.([123])\.0\.1\.", r"encoder.0.convs.\1.1."),
        (r"^decoder\.aspp\.0\.convs\.([123])\.1\.", r"encoder.0.convs.\1.2."),
        (r"^decoder\.aspp\.0\.convs\.4\.", "encoder.0.convs.4.project."),
        (r"^decoder\.aspp\.0\.project\.", "encoder.0.project."),
        (r"^decoder\.aspp\.1\.([01])\.", r"encoder.1.\1."),
        (r"^decoder\.aspp\.2\.", "encoder.1.2."),
        (r"^decoder\.block1\.", "reduce."),
        (r"^decoder\.block2\.0\.([01])\.", r"decoder.0.\1."),
        (r"^decoder\.block2\.1\.", "decoder.0.2."),
        (r"^segmentation_head\.0\.", "classifier."),
    )
    return renamed(tensors, names)


def renamed(tensors: Mapping[str, Tensor], names: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
    """Each pattern's matches replaced, one pattern after the other."""
    result = {}
    for name, tensor in tensors.items():
        for pattern, replacement in names:
            name = re.sub(pattern, replacement, name)
        result[name] = tensor
    return result
