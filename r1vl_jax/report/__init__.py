"""`report.html`, one self-contained page: results, curves and sampled completions of a run."""

from r1vl_jax.report.page import write_report

__all__ = ["write_report"]
