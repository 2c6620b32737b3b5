"""Candidate checkpoints: the asset `quantized_model`."""
