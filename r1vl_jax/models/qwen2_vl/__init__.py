"""Qwen2-VL under Hugging Face's names."""
