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
from r1vl_jax.config import Config, resolve
from r1vl_jax.data.pipeline import NoUsableRecords
from r1vl_jax.models.qwen2_vl.model import Definition
from r1vl_jax.observe.manifest import MANIFEST
from r1vl_jax.observe.metrics import METRICS, read_lines
from r1vl_jax.rewards.user_code import RewardFunctionError
from r1vl_jax.runtime import processes
from r1vl_jax.runtime.cli import run_with_config
from r1vl_jax.runtime.compilation_cache import enable_compilation_cache, trim_malloc_after_compile
from r1vl_jax.sharding.rules import sharding_fallbacks
from r1vl_jax.training import step_grpo
from r1vl_jax.training.components import Components, build_components, conventions, initial_params
from r1vl_jax.training.inputs import Inputs
from r1vl_jax.training.loop import Run
from r1vl_jax.training.multi_turn.episode import RolloutFunctionError
from r1vl_jax.training.supervised import supervised

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
    return _train(config, *_prepare(config))


def _prepare(config: Config) -> tuple[observe.ResourceUsage, Components]:
    """All that a run needs. What a user can mend is refused here: a ValueError or an OSError."""
    enable_compilation_cache(config.train.compile_cache)
    trim_malloc_after_compile()
    resource_usage = observe.ResourceUsage(config.workdir)
    processes.check_agreement(observe.settings_by_name(config))
    observe.check_workdir(config.workdir, config)
    return resource_usage, build_components(config)


def _train(config: Config, resource_usage: observe.ResourceUsage, components: Components) -> dict[str, Any]:
    """`run`, with what `_prepare` gives."""
    _print_mesh(components.definition)
    _print("\n".join([*components.inputs.summary, conventions(config, components)]))
    _write_manifest(config, components.inputs)
    with components.judge:
        writer = observe.MetricsWriter(config.workdir, tensorboard=config.observe.tensorboard)
        run = Run(config, components.evaluator, writer, observe.Timers(), resource_usage)
        writer.rewind(_steps_done(run))
        params = initial_params(config, components.inputs.model, components.definition, components.adapter)
        if has_test := "test" in components.inputs.splits:
            _evaluate(run, "start", params)
        for stage in config.train.stages:
            params = _run_stage(run, stage, params, components)
            if has_test and stage != "vision_pretrain":  # which teaches no reasoning
                _evaluate(run, stage, params)
        writer.close()
        summary = observe.update_summary(config.workdir, _totals(run))
        machine = resource_usage.write()  # before the judge's workers end, for their memory counts
    if processes.is_main_process():
        _print_results(config, summary, machine)
    return summary


def _run_stage(run: Run, stage: str, params: Params, components: Components) -> Params:
    definition, loader = components.definition, components.loader
    if stage == step_grpo.STAGE:
        return step_grpo.step_grpo(
            run,
            params,
            definition=definition,
            loader=loader,
            sampler=components.sampler,
            rewarder=components.rewarder,
            rollout_func=components.rollout_func,
        )
    return supervised(run, stage, params, definition=definition, loader=loader)


def _print_mesh(definition: Definition) -> None:
    """Prints the mesh of several devices, and the parameters that its axes do not divide as `sharding.rules` asks."""
    assert (mesh := definition.mesh) is not None
    if mesh.size == 1:
        return
    sizes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    lines = [f"{mesh.size} devices: {sizes}", *sharding_fallbacks(definition.abstract_params(), mesh)]
    _print("\n  ".join(lines))


def _print(text: str) -> None:
    console = Console(quiet=not processes.is_main_process())
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _write_manifest(config: Config, inputs: Inputs) -> None:
    """The main process writes; the others check that they see it, and that all have read the same files."""
    with processes.main_process_first():  # which hashes the data and keeps the digest for the others
        fingerprints = inputs.fingerprints()
    processes.check_agreement(fingerprints)
    with processes.main_process_first():
        if processes.is_main_process():
            observe.write_manifest(config.workdir, config, **fingerprints)
        elif not (path := epath.Path(config.workdir) / MANIFEST).exists():
            raise FileNotFoundError(
                f"{path}: process {processes.index()} does not see what the first process wrote; set workdir to a"
                " directory or bucket that all processes share"
            )


def _steps_done(run: Run) -> dict[str, int]:
    """The step that each stage resumes from; 0 if it starts."""
    done = {}
    for stage in run.config.train.stages:
        with run.checkpoints(stage) as checkpoints:
            done[stage] = checkpoints.latest_step() or 0
    return done


def _evaluate(run: Run, stage: str, params: Params) -> None:
    """Accuracy on the test split, once; a resumed run finds it in the summary."""
    if processes.broadcast_from_main(stage in observe.update_summary(run.workdir, {}).get("accuracy", {})):
        return
    results = run.evaluator.on_test(params)
    run.resource_usage.write()
    totals: dict[str, Any] = {f"{name}.{stage}": value for name, value in results.items() if "/" not in name}
    for name, part in (name.split("/", 1) for name in results if "/" in name):
        group = name if name == "accuracy_hard" else f"{name}_by_kind"
        totals.setdefault(f"{group}.{stage}", {})[part] = results[f"{name}/{part}"]
    observe.update_summary(run.workdir, totals)
    shown = "  ".join(f"{name} {value:.3f}" for name, value in results.items())
    _print(f"evaluation, {stage}:  {shown}")


def _totals(run: Run) -> dict[str, float]:
    """Results over all of StepGRPO: the largest difference between sampler's and learner's log-probs; the last KL."""
    lines = [line for line in read_lines(run.workdir / METRICS) if line["stage"] == "step_grpo" and "loss" in line]
    if not lines:
        return {}
    totals = {"max_logp_difference": max(line["sampling/sampling_logp_difference/max"] for line in lines)}
    last_kl = [line["kl"] for line in lines[-_STEPS_OF_FINAL_KL:] if "kl" in line]
    return totals | ({"kl": float(np.mean(last_kl))} if last_kl else {})


def _print_results(config: Config, summary: dict[str, Any], machine: dict[str, Any]) -> None:
    console = Console()
    accuracy = [f"accuracy.{stage} {value:.3f}" for stage, value in summary.get("accuracy", {}).items()]
    logps = f"max_logp_difference {summary.get('max_logp_difference', 0.0):.1e}"
    console.print("  ".join([*accuracy, logps]), highlight=False)
    console.print(f"{machine['seconds']:.0f} seconds, {machine['peak_memory_gib']:.2f} GiB at most", highlight=False)
    if config.observe.report:
        console.print(f"report: {report.write_report(epath.Path(config.workdir))}", highlight=False, soft_wrap=True)


def main() -> None:
    def start(recipe: ConfigDict) -> None:
        logging.set_verbosity(logging.WARNING)  # Orbax and tensorflow-datasets log every step
        with contextlib.ExitStack() as stack:
            try:
                config = resolve(recipe)
                stack.enter_context(processes.initialize_distributed())
                prepared = _prepare(config)
            except (ValueError, OSError) as error:
                raise SystemExit(str(error)) from None
            try:
                _train(config, *prepared)
            except (
                NoUsableRecords,
                RewardFunctionError,
                RolloutFunctionError,
            ) as error:  # the user's data and code: their lines are in it
                raise SystemExit(str(error)) from None

    run_with_config(start)


if __name__ == "__main__":
    main()
