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

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.backbones.inception_resnet import mixed, module_a, module_b, module_c, reduction_a, reduction_b, stem
from segmodels.catalog.registry import register
from segmodels.layers.init import he_normal
from segmodels.layers.region import Chain, Region, RegionConv
from segmodels.layers.resize import resize, shrink_targets
from segmodels.models.base import SegmentationModel, Targets

# Above this share of remaining pixels a masked convolution is faster than the list of pixels.
_DENSE_ABOVE = 0.5


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

        # Figure 2. Every pixel goes through stage 1 ...
        self.stem = stem(in_channels, w)
        self.mixed, self.mixed_pool = mixed(w(192), w)
        a = 2 * w(96) + 2 * w(64)
        self.stage1 = Chain([module_a(a, w) for _ in range(modules[0])])
        # ... the uncertain ones through stage 2 ...
        reduction = reduction_a(a, w)
        b = reduction.channels
        self.stage2 = Chain([reduction, *[module_b(b, w) for _ in range(modules[1])]])
        # ... and what is uncertain still through stage 3.
        reduction = reduction_b(b, w)
        c = reduction.channels
        self.stage3 = Chain([reduction, *[module_c(c, w) for _ in range(modules[2])]])
        self.heads = nn.ModuleList([_classifier(channels, w(head_channels), num_classes) for channels in (a, b, c)])
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


def _classifier(before: int, hidden: int, classes: int) -> Chain:
    return Chain([RegionConv(before, hidden, (3, 3)), RegionConv(hidden, classes, norm=False)])
