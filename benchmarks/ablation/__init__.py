"""Ablation of rewards and credit assignment on the embedded task."""
