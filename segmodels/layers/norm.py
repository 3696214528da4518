"""Batch norm where a map may be a single number."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PooledBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose map may be a single number: that has no variance, so it takes the running statistics."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(x)


def freeze_batch_norm(model: nn.Module) -> nn.Module:
    """Make every batch norm of a network a constant factor and shift, in place: buffers, no parameters."""
    from torchvision.ops import FrozenBatchNorm2d

    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(module.num_features, eps=module.eps)
            with torch.no_grad():
                frozen.load_state_dict(module.state_dict(), strict=False)
            parent, _, child = name.rpartition(".")
            activation = getattr(module, "act", None)
            setattr(
                model.get_submodule(parent), child, frozen if activation is None else nn.Sequential(frozen, activation)
            )
    return model
