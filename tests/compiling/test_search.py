"""What is tried when a program does not fit, in which order, and when the search ends."""

from types import SimpleNamespace

import pytest
from small_pod import get_config

from r1vl_jax.compiling.search import first_that_fits, settings_to_try
from r1vl_jax.compiling.topologies import parse
from r1vl_jax.config import resolve

CONFIG = resolve(get_config())


def report(*, is_tunable: bool):
    """That one program does not fit."""
    program = SimpleNamespace(name="update", is_tunable=is_tunable)
    entry = SimpleNamespace(is_fault=True, result=SimpleNamespace(program=program))
    return SimpleNamespace(entries=[entry], topology=parse("v5e-4"), mesh={"data": 1, "fsdp": 4, "tensor": 1})


def test_settings_that_cost_time_and_no_result():
    tried = list(settings_to_try(CONFIG))
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

    found = first_that_fits(report(is_tunable=True), CONFIG, survey)
    assert found == "--config.model.remat=offload --config.train.micro_batches=4"


def test_the_first_that_fits_is_named():
    seen = []

    def survey(config, topology, names):
        seen.append((topology.name, config.train.micro_batches, list(names)))
        return SimpleNamespace(fits=config.train.micro_batches == 4)

    found = first_that_fits(report(is_tunable=True), CONFIG, survey)
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

    assert first_that_fits(report(is_tunable=False), CONFIG, survey) == "--topology=v5e:4x8"
    assert seen == ["v5e:2x4", "v5e:4x4", "v5e:4x8"]


@pytest.mark.parametrize("is_tunable", [True, False])
def test_nothing_fits(is_tunable):
    assert first_that_fits(report(is_tunable=is_tunable), CONFIG, lambda *_: SimpleNamespace(fits=False)) is None
