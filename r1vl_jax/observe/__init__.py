"""What a run writes into its directory and prints on the console; nothing is sent elsewhere."""

from r1vl_jax.observe.alarm import EqualGroups, alarm
from r1vl_jax.observe.completions import print_completions, write_completions
from r1vl_jax.observe.manifest import check_fingerprint, check_workdir, settings_by_name, write_manifest
from r1vl_jax.observe.metrics import MetricsWriter, Timers
from r1vl_jax.observe.profile import profiled
from r1vl_jax.observe.progress import Progress
from r1vl_jax.observe.results import ResourceUsage, update_summary, write_machine

__all__ = [
    "EqualGroups",
    "ResourceUsage",
    "MetricsWriter",
    "Progress",
    "Timers",
    "alarm",
    "check_fingerprint",
    "check_workdir",
    "print_completions",
    "profiled",
    "settings_by_name",
    "update_summary",
    "write_completions",
    "write_machine",
    "write_manifest",
]
