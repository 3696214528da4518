"""Batch norm where a map may be a single number."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class PooledBatchNorm2d(nn.BatchNorm2d):
    """Batch norm after global pooling: a batch of one has no variance there, so it takes the running statistics."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(x)
