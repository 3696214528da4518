"""Inference: from images to predictions."""
