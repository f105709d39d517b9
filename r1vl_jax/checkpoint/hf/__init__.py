"""Hugging Face checkpoints: names, files, loading and export."""
