"""What Qwen2.5-VL does differently."""
