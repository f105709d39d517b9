"""The loop around a stage's updates: resuming, recording, evaluating and saving."""

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from etils import epath
from rich.console import Console

from r1vl_jax import observe
from r1vl_jax.arrays import Params
from r1vl_jax.checkpoint.manager import Checkpoints
from r1vl_jax.config import Config, Optim
from r1vl_jax.data.process_shards import ProcessStream
from r1vl_jax.evaluation.evaluator import Evaluator
from r1vl_jax.learner.learner import TrainState
from r1vl_jax.learner.optimizer import schedule
from r1vl_jax.models.trainable import combine
from r1vl_jax.observe.metrics import METRICS, read_lines
from r1vl_jax.runtime import processes
from r1vl_jax.sharding.rules import shardings


@dataclass(frozen=True)
class Run:
    """What every stage of a run shares: the configuration, and where metrics go."""

    config: Config
    evaluator: Evaluator
    writer: observe.MetricsWriter
    timers: observe.Timers
    resource_usage: observe.ResourceUsage

    @property
    def workdir(self) -> epath.Path:
        return epath.Path(self.config.workdir)

    def checkpoints(self, stage: str) -> Checkpoints:
        """The checkpoints of a stage; to be closed."""
        return Checkpoints(self.workdir / "checkpoints" / stage, keep=self.config.train.save_total_limit)


@partial(jax.jit, static_argnums=0)  # one program for both operations
def step_key(seed: int, step: int) -> jax.Array:
    """The key that all random numbers of a step are folded from."""
    return jax.random.fold_in(jax.random.key(seed), step)


def shard_state(state: TrainState, mesh: jax.sharding.Mesh) -> TrainState:
    """Puts every leaf of a fresh state where updates leave it, so that the second update need not be compiled."""
    return jax.device_put(state, shardings(state, mesh))


@dataclass(frozen=True)
class Plan:
    """How long a stage is, and when it is evaluated.

    Attributes:
        max_steps: updates.
        eval_steps: updates between evaluations on the validation split; 0 is never.
        updates_per_epoch: updates of one pass over the split.
    """

    name: str
    max_steps: int
    optim: Optim
    eval_steps: int
    updates_per_epoch: float


class Stage:
    """One stage: a context manager whose `steps()` are the updates still to be done.

    The metrics of update n are fetched after update n+1 was dispatched, so that the device never waits for the host.
    Evaluations and checkpoints happen between updates; a checkpoint comes last, so that whatever is logged after it is
    logged again by the run that resumes from it.

    Attributes:
        state: trained parameters and optimizer; the loop's body replaces it.
    """

    def __init__(self, run: Run, plan: Plan, state: TrainState, frozen: Params, stream: ProcessStream):
        """Starts from `state`, or from the newest checkpoint of the stage if there is one; `frozen` is in neither.

        Either way `state` is donated.
        """
        self.state, self._frozen = state, frozen
        self._run, self._plan, self._stream = run, plan, stream
        self._learning_rate = schedule(plan.optim, plan.max_steps)
        self._checkpoints = run.checkpoints(plan.name)
        self._first_step, self._num_tokens = 1, 0
        self._pending: _PendingMetrics | None = None
        if self._checkpoints.latest_step() is not None:
            step, self.state, position = self._checkpoints.restore(_free_and_describe(state))
            stream.set_state(position["stream"])
            self._first_step, self._num_tokens = step + 1, position["num_tokens"]
        self._num_skipped = int(self.state.num_skipped)
        console = None if run.config.observe.progress else Console(quiet=True)
        self._progress = observe.Progress(plan.name, plan.max_steps, first=self._first_step - 1, console=console)
        self._last_time = time.perf_counter()

    @property
    def params(self) -> Params:
        """All parameters of the model as they are now."""
        return combine(self.state.params, self._frozen)

    def __enter__(self) -> "Stage":
        return self

    def __exit__(self, *exception: object) -> None:
        self._checkpoints.close()

    def steps(self) -> Iterator[int]:
        """The numbers of the updates still to do, from 1; what is due after an update is done in between."""
        with self._progress:
            for step in range(self._first_step, self._plan.max_steps + 1):
                yield step
                if self.is_due(step, self._plan.eval_steps):
                    self._evaluate(step)
                if self.is_due(step, self._run.config.train.save_steps):
                    self._save(step)

    def is_due(self, step: int, every: int) -> bool:
        """Whether an action with this interval runs after `step`; it also runs after the last step. 0 is never."""
        return every > 0 and (step % every == 0 or step == self._plan.max_steps)

    def record(self, step: int, metrics: Mapping[str, Any], *, num_tokens: int, host: Mapping[str, float]) -> None:
        """Queues the metrics of an update, and writes those of the update before.

        Args:
            metrics: scalars that the device may still be computing.
            num_tokens: of this update.
            host: metrics computed on the host.
        """
        self._flush()
        self._num_tokens += num_tokens
        host = {**host, "num_tokens": self._num_tokens, "epoch": step / self._plan.updates_per_epoch}
        now = time.perf_counter()
        seconds, self._last_time = now - self._last_time, now
        timings = {"step_time": seconds, "perf/throughput": num_tokens / seconds} | self._run.timers.take()
        self._pending = _PendingMetrics(step, metrics, host, timings)

    def _flush(self) -> None:
        """Waits for the metrics of the last update that was dispatched, checks and writes them."""
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        metrics = {name: float(value) for name, value in jax.device_get(pending.device).items()} | pending.host
        num_applied = pending.step - 1 - self._num_skipped  # the schedule does not advance when an update is skipped
        metrics["learning_rate"] = float(np.asarray(self._learning_rate(num_applied)))
        self._num_skipped = int(metrics["num_skipped"])
        self._run.writer.write(self._plan.name, pending.step, metrics, pending.timings)
        self._progress.update(pending.step, {name: metrics[name] for name in _SHOWN if name in metrics})
        self._raise_if_diverged(pending.step, metrics)

    def _raise_if_diverged(self, step: int, metrics: Mapping[str, float]) -> None:
        limit = self._run.config.train.max_skipped_updates
        if metrics["num_skipped"] > limit:
            raise FloatingPointError(
                f"stage {self._plan.name}, step {step}: {metrics['num_skipped']:.0f} updates had a loss or gradient"
                f" that is not finite, more than train.max_skipped_updates={limit}. The newest checkpoint is untouched;"
                " lower the learning rate, or look at the records of these steps"
            )

    def _evaluate(self, step: int) -> None:
        self._flush()
        with self._run.timers("eval"):
            results = self._run.evaluator.on_validation(self.params)
        evaluated = {f"eval/{name}": value for name, value in results.items()}
        message = self._alarm(step, evaluated) if processes.is_main_process() else None
        if message:
            logging.getLogger(__name__).warning("ALARM: %s", message)
        self._write_between_updates(step, evaluated | {"eval/alarm": float(message is not None)})

    def _alarm(self, step: int, evaluated: Mapping[str, float]) -> str | None:
        lines = read_lines(self._run.workdir / METRICS)
        lines.append({"stage": self._plan.name, "step": step, **evaluated})
        return observe.alarm(lines, stage=self._plan.name, num_problems=self._run.config.eval.num_validation)

    def _save(self, step: int) -> None:
        self._flush()
        with self._run.timers("save"):
            position = {"stream": self._stream.get_state(), "num_tokens": self._num_tokens}
            self._checkpoints.save(step, self.state, position)
        self._write_between_updates(step, {})
        self._run.resource_usage.write()

    def _write_between_updates(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes what was done after an update; its time counts for no update."""
        timings = self._run.timers.take()
        self._last_time += sum(timings.values())
        self._run.writer.write(self._plan.name, step, metrics, timings)


def _free_and_describe(state: TrainState) -> TrainState:
    """Shapes, dtypes and shardings of a state whose memory is freed: two copies do not fit."""
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)
    for leaf in jax.tree.leaves(state):
        leaf.delete()
    return abstract


@dataclass(frozen=True)
class _PendingMetrics:
    """Metrics of an update that the device may still be computing.

    Attributes:
        timings: seconds on the host, from the update before to this one.
    """

    step: int
    device: Mapping[str, Any]
    host: dict[str, float]
    timings: dict[str, float]


_SHOWN = ("loss", "reward", "kl", "completions/mean_length")
