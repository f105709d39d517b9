"""DAPO's dynamic sampling: groups whose rewards are all equal give no gradient and are replaced by fresh prompts.

Source: Yu et al., DAPO, 2025, section 3.2, https://arxiv.org/abs/2503.14476.
"""

import itertools
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jaxtyping import Bool, Float

from r1vl_jax.learner.advantages import GroupRewards
from r1vl_jax.runtime import processes
from r1vl_jax.training.data_loader import DataLoader
from r1vl_jax.training.rollout_batch import RolloutBatch, concatenate_rows


def resample_zero_std_groups(
    first: RolloutBatch, sample_batch: Callable[[int], RolloutBatch], loader: DataLoader, *, max_resample_times: int
) -> RolloutBatch:
    """Samples further batches until enough groups have unequal rewards, and selects as many groups as `first` has.

    Args:
        sample_batch: samples another batch; its argument counts the batches sampled before.
        max_resample_times: after so many further batches, groups of equal rewards fill up what is missing.
    """
    batches = [first]
    while _needs_more_groups(batches) and len(batches) <= max_resample_times:
        batches.append(sample_batch(len(batches)))
    return first if len(batches) == 1 else _select_groups(batches, loader)


def _needs_more_groups(batches: Sequence[RolloutBatch]) -> bool:
    """Whether all processes together have fewer usable groups than one batch holds."""
    num_missing = len(batches[0].records) - sum(int(_has_nonzero_std(batch.reward_PG).sum()) for batch in batches)
    return sum(processes.all_gather_objects(num_missing)) > 0


def _select_groups(batches: Sequence[RolloutBatch], loader: DataLoader) -> RolloutBatch:
    """As many groups as one batch has: those with unequal rewards first, in sampling order.

    Every process looks at the batches of all, and takes its share of the groups.
    """
    own = [
        (batch.records, loader.process_local_rows(batch.sampled), batch.rewards, batch.group_rewards)
        for batch in batches
    ]
    gathered = zip(
        *processes.all_gather_objects(jax.device_get(own)), strict=True
    )  # batch by batch, process by process
    records, sampled, rewards, group_rewards = zip(*itertools.chain(*gathered), strict=True)
    reward_PG = np.concatenate([each.reward_PG for each in group_rewards])
    num_prompts, num_generations = batches[0].reward_PG.shape
    # Groups in the order in which a single process would have sampled them.
    order = np.arange(len(reward_PG)).reshape(len(batches), processes.count(), num_prompts).swapaxes(1, 2).reshape(-1)
    best = order[np.argsort(~_has_nonzero_std(reward_PG[order]), kind="stable")]
    groups = best[: num_prompts * processes.count()][processes.index() :: processes.count()]
    rows = (groups[:, None] * num_generations + np.arange(num_generations)).reshape(-1)

    by_row = [concatenate_rows(each) for each in (sampled, rewards, [each.sections for each in group_rewards])]
    sampled, rewards, sections = jax.tree.map(lambda leaf: leaf[rows], by_row)
    all_records = list(itertools.chain(*records))
    selected = [all_records[group] for group in groups]
    prompts = loader.batch(selected)
    return RolloutBatch(
        records=selected,
        prompts=loader.shard_batch(prompts),
        sampled=loader.shard_batch(sampled),
        completions=sampled.completions,
        has_ended_B=sampled.has_ended_B,
        rewards=rewards,
        group_rewards=GroupRewards(reward_PG[groups], sections),
        num_prompt_tokens=int(prompts.mask_PS.sum()),
        num_columns=max(batch.num_columns for batch in batches),
        num_rollouts=len(batches),
    )


def _has_nonzero_std(reward_PG: Float[np.ndarray, "P G"]) -> Bool[np.ndarray, " P"]:
    return np.ptp(reward_PG, axis=1) > 0
