"""Trains: `python -m r1vl_jax.train --config=configs/tiny.py [--config.SECTION.KEY=VALUE ...]`.

`config.workdir` receives everything; started again with the same configuration, a run that was interrupted resumes.
"""

import contextlib
from typing import Any

import numpy as np
from absl import logging
from etils import epath
from ml_collections import ConfigDict
from rich.console import Console

from r1vl_jax import observe, report
from r1vl_jax.arrays import Params
from r1vl_jax.checkpoint.hf.directory import weights_fingerprint
from r1vl_jax.config import Config, resolve
from r1vl_jax.observe.manifest import MANIFEST
from r1vl_jax.observe.metrics import METRICS, read_lines
from r1vl_jax.rewards import Judge
from r1vl_jax.runtime import processes
from r1vl_jax.runtime.cli import run_with_config
from r1vl_jax.runtime.compilation_cache import enable_compilation_cache, trim_malloc_after_compile
from r1vl_jax.sharding.rules import sharding_fallbacks
from r1vl_jax.training.components import Components, build_components, make_evaluator
from r1vl_jax.training.loop import Run
from r1vl_jax.training.rewarder import Rewarder
from r1vl_jax.training.step_grpo import step_grpo
from r1vl_jax.training.supervised import supervised

_STAGES = {"vision_pretrain": supervised, "warmup": supervised, "step_grpo": step_grpo}
_STEPS_OF_FINAL_KL = 10


def run(config: Config) -> dict[str, Any]:
    """Trains through all stages, with an evaluation before, between and after those that reason.

    Args:
        config: of `config.resolve`.

    Returns:
        What `summary.json` holds.

    Raises:
        ValueError: the workdir holds a run of another configuration, or processes differ in what they were given.
        FloatingPointError: too many updates were not finite.
    """
    return _train(config, *_prepared(config))


def _prepared(config: Config) -> tuple[observe.ResourceUsage, Components]:
    """All that a run needs. What a user can mend is refused here: a ValueError or an OSError."""
    enable_compilation_cache(config.train.compile_cache)
    trim_malloc_after_compile()
    cost = observe.ResourceUsage(config.workdir)
    processes.check_agreement(observe.settings_by_name(config))
    observe.check_workdir(config.workdir, config)
    return cost, build_components(config)


def _train(config: Config, cost: observe.ResourceUsage, parts: Components) -> dict[str, Any]:
    """`run`, with what `_prepared` gives."""
    _print_layout(parts)
    _write_manifest(config, parts)
    with Judge(config.reward.num_workers, config.reward.timeout_s) as judge:
        writer = observe.MetricsWriter(config.workdir, tensorboard=config.observe.tensorboard)
        rewarder = Rewarder(parts.reward_spec, parts.vocabulary, judge)
        this = Run(config, parts, rewarder, make_evaluator(parts, judge), writer, observe.Timers(), cost)
        writer.rewind(_steps_done(this))
        params = parts.initial_params()
        _evaluate(this, "start", params)
        for stage in config.train.stages:
            params = _STAGES[stage](this, stage, params)
            if stage != "vision_pretrain":  # which teaches no reasoning
                _evaluate(this, stage, params)
        writer.close()
        summary = observe.update_summary(config.workdir, _totals(this))
        machine = cost.write()  # before the judge's workers end, for their memory counts
    if processes.is_main_process():
        _conclude(config, summary, machine)
    return summary


def _print_layout(parts: Components) -> None:
    """How several devices are laid out, and what does not lie on them as the table of `sharding` says."""
    if parts.mesh.size == 1:
        return
    sizes = " x ".join(f"{axis} {size}" for axis, size in parts.mesh.shape.items())
    lines = [f"{parts.mesh.size} devices: {sizes}", *sharding_fallbacks(parts.definition.abstract_params(), parts.mesh)]
    console = Console(quiet=not processes.is_main_process())
    console.print("\n  ".join(lines), highlight=False, soft_wrap=True)


def _write_manifest(config: Config, parts: Components) -> None:
    """Of several processes the first writes; the others see whether they find it, and all have read the same."""
    fingerprints = {
        "data_fingerprint": parts.data_fingerprint,
        "weights_fingerprint": weights_fingerprint(config.model.path),
    }
    processes.check_agreement(fingerprints)
    with processes.main_process_first():
        if processes.is_main_process():
            observe.write_manifest(config.workdir, config, **fingerprints)
        elif not (path := epath.Path(config.workdir) / MANIFEST).exists():
            raise FileNotFoundError(
                f"{path}: process {processes.index()} does not see what the first process wrote; set workdir to a"
                " directory or bucket that all processes share"
            )


def _steps_done(this: Run) -> dict[str, int]:
    """The step that each stage will go on from."""
    done = {}
    for stage in this.config.train.stages:
        with this.checkpoints(stage) as checkpoints:
            done[stage] = checkpoints.latest_step() or 0
    return done


def _evaluate(this: Run, stage: str, params: Params) -> None:
    """Accuracy on the test split, once; a resumed run finds it in the summary."""
    if processes.broadcast_from_main(stage in observe.update_summary(this.workdir, {}).get("accuracy", {})):
        return
    results = this.evaluator.on_test(params)
    kinds = {name.split("/")[1]: value for name, value in results.items() if name.startswith("accuracy/")}
    this.resource_usage.write()
    totals = {f"{name}.{stage}": value for name, value in results.items() if "/" not in name}
    observe.update_summary(this.workdir, totals | {f"accuracy_by_kind.{stage}": kinds})
    shown = "  ".join(f"{name} {value:.3f}" for name, value in results.items())
    console = Console(quiet=not processes.is_main_process())
    console.print(f"evaluation, {stage}:  {shown}", highlight=False, soft_wrap=True)


def _totals(this: Run) -> dict[str, float]:
    """What is known only at the end: the largest difference between sampler and scorer, and the last mean KL if any."""
    lines = [line for line in read_lines(this.workdir / METRICS) if line["stage"] == "step_grpo" and "loss" in line]
    if not lines:
        return {}
    totals = {"max_logp_difference": max(line["sampling/sampling_logp_difference/max"] for line in lines)}
    last_kl = [line["kl"] for line in lines[-_STEPS_OF_FINAL_KL:] if "kl" in line]
    return totals | ({"kl": float(np.mean(last_kl))} if last_kl else {})


def _conclude(config: Config, summary: dict[str, Any], machine: dict[str, Any]) -> None:
    console = Console()
    accuracy = "  ".join(f"accuracy.{stage} {value:.3f}" for stage, value in summary["accuracy"].items())
    console.print(f"{accuracy}  max_logp_difference {summary.get('max_logp_difference', 0.0):.1e}", highlight=False)
    console.print(f"{machine['seconds']:.0f} seconds, {machine['peak_memory_gib']:.2f} GiB at most", highlight=False)
    if config.observe.report:
        console.print(f"report: {report.write_report(epath.Path(config.workdir))}", highlight=False, soft_wrap=True)


def main() -> None:
    def start(recipe: ConfigDict) -> None:
        logging.set_verbosity(logging.WARNING)  # Orbax and tensorflow-datasets tell every step of theirs
        with contextlib.ExitStack() as stack:
            try:
                config = resolve(recipe)
                stack.enter_context(processes.initialize_distributed())
                prepared = _prepared(config)
            except (ValueError, OSError) as error:
                raise SystemExit(str(error)) from None
            _train(config, *prepared)

    run_with_config(start)


if __name__ == "__main__":
    main()
