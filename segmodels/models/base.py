"""What every architecture has in common: its training objective, and how foreign weights are named."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from segmodels.tasks.semantic.losses import CrossEntropy, OnLabels

Targets = Mapping[str, Tensor]


class SegmentationModel(nn.Module):
    """Base of the architectures.

    `forward(images [N, 3, H, W])` returns a dict with `"out"`, logits (or the maps of another task) `[N, C, H, W]`, and
    in training mode whatever else the paper's objective needs. `criterion(map, targets)` is given by the trainer;
    `loss` applies it as the paper does.

    Attributes:
        aux_weight: Factor on the loss of each output whose key begins with `aux`.
        training_only: Beginnings of the names of parameters that inference does not use: auxiliary heads.
        imagenet: torchvision's name of the weights that `weights="imagenet"` stands for; empty where the encoder is a
            backbone of timm.
        renames: Pattern -> replacement, one after the other: how the names of weights that others published become
            the names here.
    """

    aux_weight: float = 0.4
    training_only: ClassVar[tuple[str, ...]] = ("aux",)
    imagenet: ClassVar[str] = ""
    renames: ClassVar[Mapping[str, str]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.criterion: nn.Module = OnLabels(CrossEntropy())

    def loss(self, outputs: dict[str, Tensor], targets: Targets) -> Tensor:
        """Return the paper's training objective.

        Args:
            outputs: What forward returned in training mode.
            targets: Name -> values of the images' size: `labels` are class ids `[N, H, W]`, int64, 255 = ignore.

        Returns:
            A scalar; zero, with zero gradients, where the whole target is void.
        """
        loss: Tensor = self.criterion(outputs["out"], targets)
        for name, logits in outputs.items():
            if name.startswith("aux"):
                loss = loss + self.aux_weight * self.criterion(logits, targets)
        return loss

    def translate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return published weights under the names that they have here; those of an encoder alone, too."""
        own, translated = self.state_dict().keys(), {}
        for name, tensor in tensors.items():
            for pattern, replacement in self.renames.items():
                name = re.sub(pattern, replacement, name)
            of_encoder = f"backbone.body.{name}"
            translated[of_encoder if of_encoder in own and name not in own else name] = tensor
        return translated
