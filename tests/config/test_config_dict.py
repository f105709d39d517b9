"""The default configuration resolves; unknown keys and values of another type are refused by name."""

import pytest
from helpers.configs import make_config

from r1vl_jax.config import Config, default, resolve, unknown_settings


def test_defaults_resolve_with_a_workdir():
    resolved = resolve(make_config())
    assert isinstance(resolved, Config)
    assert resolved.optim.learning_rate == 1e-6
    assert resolved.warmup.optim.lr_scheduler_type == "cosine"


def test_an_optional_setting():
    assert resolve(make_config()).loss.epsilon_high is None
    assert resolve(make_config(loss__epsilon_high=1)).loss.epsilon_high == 1.0
    with pytest.raises(TypeError, match="epsilon_high"):
        make_config(loss__epsilon_high="wide")


def test_a_value_of_another_type_is_refused():
    with pytest.raises(TypeError, match="learning_rate"):
        make_config(optim__learning_rate="fast")
    config = make_config()
    with config.ignore_type():
        config.train.max_steps = 1.5
    with pytest.raises(ValueError, match=r"config.train.max_steps=1.5: expected .*int.*, got float"):
        resolve(config)


def test_an_unknown_setting_in_a_recipe_is_refused_with_the_nearest():
    with pytest.raises(AttributeError, match='Did you mean "learning_rate" instead of "learning_rat"'):
        default().optim.learning_rat = 1.0


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("--config.lrr=1", "config.lrr: no such setting; config has workdir, seed, model,"),
        (
            "--config.sampling.temprature=1",
            "config.sampling.temprature: no such setting; did you mean temperature? config.sampling has",
        ),
        ("--config.opt.learning_rate=1", "config.opt: no such setting; did you mean optim? config has workdir"),
        (
            "--config.warmup.optim.lr=1",
            "config.warmup.optim.lr: no such setting; config.warmup.optim has learning_rate,",
        ),
        ("--config.seed.x=1", "config.seed.x: no such setting; config.seed has no keys"),
    ],
)
def test_unknown_settings_on_the_command_line(argument, text):
    (message,) = unknown_settings([argument])
    assert message.startswith(text)


def test_known_settings_on_the_command_line():
    arguments = ["--config=configs/tiny.py", "--config.reward.reward_weights[0]=2", "--config.optim.learning_rate", "1"]
    assert not list(unknown_settings(arguments))
