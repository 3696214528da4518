"""Each network that was published for Caffe, held to its authors' file.

The tables are the files' layers, written down anew; lines are those of the file at the commit that is named.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segmodels.catalog.registry import create_model
from segmodels.layers.crf import gaussian_kernels
from segmodels.settings.schema import CRFSettings
from tests.segmodels.models.caffe import Net, net
from tests.segmodels.models.oracles import image, oracle, randomised

_WIDTH = 0.05
_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


def vgg(
    *, pool: str = "k=2 s=2", last_pools: str = "k=2 s=2", first: int = 1, fifth: str = "p=1", after: str = "+relu"
) -> str:
    """Write down VGG16's thirteen convolutions and five pools; `first` is the padding of the very first."""
    lines, below = [], "data"
    for stage, (outputs, count) in enumerate(_STAGES, start=1):
        for number in range(1, count + 1):
            padding = f"p={first}" if (stage, number) == (1, 1) else "p=1" if stage < 5 else fifth
            lines.append(f"conv{stage}_{number} conv {below} n={outputs} k=3 {padding} {after}")
            below = f"conv{stage}_{number}"
        lines.append(f"pool{stage} max {below} {pool if stage <= 3 else last_pools}")
        below = f"pool{stage}"
    return "\n".join(lines) + "\n"


def numbered(prefix: str, start: int, layers: list[str], step: int, *, norm: bool = False) -> dict[str, str]:
    """Name layers after the places in a Sequential that they have; a norm follows its convolution."""
    names = {layer: f"{prefix}.{start + step * i}" for i, layer in enumerate(layers)}
    if norm:
        names |= {f"{layer}/bn": f"{prefix}.{start + step * i + 1}" for i, layer in enumerate(layers)}
    return names


def stages(prefix: str, step: int, *, norm: bool = False) -> dict[str, str]:
    """Name VGG16's convolutions after a list of Sequentials."""
    names: dict[str, str] = {}
    for stage, (_, count) in enumerate(_STAGES, start=1):
        layers = [f"conv{stage}_{number}" for number in range(1, count + 1)]
        names |= numbered(f"{prefix}.{stage - 1}", 0, layers, step, norm=norm)
    return names


def computed(
    caffe: Net, model: Any, modules: dict[str, str], images: Tensor, *, all_used: bool = True, **blobs: Tensor
) -> dict[str, Tensor]:
    """Run the table with the weights of the model, none of which may be left over."""
    result = caffe(model.state_dict(), modules, data=images, **blobs)
    assert not all_used or not caffe.unused(), caffe.unused()
    return result


# FCN ------------------------------------------------------------------------------------------------------------------

_FC = """
fc6       conv pool5 n=4096 k=7 +relu
fc7       conv fc6 n=4096 k=1 +relu
score_fr  conv fc7 n=C k=1
"""
_FCN = {
    "fcn32s": """
upscore        deconv score_fr n=C k=64 s=32 -bias
score          crop upscore data o=19
""",
    "fcn16s": """
upscore2       deconv score_fr n=C k=4 s=2 -bias
score_pool4    conv pool4 n=C k=1
score_pool4c   crop score_pool4 upscore2 o=5
fuse_pool4     sum upscore2 score_pool4c
upscore16      deconv fuse_pool4 n=C k=32 s=16 -bias
score          crop upscore16 data o=27
""",
    "fcn8s": """
upscore2       deconv score_fr n=C k=4 s=2 -bias
score_pool4    conv pool4 n=C k=1
score_pool4c   crop score_pool4 upscore2 o=5
fuse_pool4     sum upscore2 score_pool4c
upscore_pool4  deconv fuse_pool4 n=C k=4 s=2 -bias
score_pool3    conv pool3 n=C k=1
score_pool3c   crop score_pool3 upscore_pool4 o=9
fuse_pool3     sum upscore_pool4 score_pool3c
upscore8       deconv fuse_pool3 n=C k=16 s=8 -bias
score          crop upscore8 data o=31
""",
}
_FCN["fcn8s_atonce"] = (
    _FCN["fcn8s"]
    .replace("score_pool4    conv pool4", "scale_pool4    scale pool4\nscore_pool4    conv scale_pool4")
    .replace("score_pool3    conv pool3", "scale_pool3    scale pool3\nscore_pool3    conv scale_pool3")
)
_FCN_SOURCE = "shelhamer/fcn.berkeleyvision.org: {}/train.prototxt, lines 12-{} (1305c73)"


@oracle("fcn32s", _FCN_SOURCE.format("voc-fcn32s", 518))
@oracle("fcn16s", _FCN_SOURCE.format("voc-fcn16s", 573))
@oracle("fcn8s", _FCN_SOURCE.format("voc-fcn8s", 628))
@oracle("fcn8s_atonce", _FCN_SOURCE.format("voc-fcn8s-atonce", 658))
def fcn(name: str) -> tuple[Tensor, Tensor]:
    model = randomised(create_model(name, 6, width=_WIDTH))
    caffe = net(vgg(first=100) + _FC + _FCN[name], 6, width=_WIDTH)
    modules = {layer.name: layer.name for layer in caffe.layers}
    images = image(50, 67, batch=2)
    return model(images)["out"], computed(caffe, model, modules, images)["score"]


# CRF-RNN --------------------------------------------------------------------------------------------------------------


@oracle(
    "crfasrnn",
    "torrvision/crfasrnn: python-scripts/TVG_CRFRNN_COCO_VOC.prototxt, lines 10-146 (2156669); torrvision/caffe: "
    "src/caffe/layers/meanfield_iteration.cpp, lines 109-167",
)
def crfasrnn(name: str) -> tuple[Tensor, Tensor]:
    model = randomised(create_model(name, 4, width=_WIDTH))
    for matrix in (model.spatial, model.bilateral, model.compatibility):
        torch.nn.init.normal_(matrix, std=0.5)
    # The file's names are those of FCN-8s with score2, score4 and upsample; the first of these has a bias.
    table = (vgg(first=100) + _FC + _FCN["fcn8s"]).replace(
        "upscore2       deconv score_fr n=C k=4 s=2 -bias", "upscore2       deconv score_fr n=C k=4 s=2"
    )
    caffe = net(table, 4, width=_WIDTH)
    modules = {layer.name: layer.name for layer in caffe.layers}
    images = image(40, 48)
    unary = computed(caffe, model, modules, images, all_used=False)["score"]
    assert caffe.unused() == {"spatial", "bilateral", "compatibility"}
    learned = {name for name, p in model.named_parameters() if "upscore" in name and p.requires_grad}
    assert learned == {"upscore2.weight", "upscore2.bias", "upscore_pool4.weight"}, (
        "only the last deconvolution is fixed"
    )

    # theta_alpha, theta_beta and theta_gamma are 160, 3 and 3; a filter is divided by its sum of weights.
    colors = images * torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64).view(3, 1, 1) * 255
    settings = CRFSettings(bilateral_xy=160, bilateral_rgb=3, spatial_xy=3)
    spatial, bilateral = gaussian_kernels(colors, settings, normalization="after")
    flat = unary[0].flatten(1)
    current = flat
    for _ in range(10):
        exponents = (current - current.amax(0)).exp()
        q = exponents / exponents.sum(0)
        passed = model.spatial @ spatial(q.T).T + model.bilateral @ bilateral(q.T).T
        current = flat - model.compatibility @ passed
    return model(images)["out"], current.view_as(unary)


# DeepLab v1 and ParseNet ----------------------------------------------------------------------------------------------

_LARGE_FOV = (
    vgg(pool="k=3 s=2 p=1", last_pools="k=3 s=1 p=1", fifth="p=2 d=2")
    + """
pool5a      ave pool5 k=3 s=1 p=1
fc6         conv pool5a n=1024 k=3 p=12 d=12 +relu
fc7         conv fc6 n=1024 k=1 +relu
"""
)
_TRUNK = stages("trunk.vgg.stages", 2) | {"fc6": "trunk.fc6", "fc7": "trunk.fc7"}


@oracle("deeplabv1", "TheLegendAli/DeepLab-Context: voc12/config/vgg128_noup/test.prototxt, lines 45-413 (fb04e9e)")
def deeplabv1(name: str) -> tuple[Tensor, Tensor]:
    model = randomised(create_model(name, 6, width=_WIDTH))
    table = _LARGE_FOV + "fc8 conv fc7 n=C k=1\nfc8_interp interp fc8 zoom=8"
    caffe = net(table, 6, width=_WIDTH)
    images = image(65, 97, batch=2)
    result = computed(caffe, model, _TRUNK | {"fc8": "classifier"}, images)
    return model(images)["out"], result["fc8_interp"]


@oracle(
    "parsenet",
    "debidatta/caffe-parsenet: examples/keypoint_detection/deploy.prototxt, its layers from fc7_norm_10 to score10 "
    "(4d53104); weiliu89/caffe: src/caffe/layers/normalize_layer.cpp (36001c2)",
)
def parsenet(name: str) -> tuple[Tensor, Tensor]:
    model = randomised(create_model(name, 6, width=_WIDTH))
    for norm in (model.norm_local, model.norm_global):
        torch.nn.init.uniform_(norm.weight, 5, 15)
    # There each half has a classifier of its own and the scores are added: one classifier of the halves, joined.
    channels = model.trunk.channels
    weights = {f"classifier.local.{k}": v for k, v in (("weight", model.classifier.weight[:, :channels]),)}
    weights |= {"classifier.global.weight": model.classifier.weight[:, channels:]}
    weights |= {
        "classifier.local.bias": 0.25 * model.classifier.bias,
        "classifier.global.bias": 0.75 * model.classifier.bias,
    }
    table = (
        _LARGE_FOV
        + """
fc7_norm       normalize fc7
pool6          global fc7
pool6_norm     normalize pool6
fc7_score      conv fc7_norm n=C k=1
pool6_score    conv pool6_norm n=C k=1
pool6_upscore  repeat pool6_score fc7_score
score          sum pool6_upscore fc7_score
"""
    )
    caffe = net(table, 6, width=_WIDTH)
    modules = _TRUNK | {
        "fc7_norm": "norm_local", "pool6_norm": "norm_global",
        "fc7_score": "classifier.local", "pool6_score": "classifier.global",
    }  # fmt: skip
    images = image(65, 97, batch=2)
    result = caffe({**model.state_dict(), **weights}, modules, data=images)
    assert caffe.unused() == {"classifier.weight", "classifier.bias"}
    seen: list[Tensor] = []
    model.classifier.register_forward_hook(lambda _, __, out: seen.append(out))
    model(images)
    return seen[0], result["score"]


# SegNet and DeconvNet -------------------------------------------------------------------------------------------------

_SEGNET = (
    vgg(after="+bn +relu")
    + """
pool5_D    unpool pool5 of=pool5 h=23 w=30
conv5_3_D  conv pool5_D n=512 k=3 p=1 +bn +relu
conv5_2_D  conv conv5_3_D n=512 k=3 p=1 +bn +relu
conv5_1_D  conv conv5_2_D n=512 k=3 p=1 +bn +relu
pool4_D    unpool conv5_1_D of=pool4 h=45 w=60
conv4_3_D  conv pool4_D n=512 k=3 p=1 +bn +relu
conv4_2_D  conv conv4_3_D n=512 k=3 p=1 +bn +relu
conv4_1_D  conv conv4_2_D n=256 k=3 p=1 +bn +relu
pool3_D    unpool conv4_1_D of=pool3
conv3_3_D  conv pool3_D n=256 k=3 p=1 +bn +relu
conv3_2_D  conv conv3_3_D n=256 k=3 p=1 +bn +relu
conv3_1_D  conv conv3_2_D n=128 k=3 p=1 +bn +relu
pool2_D    unpool conv3_1_D of=pool2
conv2_2_D  conv pool2_D n=128 k=3 p=1 +bn +relu
conv2_1_D  conv conv2_2_D n=64 k=3 p=1 +bn +relu
pool1_D    unpool conv2_1_D of=pool1
conv1_2_D  conv pool1_D n=64 k=3 p=1 +bn +relu
conv1_1_D  conv conv1_2_D n=C k=3 p=1
"""
)
_SEGNET_DECODER = (
    ["conv5_3_D", "conv5_2_D", "conv5_1_D"],
    ["conv4_3_D", "conv4_2_D", "conv4_1_D"],
    ["conv3_3_D", "conv3_2_D", "conv3_1_D"],
    ["conv2_2_D", "conv2_1_D"],
    ["conv1_2_D"],
)


@oracle("segnet", "alexgkendall/SegNet-Tutorial: Models/segnet_train.prototxt, lines 13-1527 (bb68b64)")
@oracle(
    "bayesian_segnet", "alexgkendall/SegNet-Tutorial: Models/bayesian_segnet_train.prototxt, lines 13-1606 (bb68b64)"
)
def segnet(name: str) -> tuple[Tensor, Tensor]:
    model = randomised(create_model(name, 6, width=_WIDTH))
    modules = stages("encoder", 3, norm=True) | {"conv1_1_D": "classifier"}
    for number, layers in enumerate(_SEGNET_DECODER):
        modules |= numbered(f"decoder.{number}", 0, layers, 3, norm=True)
    # 1e-9 is the variance's share in caffe-segnet's bn_layer.cpp, line 59; dropout is the identity in this comparison.
    caffe = net(_SEGNET, 6, width=_WIDTH, eps=1e-9)
    images = image(360, 480)
    return model(images)["out"], computed(caffe, model, modules, images)["conv1_1_D"]


_SEGNET_BASIC = """
norm            lrn data size=5 alpha=0.0001 beta=0.75
conv1           conv norm n=64 k=7 p=3 +bn +relu
pool1           max conv1 k=2 s=2
conv2           conv pool1 n=64 k=7 p=3 +bn +relu
pool2           max conv2 k=2 s=2
conv3           conv pool2 n=64 k=7 p=3 +bn +relu
pool3           max conv3 k=2 s=2
conv4           conv pool3 n=64 k=7 p=3 +bn +relu
pool4           max conv4 k=2 s=2
upsample4       unpool pool4 of=pool4 h=45
conv_decode4    conv upsample4 n=64 k=7 p=3 +bn
upsample3       unpool conv_decode4 of=pool3
conv_decode3    conv upsample3 n=64 k=7 p=3 +bn
upsample2       unpool conv_decode3 of=pool2
conv_decode2    conv upsample2 n=64 k=7 p=3 +bn
upsample1       unpool conv_decode2 of=pool1
conv_decode1    conv upsample1 n=64 k=7 p=3 +bn
conv_classifier conv conv_decode1 n=C k=1
"""


@oracle("segnet_basic", "alexgkendall/SegNet-Tutorial: Models/segnet_basic_train.prototxt, lines 13-488 (bb68b64)")
@oracle(
    "bayesian_segnet_basic",
    "alexgkendall/SegNet-Tutorial: Models/bayesian_segnet_basic_train.prototxt, lines 13-524 (bb68b64)",
)
def segnet_basic(name: str) -> tuple[Tensor, Tensor]:
    model = randomised(create_model(name, 6, width=4))
    modules = {"conv_classifier": "classifier"}
    for number in range(4):
        modules |= numbered(f"encoder.{number}", 0, [f"conv{number + 1}"], 3, norm=True)
        modules |= numbered(f"decoder.{number}", 0, [f"conv_decode{4 - number}"], 2, norm=True)
    caffe = net(_SEGNET_BASIC, 6, width=4 / 64, eps=1e-9)
    images = 100 * image(360, 480)  # large enough for the LRN to change them
    return model(images)["out"], computed(caffe, model, modules, images)["conv_classifier"]


_DECONVNET = (
    vgg(after="+bn +relu")
    + """
fc6         conv pool5 n=4096 k=7 +bn +relu
fc7         conv fc6 n=4096 k=1 +bn +relu
fc6-deconv  deconv fc7 n=512 k=7 +bn +relu
unpool5     unpool fc6-deconv of=pool5 h=14 w=14
deconv5_1   deconv unpool5 n=512 k=3 p=1 +bn +relu
deconv5_2   deconv deconv5_1 n=512 k=3 p=1 +bn +relu
deconv5_3   deconv deconv5_2 n=512 k=3 p=1 +bn +relu
unpool4     unpool deconv5_3 of=pool4 h=28 w=28
deconv4_1   deconv unpool4 n=512 k=3 p=1 +bn +relu
deconv4_2   deconv deconv4_1 n=512 k=3 p=1 +bn +relu
deconv4_3   deconv deconv4_2 n=256 k=3 p=1 +bn +relu
unpool3     unpool deconv4_3 of=pool3 h=56 w=56
deconv3_1   deconv unpool3 n=256 k=3 p=1 +bn +relu
deconv3_2   deconv deconv3_1 n=256 k=3 p=1 +bn +relu
deconv3_3   deconv deconv3_2 n=128 k=3 p=1 +bn +relu
unpool2     unpool deconv3_3 of=pool2 h=112 w=112
deconv2_1   deconv unpool2 n=128 k=3 p=1 +bn +relu
deconv2_2   deconv deconv2_1 n=64 k=3 p=1 +bn +relu
unpool1     unpool deconv2_2 of=pool1 h=224 w=224
deconv1_1   deconv unpool1 n=64 k=3 p=1 +bn +relu
deconv1_2   deconv deconv1_1 n=64 k=3 p=1 +bn +relu
seg-score   conv deconv1_2 n=C k=1
"""
)


@oracle(
    "deconvnet",
    "HyeonwooNoh/DeconvNet: training/002_stage_2/stage_2_train.prototxt, lines 52-397 (87dd133); HyeonwooNoh/caffe: "
    "src/caffe/layers/bn_layer.cpp, line 72 (d9e8494)",
)
def deconvnet(name: str) -> tuple[Tensor, Tensor]:
    model = randomised(create_model(name, 6, width=_WIDTH, fc6="valid"))
    modules = stages("encoder", 3, norm=True) | {"seg-score": "classifier"}
    for layer, part in (("fc6", "fc6"), ("fc7", "fc7"), ("fc6-deconv", "fc6_deconv")):
        modules |= numbered(part, 0, [layer], 3, norm=True)
    for number, count in enumerate((3, 3, 3, 2, 2)):
        layers = [f"deconv{5 - number}_{i}" for i in range(1, count + 1)]
        modules |= numbered(f"decoder.{number}", 0, layers, 3, norm=True)
    caffe = net(_DECONVNET, 6, width=_WIDTH, eps=1e-9)
    images = image(224, 224)
    return model(images)["out"], computed(caffe, model, modules, images)["seg-score"]


# Dilation -------------------------------------------------------------------------------------------------------------

_FRONT = (
    "\n".join(
        line
        for line in vgg(first=0, fifth="p=0 d=2")
        .replace("p=1", "p=0")
        .replace("conv pool4", "conv conv4_3")
        .splitlines()
        if not line.startswith(("pool4", "pool5"))
    )
    + """
fc6    conv conv5_3 n=4096 k=7 d=4 +relu
fc7    conv fc6 n=4096 k=1 +relu
final  conv fc7 n=C k=1
"""
)
_BASIC = """
ctx_conv1_1  conv final n=C k=3 p=1 +relu
ctx_conv1_2  conv ctx_conv1_1 n=C k=3 p=1 +relu
ctx_conv2_1  conv ctx_conv1_2 n=C k=3 p=2 d=2 +relu
ctx_conv3_1  conv ctx_conv2_1 n=C k=3 p=4 d=4 +relu
ctx_conv4_1  conv ctx_conv3_1 n=C k=3 p=8 d=8 +relu
ctx_conv5_1  conv ctx_conv4_1 n=C k=3 p=16 d=16 +relu
{}ctx_fc1      conv {} n=C k=3 p=1 +relu
ctx_final    conv ctx_fc1 n=C k=1
"""
_CONTEXT = {
    "dilation8": _BASIC.format("", "ctx_conv5_1"),
    "dilation10": _BASIC.format(
        "ctx_conv6_1  conv ctx_conv5_1 n=C k=3 p=32 d=32 +relu\nctx_conv7_1  conv ctx_conv6_1 n=C k=3 p=64 d=64 +relu\n",
        "ctx_conv7_1",
    ),
    "large": """
ct_conv1_1  conv final n=2C k=3 p=33 +relu
ct_conv1_2  conv ct_conv1_1 n=2C k=3 +relu
ct_conv2_1  conv ct_conv1_2 n=4C k=3 d=2 +relu
ct_conv3_1  conv ct_conv2_1 n=8C k=3 d=4 +relu
ct_conv4_1  conv ct_conv3_1 n=16C k=3 d=8 +relu
ct_conv5_1  conv ct_conv4_1 n=32C k=3 d=16 +relu
ct_fc1      conv ct_conv5_1 n=32C k=3 +relu
ct_final    conv ct_fc1 n=C k=1
""",
}
_DILATION_SOURCE = "fyu/dilation: models/{}_deploy.prototxt, lines 8-{} (0f10574)"


@oracle("dilation8", _DILATION_SOURCE.format("dilation8_camvid", 636), table="dilation8")
@oracle("dilation8", _DILATION_SOURCE.format("dilation8_pascal_voc", 456), table="large", context="large")
@oracle("dilation10", _DILATION_SOURCE.format("dilation10_cityscapes", 688), table="dilation10")
def dilation(name: str, table: str, **options: Any) -> tuple[Tensor, Tensor]:
    model = randomised(create_model(name, 6, width=_WIDTH, padding="mirror", **options))
    caffe = net(_FRONT + _CONTEXT[table], 6, width=_WIDTH)
    modules = stages("stages", 2) | {layer: layer for layer in ("fc6", "fc7", "final")}
    context = [layer.name for layer in caffe.layers if layer.name.startswith(("ctx_", "ct_"))]
    # The zeros in front, then a convolution and a ReLU at a time.
    modules |= numbered("context", 1, context, 2)
    images = image(160, 144)
    # predict.py, lines 57-67: mirrored by 186 pixels.
    rows, columns = (torch.arange(-186, side + 186) for side in images.shape[-2:])
    for index, side in ((rows, 160), (columns, 144)):
        for _ in range(3):
            index.abs_()
            index.copy_(torch.where(index >= side, 2 * (side - 1) - index, index))
    mirrored = images[..., rows[:, None], columns]
    seen: list[Tensor] = []
    model.context.register_forward_hook(lambda _, __, out: seen.append(out))
    model(images)
    return seen[0], computed(caffe, model, modules, mirrored)[context[-1]]


# PSPNet and ICNet -----------------------------------------------------------------------------------------------------


def residual(stage: int, units: int, inner: int, stride: int, dilation: int, below: str, norm: str) -> tuple[str, str]:
    """Write down a stage of bottlenecks; returns it and the name of its last blob."""
    lines = []
    for unit in range(1, units + 1):
        step = stride if unit == 1 else 1
        name = f"conv{stage}_{unit}"
        after, bias = ("+bn", "-bias") if norm == "bn" else ("", "")
        lines += [
            f"{name}_1x1_reduce conv {below} n={inner} k=1 s={step} {bias} {after} +relu",
            f"{name}_3x3 conv {name}_1x1_reduce n={inner} k=3 p={dilation} d={dilation} {bias} {after} +relu",
            f"{name}_1x1_increase conv {name}_3x3 n={4 * inner} k=1 {bias} {after}",
        ]
        if unit == 1:
            lines.append(f"{name}_1x1_proj conv {below} n={4 * inner} k=1 s={step} {bias} {after}")
        lines.append(f"{name} sum {f'{name}_1x1_proj' if unit == 1 else below} {name}_1x1_increase +relu")
        below = name
    return "\n".join(lines) + "\n", below


def pspnet_table(units: tuple[int, ...], side: int) -> str:
    """Write down PSPNet; its pools are those of a map of `side` x `side` places, 60 in the file for ADE20K."""
    table = """
conv1_1_3x3_s2  conv data n=64 k=3 s=2 p=1 -bias +bn +relu
conv1_2_3x3     conv conv1_1_3x3_s2 n=64 k=3 p=1 -bias +bn +relu
conv1_3_3x3     conv conv1_2_3x3 n=128 k=3 p=1 -bias +bn +relu
pool1           max conv1_3_3x3 k=3 s=2 p=1
"""
    below = "pool1"
    for stage, count, inner, stride, dilation in zip(
        (2, 3, 4, 5), units, (64, 128, 256, 512), (1, 2, 1, 1), (1, 1, 2, 4), strict=True
    ):
        lines, below = residual(stage, count, inner, stride, dilation, below, "bn")
        table += lines
    for bins in (1, 2, 3, 6):
        size = side // bins
        table += f"pool{bins}x ave {below} k={size} s={size}\n"
        table += f"pool{bins}_conv conv pool{bins}x n=512 k=1 -bias +bn +relu\n"
        table += f"pool{bins}_interp interp pool{bins}_conv h={side} w={side}\n"
    return (
        table
        + f"""
concat  concat {below} pool6_interp pool3_interp pool2_interp pool1_interp
conv5_4 conv concat n=512 k=3 p=1 -bias +bn +relu
conv6   conv conv5_4 n=C k=1
score   interp conv6 zoom=8
"""
    )


@oracle(
    "pspnet", "hszhao/PSPNet: evaluation/prototxt/pspnet50_ADE20K_473.prototxt, lines 8-3896 (798bdc9)",
    backbone="resnet50", units=(3, 4, 6, 3),
)  # fmt: skip
@oracle(
    "pspnet", "hszhao/PSPNet: evaluation/prototxt/pspnet101_VOC2012_473.prototxt (798bdc9)",
    backbone="resnet101", units=(3, 4, 23, 3),
)  # fmt: skip
def pspnet(name: str, backbone: str, units: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    model = randomised(create_model(name, 6, backbone=backbone, stride_in_1x1=True, aux=False))
    body = "backbone.body"
    modules: dict[str, str] = {}
    for i, layer in enumerate(("conv1_1_3x3_s2", "conv1_2_3x3", "conv1_3_3x3")):
        modules |= {
            layer: f"{body}.conv1.{3 * i}",
            f"{layer}/bn": f"{body}.conv1.{3 * i + 1}" if i < 2 else f"{body}.bn1",
        }
    for stage, count in enumerate(units, start=2):
        for unit in range(count):
            ours, theirs = f"{body}.layer{stage - 1}.{unit}", f"conv{stage}_{unit + 1}"
            for i, part in enumerate(("1x1_reduce", "3x3", "1x1_increase"), start=1):
                modules |= {f"{theirs}_{part}": f"{ours}.conv{i}", f"{theirs}_{part}/bn": f"{ours}.bn{i}"}
            proj = f"{theirs}_1x1_proj"
            modules |= {proj: f"{ours}.downsample.0", f"{proj}/bn": f"{ours}.downsample.1"}
    for level, bins in enumerate((1, 2, 3, 6)):
        modules |= {f"pool{bins}_conv": f"pyramid.levels.{level}.1", f"pool{bins}_conv/bn": f"pyramid.levels.{level}.2"}
    modules |= {"conv5_4": "classifier.0", "conv5_4/bn": "classifier.1", "conv6": "classifier.4"}
    # The file joins the levels in the opposite order: its convolution has the same inputs in another place.
    weights = dict(model.state_dict())
    parts = weights["classifier.0.weight"].split([2048, 512, 512, 512, 512], 1)
    weights["classifier.0.weight"] = torch.cat([parts[0], *parts[:0:-1]], 1)
    caffe = net(pspnet_table(units, 12), 6)
    images = image(89, 89)
    result = caffe(weights, modules, data=images)
    assert not caffe.unused(), caffe.unused()
    return model(images)["out"], result["score"]


def icnet_table(norm: str) -> str:
    """Write down ICNet with batch norm (`bn`) or merged into the convolutions (``)."""
    bn = "-bias +bn" if norm == "bn" else ""
    table = f"""
data_sub2       interp data shrink=2
conv1_1_3x3_s2  conv data_sub2 n=32 k=3 s=2 p=1 {bn} +relu
conv1_2_3x3     conv conv1_1_3x3_s2 n=32 k=3 p=1 {bn} +relu
conv1_3_3x3     conv conv1_2_3x3 n=64 k=3 p=1 {bn} +relu
pool1           max conv1_3_3x3 k=3 s=2 p=1
"""
    lines, below = residual(2, 3, 32, 1, 1, "pool1", norm)
    table += lines
    lines, below = residual(3, 1, 64, 2, 1, below, norm)
    table += lines + "conv3_1_sub4 interp conv3_1 shrink=2\n"
    # Units 2 to 4 of stage 3 have no projection.
    rest = residual(3, 4, 64, 1, 1, "conv3_1_sub4", norm)[0].splitlines()[5:]
    table += (
        "\n".join(rest)
        .replace("conv3_2_1x1_reduce conv conv3_1 ", "conv3_2_1x1_reduce conv conv3_1_sub4 ")
        .replace("conv3_2 sum conv3_1 ", "conv3_2 sum conv3_1_sub4 ")
    )
    table += "\n"
    for stage, units, inner, dilation in ((4, 6, 128, 2), (5, 3, 256, 4)):
        lines, below = residual(stage, units, inner, 1, dilation, {4: "conv3_4", 5: "conv4_6"}[stage], norm)
        table += lines
    return (
        table
        + f"""
conv5_3_pool1    ave conv5_3 kh=33 kw=65 sh=33 sw=65
conv5_3_pool2    ave conv5_3 kh=17 kw=33 sh=16 sw=32
conv5_3_pool3    ave conv5_3 kh=13 kw=25 sh=10 sw=20
conv5_3_pool6    ave conv5_3 kh=8 kw=15 sh=5 sw=10
pool1_interp     interp conv5_3_pool1 h=33 w=65
pool2_interp     interp conv5_3_pool2 h=33 w=65
pool3_interp     interp conv5_3_pool3 h=33 w=65
pool6_interp     interp conv5_3_pool6 h=33 w=65
conv5_3_sum      sum conv5_3 pool6_interp pool3_interp pool2_interp pool1_interp
conv5_4_k1       conv conv5_3_sum n=256 k=1 {bn} +relu
conv5_4_interp   interp conv5_4_k1 zoom=2
conv_sub4        conv conv5_4_interp n=128 k=3 p=2 d=2 {bn}
conv3_1_sub2_proj conv conv3_1 n=128 k=1 {bn}
sub24_sum        sum conv3_1_sub2_proj conv_sub4 +relu
sub24_sum_interp interp sub24_sum zoom=2
conv_sub2        conv sub24_sum_interp n=128 k=3 p=2 d=2 {bn}
conv1_sub1       conv data n=32 k=3 s=2 p=1 {bn} +relu
conv2_sub1       conv conv1_sub1 n=32 k=3 s=2 p=1 {bn} +relu
conv3_sub1       conv conv2_sub1 n=64 k=3 s=2 p=1 {bn} +relu
conv3_sub1_proj  conv conv3_sub1 n=128 k=1 {bn}
sub12_sum        sum conv3_sub1_proj conv_sub2 +relu
sub12_sum_interp interp sub12_sum zoom=2
conv6_cls        conv sub12_sum_interp n=C k=1
conv6_interp     interp conv6_cls zoom=4
"""
    )


@oracle(
    "icnet", "hszhao/ICNet: evaluation/prototxt/icnet_cityscapes_bnnomerge.prototxt, lines 8-4143 (dd2bf78)", norm=True
)
@oracle("icnet", "hszhao/ICNet: evaluation/prototxt/icnet_cityscapes.prototxt (dd2bf78)", norm=False)
def icnet(name: str, norm: bool) -> tuple[Tensor, Tensor]:
    model = randomised(create_model(name, 6, width=1 / 16, norm=norm))
    modules: dict[str, str] = {}

    def conv(theirs: str, ours: str) -> None:
        modules[theirs] = f"{ours}.0"
        modules[f"{theirs}/bn"] = f"{ours}.1"

    for i, layer in enumerate(("conv1_1_3x3_s2", "conv1_2_3x3", "conv1_3_3x3")):
        conv(layer, f"stem.{i}")
    units = {f"conv2_{i + 1}": f"stage2.{i}" for i in range(3)} | {"conv3_1": "stage3_1"}
    units |= {f"conv3_{i + 2}": f"stage3.{i}" for i in range(3)}
    units |= {f"conv4_{i + 1}": f"stage4.{i}" for i in range(6)} | {f"conv5_{i + 1}": f"stage5.{i}" for i in range(3)}
    for theirs, ours in units.items():
        for part, mine in (
            ("1x1_reduce", "reduce"),
            ("3x3", "conv"),
            ("1x1_increase", "increase"),
            ("1x1_proj", "project"),
        ):
            conv(f"{theirs}_{part}", f"{ours}.{mine}")
    conv("conv5_4_k1", "reduce5")
    conv("conv_sub4", "fuse4.conv")
    conv("conv3_1_sub2_proj", "fuse4.project")
    conv("conv_sub2", "fuse2.conv")
    conv("conv3_sub1_proj", "fuse2.project")
    for i in range(3):
        conv(f"conv{i + 1}_sub1", f"fine.{i}")
    modules["conv6_cls"] = "classifier"
    caffe = net(icnet_table("bn" if norm else ""), 6, width=1 / 16)
    images = image(1025, 2049)
    result = computed(caffe, model, modules, images, all_used=False)
    assert {name.split(".")[0] for name in caffe.unused()} == {"guide4", "guide2"}
    return model(images)["out"], result["conv6_interp"]


# SPN ------------------------------------------------------------------------------------------------------------------

_DIRECTIONS = (("x1", "right"), ("x2", "left"), ("y1", "down"), ("y2", "up"))


def spn_table(channels: int) -> str:
    """Write down the refiner; `channels` are 32 in the file."""
    table = f"rnn-conv1 conv msk n={channels} k=4 s=2 p=1\n" + vgg(pool="k=3 s=2", last_pools="k=3 s=2")
    table += f"""
edge_conv5    conv pool5 n=512 k=1
edge_resize6  deconv edge_conv5 n=512 k=4 s=2 p=1 g=all -bias
edge_conv6    conv edge_resize6 n=512 k=3 p=1 +relu
concat6       sum edge_conv6 conv5_3
edge_resize7  deconv concat6 n=512 k=4 s=2 p=1 g=all -bias
edge_conv7    conv edge_resize7 n=512 k=3 p=1 +relu
concat7       sum edge_conv7 conv4_3
edge_resize8  deconv concat7 n=512 k=4 s=2 p=1 g=all -bias
edge_conv8    conv edge_resize8 n=256 k=3 p=1 +elu
concat8       sum edge_conv8 conv3_3
edge_resize9  deconv concat8 n=256 k=4 s=2 p=1 g=all -bias
guide_conv2   conv edge_resize9 n={12 * channels} k=3 p=1
"""
    for number, (axis, _) in enumerate(_DIRECTIONS):
        for i in (1, 2, 3):
            table += f"{axis}_g{i} slice guide_conv2 size={channels} at={3 * number + i - 1}\n{axis}_g{i}_abs abs {axis}_g{i}\n"
        table += f"{axis}_sum sum {axis}_g1_abs {axis}_g2_abs {axis}_g3_abs\n{axis}_norm divide {axis}_sum\n"
        table += "".join(f"{axis}_g{i}_cmb prod {axis}_g{i} {axis}_norm\n" for i in (1, 2, 3))
    below = "rnn-conv1"
    for again in (1, 2):
        for axis, to in _DIRECTIONS:
            table += f"rnn{again}_{axis} gate {below} {axis}_g1_cmb {axis}_g2_cmb {axis}_g3_cmb to={to}\n"
        table += f"eltwisemax{again} maximum {' '.join(f'rnn{again}_{axis}' for axis, _ in _DIRECTIONS)}\n"
        below = f"eltwisemax{again}"
    return (
        table
        + f"""
elt_resize  deconv {below} n={channels} k=4 s=2 p=1 g=all -bias
rnn-conv2   conv elt_resize n={2 * channels} k=3 p=1 +relu
deconv0     conv rnn-conv2 n=C k=3 p=1
"""
    )


@oracle(
    "spn",
    "Liusifei/caffe-spn: models/voc_rnn_vgg_v3.prototxt, lines 13-1328, and "
    "caffe-dev/src/caffe/layers/gaterecurrent2dnoind_layer.cu, lines 158-340 (a25d2af)",
)
def spn(name: str) -> tuple[Tensor, Tensor]:
    channels = 2
    model = randomised(create_model(name, 6, base=None, channels=channels, width=channels / 32))
    caffe = net(spn_table(32), 6, width=channels / 32)
    modules = stages("guidance.stages", 2) | {"rnn-conv1": "reduce", "edge_conv5": "guidance.conv5"}
    modules |= {f"edge_conv{i}": f"guidance.conv{i}" for i in (6, 7, 8)}
    modules |= {f"edge_resize{6 + i}": f"guidance.up.{i}" for i in range(4)}
    modules |= {"guide_conv2": "guidance.gates", "elt_resize": "up", "rnn-conv2": "refine", "deconv0": "classifier"}
    for layer in list(caffe.layers):
        if layer.kind == "slice":  # of the blobs' channels, not of the file's
            object.__setattr__(layer, "options", {**layer.options, "size": str(channels)})
    images, score = image(64, 96), image(64, 96, channels=6)
    result = computed(caffe, model, modules, images, msk=score)
    return model(torch.cat([images, score], 1))["out"], result["deconv0"]
