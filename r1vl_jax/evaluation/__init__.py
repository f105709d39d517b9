"""Greedy accuracy on held-out problems, a model's predictions on a data set, and the eight benchmarks."""
