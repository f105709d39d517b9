"""Ahead-of-time compilation of every program of a run for a TPU slice: memory, collectives, roofline; no TPU needed."""
