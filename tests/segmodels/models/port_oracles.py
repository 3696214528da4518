"""Networks that were published for Torch, Lasagne and PyTorch, written down anew from their authors' files.

Each function is the forward pass of a file, as that file has it; it takes our weights by name and nothing else of ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from segmodels.catalog.registry import create_model
from tests.segmodels.models.oracles import image, oracle, randomised


class Weights:
    """The tensors of a model, and the layers that read them.

    Args:
        model: Its state dict is taken.
        eps: Of batch norm.
    """

    def __init__(self, model: Any, eps: float = 1e-5) -> None:
        self.tensors: dict[str, Tensor] = dict(model.state_dict())
        self.eps = eps
        self.used: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.used.add(name)
        return self.tensors[name]

    def get(self, name: str) -> Tensor | None:
        return self[name] if name in self.tensors else None

    def unused(self) -> set[str]:
        """Return the tensors that nothing has read."""
        return {name for name in self.tensors if name not in self.used and not name.endswith("num_batches_tracked")}

    def conv(
        self, x: Tensor, name: str, stride: int = 1, padding: int | tuple[int, int] = 0, dilation: int = 1
    ) -> Tensor:
        return F.conv2d(x, self[f"{name}.weight"], self.get(f"{name}.bias"), stride, padding, dilation)

    def deconv(self, x: Tensor, name: str, stride: int, padding: int = 0, more: int = 0) -> Tensor:
        return F.conv_transpose2d(x, self[f"{name}.weight"], self.get(f"{name}.bias"), stride, padding, more)

    def bn(self, x: Tensor, name: str, eps: float | None = None) -> Tensor:
        mean, var = (self[f"{name}.{leaf}"][:, None, None] for leaf in ("running_mean", "running_var"))
        normed = (x - mean) / (var + (self.eps if eps is None else eps)).sqrt()
        if f"{name}.weight" not in self.tensors:  # without factors of its own
            return normed
        return normed * self[f"{name}.weight"][:, None, None] + self[f"{name}.bias"][:, None, None]

    def ln(self, x: Tensor, name: str, eps: float) -> Tensor:
        """Layer norm over the last dimension."""
        centred = x - x.mean(-1, keepdim=True)
        normed = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
        return normed * self[f"{name}.weight"] + self[f"{name}.bias"]

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self[f"{name}.weight"].T + self[f"{name}.bias"]

    def prelu(self, x: Tensor, name: str) -> Tensor:
        return torch.where(x > 0, x, x * self[f"{name}.weight"][:, None, None])


def relu(x: Tensor) -> Tensor:
    return x.clamp(min=0)


def bilinear(x: Tensor, size: Sequence[int], align: bool = False) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=align)


# ResNets --------------------------------------------------------------------------------------------------------------


def bottlenecks(
    w: Weights, x: Tensor, name: str, units: int, *, stride: int = 1, dilation: int = 1, first: bool = False
) -> Tensor:
    """A stage of a ResNet; `first` puts its stride into the first convolution, not the second."""
    for unit in range(units):
        at, step = f"{name}.{unit}", stride if unit == 0 else 1
        y = relu(w.bn(w.conv(x, f"{at}.conv1", step if first else 1), f"{at}.bn1"))
        y = relu(w.bn(w.conv(y, f"{at}.conv2", 1 if first else step, dilation, dilation), f"{at}.bn2"))
        y = w.bn(w.conv(y, f"{at}.conv3"), f"{at}.bn3")
        if unit == 0:
            x = w.bn(w.conv(x, f"{at}.downsample.0", step), f"{at}.downsample.1")
        x = relu(x + y)
    return x


def basic_blocks(w: Weights, x: Tensor, name: str, units: int, stride: int) -> Tensor:
    """A stage of ResNet-18."""
    for unit in range(units):
        at, step = f"{name}.{unit}", stride if unit == 0 else 1
        y = relu(w.bn(w.conv(x, f"{at}.conv1", step, 1), f"{at}.bn1"))
        y = w.bn(w.conv(y, f"{at}.conv2", 1, 1), f"{at}.bn2")
        if f"{at}.downsample.0.weight" in w.tensors:
            x = w.bn(w.conv(x, f"{at}.downsample.0", step), f"{at}.downsample.1")
        x = relu(x + y)
    return x


def stem(w: Weights, images: Tensor, ceil: bool = False) -> Tensor:
    """The 7x7 convolution of a ResNet and its pool."""
    x = relu(w.bn(w.conv(images, "backbone.body.conv1", 2, 3), "backbone.body.bn1"))
    return F.max_pool2d(x, 3, 2, 1, ceil_mode=ceil)


# The hourglass --------------------------------------------------------------------------------------------------------


@oracle("hourglass", "google/mannequinchallenge: models/hourglass.py, lines 19-181 (cb5b773)")
def hourglass(name: str) -> tuple[Tensor, Tensor]:
    model = randomised(create_model(name, 1, width=0.25))
    w, images = Weights(model), image(48, 64)
    small, wide = (3, 5, 7), (3, 7, 11)

    def inception(x: Tensor, at: str, kernels: Sequence[int]) -> Tensor:
        parts = [relu(w.bn(w.conv(x, f"{at}.branches.0.0"), f"{at}.branches.0.1"))]
        for i, kernel in enumerate(kernels, start=1):
            y = relu(w.bn(w.conv(x, f"{at}.branches.{i}.0"), f"{at}.branches.{i}.1"))
            y = w.conv(y, f"{at}.branches.{i}.3", padding=(kernel - 1) // 2)
            parts.append(relu(w.bn(y, f"{at}.branches.{i}.4")))
        return torch.cat(parts, 1)

    def level(x: Tensor, at: str, before: Any, inside: Any, after: Any, beside: Any) -> Tensor:
        own = x
        for i, kernels in enumerate(beside):
            own = inception(own, f"{at}.beside.{i}", kernels)
        y, place = F.avg_pool2d(x, 2), 0
        for kernels in before:
            y, place = inception(y, f"{at}.smaller.{place}", kernels), place + 1
        if inside is not None:
            y, place = inside(y, f"{at}.smaller.{place}"), place + 1
        for kernels in after:
            y, place = inception(y, f"{at}.smaller.{place}", kernels), place + 1
        return bilinear(y, own.shape[-2:], align=True) + own

    def channels1(x: Tensor, at: str) -> Tensor:
        return level(x, at, (small, small, small), None, (), (small, small))

    def channels2(x: Tensor, at: str) -> Tensor:
        return level(x, at, (small, small), channels1, (small, wide), (small, wide))

    def channels3(x: Tensor, at: str) -> Tensor:
        return level(x, at, (small, small), channels2, (small, small), (small, wide))

    def channels4(x: Tensor, at: str) -> Tensor:
        return level(x, at, (small, small), channels3, (small, wide), (wide,))

    x = relu(w.bn(w.conv(images, "stem.0", padding=3), "stem.1"))
    theirs = w.conv(channels4(x, "levels"), "head", padding=1)
    assert not w.unused()
    return model(images)["out"], theirs


# Eigen and Fergus -----------------------------------------------------------------------------------------------------

_EIGEN = "jhmitchel/eecs442normals-w18: models/iccv15/depthnormals_nyud_{0}.py, lines 180-{1}, and .conf; net.py"


@oracle("eigen_fergus", f"{_EIGEN.format('vgg', 443)} (3902cc6): depth", maps=1)
@oracle("eigen_fergus", f"{_EIGEN.format('vgg', 443)} (3902cc6): normals", maps=3)
@oracle(
    "eigen_fergus", f"{_EIGEN.format('alexnet', 406)}; pooling.py, line 615 (3902cc6): depth", maps=1, trunk="alexnet"
)
def eigen_fergus(name: str, maps: int, trunk: str = "vgg16") -> tuple[Tensor, Tensor]:
    """The stack of one task, on images that are normalised for all scales alike; compared where the file predicts."""
    model = randomised(create_model(name, maps, width=0.125, trunk=trunk, scale3_features=512 - 8 * maps))
    if maps == 1:
        torch.nn.init.normal_(model.scale2.places)
    w, images = Weights(model), image(228, 304)

    def pool(x: Tensor, window: int, stride: int) -> Tensor:
        return F.max_pool2d(x, window, stride)

    def strided(x: Tensor, at: str, stride: int) -> Tensor:
        """conv_theano_mm of net.py: `valid`, but for the rows and columns that the last window lacks."""
        kernel = w[f"{at}.weight"].shape[-1]
        lacking = [math.ceil((side - kernel) / stride) * stride + kernel - side for side in x.shape[-2:]]
        height, width = (math.ceil(count / 2) for count in lacking)
        return w.conv(x, at, stride, (height, width))

    def cmrnorm(x: Tensor) -> Tensor:
        squares = F.pad(x.square(), (0, 0, 0, 0, 2, 2))
        return x * (2 + 0.0001 * sum(squares[:, d : d + x.shape[1]] for d in range(5))) ** -0.75

    def imagenet_vgg(x: Tensor) -> Tensor:
        place = 0
        for number, convolutions in enumerate((2, 2, 3, 3, 3)):
            for last in range(convolutions - 1, -1, -1):
                x = w.conv(x, f"scale1.trunk.{place}", padding=0 if number == 0 else 1)
                x, place = relu(x) if last else relu(pool(x, 2, 2)), place + 2
            place += 1
        return x

    def imagenet_alexnet(x: Tensor) -> Tensor:
        x = cmrnorm(relu(pool(strided(x, "scale1.trunk.0", 4), 3, 2)))
        x = cmrnorm(relu(pool(w.conv(x, "scale1.trunk.4", padding=2), 3, 2)))
        x = relu(w.conv(x, "scale1.trunk.8", padding=1))
        x = relu(w.conv(x, "scale1.trunk.10", padding=1))
        return relu(pool(w.conv(x, "scale1.trunk.12", padding=1), 3, 2))

    def upsample_bilinear(x: Tensor, scale: int) -> Tensor:
        rising = torch.linspace(0, 1, scale + 1, dtype=x.dtype)[1:-1]
        line = torch.cat([rising, torch.ones(1, dtype=x.dtype), rising.flip(0)])
        wide = x.new_zeros(*x.shape[:2], *(scale * (side - 1) + len(line) for side in x.shape[2:]))
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                rows, columns = slice(scale * i, scale * i + len(line)), slice(scale * j, scale * j + len(line))
                wide[:, :, rows, columns] += x[:, :, i, j, None, None] * line[:, None] * line
        return wide

    def unit(x: Tensor) -> Tensor:
        return x / (x.square().sum(1, keepdim=True) + 1e-4).sqrt() if maps == 3 else x

    features = (0.01 * {"vgg16": imagenet_vgg, "alexnet": imagenet_alexnet}[trunk](images)).flatten(1)
    f_1 = 0.5 * relu(w.linear(features, "scale1.full1"))
    f_2 = relu(w.linear(f_1, "scale1.full2")).view(1, -1, 14, 19)
    p = torch.cat(
        [upsample_bilinear(f_2, 4)[:, :, 2:-2, 2:-3], pool(relu(strided(images, "scale2.conv1", 2)), 3, 2)], 1
    )
    for conv in ("conv2", "conv3", "conv4"):
        p = relu(w.conv(p, f"scale2.{conv}", padding=2))
    p = w.deconv(p, "scale2.conv5", 1, 2)
    p = unit(p + w["scale2.places"] if maps == 1 else p)
    twice = p.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, :-1, :-1]
    p = torch.cat([twice, pool(relu(strided(images, "scale3.conv1", 2)), 3, 1)], 1)
    for conv in ("conv2", "conv3"):
        p = relu(w.conv(p, f"scale3.{conv}", padding=2))
    p = w.deconv(p, "scale3.conv4", 1, 2)
    assert not w.unused(), w.unused()
    assert p.shape[-2:] == (109, 147)
    # The file's predicted region, rows 11 to 227 and columns 13 to 305 of 240x320, of which it takes 6:234 and 8:312.
    return model(images)["out"][:, :, 5:222:2, 5:298:2], p


# LinkNet and ENet -----------------------------------------------------------------------------------------------------


@oracle("linknet", "e-lab/LinkNet: models/model.lua, lines 49-133 (8805ef7)")
def linknet(name: str) -> tuple[Tensor, Tensor]:
    model = randomised(create_model(name, 6))
    w, images = Weights(model), image(64, 96, batch=2)

    def decode(x: Tensor, at: str, stride: int) -> Tensor:
        x = relu(w.bn(w.conv(x, f"{at}.0"), f"{at}.1", 1e-3))
        x = relu(w.bn(w.deconv(x, f"{at}.3", stride, 1, stride - 1), f"{at}.4", 1e-3))
        return relu(w.bn(w.conv(x, f"{at}.6"), f"{at}.7", 1e-3))

    def bypass(x: Tensor, level: int) -> Tensor:
        """Lines 86 to 108: what the encoder block, all that is deeper and its decoder give, plus the input."""
        y = basic_blocks(w, x, f"backbone.body.layer{level}", 2, 1 if level == 1 else 2)
        if level < 4:
            y = bypass(y, level + 1)
        return relu(decode(y, f"decoder{level}", 1 if level == 1 else 2) + x)

    x = bypass(stem(w, images), 1)
    x = relu(w.bn(w.deconv(x, "tail.0", 2, 1, 1), "tail.1", 1e-5))
    x = relu(w.bn(w.conv(x, "tail.3", 1, 1), "tail.4", 1e-3))
    x = w.deconv(x, "tail.6", 2)
    assert not w.unused(), w.unused()
    return model(images)["out"], x


@oracle("enet", "e-lab/ENet-training: train/models/encoder.lua, lines 26-102, and decoder.lua, lines 60-105 (f762144)")
@oracle("enet", "e-lab/ENet-training: train/models/encoder.lua, lines 26-102 (f762144)", stage="encoder")
def enet(name: str, stage: str = "full") -> tuple[Tensor, Tensor]:
    model = randomised(create_model(name, 6, stage=stage))
    w, images = Weights(model, eps=1e-3), image(64, 96, batch=2)
    pools: list[Tensor] = []

    def pool(x: Tensor) -> Tensor:
        out, indices = F.max_pool2d(x, 2, return_indices=True)
        pools.append(indices)
        return out

    def encode(x: Tensor, at: str, *, down: bool = False, asymmetric: int = 0, dilated: int = 0) -> Tensor:
        step = 2 if down else 1
        y = w.prelu(w.bn(w.conv(x, f"{at}.branch.0", step), f"{at}.branch.1"), f"{at}.branch.2")
        if asymmetric:
            # cudnn.SpatialConvolution takes the kernel's width first: a row, then a column.
            assert w[f"{at}.branch.3.weight"].shape[-2:] == (1, asymmetric)
            y = w.conv(y, f"{at}.branch.3", 1, (0, asymmetric // 2))
            y, after = w.conv(y, f"{at}.branch.4", 1, (asymmetric // 2, 0)), 5
        else:
            y, after = w.conv(y, f"{at}.branch.3", 1, dilated or 1, dilated or 1), 4
        y = w.prelu(w.bn(y, f"{at}.branch.{after}"), f"{at}.branch.{after + 1}")
        y = w.bn(w.conv(y, f"{at}.branch.{after + 2}"), f"{at}.branch.{after + 3}")
        x = pool(x) if down else x
        x = torch.cat([x, x.new_zeros(len(x), y.shape[1] - x.shape[1], *x.shape[-2:])], 1)
        return w.prelu(x + y, f"{at}.act")

    def decode(x: Tensor, at: str, up: Tensor | None = None) -> Tensor:
        y = relu(w.bn(w.conv(x, f"{at}.branch.0"), f"{at}.branch.1"))
        y = w.conv(y, f"{at}.branch.3", 1, 1) if up is None else w.deconv(y, f"{at}.branch.3", 2, 1, 1)
        y = relu(w.bn(y, f"{at}.branch.4"))
        y = w.bn(w.conv(y, f"{at}.branch.6"), f"{at}.branch.7")
        if up is not None:
            x = F.max_unpool2d(w.bn(w.conv(x, f"{at}.main.0"), f"{at}.main.1"), up, [2, 2])
        return relu(x + y)

    x = torch.cat([w.conv(images, "initial.conv", 2, 1), F.max_pool2d(images, 2)], 1)
    x = w.prelu(w.bn(x, "initial.norm"), "initial.act")
    x = encode(x, "down1", down=True)
    for i in range(4):
        x = encode(x, f"stage1.{i}")
    x = encode(x, "down2", down=True)
    kinds: list[dict[str, Any]] = [
        {}, {"dilated": 2}, {"asymmetric": 5}, {"dilated": 4}, {}, {"dilated": 8}, {"asymmetric": 5}, {"dilated": 16}
    ]  # fmt: skip
    for again in (2, 3):
        for i, kind in enumerate(kinds):
            x = encode(x, f"stage{again}.{i}", **kind)
    if stage == "encoder":
        x = w.conv(x, "classifier")
        assert not w.unused(), w.unused()
        seen: list[Tensor] = []
        model.classifier.register_forward_hook(lambda _, __, out: seen.append(out))
        model(images)
        return seen[0], x
    x = decode(x, "up4", pools[1])
    x = decode(decode(x, "stage4.0"), "stage4.1")
    x = decode(decode(x, "up5", pools[0]), "stage5")
    x = w.deconv(x, "fullconv", 2)
    assert not w.unused(), w.unused()
    return model(images)["out"], x


# PSPNet, DeepLab v2, RefineNet ----------------------------------------------------------------------------------------


@oracle("pspnet", "hszhao/semseg: model/pspnet.py, lines 46-95, and model/resnet.py, lines 61-155 (4f274c3)")
@oracle("pspnet", "hszhao/semseg: model/pspnet.py, lines 72-78 and 98-100 (4f274c3)", aux=True)
def pspnet(name: str, aux: bool = False) -> tuple[Tensor, Tensor]:
    model = randomised(create_model(name, 6, backbone="resnet50", aux=aux))
    w, images, body = Weights(model), image(57, 73), "backbone.body"
    x = images
    for i, stride in enumerate((2, 1, 1)):
        norm = f"{body}.bn1" if i == 2 else f"{body}.conv1.{3 * i + 1}"
        x = relu(w.bn(w.conv(x, f"{body}.conv1.{3 * i}", stride, 1), norm))
    x = F.max_pool2d(x, 3, 2, 1)
    x = bottlenecks(w, x, f"{body}.layer1", 3)
    x = bottlenecks(w, x, f"{body}.layer2", 4, stride=2)
    middle = x = bottlenecks(w, x, f"{body}.layer3", 6, dilation=2)
    x = bottlenecks(w, x, f"{body}.layer4", 3, dilation=4)
    levels = [x]
    for i, bins in enumerate((1, 2, 3, 6)):
        at = f"pyramid.levels.{i}"
        y = relu(w.bn(w.conv(F.adaptive_avg_pool2d(x, bins), f"{at}.1"), f"{at}.2"))
        levels.append(bilinear(y, x.shape[2:], align=True))
    x = relu(w.bn(w.conv(torch.cat(levels, 1), "classifier.0", 1, 1), "classifier.1"))
    x = bilinear(w.conv(x, "classifier.4"), images.shape[2:], align=True)
    if aux:
        y = relu(w.bn(w.conv(middle, "aux_head.0", 1, 1), "aux_head.1"))
        y = bilinear(w.conv(y, "aux_head.4"), images.shape[2:], align=True)
        assert not w.unused(), w.unused()
        return in_training(model, images)["aux"], y
    assert not w.unused(), w.unused()
    return model(images)["out"], x


def in_training(model: Any, images: Tensor) -> dict[str, Tensor]:
    """Return the outputs of training mode, but for what is random or differs by batch."""
    model.train()
    for module in model.modules():
        if not list(module.children()):
            module.eval()
    outputs: dict[str, Tensor] = model(images)
    model.eval()
    return outputs


@oracle(
    "deeplabv2", "kazuto1011/deeplab-pytorch: libs/models/deeplabv2.py, resnet.py, lines 49-110, and msc.py (4219467)"
)
def deeplabv2(name: str) -> tuple[Tensor, Tensor]:
    model = randomised(create_model(name, 6))
    w, images, body = Weights(model), image(66, 75), "backbone.body"

    def base(x: Tensor) -> Tensor:
        x = bottlenecks(w, stem(w, x, ceil=True), f"{body}.layer1", 3, first=True)
        x = bottlenecks(w, x, f"{body}.layer2", 4, stride=2, first=True)
        x = bottlenecks(w, x, f"{body}.layer3", 23, dilation=2)
        x = bottlenecks(w, x, f"{body}.layer4", 3, dilation=4)
        rates = (6, 12, 18, 24)
        return torch.stack([w.conv(x, f"classifier.{i}", 1, rate, rate) for i, rate in enumerate(rates)]).sum(0)

    logits = base(images)
    scaled = [
        base(F.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)) for scale in (0.5, 0.75)
    ]
    best = torch.stack([logits, *[bilinear(x, logits.shape[2:]) for x in scaled]]).amax(0)
    assert not w.unused(), w.unused()
    return model(images)["out"], bilinear(best, images.shape[2:])


@oracle("refinenet", "DrSleep/refinenet-pytorch: models/resnet.py, lines 81-240, and utils/layer_factory.py (8f25c07)")
def refinenet(name: str) -> tuple[Tensor, Tensor]:
    model = randomised(create_model(name, 6, backbone="resnet50"))
    w, images, body = Weights(model), image(67, 93), "backbone.body"
    maps, x = [], stem(w, images)
    for level, units in enumerate((3, 4, 6, 3), start=1):
        x = bottlenecks(w, x, f"{body}.layer{level}", units, stride=1 if level == 1 else 2)
        maps.append(x)

    def residual(x: Tensor, at: str, count: int) -> Tensor:
        for i in range(count):
            y = w.conv(relu(x), f"{at}.{i}.conv1", 1, 1)
            x = x + w.conv(relu(y), f"{at}.{i}.conv2", 1, 1)
        return x

    below: Tensor | None = None
    for level in (4, 3, 2, 1):
        at = f"block{level}"
        x = residual(w.conv(maps[level - 1], f"{at}.reduce", 1, 1), f"{at}.adapt", 2)
        if below is not None:
            x = w.conv(x, f"{at}.fuse", 1, 1)
            x = x + bilinear(below, x.shape[2:], align=True)
        top = x = relu(x)
        for i in range(4):
            top = w.conv(F.max_pool2d(top, 5, 1, 2), f"{at}.pooling.convs.{i}", 1, 1)
            x = x + top
        x = residual(x, f"{at}.output", 3)
        below = w.conv(x, f"{at}.onward", 1, 1) if level > 1 else x
    assert below is not None
    x = w.conv(below, "classifier", 1, 1)
    assert not w.unused(), w.unused()
    # The port leaves the up-sampling to whoever evaluates.
    return model(images)["out"], bilinear(x, images.shape[2:])


# FC-DenseNet ----------------------------------------------------------------------------------------------------------


@oracle("fcdensenet56", "SimJeg/FC-DenseNet: FC-DenseNet.py, lines 53-114 (cf2375b)", layers=[4] * 11)
@oracle("fcdensenet67", "SimJeg/FC-DenseNet: FC-DenseNet.py, lines 53-114 (cf2375b)", layers=[5] * 11)
@oracle(
    "fcdensenet103",
    "SimJeg/FC-DenseNet: FC-DenseNet.py, lines 53-114, and layers.py; Lasagne/Lasagne: lasagne/layers/normalization.py, "
    "line 234",
    layers=[4, 5, 7, 10, 12, 15, 12, 10, 7, 5, 4],
)
def fcdensenet(name: str, layers: list[int]) -> tuple[Tensor, Tensor]:
    model = randomised(create_model(name, 6))
    w, images = Weights(model, eps=1e-4), image(33, 70)

    def bn_relu_conv(x: Tensor, at: str, padding: int) -> Tensor:
        return w.conv(relu(w.bn(x, f"{at}.norm")), f"{at}.conv", 1, padding)

    stack, skips = w.conv(images, "first", 1, 1), []
    for i in range(5):
        for j in range(layers[i]):
            stack = torch.cat([stack, bn_relu_conv(stack, f"down.{i}.layers.{j}", 1)], 1)
        skips.append(stack)
        stack = F.max_pool2d(bn_relu_conv(stack, f"transitions_down.{i}", 0), 2)
    new: list[Tensor] = []
    for j in range(layers[5]):
        new.append(bn_relu_conv(stack, f"bottleneck.layers.{j}", 1))
        stack = torch.cat([stack, new[-1]], 1)
    for i, skip in enumerate(skips[::-1]):
        up = w.deconv(torch.cat(new, 1), f"transitions_up.{i}", 2)
        # Lasagne's centre crop, of both, to the smaller size.
        height, width = (min(a, b) for a, b in zip(up.shape[2:], skip.shape[2:], strict=True))
        cropped = []
        for x in (up, skip):
            top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
            cropped.append(x[:, :, top : top + height, left : left + width])
        stack, new = torch.cat(cropped, 1), []
        for j in range(layers[6 + i]):
            new.append(bn_relu_conv(stack, f"up.{i}.layers.{j}", 1))
            stack = torch.cat([stack, new[-1]], 1)
    x = w.conv(stack, "classifier")
    assert not w.unused(), w.unused()
    return model(images)["out"], x


# SETR -----------------------------------------------------------------------------------------------------------------

_SETR = "fudan-zvg/SETR: mmseg/models/backbones/{}.py, lines {}, and decode_heads/{}.py, lines {} (1361561)"


def vit(w: Weights, images: Tensor, *, token: bool) -> list[Tensor]:
    """Both files' transformer: the sequence after each block; `token` keeps the class token in it."""
    body, heads = "backbone.body", 3
    x = w.conv(images, f"{body}.patch_embed.proj", 16).flatten(2).transpose(1, 2)
    x = torch.cat([w[f"{body}.cls_token"].expand(len(x), -1, -1), x], 1) + w[f"{body}.pos_embed"]
    x = x if token else x[:, 1:]
    outs = []
    depth = 1 + max(int(name.split(".")[3]) for name in w.tensors if name.startswith(f"{body}.blocks."))
    for i in range(depth):
        at = f"{body}.blocks.{i}"
        y = w.ln(x, f"{at}.norm1", 1e-6)
        n, length, channels = y.shape
        q, k, v = w.linear(y, f"{at}.attn.qkv").reshape(n, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * (channels // heads) ** -0.5).softmax(-1)
        x = x + w.linear((weights @ v).transpose(1, 2).reshape(n, length, channels), f"{at}.attn.proj")
        y = w.linear(w.ln(x, f"{at}.norm2", 1e-6), f"{at}.mlp.fc1")
        x = x + w.linear(y * 0.5 * (1 + torch.erf(y / math.sqrt(2))), f"{at}.mlp.fc2")
        outs.append(x)
    return outs


def to_2d(x: Tensor) -> Tensor:
    side = math.isqrt(x.shape[1])
    return x.transpose(1, 2).reshape(len(x), -1, side, side)


def up_head(w: Weights, x: Tensor, at: str, convs: int, layers: int, side: int) -> Tensor:
    """VisionTransformerUpHead: `num_conv` is `convs` + 1 but for 4, `num_upsampe_layer` is `layers`."""
    x = to_2d(w.ln(x[:, 1:], f"{at}.norm", 1e-6))
    for i in range(convs):
        padding = w[f"{at}.convs.{i}.0.weight"].shape[-1] // 2
        x = relu(w.bn(w.conv(x, f"{at}.convs.{i}.0", 1, padding), f"{at}.convs.{i}.1"))
        if convs == 4 and i < 3:
            x = bilinear(x, (2 * x.shape[-1],) * 2)
    if convs == 1 and layers == 2:
        x = bilinear(x, (4 * x.shape[-1],) * 2)
    return bilinear(w.conv(x, f"{at}.classifier"), (side, side))


_FORM: dict[str, Any] = {"backbone": "vit_tiny_patch16_224", "image_size": 96, "channels": 16}


@oracle("setr_naive", _SETR.format("vit", "392-409", "vit_up_head", "128-157"), layers=1, convs=1)
@oracle("setr_naive", _SETR.format("vit", "392-409", "vit_up_head", "128-157"), layers=1, convs=1, aux=True)
@oracle("setr_pup", _SETR.format("vit", "392-409", "vit_up_head", "158-182"), layers=4, convs=4)
@oracle("setr_pup", _SETR.format("vit", "392-409", "vit_up_head", "142-150"), layers=2, convs=1, aux=True)
def setr(name: str, layers: int, convs: int, aux: bool = False) -> tuple[Tensor, Tensor]:
    model = randomised(create_model(name, 6, **_FORM))
    w, images = Weights(model), image(96, 96, batch=2)
    outs = vit(w, images, token=True)
    if not aux:
        return model(images)["out"], up_head(w, outs[-1], "decoder", convs, layers, 96)
    # Blocks 10, 15, 20 and 24 of 24 are 5, 8, 10 and 12 of this one's twelve.
    at = (5, 8, 10, 12)[: len(model.aux_heads)]
    theirs = [up_head(w, outs[block - 1], f"aux_heads.{i}", convs, layers, 96) for i, block in enumerate(at)]
    outputs = in_training(model, images)
    return torch.stack([outputs[f"aux{i}"] for i in range(len(at))]), torch.stack(theirs)


@oracle("setr_mla", _SETR.format("vit_mla", "282-329 and 444-469", "vit_mla_head", "40-77"))
@oracle("setr_mla", _SETR.format("vit_mla", "282-329 and 444-469", "vit_mla_auxi_head", "33-46"), aux=True)
def setr_mla(name: str, aux: bool = False) -> tuple[Tensor, Tensor]:
    model = randomised(create_model(name, 6, **_FORM))
    w, images = Weights(model), image(96, 96, batch=2)
    outs = vit(w, images, token=False)

    def conv(x: Tensor, at: str, number: int = 0, padding: int = 0) -> Tensor:
        return relu(w.bn(w.conv(x, f"{at}.{number}", 1, padding), f"{at}.{number + 1}"))

    # Blocks 6, 12, 18 and 24 of 24 are every third of this one's twelve.
    reduced = [conv(to_2d(w.ln(outs[3 * i + 2], f"norms.{i}", 1e-6)), f"reduce.{i}") for i in range(4)]
    plus = [reduced[3]]
    for i in (2, 1, 0):
        plus.insert(0, plus[0] + reduced[i])
    levels = [conv(x, f"smooth.{i}", 0, 1) for i, x in enumerate(plus)]
    if aux:
        theirs = [bilinear(w.conv(x, f"aux_heads.{i}"), (96, 96)) for i, x in enumerate(levels)]
        outputs = in_training(model, images)
        return torch.stack([outputs[f"aux{i}"] for i in range(4)]), torch.stack(theirs)
    heads = []
    for i, x in enumerate(levels):
        y = conv(conv(x, f"streams.{i}", 0, 1), f"streams.{i}", 3, 1)
        heads.append(bilinear(y, (4 * x.shape[-1],) * 2, align=True))
    return model(images)["out"], bilinear(w.conv(torch.cat(heads, 1), "classifier", 1, 1), (96, 96))


# Semantic FPN and PointRend -------------------------------------------------------------------------------------------

_FPN = "facebookresearch/detectron2: modeling/backbone/fpn.py, lines 126-167, and modeling/meta_arch/semantic_seg.py, lines {}"


def fpn_maps(w: Weights, images: Tensor, depth: int, groups: int, *, first: bool) -> tuple[list[Tensor], Tensor]:
    """The pyramid p2 to p5 and the logits at stride 4."""
    x, maps = stem(w, images), []
    for level, units in enumerate((3, 4, depth, 3), start=1):
        x = bottlenecks(w, x, f"backbone.body.layer{level}", units, stride=1 if level == 1 else 2, first=first)
        maps.append(x)
    previous = w.conv(maps[3], "pyramid.lateral.3")
    pyramid = [w.conv(previous, "pyramid.output.3", 1, 1)]
    for level in (2, 1, 0):
        top_down = previous.repeat_interleave(2, -1).repeat_interleave(2, -2)
        previous = w.conv(maps[level], f"pyramid.lateral.{level}") + top_down
        pyramid.insert(0, w.conv(previous, f"pyramid.output.{level}", 1, 1))
    total: Tensor | None = None
    for level, x in enumerate(pyramid):
        for number in range(max(1, level)):
            at = 4 * number
            x = w.conv(x, f"head.branches.{level}.{at}", 1, 1)
            grouped = x.unflatten(1, (groups, -1))
            mean, var = grouped.mean((2, 3, 4), keepdim=True), grouped.var((2, 3, 4), keepdim=True, unbiased=False)
            x = ((grouped - mean) / (var + 1e-5).sqrt()).flatten(1, 2)
            scale, shift = (w[f"head.branches.{level}.{at + 1}.{leaf}"][:, None, None] for leaf in ("weight", "bias"))
            x = relu(x * scale + shift)
            if level:
                x = bilinear(x, (2 * x.shape[-2], 2 * x.shape[-1]))
        total = x if total is None else total + x
    assert total is not None
    return pyramid, w.conv(total, "classifier")


@oracle("fpn", _FPN.format("188-253") + " (02b5c4e)", stride_in_1x1=False)
@oracle("fpn", _FPN.format("188-253") + "; config/defaults.py, line 499 (02b5c4e)", stride_in_1x1=True)
def fpn(name: str, stride_in_1x1: bool) -> tuple[Tensor, Tensor]:
    model = randomised(create_model(name, 6, backbone="resnet50", stride_in_1x1=stride_in_1x1))
    w, images = Weights(model), image(64, 96)
    _, logits = fpn_maps(w, images, 6, 32, first=stride_in_1x1)
    assert not w.unused(), w.unused()
    return model(images)["out"], bilinear(logits, images.shape[2:])


def point_sample(x: Tensor, points: Tensor) -> Tensor:
    """Bilinear between the centres of pixels; what lies outside the map is zero."""
    n, channels, height, width = x.shape
    column, row = points[..., 0] * width - 0.5, points[..., 1] * height - 0.5
    left, top = column.floor(), row.floor()
    out = x.new_zeros(n, channels, points.shape[1])
    for dx in (0, 1):
        for dy in (0, 1):
            i, j = (left + dx).long(), (top + dy).long()
            inside = (i >= 0) & (i < width) & (j >= 0) & (j < height)
            share = (1 - (column - i).abs()) * (1 - (row - j).abs()) * inside
            index = (j.clamp(0, height - 1) * width + i.clamp(0, width - 1))[:, None].expand(-1, channels, -1)
            out = out + share[:, None] * x.flatten(2).gather(2, index)
    return out


@oracle(
    "pointrend",
    "facebookresearch/detectron2: projects/PointRend/point_rend/semantic_seg.py, lines 106-135, point_features.py, lines "
    "19-42 and 119-146, and point_head.py, lines 123-129 (02b5c4e)",
)
def pointrend(name: str) -> tuple[Tensor, Tensor]:
    model = randomised(create_model(name, 6, backbone="resnet50", test_points=40))
    w, images = Weights(model), image(64, 96)
    pyramid, coarse = fpn_maps(w, images, 6, 32, first=False)
    logits = coarse
    for _ in range(2):
        logits = bilinear(logits, (2 * logits.shape[-2], 2 * logits.shape[-1]))
        n, classes, height, width = logits.shape
        best = logits.flatten(2).sort(dim=1, descending=True).values
        indices = (best[:, 1] - best[:, 0]).topk(40, dim=1).indices
        row, column = (indices // width).double(), (indices % width).double()
        points = torch.stack([(column + 0.5) / width, (row + 0.5) / height], -1)
        x = torch.cat([point_sample(pyramid[0], points), point_sample(coarse, points)], 1)
        for i in range(3):
            x = relu(F.conv1d(x, w[f"point_head.layers.{i}.weight"], w[f"point_head.layers.{i}.bias"]))
        x = F.conv1d(x, w["point_head.classifier.weight"], w["point_head.classifier.bias"])
        logits = logits.flatten(2).scatter(2, indices[:, None].expand(-1, classes, -1), x).view(n, -1, height, width)
    assert not w.unused(), w.unused()
    return model(images)["out"], logits


# SegFormer ------------------------------------------------------------------------------------------------------------


_SEGFORMER = (
    "NVlabs/SegFormer: mmseg/models/backbones/mix_transformer.py, lines 99-428, and decode_heads/segformer_head.py"
)


@oracle("segformer_b0", _SEGFORMER)
@oracle("segformer_b1", _SEGFORMER)
@oracle("segformer_b2", _SEGFORMER)
@oracle("segformer_b3", _SEGFORMER)
@oracle("segformer_b4", _SEGFORMER)
@oracle("segformer_b5", _SEGFORMER)
def segformer(name: str) -> tuple[Tensor, Tensor]:
    model = randomised(create_model(name, 6))
    w, images = Weights(model), image(64, 96)
    x, maps = images, []
    for stage, (patch, stride, heads, ratio) in enumerate(((7, 4, 1, 8), (3, 2, 2, 4), (3, 2, 5, 2), (3, 2, 8, 1))):
        at = f"stages.{stage}"
        x = w.conv(x, f"{at}.merge", stride, patch // 2)
        n, channels, height, width = x.shape
        x = w.ln(x.flatten(2).transpose(1, 2), f"{at}.merge_norm", 1e-5)
        block = 0
        while f"{at}.blocks.{block}.norm1.weight" in w.tensors:
            b = f"{at}.blocks.{block}"
            y = source = w.ln(x, f"{b}.norm1", 1e-6)
            if ratio > 1:
                source = w.conv(y.transpose(1, 2).reshape(n, channels, height, width), f"{b}.attention.shrink", ratio)
                source = w.ln(source.flatten(2).transpose(1, 2), f"{b}.attention.norm", 1e-5)
            q, k, v = (
                w.linear(z, f"{b}.attention.{part}").reshape(n, -1, heads, channels // heads).permute(0, 2, 1, 3)
                for part, z in (("query", y), ("key", source), ("value", source))
            )
            mixed = (q @ k.transpose(-2, -1) * (channels // heads) ** -0.5).softmax(-1) @ v
            x = x + w.linear(mixed.transpose(1, 2).reshape(n, -1, channels), f"{b}.attention.project")
            y = w.linear(w.ln(x, f"{b}.norm2", 1e-6), f"{b}.ffn.first")
            y = y.transpose(1, 2).reshape(n, -1, height, width)
            y = F.conv2d(y, w[f"{b}.ffn.depthwise.weight"], w[f"{b}.ffn.depthwise.bias"], 1, 1, 1, y.shape[1])
            y = y.flatten(2).transpose(1, 2)
            x = x + w.linear(y * 0.5 * (1 + torch.erf(y / math.sqrt(2))), f"{b}.ffn.second")
            block += 1
        x = w.ln(x, f"{at}.norm", 1e-6).transpose(1, 2).reshape(n, channels, height, width)
        maps.append(x)
    levels: list[Tensor] = []
    for i, x in enumerate(maps):
        y = w.linear(x.flatten(2).transpose(1, 2), f"project.{i}").permute(0, 2, 1).reshape(n, -1, *x.shape[2:])
        levels.insert(0, bilinear(y, maps[0].shape[2:]) if i else y)
    x = relu(w.bn(w.conv(torch.cat(levels, 1), "fuse.0"), "fuse.1"))
    x = w.conv(x, "classifier")
    assert not w.unused(), w.unused()
    return model(images)["out"], bilinear(x, images.shape[2:])
