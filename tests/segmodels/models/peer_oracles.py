"""Implementations that install: torchvision's, segmentation-models-pytorch's and transformers'."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.catalog.registry import create_model, model_info
from tests.segmodels.models.oracles import image, oracle, randomised, renamed
from tests.segmodels.models.port_oracles import Weights, in_training, relu


def load(ours: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Fill our network with published names; every tensor must find its place."""
    ours = ours.double().eval()
    ours.load_state_dict(ours.translate(tensors), strict=True)
    return ours


@oracle("fcn", "pytorch/vision: torchvision/models/segmentation/fcn.py", depth="resnet50")
@oracle("fcn", "pytorch/vision: torchvision/models/segmentation/fcn.py", depth="resnet101")
@oracle("fcn", "pytorch/vision: torchvision/models/segmentation/fcn.py", depth="resnet50", aux=True)
def fcn(name: str, depth: str, aux: bool = False) -> tuple[Tensor, Tensor]:
    from torchvision.models import segmentation

    theirs = randomised(getattr(segmentation, f"fcn_{depth}")(weights=None, weights_backbone=None, aux_loss=True))
    ours = load(create_model(name, 21, backbone=depth, aux=True), theirs.state_dict())
    images = image(65, 97, batch=2)
    if aux:
        return in_training(ours, images)["aux"], in_training(theirs, images)["aux"]
    return ours(images)["out"], theirs(images)["out"]


@oracle("deeplabv3", "pytorch/vision: torchvision/models/segmentation/deeplabv3.py", depth="resnet50")
@oracle("deeplabv3", "pytorch/vision: torchvision/models/segmentation/deeplabv3.py", depth="resnet101")
def deeplabv3(name: str, depth: str) -> tuple[Tensor, Tensor]:
    from torchvision.models import segmentation

    theirs = randomised(getattr(segmentation, f"deeplabv3_{depth}")(weights=None, weights_backbone=None, aux_loss=True))
    form: dict[str, Any] = {
        "output_stride": 8, "test_output_stride": None, "multi_grid": None, "rates": (12, 24, 36), "aux": True
    }  # fmt: skip
    ours = load(create_model(name, 21, backbone=depth, **form), theirs.state_dict())
    images = image(65, 97, batch=2)
    return ours(images)["out"], theirs(images)["out"]


@oracle("deeplabv3plus", "qubvel-org/segmentation_models.pytorch: decoders/deeplabv3 (0.6.0)")
def deeplabv3plus(name: str) -> tuple[Tensor, Tensor]:
    import segmentation_models_pytorch as smp  # type: ignore[import-untyped]

    theirs = randomised(smp.DeepLabV3Plus("resnet50", encoder_weights=None, classes=21, encoder_output_stride=16))
    form: dict[str, Any] = {"norm_between": False, "encoder_conv": True, "decoder_convs": 1}
    ours: Any = create_model(name, 21, backbone="resnet50", **form).double().eval()
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
    ours.load_state_dict(renamed(theirs.state_dict(), names), strict=True)
    # The peer aligns corners; the paper does not say.
    theirs.decoder.up = nn.Upsample(scale_factor=4, mode="bilinear", align_corners=False)
    theirs.segmentation_head[1] = nn.Upsample(scale_factor=4, mode="bilinear", align_corners=False)
    images = image(64, 96, batch=2)
    return ours(images)["out"], theirs(images)


@oracle("fpn", "qubvel-org/segmentation_models.pytorch: decoders/fpn (0.6.0)")
def fpn(name: str) -> tuple[Tensor, Tensor]:
    import segmentation_models_pytorch as smp

    theirs = randomised(smp.FPN("resnet50", encoder_weights=None, classes=21))
    ours: Any = create_model(name, 21, backbone="resnet50", smooth=False).double().eval()
    # The peer aligns corners; detectron2 does not.
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
    images = image(64, 96, batch=2)
    return ours(images)["out"], theirs(images)


@oracle("unet", "qubvel-org/segmentation_models.pytorch: decoders/unet (0.6.0)")
def unet_on_a_resnet(name: str) -> tuple[Tensor, Tensor]:
    import segmentation_models_pytorch as smp

    theirs = smp.Unet("resnet34", encoder_weights=None, classes=21)
    # Its classifier sees 3x3 pixels, the paper's one.
    theirs.segmentation_head[0] = nn.Conv2d(16, 21, 1)
    theirs = randomised(theirs)
    form: dict[str, Any] = {"backbone": "resnet34", "width": 16, "up": "nearest", "batch_norm": True}
    ours: Any = create_model(name, 21, **form).double().eval()
    names = [(r"^encoder\.", "backbone.body."), (r"^segmentation_head\.0\.", "classifier.")]
    for block in range(5):
        for number, (conv, part) in enumerate([(1, 0), (1, 1), (2, 0), (2, 1)]):
            place = 3 * (number // 2) + part  # of a convolution, a norm, a ReLU; twice
            names.append((rf"^decoder\.blocks\.{block}\.conv{conv}\.{part}\.", f"merge.{block}.{place}."))
    translated = renamed(theirs.state_dict(), names)
    # The encoder's map is joined in front of the doubled one, as in the paper's figure; there it is the other way.
    for block, skip in enumerate([256, 128, 64, 64, 0]):
        key = f"merge.{block}.0.weight"
        translated[key] = translated[key].roll(skip, dims=1)
    ours.load_state_dict(translated, strict=True)
    images = image(65, 97, batch=2)
    return ours(images)["out"], theirs(images)


@oracle("unet", "milesial/Pytorch-UNet: unet/unet_parts.py and unet_model.py (21d7850)")
def unet(name: str) -> tuple[Tensor, Tensor]:
    model = randomised(create_model(name, 6, width=8, batch_norm=True))
    w, images = Weights(model), image(64, 96, batch=2)

    def double(x: Tensor, at: str) -> Tensor:
        for i in (0, 3):
            x = relu(w.bn(w.conv(x, f"{at}.{i}", 1, 1), f"{at}.{i + 1}"))
        return x

    x = double(images, "down.0")
    skips = []
    for level in range(1, 5):
        skips.append(x)
        x = double(F.max_pool2d(x, 2), f"down.{level}")
    for i in range(4):
        x = double(torch.cat([skips.pop(), w.deconv(x, f"up.{i}", 2)], 1), f"merge.{i}")
    x = w.conv(x, "classifier")
    assert not w.unused(), w.unused()
    return model(images)["out"], x


@oracle("pspnet", "qubvel-org/segmentation_models.pytorch: decoders/pspnet (0.6.0)")
def pspnet(name: str) -> tuple[Tensor, Tensor]:
    import segmentation_models_pytorch as smp

    theirs = smp.PSPNet("resnet50", encoder_weights=None, classes=21, encoder_depth=5, output_stride=8)
    # Its classifier sees 3x3 places, the authors' one.
    theirs.segmentation_head[0] = nn.Conv2d(512, 21, 1)
    theirs = randomised(theirs)
    form: dict[str, Any] = {"backbone": "resnet50", "kernel_size": 1, "deep_stem": False, "aux": False}
    ours: Any = create_model(name, 21, **form).double().eval()
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
    images = image(64, 96, batch=2)
    return ours(images)["out"], theirs(images)


@oracle("segformer_b0", "huggingface/transformers: models/segformer/modeling_segformer.py", tolerance=1e-5)
@oracle("segformer_b2", "huggingface/transformers: models/segformer/modeling_segformer.py", tolerance=1e-5)
def segformer(name: str) -> tuple[Tensor, Tensor]:
    from safetensors.torch import load_file
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    options = model_info(name).options
    form: dict[str, Any] = {
        "num_labels": 21,
        "hidden_sizes": options["widths"],
        "depths": options["depths"],
        "num_attention_heads": options["heads"],
        "decoder_hidden_size": options["channels"],
    }
    # Its norms have 1e-5 where the authors' have 1e-6, hence the tolerance.
    theirs = randomised(SegformerForSemanticSegmentation(SegformerConfig(**form)))
    with tempfile.TemporaryDirectory() as folder:
        # Files keep the names under which the authors' weights are published; the modules' own change by release.
        theirs.save_pretrained(folder)
        ours = load(create_model(name, 21), load_file(Path(folder) / "model.safetensors"))
    images = image(65, 97, batch=2)
    # Theirs stops at a quarter of the size.
    logits = theirs(images).logits
    return ours(images)["out"], F.interpolate(logits, size=(65, 97), mode="bilinear", align_corners=False)
