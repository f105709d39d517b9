"""HBM of an update of the 7B model per chip, by the TPU compiler; minutes each."""

import importlib.util
from pathlib import Path

import pytest

from r1vl_jax.aot import compile_all
from r1vl_jax.aot.compile import Compiled
from r1vl_jax.aot.search import with_settings
from r1vl_jax.aot.topologies import parse_topology, set_up_compile_only
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
    """One row of 1,024 + 1,024 tokens per prompt, in one micro-batch; the reference is resident."""
    pytest.importorskip("libtpu")
    set_up_compile_only()
    sizes = {"train.prompts_per_update": num_rows, "sampling.num_generations": 1}
    config = with_settings(recipe(), sizes)
    assert config.data.max_prompt_length == config.sampling.max_completion_length == 1024
    (entry,) = compile_all.compile_all(config, parse_topology(topology), ["update"]).entries
    assert isinstance(entry.result, Compiled)
    print(f"\n{topology}: {entry.result.memory.peak / GIB:.2f} GiB a chip in {entry.result.seconds:.0f} s")
    assert entry.result.memory.peak <= limit_gib * GIB
    assert entry.result.warnings == ()
    assert entry.unprintable == ""
    assert entry.gathered_stacks == ()
