"""What the program prints when the user's data or reward functions end a run: their message, without a traceback."""

import contextlib

import pytest

from r1vl_jax import train
from r1vl_jax.config import default
from r1vl_jax.data.pipeline import NoUsableRecords
from r1vl_jax.rewards.user_code import RewardFunctionError


@pytest.fixture
def fail_in(monkeypatch, tmp_path):
    """Starts the program; one of its parts raises an error."""

    def start(part: str, error: Exception) -> None:
        def fail(*arguments):
            raise error

        recipe = default()
        recipe.workdir, recipe.warmup.max_steps = str(tmp_path), 1
        monkeypatch.setattr(train, "run_with_config", lambda program: program(recipe))
        monkeypatch.setattr(train.processes, "initialize_distributed", contextlib.nullcontext)
        monkeypatch.setattr(train, "_prepare", lambda config: ())
        monkeypatch.setattr(train, part, fail)
        train.main()

    return start


@pytest.mark.parametrize("error", [NoUsableRecords("none of 3 records"), RewardFunctionError("mine raised")], ids=repr)
@pytest.mark.parametrize("part", ["_prepare", "_train"])
def test_what_a_user_can_mend_ends_the_program_with_its_message(fail_in, error, part):
    with pytest.raises(SystemExit, match=str(error)) as ended:
        fail_in(part, error)
    assert ended.value.__suppress_context__


def test_an_error_of_the_program_keeps_its_traceback(fail_in):
    with pytest.raises(ValueError, match="a bug"):
        fail_in("_train", ValueError("a bug"))
