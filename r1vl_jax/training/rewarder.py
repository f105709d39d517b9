"""Rewards completions on the host or the device, as the configuration says."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict

import jax
import numpy as np
from jaxtyping import Float

from r1vl_jax import rewards
from r1vl_jax.arrays import Completions
from r1vl_jax.data.records import Record
from r1vl_jax.rewards import Explanation, Judge, StepReward
from r1vl_jax.rewards.custom import RewardFunction, call_on_host
from r1vl_jax.rewards.text import Vocabulary
from r1vl_jax.rewards.weighted_sum import RewardOutput, RewardSpec, RewardTargets, compute_rewards_on_device
from r1vl_jax.runtime import processes


class TargetPacker:
    """Puts key steps and answers of prompts into arrays whose sizes only grow, so that few programs are compiled.

    The sizes are the same in all processes, which must pack at the same time.
    """

    def __init__(self, semantics: str):
        self._semantics = semantics
        self._sizes = (0, 0, 0)  # groups, alternatives, bytes of a spelling

    def __call__(self, records: Sequence[Record]) -> RewardTargets:
        rows = [asdict(record) for record in records]
        packed = RewardTargets(*rewards.pack(rows, semantics=self._semantics))
        sizes = packed.key_steps.byte_BRAL.shape[1:]
        self._sizes = tuple(map(max, processes.all_reduce_max(sizes), self._sizes))
        if sizes == self._sizes:
            return packed
        names = ("max_groups", "max_alternatives", "max_length")
        return RewardTargets(
            *rewards.pack(rows, semantics=self._semantics, **dict(zip(names, self._sizes, strict=True)))
        )


_compute_rewards_on_device = jax.jit(compute_rewards_on_device, static_argnums=0)


class Rewarder:
    """Rewards completions as the configuration says.

    What runs where: step rewards by kernels on the device or by the definition on strings; math-verify in worker
    processes; user-defined functions on the host (Python) or the device (pure).
    """

    def __init__(self, spec: RewardSpec, vocabulary: Vocabulary, judge: Judge | None):
        """`judge` verifies answers that a plain comparison does not settle; None leaves these undecided."""
        self.spec, self.vocabulary, self.pack = spec, vocabulary, TargetPacker(spec.settings.semantics)
        self._judge = judge
        self._uses_kernels = spec.settings.backend == "kernels"
        self._has_pure_functions = any(function.runs_on_device for function in spec.functions)

    def __call__(self, completions: Completions, records: Sequence[Record]) -> RewardOutput:
        """The rewards of G completions of each record; row p*G + g is sample g of record p."""
        decoded = functools.cache(lambda: self._decode_completions(completions, records))
        if self._uses_kernels:
            output = self._by_kernels(completions, records)
            reward, custom = output.reward, output.custom
            if self.spec.settings.undecided == "host":
                reward = rewards.resolve_undecided(reward, *decoded(), self._by_strings)
            undecided_B, overflow_B = output.undecided_B, output.overflow_B
        else:
            reward = self._by_strings(*decoded())
            custom = self._by_kernels(completions, records).custom if self._has_pure_functions else {}
            undecided_B, overflow_B = reward.undecided, np.zeros_like(reward.undecided)
        custom = custom | self._by_host_functions(decoded)
        return RewardOutput(reward, custom, np.asarray(self.spec.total(reward, custom)), undecided_B, overflow_B)

    def explain(self, completions: Sequence[str], records: Sequence[Record]) -> list[Explanation]:
        """Why each completion's answer is right or wrong, each with the record of its question."""
        settings = self.spec.settings
        asks_judge = settings.backend == "strings" or settings.undecided == "host"
        rows = [asdict(record) for record in records]
        judge = self._judge if asks_judge else None
        return rewards.explain_completions(completions, rows, semantics=settings.semantics, judge=judge)

    def total(
        self, reward: StepReward, completions: Sequence[str], records: Sequence[Record]
    ) -> Float[np.ndarray, " B"]:
        """The weighted sum of step rewards and host functions, of one completion for each record."""
        custom = call_host_functions(self.spec.functions, completions, [asdict(record) for record in records])
        return np.asarray(self.spec.total(reward, custom))

    def _by_kernels(self, completions: Completions, records: Sequence[Record]) -> RewardOutput:
        output = _compute_rewards_on_device(self.spec, completions, self.pack(records), self.vocabulary)
        return jax.tree.map(np.asarray, output)

    def _by_strings(self, texts: list[bytes], rows: list[dict]) -> StepReward:
        settings = self.spec.settings
        return rewards.score(texts, rows, semantics=settings.semantics, alpha=settings.alpha, judge=self._judge)

    def _by_host_functions(
        self, decoded: Callable[[], tuple[list[bytes], list[dict]]]
    ) -> dict[str, Float[np.ndarray, " B"]]:
        functions = [function for function in self.spec.functions if not function.runs_on_device]
        if not functions:
            return {}
        texts, rows = decoded()
        return call_host_functions(functions, [text.decode("utf-8", "replace") for text in texts], rows)

    def _decode_completions(
        self, completions: Completions, records: Sequence[Record]
    ) -> tuple[list[bytes], list[dict]]:
        """The completions as bytes, and for each the record of its question."""
        texts = rewards.text.host_bytes(completions.token_BT, completions.mask_BT, self.vocabulary)
        return texts, [asdict(record) for record in records for _ in range(len(texts) // len(records))]


def call_host_functions(
    functions: Sequence[RewardFunction], completions: Sequence[str], rows: Sequence[dict]
) -> dict[str, Float[np.ndarray, " B"]]:
    """The unweighted rewards of host functions, by name.

    Args:
        rows: the fields of each completion's record.

    Raises:
        RewardFunctionError: a function raised, or returned no rewards.
    """
    columns = {name: [row[name] for row in rows] for name in rows[0] if name != "problem"}
    return call_on_host(functions, [row["problem"] for row in rows], completions, columns)
