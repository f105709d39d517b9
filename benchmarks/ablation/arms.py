"""The arms of the ablation: what each changes, and what was expected of it before it was run."""

from collections.abc import Mapping
from dataclasses import dataclass

RECIPE = "recipe"
ONE_HABIT = "one habit a record: recipe"


@dataclass(frozen=True)
class Arm:
    """StepGRPO from a finished warm-up with something changed.

    Attributes:
        prediction: written down before the arm was run; accuracy on the hard kind is meant.
        settings: that differ from the recipe's, as on the command line.
        records: changed training records, one of `controls.CHANGES`; "" for the recipe's own.
        base: the run with the warm-up; empty for one that has a warm-up of its own.
        num_seeds: of a full ablation.
    """

    prediction: str
    settings: tuple[str, ...] = ()
    records: str = ""
    base: str = RECIPE
    num_seeds: int = 2


_ANSWER_ONLY = ("reward.alpha=0.0", "reward.reward_weights=(1.0, 0.0)")


def _only(function: str) -> tuple[str, ...]:
    """One of the functions of `benchmarks.ablation.controls` as the only reward."""
    return (
        "reward.reward_weights=(0.0, 0.0)",
        f'reward.functions=("benchmarks.ablation.controls:{function}",)',
        "reward.function_weights=(1.0,)",
    )


BOTH = "both step rewards"
ANSWER_ONLY = "answer only"
LONGER_WARM_UP = "longer warm-up"

ARMS: Mapping[str, Arm] = {
    # The recipe itself: its StepGRPO is the arm that the others are compared with.
    BOTH: Arm("rises over the whole run: steps are written out first, right answers follow", base="", num_seeds=5),
    ANSWER_ONLY: Arm(
        "no gain: whole paths are one in 2,000 samples, and a jump is right once in 23",
        _ANSWER_ONLY,
        num_seeds=5,
    ),
    "both, step-level credit": Arm("as both, or faster", ("loss.credit=step",), num_seeds=5),
    "key steps of other records": Arm("as answer only", records="shuffled_key_steps", num_seeds=5),
    "rewards shuffled within groups": Arm(
        "drift alone: no gain, a spread of a few points", _only("shuffled_rewards"), num_seeds=5
    ),
    "StepRAR alone": Arm(
        "as both: after the warm-up nearly every path is valid", ("reward.reward_weights=(1.0, 0.0)",)
    ),
    "StepRVR alone": Arm("as shuffled rewards: nearly every path is valid", ("reward.reward_weights=(0.0, 1.0)",)),
    "both, EGSW": Arm("as both", ("loss.egsw_level=trajectory",)),
    LONGER_WARM_UP: Arm("no gain when sampled: imitation keeps the haste", ("train.stages=('warmup',)",)),
    "key steps alone": Arm(
        "as both or little less: the last key step states the answer; longer paths, which it does not mind",
        _only("key_steps_alone"),
    ),
    "answer and number of steps": Arm(
        "as both: a further step is a right one, as far as the policy can divide; nothing else fills it",
        _only("answer_and_number_of_steps"),
    ),
    "both, alpha 0.02": Arm(
        "as both at first, since a group without a right answer is normalised by its own spread; later less",
        ("reward.alpha=0.02",),
    ),
    "both, alpha 0.5": Arm("as both or better: key steps count as much as half an answer", ("reward.alpha=0.5",)),
    "both, G = 2": Arm("clearly less than G = 8", ("sampling.num_generations=2",)),
    "both, G = 4": Arm("less than G = 8", ("sampling.num_generations=4",)),
    "both, G = 16": Arm("more than G = 8", ("sampling.num_generations=16",)),
    "answer only, G = 32": Arm(
        "more than with G = 8, and still far from both", (*_ANSWER_ONLY, "sampling.num_generations=32"), num_seeds=1
    ),
    ONE_HABIT: Arm(
        "a tie with answer only: one draw decides on the whole path, so that one in twenty is whole",
        records="one_habit",
        base="",
        num_seeds=1,
    ),
    "one habit a record: answer only": Arm(
        "a tie with both", _ANSWER_ONLY, records="one_habit", base=ONE_HABIT, num_seeds=1
    ),
}
