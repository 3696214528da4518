"""CRF-RNN: Conditional Random Fields as Recurrent Neural Networks.

Shuai Zheng, Sadeep Jayasumana, Bernardino Romera-Paredes, Vibhav Vineet, Zhizhong Su, Dalong Du, Chang Huang, Philip
H. S. Torr. ICCV 2015. arXiv 1502.03240.

FCN-8s gives the unary potentials; the mean-field iterations of a fully connected CRF follow as layers whose weights
are learned with it, end to end (figure 3): a matrix over the classes for each of the two Gaussian kernels, and the
compatibility of labels. Five iterations in training, ten in testing (section 5.3).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segmodels.catalog.registry import register
from segmodels.layers.crf import gaussian_kernels, mean_field
from segmodels.models.fcn import FCN
from segmodels.settings.schema import CRFSettings

# What images were divided by before the network, in 0..255: the kernels compare the colours themselves.
_STD = (0.229, 0.224, 0.225)


@register(
    "crfasrnn", tasks=("semantic",),
    small=dict(width=0.04, train_iterations=2, test_iterations=2),
    paper="Conditional Random Fields as Recurrent Neural Networks",
    authors="Zheng, Jayasumana, Romera-Paredes, Vineet, Su, Du, Huang, Torr",
    venue="ICCV 2015",
    year=2015,
    arxiv="1502.03240",
    pins="python-scripts/TVG_CRFRNN_COCO_VOC.prototxt of the authors",
    parameters={21: 134_491_103, 11: 134_349_303},
    published={
        "PASCAL VOC 2012 test mIoU": "72.0",
        "PASCAL VOC 2012 test mIoU, with COCO": "74.7",
        "Cityscapes test mIoU": "62.5",
    },
    differences=("Start it from fcn8s (`weights=`), as the authors do.",),
    recipe=dict(
        optimizer="sgd", lr=1e-13, momentum=0.99, weight_decay=5e-3, bias_lr=2.0, batch_size=1, iterations=100_000,
        schedule="constant", warmup=0.0, class_weights="none", reduction="sum", loss={"cross_entropy": 1.0},
        lr_factors={"spatial": 1e4, "bilateral": 1e4, "compatibility": 1e3},
        augment=dict(scale=(1.0, 1.0), crop=None, flip=0.0, color=0.0),
    ),
    onnx="the lattice of its filters finds vertices in a sorted list, which no operator of ONNX does",
)  # fmt: skip
class CRFasRNN(FCN):
    """FCN-8s with a CRF that is learned with it.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the input.
        train_iterations: Mean-field iterations in training.
        test_iterations: Mean-field iterations in testing.
        bilateral_xy: Standard deviation of the bilateral kernel in pixels.
        bilateral_rgb: Its standard deviation in steps of 0..255.
        spatial_xy: Standard deviation of the spatial kernel in pixels.
        std: What each channel was divided by when images were normalised, of images in 0..1.
        width: Factor on every layer's width; 1 is the paper's.
        dropout: Probability after fc6 and fc7.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        *,
        train_iterations: int = 5,
        test_iterations: int = 10,
        bilateral_xy: float = 160.0,
        bilateral_rgb: float = 3.0,
        spatial_xy: float = 3.0,
        std: Sequence[float] = _STD,
        width: float = 1.0,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(num_classes, in_channels, stride=8, width=width, dropout=dropout)
        # In the authors' file the first two transposed convolutions are learned, the first of them with a bias.
        self.upscore2.bias = nn.Parameter(torch.zeros(num_classes))
        for layer in (self.upscore2, self.upscore_pool4):
            layer.weight.requires_grad_(True)
        self.train_iterations, self.test_iterations = train_iterations, test_iterations
        self.kernels = CRFSettings(bilateral_xy=bilateral_xy, bilateral_rgb=bilateral_rgb, spatial_xy=spatial_xy)
        self.spatial = nn.Parameter(3 * torch.eye(num_classes))
        self.bilateral = nn.Parameter(5 * torch.eye(num_classes))
        self.compatibility = nn.Parameter(-torch.eye(num_classes))
        self.scale = [255 * std[i % len(std)] for i in range(in_channels)]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        unary = super().forward(images)["out"]
        colors = images * images.new_tensor(self.scale).view(-1, 1, 1)
        kernels = gaussian_kernels(colors, self.kernels, normalization="after")
        iterations = self.train_iterations if self.training else self.test_iterations
        weights = (self.spatial, self.bilateral)
        return {"out": mean_field(unary, kernels, weights, self.compatibility, iterations)}
