"""Named objectives of the literature are valid settings, and documented."""

import pytest
from helpers.configs import make_config

from r1vl_jax.config import Loss, resolve

OBJECTIVES = {
    "DAPO": {
        "loss_type": "dapo",
        "epsilon_high": 0.28,
        "beta": 0.0,
        "mask_truncated_completions": True,
        "dynamic_sample": True,
        "soft_punish_cache": 200,
    },
    "Dr. GRPO": {"loss_type": "dr_grpo", "scale_rewards": "none", "beta": 0.0},
    "GSPO": {
        "importance_sampling_level": "sequence",
        "epsilon": 3e-4,
        "epsilon_high": 4e-4,
        "beta": 0.0,
        "steps_per_generation": 4,
    },
    "CISPO": {"loss_type": "cispo", "epsilon_high": 5.0, "beta": 0.0},
    "EGSW": {"egsw_level": "step"},
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_resolve_and_are_documented(name):
    resolve(make_config(**{f"loss__{setting}": value for setting, value in OBJECTIVES[name].items()}))
    assert name in str(Loss.__doc__)
    assert all(setting in str(Loss.__doc__) for setting in OBJECTIVES[name])
