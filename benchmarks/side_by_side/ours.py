"""Our side: the components of a training run, put together as in `training.step_grpo`, one repeat per request."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.side_by_side.work import BETA, LEARNING_RATE, MAX_GRAD_NORM, Work, alternating_reward
from benchmarks.side_by_side.worker import Channel, Stopwatch, Timings, serve_requests
from r1vl_jax import losses, observe
from r1vl_jax.arrays import Completions, PromptBatch, Rollout, TrainBatch
from r1vl_jax.config import Config, default, resolve
from r1vl_jax.learner.advantages import GroupRewards, compute_advantages
from r1vl_jax.learner.gradients import Metrics
from r1vl_jax.learner.logprobs import add_reference_logps
from r1vl_jax.learner.steps import step_grpo_step
from r1vl_jax.models.trainable import combine, partition
from r1vl_jax.runtime import libtpu
from r1vl_jax.runtime.compilation_cache import trim_malloc_after_compile
from r1vl_jax.sampling.loop import decode, prefill
from r1vl_jax.sampling.weight_sync import synced_params
from r1vl_jax.training.components import build_components, initial_params, make_learner
from r1vl_jax.training.loop import shard_state, step_key
from r1vl_jax.training.rewarder import Rewarder
from r1vl_jax.training.rollouts import RolloutWorker


class Ours:
    """A run of StepGRPO, paused between two updates."""

    def __init__(self, work: Work):
        libtpu.skip_without_tpu()
        trim_malloc_after_compile()
        self._compile_s = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._add_compile_time)
        config = settings(work)
        components = build_components(config)
        definition, loader = components.definition, components.loader
        params = initial_params(config, components.inputs.model, definition)
        trained, self._frozen = partition(params, config.model)
        learner = make_learner(
            config, definition, optim=config.optim, max_steps=config.train.max_steps, trained=trained
        )
        reference = combine(jax.tree.map(lambda leaf: jnp.array(leaf, config.model.dtype), trained), self._frozen)
        self._state = shard_state(learner.init(trained), loader.mesh)
        self._worker = RolloutWorker(
            learner=learner,
            # Without end-of-sequence tokens every completion has full length.
            sampler=dataclasses.replace(components.sampler, eos_token_ids=()),
            rewarder=Rewarder(components.rewarder.spec, components.rewarder.vocabulary, judge=None),
            reference_params=reference,
            stream=loader.prompt_batches("train", batch_size=work.num_prompts),
            loader=loader,
            timers=observe.Timers(),
            seed=config.seed,
            completion_bucket=config.train.completion_bucket,
        )
        self._work, self._loader, self._learner, self._step = work, loader, learner, 0

    def check(self) -> dict[str, Any]:
        """Log-probabilities of the given completions, and the gradient norm of an update on them."""
        records = [self._loader.splits["train"][number] for number in range(self._work.num_prompts)]
        prompts = self._loader.shard_batch(self._loader.batch(records))
        token_BT = np.load(self._work.inputs)["check_tokens"].astype(np.int32)
        completions = Completions(jnp.asarray(token_BT), jnp.ones(token_BT.shape, bool))
        unused = jnp.zeros(token_BT.shape)
        rollout = Rollout(completions, unused, unused, jnp.zeros(len(token_BT), bool), jnp.int32(token_BT.shape[1]))
        batch = self._batch(prompts, rollout)
        assert batch.rows.ref_logp_BT is not None
        logp = np.asarray(batch.rows.ref_logp_BT).tolist()
        return {"logp": logp, "grad_norm": float(self._update(batch)["grad_norm"])}

    def repeat(self) -> Timings:
        """Steps as in a run; then each part of a step once more by itself."""
        watch, completions = Stopwatch(), []
        with watch("step", times=self._work.steps):
            for _ in range(self._work.steps):
                self._step += 1
                ((rollout_batch, _, batch),) = self._worker.generate(self._params, self._step)
                completions.append(rollout_batch.completions)
                metrics = self._dispatch_update(batch)  # the next step starts while the device still computes
            self._wait((self._state, metrics))
        rollout, prompts = self._generate(watch)
        with watch("reference"):
            self._wait(
                add_reference_logps(self._learner, self._params, self._worker.reference_params, prompts, rollout)
            )
        with watch("update"):
            self._update(batch)
        return watch.timings(int(each.mask_BT.sum()) for each in (*completions, rollout.completions))

    def device_peak_gib(self) -> float | None:
        """Peak memory of the accelerator; None without one."""
        statistics = jax.devices()[0].memory_stats()
        return statistics and statistics["peak_bytes_in_use"] / 2**30

    @property
    def compile_s(self) -> float:
        return self._compile_s

    @property
    def _params(self) -> Any:
        return combine(self._state.params, self._frozen)

    def _generate(self, watch: Stopwatch) -> tuple[Rollout, PromptBatch]:
        """`sampling.loop.sample`, waiting for each of its programs."""
        sampler, key = self._worker.sampler, step_key(self._worker.seed, 10**6 + self._step)
        _, prompts = next(self._worker.stream)
        with watch("generation"):
            prompts = self._loader.shard_batch(prompts)
            with watch("prefill"):
                prefilled = self._wait(prefill(sampler)(self._params, prompts))
            with synced_params(sampler, self._params) as synced:
                with watch("weight_sync"):
                    self._wait(synced())
                with watch("decode"):
                    rollout = self._wait(decode(sampler)(synced(), prefilled, key))
        return rollout, prompts

    def _update(self, batch: TrainBatch) -> Metrics:
        metrics = self._dispatch_update(batch)
        self._wait((self._state, metrics))
        return metrics

    def _dispatch_update(self, batch: TrainBatch) -> Metrics:
        sharded = self._loader.shard_batch(batch)
        self._state, metrics = step_grpo_step(self._learner, self._state, self._frozen, sharded)
        return metrics

    def _batch(self, prompts: PromptBatch, rollout: Rollout) -> TrainBatch:
        """The batch that `RolloutWorker.generate` makes of a rollout, with the rewards of the work."""
        rollout = self._loader.shard_batch(rollout)
        rows = list(range(self._work.num_rows))
        reward_B = jnp.array(alternating_reward(rows, rows), jnp.float32)
        rewards = GroupRewards(reward_B.reshape(self._work.num_prompts, -1), sections=None)
        sampled = add_reference_logps(self._learner, self._params, self._worker.reference_params, prompts, rollout)
        loss, mask_BT = self._learner.loss, rollout.completions.mask_BT
        denominator = losses.denominator(mask_BT, loss_type=loss.loss_type, max_completion_length=self._work.new_tokens)
        return TrainBatch(prompts, compute_advantages(loss, sampled, rewards), denominator)

    def _wait(self, arrays: Any) -> Any:
        return jax.block_until_ready(arrays)

    def _add_compile_time(self, event: str, duration_secs: float, **_: object) -> None:
        if event.endswith("backend_compile_duration"):
            self._compile_s += duration_secs


def serve(work: Work, channel: Channel) -> None:
    serve_requests(Ours(work), channel)


def settings(work: Work) -> Config:
    """The configuration for the work; settings that are not named have their defaults."""
    config: Any = default()
    config.workdir = str(work.directory / "run")
    config.model.path, config.model.dtype, config.model.remat = str(work.model), work.dtype, work.remat
    config.loss.logp_chunk_size = 256  # no slower than 1,024, whose logits take 192 MiB more
    config.data.source = str(work.data)
    config.data.prompt_bucket = 8  # divides the prompts' length: no side computes padding
    config.data.vision_shards, config.data.patch_bucket = work.num_prompts // work.devices, 256  # an image fills a row
    config.mesh.data = work.devices
    config.train.stages = ("step_grpo",)
    config.train.prompts_per_update, config.train.max_steps = work.num_prompts, 100_000
    config.sampling.num_generations, config.sampling.max_completion_length = work.num_generations, work.new_tokens
    config.sampling.temperature = 1.0
    config.loss.beta = BETA
    config.optim.learning_rate, config.optim.max_grad_norm = LEARNING_RATE, MAX_GRAD_NORM
    config.reward.functions = ("benchmarks.side_by_side.work:alternating_reward",)
    config.reward.function_weights = (1.0,)
    config.observe.tensorboard = config.observe.progress = False
    return resolve(config)
