"""The programs of a configuration: which there are, what is on the devices beside each, and their lowering for GPUs."""

import jax
import numpy as np
import pytest
from helpers.small_pod import get_config

from r1vl_jax.aot import saving, shapes
from r1vl_jax.aot.compile import Compiled, OutOfMemory, compile_for
from r1vl_jax.aot.gpu import lower_for_gpu
from r1vl_jax.aot.hlo.parse import parse
from r1vl_jax.aot.programs import programs
from r1vl_jax.checkpoint.model_config import expected_config
from r1vl_jax.config import resolve
from r1vl_jax.sharding.mesh import make_mesh
from r1vl_jax.training.components import make_definition

GIB = 2**30
SAMPLING = ["sync of layers", "sync of the rest", "prefill", "decode"]
EVALUATION = [f"evaluation {name}" for name in SAMPLING]
DECODE = ["decode", "evaluation decode"]


def programs_of(platform: str, num_devices: int = 4, **settings) -> dict:
    """By name. Settings are named SECTION__SETTING."""
    config = get_config()
    for name, value in settings.items():
        section, setting = name.split("__")
        config[section][setting] = value
    resolved = resolve(config)
    mesh = make_mesh(resolved.mesh, jax.devices()[:num_devices])
    model = make_definition(resolved, expected_config(resolved.model), mesh, platform=platform)
    return {program.name: program for program in programs(resolved, model)}


def test_which_programs_there_are():
    trained = [*SAMPLING, "reference scores", "update", "fused step"]
    assert list(programs_of("tpu")) == [*trained, "evaluation decode"]
    supervised = programs_of("tpu", train__stages=("warmup", "step_grpo"), warmup__max_steps=1, warmup__batch_size=8)
    assert list(supervised)[0] == "warmup update"
    assert list(programs_of("tpu", loss__beta=0.0, loss__num_iterations=2))[4] == "policy scores"
    fused = programs_of("tpu", train__fused=True, reward__backend="kernels", reward__undecided="wrong", model__lora_r=4)
    assert [name for name, program in fused.items() if program.is_used] == ["fused step", *EVALUATION]


def test_where_the_copy_is_views_no_program_makes_it():
    one_cpu = programs_of("cpu", num_devices=1, model__dtype="float32")
    assert not set(one_cpu) & set(SAMPLING[:2])
    assert set(SAMPLING[2:]) < set(one_cpu)
    assert set(SAMPLING) < set(programs_of("cpu", num_devices=1, model__dtype="bfloat16"))


def test_the_first_prompts_are_read_before_the_copy_is_made():
    made = programs_of("tpu")
    _, prefilled, _ = made["decode"].arguments
    for name in SAMPLING[:2]:
        assert made[name].resident["prompts, read"] == prefilled
        assert made[name].resident["prompts"] == made["decode"].resident["prompts"]


def test_settings_with_which_a_program_needs_less():
    learning = ("model.remat", "train.micro_batches", "loss.logp_chunk_size")
    expected = dict.fromkeys(SAMPLING, ()) | {
        "decode": ("sampling.slots",),
        "reference scores": learning,
        "update": learning,
        "fused step": (*learning, "sampling.slots"),
        "evaluation prefill": ("eval.batch_size",),
        "evaluation decode": ("eval.batch_size",),
    }
    assert {name: each.settings for name, each in programs_of("tpu", eval__batch_size=8).items()} == expected
    alone = programs_of("tpu", train__stages=("warmup",), warmup__max_steps=1, warmup__batch_size=8)
    assert alone["evaluation sync of layers"].settings == ()
    assert alone["warmup update"].settings == learning


def test_evaluation_has_programs_of_its_own_where_training_has_none_of_their_shapes():
    """One greedy completion a prompt; what is held beside them depends on whether there is validation."""
    apart = programs_of("tpu", eval__batch_size=8)
    assert list(apart)[-2:] == ["evaluation prefill", "evaluation decode"]
    num_rows = {name: jax.eval_shape(apart[name].function, *apart[name].arguments).has_ended_B.shape for name in DECODE}
    assert num_rows == {"decode": (8,), "evaluation decode": (8,)}  # 4 prompts twice, and 8 once
    prefix = {name: apart[name].arguments[1].hidden_PD.shape[0] for name in DECODE}
    assert prefix == {"decode": 4, "evaluation decode": 8}
    assert set(apart["evaluation decode"].resident) == {"policy", "prompts"}
    validated = programs_of("tpu", eval__steps=1)["evaluation decode"]
    assert set(validated.resident) == {"policy", "prompts", "optimizer", "reference"}
    supervised = programs_of("tpu", train__stages=("warmup",), warmup__max_steps=1, warmup__batch_size=8)
    assert list(supervised) == ["warmup update", *EVALUATION]


def test_what_is_on_the_devices_beside_a_program():
    """Of p numbers trained in float32: 8 bytes a number are Adam's, 2 the reference's; each of 4 devices has a part."""
    world = programs_of("tpu")
    trained = world["update"].arguments[0].params
    total = sum(leaf.size for leaf in jax.tree.leaves(trained))
    whole = shapes.resident_bytes(trained)
    assert total <= whole < 1.1 * total  # 4 bytes a number over 4 devices, but for small ones that each has
    held = {name: {kind: shapes.resident_bytes(tree) for kind, tree in world[name].resident.items()} for name in world}
    for name in SAMPLING:
        assert held[name]["optimizer"] == pytest.approx(2 * whole, abs=64)
        assert held[name]["reference"] == whole / 2
    copy = shapes.resident_bytes(world["decode"].arguments[0])
    assert held["decode"]["policy"] == whole
    assert held["prefill"]["copy"] == copy
    for name in SAMPLING[:2]:
        synced = shapes.resident_bytes(world[name].arguments) + held[name]["rest of the policy"]
        assert synced == pytest.approx(whole, abs=64)
        assert held[name]["copy"] < copy
    assert held["reference scores"] == {"training state": pytest.approx(3 * whole, abs=64)}
    assert held["update"] == {"reference": whole / 2}
    assert held["fused step"] == {}


@pytest.mark.parametrize("name", [*SAMPLING, "reference scores", "update", "fused step", "evaluation decode"])
def test_lowered_for_gpus_without_one(name):
    exported = lower_for_gpu(programs_of("gpu", num_devices=2, model__dtype="float32")[name])
    assert (exported.platforms, exported.nr_devices) == (("cuda",), 2)
    assert ("stablehlo.dot_general" in exported.mlir_module()) == (not name.startswith("sync"))


@pytest.mark.parametrize(("platform", "is_one_mesh"), [("gpu", True), ("cpu", False)])
def test_decoding_goes_on_from_where_prompts_were_read(platform, is_one_mesh):
    """On GPUs they stay on the trainer's mesh, which has two devices for every copy here."""
    world = programs_of(platform, model__dtype="float32", mesh__tensor=2)
    reading, (copy, prefilled, _) = world["prefill"], world["decode"].arguments
    placed = reading.lower().compile().output_shardings
    jax.tree.map(lambda is_at, leaf: pytest.fail(str(leaf)) if is_at != leaf.sharding else None, placed, prefilled)
    trainer, sampler = (jax.tree.leaves(tree)[0].sharding.mesh for tree in (reading.arguments[0], copy))
    assert (trainer.shape["tensor"], sampler.shape["tensor"]) == (2, 1)
    assert {leaf.sharding.mesh for leaf in jax.tree.leaves(prefilled)} == {trainer if is_one_mesh else sampler}
    world["decode"].lower()


def test_a_program_is_compiled_saved_loaded_and_run(tmp_path):
    program = programs_of("cpu", num_devices=2)["reference scores"]
    result = compile_for(program, GIB)
    assert isinstance(result, Compiled)
    memory = result.memory
    assert memory.peak == memory.arguments + memory.outputs - memory.aliased + memory.temporaries + memory.resident
    assert memory.resident == shapes.resident_bytes(program.resident) > 0
    saving.save(result.executable, tmp_path / "programs" / "scores.program")
    loaded = saving.load(tmp_path / "programs" / "scores.program", jax.devices()[:2])
    arguments = jax.tree.map(_array, program.arguments)
    for expected, actual in zip(program.function(*program.static, *arguments), loaded(*arguments), strict=True):
        assert float(np.abs(expected).max()) > 0
        np.testing.assert_array_equal(expected, actual)
    with pytest.raises(FileNotFoundError, match=r"update.program: no such program; `python -m r1vl_jax.aot"):
        saving.load(tmp_path / "update.program", jax.devices()[:2])


@pytest.mark.parametrize(("slots", "trips"), [(0, 32), (4, 64)])
def test_a_loop_counts_as_often_as_the_longest_completions_need(slots, trips):
    """8 rows of 32 tokens; 4 slots take two rows each, one after another, inside two loops."""
    decode = programs_of("cpu", num_devices=2, sampling__slots=slots)["decode"]
    module = parse(decode.lower().compile().as_text())
    with_product = {
        name for name, inside in module.computations.items() if any("dot" in each for each in inside.instructions)
    }
    assert {times for one, _, times in module.executed() if with_product.intersection(one.called)} == {trips}


def _array(shape: jax.ShapeDtypeStruct) -> jax.Array:
    values = np.random.default_rng(0).normal(scale=0.1, size=shape.shape)
    return jax.device_put(np.abs(values).astype(shape.dtype), shape.sharding)


def test_what_is_too_large_already_without_temporaries_is_not_compiled():
    program = programs_of("tpu", model__preset="7b")["update"]
    result = compile_for(program, 16 * GIB)
    assert isinstance(result, OutOfMemory)
    held = shapes.resident_bytes((program.arguments, program.resident))
    assert result.excess == held - 16 * GIB > 8.29e9 * 14 / 4 - 16 * GIB
