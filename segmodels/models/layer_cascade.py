"""Deep Layer Cascade: Not All Pixels Are Equal: Difficulty-Aware Semantic Segmentation via Deep Layer Cascade.

Xiaoxiao Li, Ziwei Liu, Ping Luo, Chen Change Loy, Xiaoou Tang. CVPR 2017. arXiv 1704.01344.

Figure 2: Inception-ResNet-v2 made fully convolutional (IRNet: its reductions lose their stride, so it stays at stride
8) and cut into three stages, each with a small classifier. A pixel whose class is certain enough leaves; the stages
after it compute what is left (section 3.1). Region convolution (section 3.2, figure 3) computes the remaining pixels
alone: everything outside the region is zero, and nothing is computed there.

First all stages are trained on all pixels, as a deeply supervised network; then each on the pixels that reach it
(section 3.3). One training does both: at its beginning the first stage is sure of nothing, and every pixel reaches all
stages. `threshold=1` lets no pixel leave: the network without the cascade.

No model was released; this is built from the text. In evaluation a region is a list of pixels, and a convolution a
product of matrices over them; where most pixels are left, and in training, it is a convolution and a mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.catalog.registry import register
from segmodels.layers.init import he_normal
from segmodels.layers.resize import resize, shrink_targets
from segmodels.models.base import SegmentationModel, Targets

# Above this share of remaining pixels a masked convolution is faster than the list of pixels.
_DENSE_ABOVE = 0.5


class Region:
    """The pixels that are left, as a mask or as a list.

    Args:
        mask: `[N, 1, H, W]`, bool.
        listed: Features are rows of the pixels in the mask, `[K, C]`, not maps.
    """

    def __init__(self, mask: Tensor, *, listed: bool) -> None:
        self.mask, self.listed = mask, listed
        self._tables: dict[tuple[int, int], Tensor] = {}
        if listed:
            self._place = mask[:, 0].nonzero()
            number = torch.full(mask[:, 0].shape, len(self._place), device=mask.device)
            number[self._place.unbind(1)] = torch.arange(len(self._place), device=mask.device)
            self._number = number

    def enter(self, x: Tensor) -> Tensor:
        """Return a map `[N, C, H, W]` inside the region: zero outside of it, or its rows."""
        if not self.listed:
            return x * self.mask
        images, rows, columns = self._place.unbind(1)
        return x[images, :, rows, columns]

    def leave(self, x: Tensor, outside: Tensor) -> Tensor:
        """Return the map `[N, C, H, W]` that is `x` in the region and `outside` elsewhere."""
        if not self.listed:
            return torch.where(self.mask, x, outside)
        out = outside.clone()
        images, rows, columns = self._place.unbind(1)
        out[images, :, rows, columns] = x.to(out.dtype)
        return out

    def neighbours(self, height: int, width: int) -> Tensor:
        """For each pixel the rows of its window, `[K, height * width]`; K where a neighbour is not in the region."""
        if (height, width) not in self._tables:
            padded = F.pad(self._number, (width // 2, width // 2, height // 2, height // 2), value=len(self._place))
            images, rows, columns = self._place.unbind(1)
            offsets = [(i, j) for i in range(height) for j in range(width)]
            self._tables[height, width] = torch.stack([padded[images, rows + i, columns + j] for i, j in offsets], 1)
        return self._tables[height, width]


class RegionConv(nn.Module):
    """Convolution, batch norm and ReLU inside a region.

    Args:
        before: Channels of the input.
        after: Channels of the output.
        size: (height, width) of the kernel.
        norm: With batch norm and ReLU; otherwise with a bias alone.
    """

    def __init__(self, before: int, after: int, size: tuple[int, int] = (1, 1), *, norm: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, size, padding=(size[0] // 2, size[1] // 2), bias=not norm)
        self.norm = nn.BatchNorm2d(after, eps=1e-3) if norm else None

    def forward(self, x: Tensor, region: Region | None) -> Tensor:
        if region is not None and region.listed:
            return self._rows(x, region)
        x = self.conv(x)
        x = x if self.norm is None else F.relu(self.norm(x))
        return x if region is None else x * region.mask

    def _rows(self, x: Tensor, region: Region) -> Tensor:
        height, width = self.conv.kernel_size
        if height * width > 1:
            # A last row of zeros is every neighbour that is not in the region.
            x = F.pad(x, (0, 0, 0, 1))[region.neighbours(height, width)].flatten(1)
        weight = self.conv.weight.permute(0, 2, 3, 1).flatten(1)
        x = F.linear(x, weight, self.conv.bias)
        if self.norm is None:
            return x
        n = self.norm
        if isinstance(n, nn.BatchNorm2d):  # otherwise it was merged into the convolution
            x = F.batch_norm(x, n.running_mean, n.running_var, n.weight, n.bias, False, 0.0, n.eps)
        return F.relu(x)


class Chain(nn.ModuleList):
    """Region convolutions one after the other."""

    def forward(self, x: Tensor, region: Region | None) -> Tensor:
        for layer in self:
            x = layer(x, region)
        return x


class InceptionResidual(nn.Module):
    """Inception-ResNet-v2's modules A, B and C: branches, joined by a 1x1 convolution, scaled, beside the identity."""

    def __init__(self, channels: int, branches: Sequence[Chain], joined: int, scale: float) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.join = RegionConv(joined, channels, norm=False)
        self.scale = scale

    def forward(self, x: Tensor, region: Region | None) -> Tensor:
        together = torch.cat([branch(x, region) for branch in self.branches], dim=1)
        return F.relu(x + self.scale * self.join(together, region))


class Reduction(nn.Module):
    """Inception-ResNet-v2's reductions without their stride: branches beside the 3x3 maximum."""

    def __init__(self, branches: Sequence[Chain]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor, region: Region | None) -> Tensor:
        if region is not None and region.listed:
            # Features are not negative, so the zeros outside the region never win.
            pooled = F.pad(x, (0, 0, 0, 1))[region.neighbours(3, 3)].amax(1)
        else:
            pooled = F.max_pool2d(x, 3, stride=1, padding=1)
            pooled = pooled if region is None else pooled * region.mask
        return torch.cat([*[branch(x, region) for branch in self.branches], pooled], dim=1)


@register(
    "layer_cascade", tasks=("semantic",),
    small=dict(width=0.05, modules=[1, 1, 1]),
    paper="Not All Pixels Are Equal: Difficulty-Aware Semantic Segmentation via Deep Layer Cascade",
    authors="Li, Liu, Luo, Loy, Tang",
    venue="CVPR 2017",
    year=2017,
    arxiv="1704.01344",
    pins="sections 3 and 4 of the paper; no model was released, so what the text leaves open is a reading of it",
    unconfirmed=("The whole network: its authors released the layer of region convolution alone.",),
    published={
        "PASCAL VOC 2012 val mIoU, 14.7 frames a second": "73.91",
        "PASCAL VOC 2012 val mIoU, threshold 0.8, 23.6 frames a second": "66.95",
        "PASCAL VOC 2012 test mIoU, with COCO": "82.7",
    },
    differences=(
        "The paper counts 35.5 M parameters; with half of Inception-ResNet-v2's modules (5, 10, 5) this has fewer, and "
        "the text does not say which layers make the difference.",
        "Inside a stage everything outside the region is zero, the input of its first module, too.",
        "Training goes over from all pixels to those that reach a stage as the stages before it get sure, not at a "
        "given step; cascade_training=False stays with all pixels, for threshold=1 or a training that is continued.",
        "An exported network computes all stages of every pixel and chooses; it saves nothing.",
    ),
    recipe=dict(
        optimizer="sgd", lr=1e-3, momentum=0.9, weight_decay=5e-4, batch_size=12, iterations=30_000, schedule="poly",
        power=0.9, warmup=0.0, class_weights="none", loss={"cross_entropy": 1.0},
        augment=dict(scale=(0.5, 1.5), crop=(512, 512), flip=0.5, color=0.0),
    ),
)  # fmt: skip
class LayerCascade(SegmentationModel):
    """IRNet in three stages.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the input.
        threshold: Probability of the likeliest class above which a pixel leaves; 0.985 is the paper's best, 0.8 its
            fast one, and with 1 none leaves.
        cascade_training: Each stage learns from the pixels that reach it, and sees nothing else, as in evaluation;
            otherwise from all.
        modules: Modules A, B and C.
        width: Factor on every layer's width; 1 is Inception-ResNet-v2's.
        head_channels: Of the stages' classifiers.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        threshold: float = 0.985,
        cascade_training: bool = True,
        modules: tuple[int, int, int] = (5, 10, 5),
        width: float = 1.0,
        head_channels: int = 256,
    ) -> None:
        super().__init__()
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold}; a probability lies in 0..1")
        self.threshold, self.cascade_training = threshold, cascade_training

        def w(channels: int) -> int:
            return max(2, round(width * channels))

        def conv(before: int, after: int, high: int = 1, wide: int = 1) -> RegionConv:
            return RegionConv(before, after, (high, wide))

        self.stem = nn.Sequential(
            _plain(in_channels, w(32), 3, 2), _plain(w(32), w(32), 3), _plain(w(32), w(64), 3),
            nn.MaxPool2d(3, stride=2, padding=1),
            _plain(w(64), w(80), 1), _plain(w(80), w(192), 3),
            nn.MaxPool2d(3, stride=2, padding=1),
        )  # fmt: skip
        c = w(192)
        self.mixed = nn.ModuleList(
            [
                Chain([conv(c, w(96))]),
                Chain([conv(c, w(48)), conv(w(48), w(64), 5, 5)]),
                Chain([conv(c, w(64)), conv(w(64), w(96), 3, 3), conv(w(96), w(96), 3, 3)]),
            ]
        )
        self.mixed_pool = conv(c, w(64))
        a = w(96) + w(64) + w(96) + w(64)
        self.stage1 = Chain(
            [
                InceptionResidual(
                    a,
                    [
                        Chain([conv(a, w(32))]),
                        Chain([conv(a, w(32)), conv(w(32), w(32), 3, 3)]),
                        Chain([conv(a, w(32)), conv(w(32), w(48), 3, 3), conv(w(48), w(64), 3, 3)]),
                    ],
                    w(32) + w(32) + w(64),
                    0.17,
                )
                for _ in range(modules[0])
            ]
        )
        reduction = Reduction(
            [
                Chain([conv(a, w(384), 3, 3)]),
                Chain([conv(a, w(256)), conv(w(256), w(256), 3, 3), conv(w(256), w(384), 3, 3)]),
            ]
        )
        b = a + 2 * w(384)
        self.stage2 = Chain(
            [
                reduction,
                *[
                    InceptionResidual(
                        b,
                        [
                            Chain([conv(b, w(192))]),
                            Chain([conv(b, w(128)), conv(w(128), w(160), 1, 7), conv(w(160), w(192), 7, 1)]),
                        ],
                        2 * w(192),
                        0.10,
                    )
                    for _ in range(modules[1])
                ],
            ]
        )
        reduction = Reduction(
            [
                Chain([conv(b, w(256)), conv(w(256), w(384), 3, 3)]),
                Chain([conv(b, w(256)), conv(w(256), w(288), 3, 3)]),
                Chain([conv(b, w(256)), conv(w(256), w(288), 3, 3), conv(w(288), w(320), 3, 3)]),
            ]
        )
        d = b + w(384) + w(288) + w(320)
        self.stage3 = Chain(
            [
                reduction,
                *[
                    InceptionResidual(
                        d,
                        [
                            Chain([conv(d, w(192))]),
                            Chain([conv(d, w(192)), conv(w(192), w(224), 1, 3), conv(w(224), w(256), 3, 1)]),
                        ],
                        w(192) + w(256),
                        0.20,
                    )
                    for _ in range(modules[2])
                ],
            ]
        )
        hidden = w(head_channels)
        self.heads = nn.ModuleList(
            [
                Chain([conv(channels, hidden, 3, 3), RegionConv(hidden, num_classes, norm=False)])
                for channels in (a, b, d)
            ]
        )
        self.apply(he_normal)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = self.stem(images)
        pooled = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        x = torch.cat([*[branch(x, None) for branch in self.mixed], self.mixed_pool(pooled, None)], dim=1)
        x = self.stage1(x, None)
        score = self.heads[0](x, None)
        if self.training:
            return self._train(images, x, score)

        mask = self._unsure(score)
        for stage, head in ((self.stage2, self.heads[1]), (self.stage3, self.heads[2])):
            region = Region(mask, listed=self._listed(mask))
            x = stage(region.enter(x), region)
            score = region.leave(head(x, region), score)
            x = region.leave(x, x.new_zeros(len(mask), x.shape[1], *mask.shape[-2:])) if region.listed else x
            mask = mask & self._unsure(score)
        return {"out": resize(score, images.shape)}

    def _train(self, images: Tensor, x: Tensor, score: Tensor) -> dict[str, Tensor]:
        """Return all stages' scores; in cascade training each stage sees what the stage before was not sure of."""
        scores, masks = [score], []
        mask = torch.ones_like(score[:, :1], dtype=torch.bool)
        for stage, head in ((self.stage2, self.heads[1]), (self.stage3, self.heads[2])):
            if self.cascade_training:
                mask = mask & self._unsure(scores[-1])
            region = Region(mask, listed=False) if self.cascade_training else None
            x = stage(x if region is None else region.enter(x), region)
            scores.append(head(x, region))
            masks.append(mask)
        final = torch.where(masks[1], scores[2], torch.where(masks[0], scores[1], scores[0]))
        named = {f"stage{i}": s for i, s in enumerate(scores, start=1)}
        return {"out": resize(final, images.shape), **named, "mask2": masks[0], "mask3": masks[1]}

    def _unsure(self, score: Tensor) -> Tensor:
        """Return pixels that stay, `[N, 1, H, W]`: the likeliest class has at most the threshold's probability."""
        return score.detach().float().softmax(1).amax(1, keepdim=True) <= self.threshold

    def _listed(self, mask: Tensor) -> bool:
        # On the meta device, where sizes are counted, there is no content to decide by: every pixel stays.
        if torch.compiler.is_exporting() or mask.is_meta or self.threshold >= 1:
            return False
        return bool(mask.float().mean() <= _DENSE_ABOVE)

    def loss(self, outputs: dict[str, Tensor], targets: Targets) -> Tensor:
        """Return each stage's score against labels of its size, of the pixels that it sees (section 3.3)."""
        small = shrink_targets(targets, outputs["stage1"].shape)
        terms = [self.criterion(outputs["stage1"], small)]
        for number in (2, 3):
            seen = torch.where(outputs[f"mask{number}"][:, 0], small["labels"], 255)
            terms.append(self.criterion(outputs[f"stage{number}"], {"labels": seen}))
        return torch.stack(terms).sum()


def _plain(before: int, after: int, size: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(before, after, size, stride=stride, padding=size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after, eps=1e-3), nn.ReLU(inplace=True))
