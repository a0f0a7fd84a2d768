"""Afterburner: compiled training and inference for unmodified TensorFlow programs."""
