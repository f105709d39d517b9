"""The programs of a configuration: which there are, what is resident beside each, and their lowering for GPUs."""

import jax
import numpy as np
import pytest
from helpers.small_pod import get_config

from r1vl_jax.aot import shapes
from r1vl_jax.aot.compile import Compiled, OutOfMemory, compile_for, load_executable, save_executable
from r1vl_jax.aot.hlo.parse import parse_hlo
from r1vl_jax.aot.programs import programs
from r1vl_jax.checkpoint.model_config import expected_config
from r1vl_jax.config import resolve
from r1vl_jax.sharding.mesh import make_mesh
from r1vl_jax.training.components import make_definition

GIB = 2**30
SAMPLING = ["sync_layers", "sync_non_layer_params", "prefill", "decode"]
EVALUATION = [f"evaluation_{name}" for name in SAMPLING]
DECODE = ["decode", "evaluation_decode"]


def programs_of(platform: str, num_devices: int = 4, **settings) -> dict:
    """Programs by name; settings are given as SECTION__SETTING=value."""
    config = get_config()
    for name, value in settings.items():
        section, setting = name.split("__")
        config[section][setting] = value
    resolved = resolve(config)
    mesh = make_mesh(resolved.mesh, jax.devices()[:num_devices])
    model = make_definition(resolved, expected_config(resolved.model), mesh, platform=platform)
    return {program.name: program for program in programs(resolved, model)}


def test_which_programs_there_are():
    trained = [*SAMPLING, "reference_logps", "update", "fused_step"]
    assert list(programs_of("tpu")) == [*trained, "evaluation_decode"]
    supervised = programs_of("tpu", train__stages=("warmup", "step_grpo"), warmup__max_steps=1, warmup__batch_size=8)
    assert list(supervised)[0] == "warmup_update"
    assert list(programs_of("tpu", loss__beta=0.0, loss__num_iterations=2))[4] == "policy_logps"
    fused = programs_of("tpu", train__fused=True, reward__backend="kernels", reward__undecided="wrong", model__lora_r=4)
    assert [name for name, program in fused.items() if program.is_used] == ["fused_step", *EVALUATION]


def test_no_weight_sync_where_the_sampler_aliases_the_weights():
    one_cpu = programs_of("cpu", num_devices=1, model__dtype="float32")
    assert not set(one_cpu) & set(SAMPLING[:2])
    assert set(SAMPLING[2:]) < set(one_cpu)
    assert set(SAMPLING) < set(programs_of("cpu", num_devices=1, model__dtype="bfloat16"))


def test_the_first_prompts_are_prefilled_before_the_weight_sync():
    made = programs_of("tpu")
    _, prefilled, _ = made["decode"].arguments
    for name in SAMPLING[:2]:
        assert made[name].resident["prefilled"] == prefilled
        assert made[name].resident["prompts"] == made["decode"].resident["prompts"]


def test_settings_that_reduce_the_memory_of_a_program():
    learning = ("model.remat", "train.micro_batches", "loss.logp_chunk_size")
    expected = dict.fromkeys(SAMPLING, ()) | {
        "decode": ("sampling.slots",),
        "reference_logps": learning,
        "update": learning,
        "fused_step": (*learning, "sampling.slots"),
        "evaluation_prefill": ("eval.batch_size",),
        "evaluation_decode": ("eval.batch_size",),
    }
    assert {name: each.memory_settings for name, each in programs_of("tpu", eval__batch_size=8).items()} == expected
    alone = programs_of("tpu", train__stages=("warmup",), warmup__max_steps=1, warmup__batch_size=8)
    assert alone["evaluation_sync_layers"].memory_settings == ()
    assert alone["warmup_update"].memory_settings == learning


def test_evaluation_has_programs_where_training_has_none_of_their_shapes():
    """One greedy completion per prompt; what is resident depends on whether there is validation."""
    apart = programs_of("tpu", eval__batch_size=8)
    assert list(apart)[-2:] == ["evaluation_prefill", "evaluation_decode"]
    num_rows = {name: jax.eval_shape(apart[name].function, *apart[name].arguments).has_ended_B.shape for name in DECODE}
    assert num_rows == {"decode": (8,), "evaluation_decode": (8,)}  # 4 prompts twice, and 8 once
    prefix = {name: apart[name].arguments[1].hidden_PD.shape[0] for name in DECODE}
    assert prefix == {"decode": 4, "evaluation_decode": 8}
    assert set(apart["evaluation_decode"].resident) == {"policy", "prompts"}
    validated = programs_of("tpu", eval__steps=1)["evaluation_decode"]
    assert set(validated.resident) == {"policy", "prompts", "optimizer", "reference"}
    supervised = programs_of("tpu", train__stages=("warmup",), warmup__max_steps=1, warmup__batch_size=8)
    assert list(supervised) == ["warmup_update", *EVALUATION]
    without = programs_of("tpu", eval__num_problems=0)
    assert not set(without) & set(EVALUATION)


def test_evaluation_with_samples_decodes_them_apart():
    made = programs_of("tpu", eval__num_samples=3)
    assert list(made)[-2:] == ["evaluation_decode", "evaluation_decode_samples"]
    rows = jax.eval_shape(made["evaluation_decode_samples"].function, *made["evaluation_decode_samples"].arguments)
    assert rows.has_ended_B.shape == (12,)  # of 4 prompts
    assert made["evaluation_decode_samples"].memory_settings == ("eval.batch_size",)


def test_an_update_in_two_halves_is_the_one_that_a_run_compiles():
    settings = {"train__micro_batches": 2}
    plain, halves = (programs_of("tpu", **settings, train__gradient_cosine=value)["update"] for value in (False, True))
    assert [each.static[0].gradient_cosine for each in (plain, halves)] == [False, True]
    assert halves.flops.recompute > plain.flops.recompute  # a second backward pass of the vision tower
    assert halves.flops.model == plain.flops.model


def test_evaluation_has_a_length_of_its_own():
    shorter = programs_of("tpu", eval__max_completion_length=8)
    lengths = {name: jax.eval_shape(shorter[name].function, *shorter[name].arguments) for name in DECODE}
    assert {name: each.completions.token_BT.shape[1] for name, each in lengths.items()} == {
        "decode": 32,
        "evaluation_decode": 8,
    }
    same = programs_of("tpu")
    assert shorter["evaluation_decode"].flops.model < same["evaluation_decode"].flops.model / 3
    assert shorter["decode"].flops == same["decode"].flops


def test_resident_arrays_of_each_program():
    """Per parameter trained in float32: 8 bytes of Adam's moments, 2 of the reference, sharded over 4 devices."""
    built = programs_of("tpu")
    trained = built["update"].arguments[0].params
    total = sum(leaf.size for leaf in jax.tree.leaves(trained))
    whole = shapes.device_bytes(trained)
    assert total <= whole < 1.1 * total  # 4 bytes per parameter over 4 devices; small ones are replicated
    resident = {
        name: {kind: shapes.device_bytes(tree) for kind, tree in built[name].resident.items()} for name in built
    }
    for name in SAMPLING:
        assert resident[name]["optimizer"] == pytest.approx(2 * whole, abs=64)
        assert resident[name]["reference"] == whole / 2
    sampler_params = shapes.device_bytes(built["decode"].arguments[0])
    assert resident["decode"]["policy"] == whole
    assert resident["prefill"]["sampler params"] == sampler_params
    for name in SAMPLING[:2]:
        synced = shapes.device_bytes(built[name].arguments) + resident[name]["other policy params"]
        assert synced == pytest.approx(whole, abs=64)
        assert resident[name]["sampler params"] < sampler_params
    assert resident["reference_logps"] == {"train state": pytest.approx(3 * whole, abs=64)}
    assert resident["update"] == {"reference": whole / 2}
    assert resident["fused_step"] == {}


@pytest.mark.parametrize("name", [*SAMPLING, "reference_logps", "update", "fused_step", "evaluation_decode"])
def test_lowered_for_gpus_on_a_machine_without(name):
    exported = programs_of("gpu", num_devices=2, model__dtype="float32")[name].export_for_gpu()
    assert (exported.platforms, exported.nr_devices) == (("cuda",), 2)
    assert ("stablehlo.dot_general" in exported.mlir_module()) == (not name.startswith("sync"))


@pytest.mark.parametrize(("platform", "is_one_mesh"), [("gpu", True), ("cpu", False)])
def test_decode_takes_what_prefill_returns(platform, is_one_mesh):
    """On GPUs it stays on the trainer's mesh, which has two devices per copy of the decoder here."""
    built = programs_of(platform, model__dtype="float32", mesh__tensor=2)
    prefill, (sampler_params, prefilled, _) = built["prefill"], built["decode"].arguments
    placed = prefill.lower().compile().output_shardings
    jax.tree.map(lambda is_at, leaf: pytest.fail(str(leaf)) if is_at != leaf.sharding else None, placed, prefilled)
    trainer, sampler = (jax.tree.leaves(tree)[0].sharding.mesh for tree in (prefill.arguments[0], sampler_params))
    assert (trainer.shape["tensor"], sampler.shape["tensor"]) == (2, 1)
    assert {leaf.sharding.mesh for leaf in jax.tree.leaves(prefilled)} == {trainer if is_one_mesh else sampler}
    built["decode"].lower()


def test_a_program_is_compiled_saved_loaded_and_run(tmp_path):
    program = programs_of("cpu", num_devices=2)["reference_logps"]
    result = compile_for(program, GIB)
    assert isinstance(result, Compiled)
    memory = result.memory
    assert memory.peak == memory.arguments + memory.outputs - memory.aliased + memory.temporaries + memory.resident
    assert memory.resident == shapes.device_bytes(program.resident) > 0
    save_executable(result.executable, tmp_path / "programs" / "logps.program")
    loaded = load_executable(tmp_path / "programs" / "logps.program", jax.devices()[:2])
    arguments = jax.tree.map(_array, program.arguments)
    for expected, actual in zip(program.function(*program.static, *arguments), loaded(*arguments), strict=True):
        assert float(np.abs(expected).max()) > 0
        np.testing.assert_array_equal(expected, actual)
    with pytest.raises(FileNotFoundError, match=r"update.program: no such program; `python -m r1vl_jax.aot"):
        load_executable(tmp_path / "update.program", jax.devices()[:2])


@pytest.mark.parametrize(("slots", "trips"), [(0, 32), (4, 64)])
def test_the_trip_count_of_decoding_is_that_of_the_longest_completions(slots, trips):
    """8 rows of 32 tokens; 4 slots take two rows each, one after another, in nested loops."""
    decode = programs_of("cpu", num_devices=2, sampling__slots=slots)["decode"]
    module = parse_hlo(decode.lower().compile().as_text())
    has_matmul = {
        name for name, inside in module.computations.items() if any("dot" in each for each in inside.instructions)
    }
    assert {times for one, _, times in module.executed_instructions() if has_matmul.intersection(one.callees)} == {
        trips
    }


def _array(shape: jax.ShapeDtypeStruct) -> jax.Array:
    values = np.random.default_rng(0).normal(scale=0.1, size=shape.shape)
    return jax.device_put(np.abs(values).astype(shape.dtype), shape.sharding)


def test_a_program_too_large_without_temporaries_is_not_compiled():
    program = programs_of("tpu", model__preset="7b")["update"]
    result = compile_for(program, 16 * GIB)
    assert isinstance(result, OutOfMemory)
    minimum = shapes.device_bytes((program.arguments, program.resident))
    assert result.excess == minimum - 16 * GIB > 8.29e9 * 14 / 4 - 16 * GIB
