"""Which settings and slices the search tries, in which order, and when it ends."""

from types import SimpleNamespace

import pytest
from helpers.small_pod import get_config

from r1vl_jax.aot.compile_all import UnknownProgram
from r1vl_jax.aot.search import candidate_settings, first_that_fits, with_settings
from r1vl_jax.aot.topologies import parse_topology
from r1vl_jax.config import resolve

CONFIG = resolve(get_config())


LEARNING = ("model.remat", "train.micro_batches", "loss.logp_chunk_size")
UPDATE = {"update": LEARNING}


def report(too_large: dict[str, tuple[str, ...]]):
    """A report in which these programs do not fit: name -> settings that reduce its memory."""
    programs = [SimpleNamespace(name=name, memory_settings=settings) for name, settings in too_large.items()]
    entries = [SimpleNamespace(blocks_run=True, result=SimpleNamespace(program=program)) for program in programs]
    return SimpleNamespace(entries=entries, topology=parse_topology("v5e-4"), mesh={"data": 1, "fsdp": 4, "tensor": 1})


def test_candidate_settings_trade_speed_for_memory():
    tried = list(candidate_settings(CONFIG, LEARNING))
    assert tried[:3] == [
        {"model.remat": "offload"},
        {"model.remat": "offload", "train.micro_batches": 2},
        {"model.remat": "offload", "train.micro_batches": 4},
    ]
    assert tried[-1]["loss.logp_chunk_size"] == 128


def test_settings_that_the_mesh_rejects_are_skipped():
    """And the mesh is kept: a fit on another mesh would say nothing about this one."""

    def compile_fn(config, topology, names):
        assert (config.mesh.data, config.mesh.fsdp, config.mesh.tensor) == (1, 4, 1)
        if config.train.micro_batches == 2:
            raise ValueError("rows of an update / train.micro_batches=4: expected multiples of 8")
        return SimpleNamespace(fits=config.train.micro_batches == 4)

    found = first_that_fits(report(UPDATE), CONFIG, compile_fn)
    assert found == "--config.model.remat=offload --config.train.micro_batches=4"


def test_the_first_fit_is_returned():
    seen = []

    def compile_fn(config, topology, names):
        seen.append((topology.name, config.train.micro_batches, list(names)))
        return SimpleNamespace(fits=config.train.micro_batches == 4)

    found = first_that_fits(report(UPDATE), CONFIG, compile_fn)
    assert found == "--config.model.remat=offload --config.train.micro_batches=4"
    assert seen == [("v5e:2x2", parts, ["update"]) for parts in (1, 2, 4)]


def test_a_larger_slice_where_no_setting_helps():
    seen = []

    def compile_fn(config, topology, names):
        assert config == CONFIG
        assert not names
        seen.append(topology.name)
        if topology.name == "v5e:4x4":
            raise ValueError("the mesh does not divide the batches")
        return SimpleNamespace(fits=topology.name == "v5e:4x8")

    assert first_that_fits(report({"prefill": ()}), CONFIG, compile_fn) == "--topology=v5e:4x8"
    assert seen == ["v5e:2x4", "v5e:4x4", "v5e:4x8"]


def test_fewer_slots_where_decoding_does_not_fit():
    """8 rows, then 4, then 2."""

    def compile_fn(config, topology, names):
        assert names == ["decode"]
        return SimpleNamespace(fits=config.sampling.slots == 2)

    assert first_that_fits(report({"decode": ("sampling.slots",)}), CONFIG, compile_fn) == "--config.sampling.slots=2"
    assert list(candidate_settings(CONFIG, ["sampling.slots"])) == [{"sampling.slots": slots} for slots in (4, 2, 1)]
    halved = with_settings(CONFIG, {"sampling.slots": 4})
    assert list(candidate_settings(halved, ["sampling.slots"])) == [{"sampling.slots": slots} for slots in (2, 1)]


def test_smaller_batches_where_evaluation_does_not_fit():
    """With training's batch size, evaluation shares training's prefill, so its own program is unknown."""
    larger = with_settings(CONFIG, {"eval.batch_size": 12})

    def compile_fn(config, topology, names):
        if config.eval.batch_size == CONFIG.train.prompts_per_update:
            raise UnknownProgram("there is no evaluation_prefill")
        return SimpleNamespace(fits=False)

    found = first_that_fits(report({"evaluation_prefill": ("eval.batch_size",)}), larger, compile_fn)
    assert found == "--config.eval.batch_size=4"
    tried = [change["eval.batch_size"] for change in candidate_settings(larger, ["eval.batch_size"])]
    assert tried == [6, 4, 3, 2, 1]


def test_settings_change_one_program_after_another():
    """Each starts from the settings that the programs before it need."""
    seen = []

    def compile_fn(config, topology, names):
        now = (config.model.remat, config.train.micro_batches, config.sampling.slots)
        seen.append((*names, *now))
        fits = {"decode": now[2] == 2, "reference_logps": now[0] == "offload", "update": now[1] == 4}
        return SimpleNamespace(fits=fits[names[0]])

    found = first_that_fits(
        report({"decode": ("sampling.slots",), "reference_logps": LEARNING, "update": LEARNING}), CONFIG, compile_fn
    )
    assert found == "--config.sampling.slots=2 --config.model.remat=offload --config.train.micro_batches=4"
    assert seen == [
        ("decode", "block", 1, 4),
        ("decode", "block", 1, 2),
        ("reference_logps", "block", 1, 2),
        ("reference_logps", "offload", 1, 2),
        ("update", "offload", 1, 2),
        ("update", "offload", 2, 2),
        ("update", "offload", 4, 2),
    ]


@pytest.mark.parametrize("too_large", [UPDATE, {"prefill": ()}, UPDATE | {"decode": ("sampling.slots",)}])
def test_nothing_fits(too_large):
    assert first_that_fits(report(too_large), CONFIG, lambda *_: SimpleNamespace(fits=False)) is None
