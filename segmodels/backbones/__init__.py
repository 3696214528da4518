"""Encoders that several architectures stand on."""
