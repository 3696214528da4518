"""What every semantic architecture has in common: its training objective."""

from __future__ import annotations

from torch import Tensor, nn

from segmodels.losses import CrossEntropy


class SegmentationModel(nn.Module):
    """Base of the architectures.

    `forward(images [N, 3, H, W])` returns a dict with `"out"`, logits `[N, C, H, W]`, and in training mode whatever
    else the paper's objective needs. `criterion(logits, target)` is given by the trainer; `loss` applies it as the
    paper does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.criterion: nn.Module = CrossEntropy()

    def loss(self, outputs: dict[str, Tensor], target: Tensor) -> Tensor:
        """The paper's training objective.

        Args:
            outputs: What forward returned in training mode.
            target: Class ids `[N, H, W]`, int64, 255 = ignore.

        Returns:
            A scalar; zero, with zero gradients, where the whole target is void.
        """
        loss: Tensor = self.criterion(outputs["out"], target)
        return loss
