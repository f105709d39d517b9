"""Greedy accuracy on held-out problems."""
