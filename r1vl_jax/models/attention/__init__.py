"""Attention: one function for all platforms, decoding, and the kernels behind them."""
