"""What an update of the 7B model takes of a chip's memory, by the compiler of TPUs; minutes each."""

import importlib.util
from pathlib import Path

import pytest

from r1vl_jax.aot import compile_all
from r1vl_jax.aot.compile import Compiled
from r1vl_jax.aot.search import changed
from r1vl_jax.aot.topologies import parse, without_hardware
from r1vl_jax.config import Config, resolve

GIB = 2**30
RECIPE = Path(__file__).parent.parent.parent / "configs" / "7b.py"


def recipe() -> Config:
    """configs/7b.py."""
    spec = importlib.util.spec_from_file_location("recipe", RECIPE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return resolve(module.get_config())


@pytest.mark.slow
@pytest.mark.parametrize(("topology", "num_rows", "limit_gib"), [("v5e-16", 16, 13.0), ("v6e-8", 8, 21.5)])
def test_an_update_stays_within_its_memory(topology, num_rows, limit_gib):
    """Rows of 1,024 + 1,024 tokens, one for each prompt, taken at once; the reference lies beside them."""
    pytest.importorskip("libtpu")
    without_hardware()
    sizes = {"train.prompts_per_update": num_rows, "sampling.num_generations": 1}
    config = changed(recipe(), sizes)
    assert config.data.max_prompt_length == config.sampling.max_completion_length == 1024
    (entry,) = compile_all.compile_all(config, parse(topology), ["update"]).entries
    assert isinstance(entry.result, Compiled)
    print(f"\n{topology}: {entry.result.memory.peak / GIB:.2f} GiB a chip in {entry.result.seconds:.0f} s")
    assert entry.result.memory.peak <= limit_gib * GIB
    assert entry.result.warnings == ()
    assert entry.unread == ""
    assert entry.gathered == ()
