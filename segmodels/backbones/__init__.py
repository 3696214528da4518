"""Encoders behind one interface, wherever a paper leaves the choice.

    backbone = create_backbone("resnet50", output_stride=8)
    features = backbone(images)     # one map for each of backbone.channels, finest first

Names are timm's, and torchvision's where timm has no such network. Every timm model that gives feature maps will do.
"""

from segmodels.backbones.features import Backbone, create_backbone

__all__ = ["Backbone", "create_backbone"]
