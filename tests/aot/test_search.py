"""What is tried when a program does not fit, in which order, and when the search ends."""

from types import SimpleNamespace

import pytest
from helpers.small_pod import get_config

from r1vl_jax.aot.compile_all import UnknownProgram
from r1vl_jax.aot.search import changed, first_that_fits, settings_to_try
from r1vl_jax.aot.topologies import parse
from r1vl_jax.config import resolve

CONFIG = resolve(get_config())


LEARNING = ("model.remat", "train.micro_batches", "loss.logp_chunk_size")
UPDATE = {"update": LEARNING}


def report(faults: dict[str, tuple[str, ...]]):
    """That these programs do not fit, which need less memory with these settings."""
    programs = [SimpleNamespace(name=name, settings=settings) for name, settings in faults.items()]
    entries = [SimpleNamespace(is_fault=True, result=SimpleNamespace(program=program)) for program in programs]
    return SimpleNamespace(entries=entries, topology=parse("v5e-4"), mesh={"data": 1, "fsdp": 4, "tensor": 1})


def test_settings_that_cost_time_and_no_result():
    tried = list(settings_to_try(CONFIG, LEARNING))
    assert tried[:3] == [
        {"model.remat": "offload"},
        {"model.remat": "offload", "train.micro_batches": 2},
        {"model.remat": "offload", "train.micro_batches": 4},
    ]
    assert tried[-1]["loss.logp_chunk_size"] == 128


def test_settings_that_do_not_suit_the_mesh_are_passed_over():
    """And the mesh stays: with other sizes for it a setting would say nothing about this one."""

    def survey(config, topology, names):
        assert (config.mesh.data, config.mesh.fsdp, config.mesh.tensor) == (1, 4, 1)
        if config.train.micro_batches == 2:
            raise ValueError("rows of an update / train.micro_batches=4: expected multiples of 8")
        return SimpleNamespace(fits=config.train.micro_batches == 4)

    found = first_that_fits(report(UPDATE), CONFIG, survey)
    assert found == "--config.model.remat=offload --config.train.micro_batches=4"


def test_the_first_that_fits_is_named():
    seen = []

    def survey(config, topology, names):
        seen.append((topology.name, config.train.micro_batches, list(names)))
        return SimpleNamespace(fits=config.train.micro_batches == 4)

    found = first_that_fits(report(UPDATE), CONFIG, survey)
    assert found == "--config.model.remat=offload --config.train.micro_batches=4"
    assert seen == [("v5e:2x2", parts, ["update"]) for parts in (1, 2, 4)]


def test_settings_are_not_tried_for_what_they_do_not_change():
    seen = []

    def survey(config, topology, names):
        assert config == CONFIG
        assert not names
        seen.append(topology.name)
        if topology.name == "v5e:4x4":
            raise ValueError("its mesh does not suit the batches")
        return SimpleNamespace(fits=topology.name == "v5e:4x8")

    assert first_that_fits(report({"prefill": ()}), CONFIG, survey) == "--topology=v5e:4x8"
    assert seen == ["v5e:2x4", "v5e:4x4", "v5e:4x8"]


def test_fewer_slots_are_tried_where_decoding_does_not_fit():
    """8 rows, then 4, then 2."""

    def survey(config, topology, names):
        assert names == ["decode"]
        return SimpleNamespace(fits=config.sampling.slots == 2)

    assert first_that_fits(report({"decode": ("sampling.slots",)}), CONFIG, survey) == "--config.sampling.slots=2"
    assert list(settings_to_try(CONFIG, ["sampling.slots"])) == [{"sampling.slots": slots} for slots in (4, 2, 1)]
    halved = changed(CONFIG, {"sampling.slots": 4})
    assert list(settings_to_try(halved, ["sampling.slots"])) == [{"sampling.slots": slots} for slots in (2, 1)]


def test_smaller_batches_are_tried_where_evaluation_does_not_fit():
    """The batch of training needs no program of its own: what reads its prompts is there already."""
    larger = changed(CONFIG, {"eval.batch_size": 12})

    def survey(config, topology, names):
        if config.eval.batch_size == CONFIG.train.prompts_per_update:
            raise UnknownProgram("there is no evaluation prefill")
        return SimpleNamespace(fits=False)

    found = first_that_fits(report({"evaluation prefill": ("eval.batch_size",)}), larger, survey)
    assert found == "--config.eval.batch_size=4"
    tried = [change["eval.batch_size"] for change in settings_to_try(larger, ["eval.batch_size"])]
    assert tried == [6, 4, 3, 2, 1]


def test_each_program_is_changed_as_far_as_it_needs():
    """One after another, from what those before it need, which may do for it, too."""
    seen = []

    def survey(config, topology, names):
        now = (config.model.remat, config.train.micro_batches, config.sampling.slots)
        seen.append((*names, *now))
        fits = {"decode": now[2] == 2, "scores": now[0] == "offload", "update": now[1] == 4}
        return SimpleNamespace(fits=fits[names[0]])

    found = first_that_fits(
        report({"decode": ("sampling.slots",), "scores": LEARNING, "update": LEARNING}), CONFIG, survey
    )
    assert found == "--config.sampling.slots=2 --config.model.remat=offload --config.train.micro_batches=4"
    assert seen == [
        ("decode", "block", 1, 4),
        ("decode", "block", 1, 2),
        ("scores", "block", 1, 2),
        ("scores", "offload", 1, 2),
        ("update", "offload", 1, 2),
        ("update", "offload", 2, 2),
        ("update", "offload", 4, 2),
    ]


@pytest.mark.parametrize("faults", [UPDATE, {"prefill": ()}, UPDATE | {"decode": ("sampling.slots",)}])
def test_nothing_fits(faults):
    assert first_that_fits(report(faults), CONFIG, lambda *_: SimpleNamespace(fits=False)) is None
