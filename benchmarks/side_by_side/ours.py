"""Our side: the parts of a training run, put together as `stages.step_grpo` does it, one step at a time."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.side_by_side.work import BETA, LEARNING_RATE, MAX_GRAD_NORM, Work, second_earns_more
from benchmarks.side_by_side.worker import Channel, Figures, Stopwatch, take_turns
from r1vl_jax import losses, observe
from r1vl_jax.arrays import Completions, PromptBatch, Rollout, TrainBatch
from r1vl_jax.config import Config, default, resolve
from r1vl_jax.learner.advantages import compute_advantages
from r1vl_jax.learner.gradients import Metrics
from r1vl_jax.learner.logprobs import add_reference_logps
from r1vl_jax.learner.steps import step_grpo_step
from r1vl_jax.models.trainable import combine, partition
from r1vl_jax.runtime.compilation_cache import trim_malloc_after_compile
from r1vl_jax.sampling.loop import decode, prefill
from r1vl_jax.sampling.weight_sync import synced_params
from r1vl_jax.training.components import build_components, make_evaluator, make_learner
from r1vl_jax.training.loop import Run
from r1vl_jax.training.rewarder import Rewarder
from r1vl_jax.training.rollouts import RolloutWorker


class Ours:
    """A run of StepGRPO that stands between two updates."""

    def __init__(self, work: Work):
        trim_malloc_after_compile()
        self._compile_s = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._note_compilation)
        config = settings(work)
        # No token ends a completion: all are of full length.
        parts = dataclasses.replace(build_components(config), eos_token_ids=())
        params = parts.initial_params()
        trained, self._frozen = partition(params, config.model)
        learner = make_learner(
            config, parts.definition, optim=config.optim, max_steps=config.train.max_steps, trained=trained
        )
        reference = combine(jax.tree.map(lambda leaf: jnp.array(leaf, config.model.dtype), trained), self._frozen)
        self._state = parts.shard_state(learner.init(trained))
        run = Run(
            config,
            parts,
            Rewarder(parts.reward_spec, parts.vocabulary, judge=None),
            make_evaluator(parts, judge=None),  # pyright: ignore[reportArgumentType]
            observe.MetricsWriter(config.workdir, tensorboard=False),
            observe.Timers(),
            observe.ResourceUsage(config.workdir),
        )
        self._generator = RolloutWorker(run, learner, parts.sampler(), reference, parts.prompt_stream())
        self._work, self._parts, self._learner, self._step = work, parts, learner, 0

    def check(self) -> dict[str, Any]:
        """Log-probabilities of the given completions, and the norm of the gradient of an update from them."""
        records = [self._parts.split("train")[number] for number in range(self._work.num_prompts)]
        prompts = self._parts.batch([self._parts.encoder.prompt(record) for record in records])
        token_BT = np.load(self._work.inputs)["check_tokens"].astype(np.int32)
        given = Completions(jnp.asarray(token_BT), jnp.ones(token_BT.shape, bool))
        nothing = jnp.zeros(token_BT.shape)
        rollout = Rollout(given, nothing, nothing, jnp.zeros(len(token_BT), bool), jnp.int32(token_BT.shape[1]))
        batch = self._batch(prompts, rollout)
        assert batch.rows.ref_logp_BT is not None
        logp = np.asarray(batch.rows.ref_logp_BT).tolist()
        return {"logp": logp, "grad_norm": float(self._update(batch)["grad_norm"])}

    def repeat(self) -> Figures:
        """Steps as a run makes them; then the parts of one once more, one by one."""
        watch, drawn = Stopwatch(), []
        with watch("step", times=self._work.steps):
            for _ in range(self._work.steps):
                self._step += 1
                ((draw, _, batch),) = self._generator.generate(self._params, self._step)
                drawn.append(draw.completions)
                figures = self._begin_update(batch)  # the next step begins while devices are at it
            self._wait((self._state, figures))
        rollout, prompts = self._generate(watch)
        with watch("reference"):
            self._wait(
                add_reference_logps(self._learner, self._params, self._generator.reference_params, prompts, rollout)
            )
        with watch("update"):
            self._update(batch)
        return watch.figures(int(each.mask_BT.sum()) for each in (*drawn, rollout.completions))

    def device_gib(self) -> float | None:
        """The most memory held on the accelerator; None where there is none."""
        statistics = jax.devices()[0].memory_stats()
        return statistics and statistics["peak_bytes_in_use"] / 2**30

    @property
    def compile_s(self) -> float:
        return self._compile_s

    @property
    def _params(self) -> Any:
        return combine(self._state.params, self._frozen)

    def _generate(self, watch: Stopwatch) -> tuple[Rollout, PromptBatch]:
        """`sampling.loop.sample`, with a pause between its programs."""
        sampler, key = self._generator.sampler, self._generator.run.key(10**6 + self._step)
        _, prompts = next(self._generator.stream)
        with watch("generation"):
            prompts = self._parts.shard_batch(prompts)
            with watch("prefill"):
                prefilled = self._wait(prefill(sampler)(self._params, prompts))
            with synced_params(sampler, self._params) as copy:
                with watch("copy"):
                    self._wait(copy())
                with watch("decode"):
                    rollout = self._wait(decode(sampler)(copy(), prefilled, key))
        return rollout, prompts

    def _update(self, batch: TrainBatch) -> Metrics:
        figures = self._begin_update(batch)
        self._wait((self._state, figures))
        return figures

    def _begin_update(self, batch: TrainBatch) -> Metrics:
        divided = self._parts.shard_batch(batch)
        self._state, figures = step_grpo_step(self._learner, self._state, self._frozen, divided)
        return figures

    def _batch(self, prompts: PromptBatch, rollout: Rollout) -> TrainBatch:
        """What `Generator.generate` makes of a rollout, with the rewards of the work."""
        divided, rollout = self._parts.shard_batch(prompts), self._parts.shard_batch(rollout)
        rows = list(range(self._work.num_rows))
        reward_PG = np.array(second_earns_more(rows, rows), np.float32).reshape(self._work.num_prompts, -1)
        sampled = add_reference_logps(self._learner, self._params, self._generator.reference_params, divided, rollout)
        loss, mask_BT = self._learner.loss, rollout.completions.mask_BT
        denominator = losses.denominator(mask_BT, loss_type=loss.loss_type, max_completion_length=self._work.new_tokens)
        return TrainBatch(prompts, compute_advantages(loss, sampled, reward_PG), denominator)

    def _wait(self, arrays: Any) -> Any:
        return jax.block_until_ready(arrays)

    def _note_compilation(self, event: str, duration_secs: float, **_: object) -> None:
        if event.endswith("backend_compile_duration"):
            self._compile_s += duration_secs


def serve(work: Work, channel: Channel) -> None:
    take_turns(Ours(work), channel)


def settings(work: Work) -> Config:
    """A recipe for the work; what it does not name has the default of every run."""
    config: Any = default()
    config.workdir = str(work.directory / "run")
    config.model.path, config.model.dtype, config.model.remat = str(work.model), work.dtype, work.remat
    config.loss.logp_chunk_size = 256  # tokens; no slower, and the logits of 1,024 take 192 MiB more
    config.data.source = str(work.data)
    config.data.prompt_bucket = 8  # the prompts' length is a multiple: no side computes padding
    config.data.vision_shards, config.data.patch_bucket = work.num_prompts // work.devices, 256  # a picture fills a row
    config.mesh.data = work.devices
    config.train.stages = ("step_grpo",)
    config.train.prompts_per_update, config.train.max_steps = work.num_prompts, 100_000
    config.sampling.num_generations, config.sampling.max_completion_length = work.num_generations, work.new_tokens
    config.sampling.temperature = 1.0
    config.loss.beta = BETA
    config.optim.learning_rate, config.optim.max_grad_norm = LEARNING_RATE, MAX_GRAD_NORM
    config.reward.functions = ("benchmarks.side_by_side.work:second_earns_more",)
    config.reward.function_weights = (1.0,)
    config.observe.tensorboard = config.observe.progress = False
    return resolve(config)
