"""The backbones' interface, and the function that finds one by its name."""

from __future__ import annotations

import warnings
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.backbones.dilation import Dilations, dilate
from segmodels.errors import UnknownModelError, nearest
from segmodels.layers.uninitialised import on_meta

# Their convolutions and pools are valid ones; padded, their maps have the sizes that their strides say.
_VALID = ("inception_", "googlenet")
# Their maps all have one stride, and timm gives them positions for images of any size.
_PLAIN = ("vit_", "deit_", "deit3_", "flexivit_", "eva_", "eva02_", "test_vit")
# Their positions are relative: they need not be told the size.
_SWIN = ("swin_", "swinv2_")


class Backbone(nn.Module):
    """An encoder.

    `forward(images [N, in_channels, H, W])` gives a list of feature maps, finest first; map i is
    `[N, channels[i], H', W']` with H' about H / strides[i].

    Args:
        name: timm's or torchvision's.
        output_stride: That it is built at.
        in_channels: Channels of the input.

    Attributes:
        body: The network itself.
        output_strides: That `output_stride` can be set to: 8, too, where a dilated network was built at 16.
        channels: Channels of each map.
        strides: Stride of each map.
        options: Keywords with which timm builds the same network with its ImageNet weights; None where it cannot.
    """

    body: Any
    options: dict[str, Any] | None = None
    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __init__(self, name: str, output_stride: int, in_channels: int) -> None:
        super().__init__()
        self.name, self.in_channels = name, in_channels
        self.output_strides = (8, 16) if output_stride == 16 else (output_stride,)
        self._output_stride = output_stride
        self._dilations: Dilations | None = None

    @property
    def output_stride(self) -> int:
        """Largest stride of the maps; set, it changes strides and dilations of the layers, and no weight.

        Raises:
            ValueError: It is none of `output_strides`.
        """
        return self._output_stride

    @output_stride.setter
    def output_stride(self, value: int) -> None:
        if value not in self.output_strides:
            known = " or ".join(map(str, self.output_strides))
            raise ValueError(
                f"output_stride is {value}; backbone {self.name}, built at {max(self.output_strides)}, works at {known}"
            )
        if value != self._output_stride:
            self._change(value)
            self._output_stride = value

    def _change(self, output_stride: int) -> None:
        if self._dilations is None:
            self._built, self._dilations = self.strides, Dilations(self.body, self._output_stride, self.in_channels)
        self._dilations.set(self.body, output_stride)
        self.strides = tuple(min(stride, output_stride) for stride in self._built)

    def last(self, stride: int) -> int:
        """Return index of the deepest map whose stride is at most `stride`.

        Raises:
            UnknownModelError: All its maps are coarser.
        """
        indices = [i for i, s in enumerate(self.strides) if s <= stride]
        if not indices:
            raise UnknownModelError(f"backbone {self.name}: its finest map has stride {self.strides[0]}, not {stride}")
        return max(indices)

    def keep(self, *indices: int) -> None:
        """Say which maps are looked at; the others may be empty, so that deeper layers have their memory.

        Args:
            *indices: Of the maps; negative ones count from the last.
        """


class TimmBackbone(Backbone):
    """A network of timm that gives feature maps."""

    def __init__(self, name: str, output_stride: int, in_channels: int, options: dict[str, Any]) -> None:
        super().__init__(name, output_stride, in_channels)
        self.options = {"features_only": True, "in_chans": in_channels, **options}
        self.body, strided = _create(name, output_stride, in_channels, options)
        described: Any = self.body.feature_info
        self.channels, self.strides = tuple(described.channels()), tuple(described.reduction())
        if any(stride & (stride - 1) for stride in self.strides):
            raise UnknownModelError(f"backbone {name}: the strides of its maps, {self.strides}, are no powers of two")
        if name.startswith(_SWIN):
            for module in self.body.modules():
                if hasattr(module, "dynamic_img_pad"):
                    setattr(module, "dynamic_img_pad", True)  # noqa: B010 - for the type checker
        if name.startswith(_VALID):
            _pad_valid(self.body)
        dilatable = strided or name.startswith((*_VALID, "vgg", "densenet"))
        if not dilatable:
            self.output_strides = (output_stride,)
        if max(self.strides) > output_stride and not strided:
            if not dilatable:
                raise UnknownModelError(f"backbone {name}: is not dilatable; it takes output_stride 32 only")
            self.strides = dilate(self.body, self.strides, output_stride, in_channels)
        self.channels_last = str(getattr(self.body, "output_fmt", "NCHW")).endswith("NHWC")
        self.kept = list(range(len(self.channels)))

    def keep(self, *indices: int) -> None:
        body: Any = self.body
        layers = getattr(body, "return_layers", None)
        # Bodies that find their maps by hooks, or within one module, have no such table.
        if not isinstance(layers, dict) or len(layers) != len(self.channels):
            return
        self.kept = sorted({index % len(self.channels) for index in indices})
        body.return_layers = {name: layers[name] for i, name in enumerate(list(layers)) if i in self.kept}

    def forward(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.body(images)
        if self.channels_last:
            maps = [m.permute(0, 3, 1, 2) for m in maps]
        if len(self.kept) < len(self.channels):
            empty = images.new_empty(0)
            given = dict(zip(self.kept, maps, strict=True))
            maps = [given.get(i, empty) for i in range(len(self.channels))]
        return maps


class GoogLeNet(Backbone):
    """torchvision's GoogLeNet (Szegedy et al., CVPR 2015, with batch norm), which timm has not."""

    def __init__(self, output_stride: int, in_channels: int) -> None:
        super().__init__("googlenet", output_stride, in_channels)
        from torchvision.models import googlenet

        net = googlenet(weights=None, aux_logits=False, init_weights=False)
        if in_channels != 3:
            net.conv1.conv = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.body = nn.Sequential(*list(net.children())[:-3])
        # The maps before each reduction, and the last one.
        self.taps, self.channels, self.strides = (0, 3, 6, 12, 15), (64, 192, 480, 832, 1024), (2, 4, 8, 16, 32)
        _pad_valid(self.body)
        if output_stride < 32:
            self.strides = dilate(self.body, self.strides, output_stride, in_channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps, x = [], images
        for number, layer in enumerate(self.body):
            x = layer(x)
            if number in self.taps:
                maps.append(x)
        return maps


class Plain(Backbone):
    """A network whose maps all have one stride (ViT): they are resized to strides 4, 8, 16 and 32, the last kept."""

    def __init__(self, name: str, output_stride: int, in_channels: int, options: dict[str, Any]) -> None:
        super().__init__(name, output_stride, in_channels)
        import timm

        given: dict[str, Any] = dict(in_chans=in_channels, num_classes=0, **options)
        try:
            body = timm.create_model(name, **given, dynamic_img_size=True, dynamic_img_pad=True)
        except TypeError:
            raise _one_size(name) from None
        depth = len(body.blocks)
        self.options = given
        self.body, self.indices = body, [depth * (i + 1) // 4 - 1 for i in range(4)]
        self.channels = (body.embed_dim,) * 4
        self.stride = int(body.patch_embed.patch_size[0])
        self._change(output_stride)

    def _change(self, output_stride: int) -> None:
        self.strides = tuple(min(stride, output_stride) for stride in (4, 8, 16, 32))

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.body.forward_intermediates(images, indices=self.indices, intermediates_only=True)
        sizes = [[-(-side // stride) for side in images.shape[-2:]] for stride in self.strides]
        return [
            F.interpolate(m, size=size, mode="bilinear", align_corners=False)
            for m, size in zip(maps, sizes, strict=True)
        ]


def create_backbone(name: str, *, output_stride: int = 32, in_channels: int = 3, **options: Any) -> Backbone:
    """Build an encoder.

    Args:
        name: timm's or torchvision's name: `resnet50`, `vgg16_bn`, `densenet121`, `res2net50_26w_4s`, `resnest50d`,
            `xception65`, `inception_v3`, `googlenet`, `vit_base_patch16_224` and every other one with feature maps.
        output_stride: Largest stride of its maps: 8, 16 or 32. Below 32 later convolutions are dilated.
        in_channels: Channels of the input.
        **options: timm's own keywords of this network.

    Raises:
        UnknownModelError: There is no such network, it gives no feature maps, takes images of one size only, or cannot
            be dilated.
    """
    if output_stride not in (8, 16, 32):
        raise ValueError(f"output_stride is {output_stride}; it is 8, 16 or 32")
    if name == "googlenet":
        return GoogLeNet(output_stride, in_channels)
    import timm

    if not timm.is_model(name):
        raise UnknownModelError(f"unknown backbone '{name}'{nearest(name, timm.list_models())}")
    if name.startswith(_PLAIN):
        return Plain(name, output_stride, in_channels, options)
    return TimmBackbone(name, output_stride, in_channels, options)


def _create(name: str, output_stride: int, in_channels: int, options: dict[str, Any]) -> tuple[nn.Module, bool]:
    """timm's network, and whether it has taken the output stride itself."""
    import timm

    given: dict[str, Any] = dict(features_only=True, in_chans=in_channels, **options)
    if name.startswith(_SWIN):
        given["strict_img_size"] = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if not _takes_any_size(name, given):
                raise _one_size(name)
            if output_stride == 32:
                return timm.create_model(name, **given), True
            try:
                return timm.create_model(name, **given, output_stride=output_stride), True
            except (AssertionError, TypeError):
                return timm.create_model(name, **given), False
        except (RuntimeError, AttributeError, AssertionError) as error:
            raise UnknownModelError(f"backbone {name}: gives no feature maps ({error})") from None


def _one_size(name: str) -> UnknownModelError:
    import timm

    described = timm.get_pretrained_cfg(name)
    size = "x".join(map(str, described.input_size[1:])) if described else "one size"
    return UnknownModelError(f"backbone {name}: takes images of {size} only")


def _takes_any_size(name: str, given: dict[str, Any]) -> bool:
    """Tell whether a network gives maps of an image that is not of the size which it was trained with."""
    import timm

    described = timm.get_pretrained_cfg(name)
    if described is None or not described.fixed_input_size:
        return True
    with on_meta():
        probe, images = timm.create_model(name, **given).eval(), torch.empty(1, given["in_chans"], 96, 160)
        try:
            probe(images)
        except (AssertionError, RuntimeError):
            return False
    return True


def _pad_valid(body: nn.Module) -> None:
    for module in list(body.modules()):
        if isinstance(module, nn.MaxPool2d) and module.kernel_size in (2, (2, 2)):
            continue
        if type(module).__name__ in ("InceptionB", "InceptionD"):  # Inception v3 pools by a function, without padding
            setattr(module, "_forward", MethodType(_reduction, module))  # noqa: B010 - for the type checker
            module.pool = nn.MaxPool2d(3, stride=2, padding=1)
        if isinstance(module, nn.Conv2d | nn.MaxPool2d):
            size = module.kernel_size if isinstance(module.kernel_size, tuple) else (module.kernel_size,) * 2
            padding = tuple(int(k) // 2 for k in size)
            module.padding = padding  # type: ignore[assignment]
            if isinstance(module, nn.MaxPool2d):
                module.ceil_mode = False


def _reduction(block: Any, x: Tensor) -> list[Tensor]:
    """Inception v3's reductions (Szegedy et al., CVPR 2016, figure 10) with a pool that can be padded."""
    if hasattr(block, "branch3x3"):
        return [block.branch3x3(x), block.branch3x3dbl_3(block.branch3x3dbl_2(block.branch3x3dbl_1(x))), block.pool(x)]
    deep = block.branch7x7x3_1(x)
    for layer in (block.branch7x7x3_2, block.branch7x7x3_3, block.branch7x7x3_4):
        deep = layer(deep)
    return [block.branch3x3_2(block.branch3x3_1(x)), deep, block.pool(x)]
