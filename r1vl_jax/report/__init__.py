"""One self-contained page that shows what a run did: results, curves, and what the model wrote."""

from r1vl_jax.report.page import write_report

__all__ = ["write_report"]
