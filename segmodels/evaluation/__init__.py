"""Evaluation: what a trained model is worth, and whether another one is worth more."""
