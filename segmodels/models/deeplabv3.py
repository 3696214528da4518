"""DeepLab v3: Rethinking Atrous Convolution for Semantic Image Segmentation.

Liang-Chieh Chen, George Papandreou, Florian Schroff, Hartwig Adam. arXiv 2017. arXiv 1706.05587.

Figure 5: a ResNet whose last stages are dilated instead of strided, the units of the last one by the multi-grid
(1, 2, 4) times its rate (section 3.3, table 4); atrous spatial pyramid pooling of a 1x1 convolution, three 3x3
convolutions and the image's mean, all with batch norm, joined by a 1x1 convolution; logits at the output stride,
up-sampled to full size before the loss. Output stride 16 in training and 8 in testing, where the rates double.

torchvision's network, whose published weights are used most, has no multi-grid: `multi_grid=(1, 1, 1)` with
`output_stride=8`, `test_output_stride=8` and `rates=(12, 24, 36)` is that one, weight for weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.backbones import create_backbone
from segmodels.layers.aspp import ASPP
from segmodels.layers.conv import conv_bn_relu
from segmodels.layers.model import SegmentationModel
from segmodels.registry import register
