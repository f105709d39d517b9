"""Weights in and out, and a run's checkpoints."""
