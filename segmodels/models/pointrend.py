"""PointRend: Image Segmentation as Rendering.

Alexander Kirillov, Yuxin Wu, Kaiming He, Ross Girshick. CVPR 2020. arXiv 1912.08193.

Semantic FPN gives a coarse score at stride 4; a small network of three layers, shared by all points, classifies single
points from the pyramid's finest map and the coarse score there (section 3.3). In training the points are drawn where
the coarse score is unsure (section 3.2): three times as many as needed are drawn, the most unsure three quarters of
the wanted number are kept, and the rest is drawn anew. In inference the score is doubled twice, each time with the most
unsure points computed afresh (section 3.1, figure 4). Pinned by detectron2's `projects/PointRend`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.catalog.registry import register
from segmodels.layers.init import gaussian
from segmodels.layers.resize import crop, pad_to_multiple, resize
from segmodels.models.base import Targets
from segmodels.models.fpn import SemanticFPN


class PointHead(nn.Module):
    """Fine features and coarse score of a point to its logits: 1x1 convolutions over the points.

    Args:
        in_channels: Fine features.
        classes: Coarse scores, and logits.
        channels: Of the three hidden layers.
        coarse_each_layer: The coarse score is joined to the input of every layer, not of the first alone.
    """

    def __init__(self, in_channels: int, classes: int, channels: int, coarse_each_layer: bool) -> None:
        super().__init__()
        self.coarse_each_layer = coarse_each_layer
        again = classes if coarse_each_layer else 0
        self.layers = nn.ModuleList(
            [
                nn.Conv1d(in_channels + classes, channels, 1),
                *[nn.Conv1d(channels + again, channels, 1) for _ in range(2)],
            ]
        )
        self.classifier = nn.Conv1d(channels + again, classes, 1)
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        nn.init.normal_(self.classifier.weight, std=0.001)
        nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """`[N, in_channels, P]` and `[N, classes, P]` to logits `[N, classes, P]`."""
        x = torch.cat([fine, coarse], dim=1)
        for layer in self.layers:
            x = F.relu(layer(x))
            x = torch.cat([x, coarse], dim=1) if self.coarse_each_layer else x
        logits: Tensor = self.classifier(x)
        return logits


@register(
    "pointrend", tasks=("semantic",),
    small=dict(backbone="test_resnet", channels=16, head_channels=8, point_channels=8, train_points=64, test_points=64),
    paper="PointRend: Image Segmentation as Rendering",
    authors="Kirillov, Wu, He, Girshick",
    venue="CVPR 2020",
    year=2020,
    arxiv="1912.08193",
    pins="projects/PointRend of detectron2, pointrend_semantic_R_101_FPN_1x_cityscapes.yaml",
    parameters={19: 47_572_582 + 105_344},
    variants=(({"frozen_norm": True}, {19: 47_572_582}),),
    published={"Cityscapes val mIoU, Semantic FPN with ResNet-101": "78.9"},
    differences=(
        "The ResNet's batch norm learns; frozen_norm=True keeps its factors as constants, as detectron2 does and "
        "counts.",
        "The ResNet strides in its 3x3 convolutions, as those for which timm has ImageNet weights; stride_in_1x1=True "
        "is detectron2's, which begins with the weights of He et al.",
        "Images are extended by repeating the last row and column; detectron2 extends them by zeros.",
    ),
    backbones=("resnet101", "resnet50", "any backbone with maps at strides 4 to 32"),
    recipe=dict(
        optimizer="sgd", lr=1e-2, momentum=0.9, weight_decay=1e-4, decay_biases=True, batch_size=32,
        iterations=65_000, schedule="step", milestones=(40_000, 55_000), step_factor=0.1, warmup=1_000 / 65_000,
        class_weights="none", loss={"cross_entropy": 1.0},
        augment=dict(scale=(0.5, 2.0), crop=(512, 1024), flip=0.5, color=0.4),
    ),
)  # fmt: skip
class PointRend(SemanticFPN):
    """PointRend on Semantic FPN.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the input.
        backbone: The encoder.
        channels: Of the pyramid.
        head_channels: Of the semantic branch.
        point_channels: Of the point head.
        coarse_each_layer: The coarse score enters every layer of the point head; on Cityscapes it does not.
        train_points: Points per image in training.
        oversample: How many times as many are drawn to choose from.
        importance: Share of the points that are chosen as the most unsure ones.
        test_points: Points per subdivision in inference.
        frozen_norm: The encoder's batch norm is a constant.
        stride_in_1x1: A ResNet's units stride in their first convolution, as the ones of detectron2's configurations.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        backbone: str = "resnet101",
        channels: int = 256,
        head_channels: int = 128,
        point_channels: int = 256,
        coarse_each_layer: bool = False,
        train_points: int = 2048,
        oversample: float = 3.0,
        importance: float = 0.75,
        test_points: int = 8192,
        frozen_norm: bool = False,
        stride_in_1x1: bool = False,
    ) -> None:
        super().__init__(
            num_classes,
            in_channels,
            backbone=backbone,
            channels=channels,
            head_channels=head_channels,
            frozen_norm=frozen_norm,
            stride_in_1x1=stride_in_1x1,
        )
        gaussian(self.classifier, 0.01)
        self.point_head = PointHead(channels, num_classes, point_channels, coarse_each_layer)
        self.train_points, self.test_points = train_points, test_points
        self.oversample, self.importance = oversample, importance

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        extended = pad_to_multiple(images, 32)
        pyramid, coarse = self._pyramid_and_score(extended)
        if self.training:
            full = crop(resize(coarse, extended.shape), 0, images.shape)
            # Places lie in the image, 0..1, of which the extended image is a little more.
            side = extended.new_tensor([images.shape[-1] / extended.shape[-1], images.shape[-2] / extended.shape[-2]])
            places = self._unsure_places(coarse, side)
            logits = self.point_head(sample(pyramid[0], places * side), sample(coarse, places * side))
            return {"out": full, "points": logits, "places": places}
        score = self._subdivide(self._subdivide(coarse, pyramid[0], coarse), pyramid[0], coarse)
        return {"out": crop(score, 0, images.shape)}

    def loss(self, outputs: dict[str, Tensor], targets: Targets) -> Tensor:
        """Return the criterion on the coarse score everywhere, and on the points against the labels there."""
        if "points" not in outputs:
            return super().loss(outputs, targets)
        labels = sample(targets["labels"][:, None].float(), outputs["places"], mode="nearest")[:, 0].round().long()
        point_loss: Tensor = self.criterion(outputs["points"][..., None], {"labels": labels[..., None]})
        return super().loss({"out": outputs["out"]}, targets) + point_loss

    @torch.no_grad()
    def _unsure_places(self, coarse: Tensor, side: Tensor) -> Tensor:
        """Section 3.2: places `[N, P, 2]` in 0..1 (x, y) of the image, which is `side` of the coarse score's."""
        images, drawn = len(coarse), int(self.oversample * self.train_points)
        places = torch.rand(images, drawn, 2, device=coarse.device, dtype=coarse.dtype)
        kept = int(self.importance * self.train_points)
        unsure = uncertainty(sample(coarse, places * side)).topk(kept, dim=1).indices
        chosen = places.gather(1, unsure[..., None].expand(-1, -1, 2))
        rest = torch.rand(images, self.train_points - kept, 2, device=coarse.device, dtype=coarse.dtype)
        return torch.cat([chosen, rest], dim=1)

    def _subdivide(self, score: Tensor, fine: Tensor, coarse: Tensor) -> Tensor:
        """Section 3.1: the score at twice the size, its most unsure points computed afresh."""
        score = F.interpolate(score, scale_factor=2.0, mode="bilinear", align_corners=False)
        images, classes, height, width = score.shape
        unsure = uncertainty(score.flatten(2))
        flat = score.flatten(2)
        if torch.compiler.is_exporting():
            # How many points there are at most depends on the size, which an exported model leaves open: it computes
            # all and takes those that are unsure enough.
            last = torch.clamp(torch.scalar_tensor(height * width - 1), max=self.test_points - 1).long()
            limit = unsure.sort(dim=1, descending=True).values.index_select(1, last[None])
            everywhere = self.point_head(sample(fine, _centers(score)), sample(coarse, _centers(score)))
            return torch.where((unsure >= limit)[:, None], everywhere, flat).view(images, classes, height, width)
        index = unsure.topk(min(self.test_points, height * width), dim=1).indices
        places = _centers(score)[0][index]
        logits = self.point_head(sample(fine, places), sample(coarse, places)).to(flat.dtype)
        flat = flat.scatter(2, index[:, None].expand(-1, classes, -1), logits)
        return flat.view(images, classes, height, width)


def uncertainty(logits: Tensor) -> Tensor:
    """Minus the gap between the two highest classes: `[N, C, P]` to `[N, P]`."""
    if logits.shape[1] == 1:
        return -logits[:, 0].abs()
    top = logits.topk(2, dim=1).values
    return top[:, 1] - top[:, 0]


def sample(features: Tensor, places: Tensor, mode: str = "bilinear") -> Tensor:
    """Return features `[N, C, H, W]` at places `[N, P, 2]` (x, y in 0..1) as `[N, C, P]`; outside the map is zero."""
    grid = (2 * places - 1).to(features.dtype)
    return F.grid_sample(features, grid[:, None], mode=mode, padding_mode="zeros", align_corners=False)[:, :, 0]


def _centers(score: Tensor) -> Tensor:
    """Return the centres of the map's pixels, `[N, H * W, 2]` in 0..1 (x, y)."""
    images, _, height, width = score.shape
    y = (torch.arange(height, device=score.device, dtype=score.dtype) + 0.5) / height
    x = (torch.arange(width, device=score.device, dtype=score.dtype) + 0.5) / width
    places = torch.stack([x[None, :].expand(height, -1), y[:, None].expand(-1, width)], -1).reshape(1, -1, 2)
    return places.expand(images, -1, -1)
