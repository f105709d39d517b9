"""Confidence intervals of a benchmark's scores: Efron, 1979, https://doi.org/10.1214/aos/1176344552."""

from collections.abc import Iterable, Mapping

import numpy as np

from r1vl_jax.evaluation.benchmarks.measures import ScoreFn, Units


def bootstrap_interval(
    units: Units, scores: ScoreFn, *, num_draws: int = 1_000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """The interval that holds 95 % of a score over draws of as many clusters, with replacement.

    A draw without a unit of some measure does not count for the scores made of it. A score that no draw counts for has
    no interval, and neither has a single cluster.
    """
    clusters = {cluster: number for number, cluster in enumerate(dict.fromkeys(_clusters(units)))}
    if len(clusters) < 2:
        return {}
    counts_DC = np.random.default_rng(seed).multinomial(
        len(clusters), np.full(len(clusters), 1 / len(clusters)), size=num_draws
    )
    draws = scores({name: _means(counts_DC, clusters, each) for name, each in units.items()})
    counted = {name: np.extract(np.isfinite(values), values) for name, values in draws.items()}
    low_high = {name: np.quantile(values, (0.025, 0.975)) for name, values in counted.items() if len(values)}
    return {name: (float(low), float(high)) for name, (low, high) in low_high.items()}


def _clusters(units: Units) -> Iterable[str]:
    return (cluster for each in units.values() for cluster, _ in each)


def _means(counts_DC: np.ndarray, clusters: Mapping[str, int], units: list[tuple[str, float]]) -> np.ndarray:
    """The mean of a measure in each draw; NaN without a unit in it."""
    numbers = [clusters[cluster] for cluster, _ in units]
    sums_C = np.bincount(numbers, weights=[value for _, value in units], minlength=len(clusters))
    sizes_C = np.bincount(numbers, minlength=len(clusters))
    num_units_D = (counts_DC @ sizes_C).astype(float)
    return counts_DC @ sums_C / np.where(num_units_D > 0, num_units_D, np.nan)
