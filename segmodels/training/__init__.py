"""Training: from a dataset folder to a model folder."""
