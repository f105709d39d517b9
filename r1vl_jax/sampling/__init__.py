"""Prefill and decoding: from prompts to completions."""
