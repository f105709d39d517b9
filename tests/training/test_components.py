"""The components of a run on a small data set of the embedded task; no model is computed."""

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from r1vl_jax.config import default, resolve
from r1vl_jax.data.digits import task
from r1vl_jax.data.records import open_split, write_splits
from r1vl_jax.data.tokenizer import END_OF_TEXT, END_OF_TURN, VISION_TOKENS
from r1vl_jax.sampling.methods import Greedy, Temperature
from r1vl_jax.training.components import build_components, forbidden_token_ids

_SPLITS = ("warmup", "train", "validation", "test")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("components") / "data"
    task.write(directory, difficulty=1, warmup_records=10, train_records=10, eval_records=5, seed=0)
    return directory


@pytest.fixture
def make_config(tmp_path, data):
    def make(**changes):
        config = default()
        config.workdir, config.data.source, config.warmup.max_steps = str(tmp_path / "run"), str(data), 1
        for name, value in changes.items():
            config.update_from_flattened_dict({name.replace("__", "."): value})
        return resolve(config)

    return make


def test_samplers_are_as_the_configuration_says(make_config):
    components = build_components(make_config(sampling__temperature=0.7, loss__temperature_in_loss=True))
    sampler, greedy = components.sampler, components.evaluator.sampler
    assert (sampler.method, sampler.num_generations, sampler.logp_temperature) == (Temperature(0.7), 4, 0.7)
    assert (greedy.method, greedy.num_generations, greedy.logp_temperature) == (Greedy(), 1, 1.0)
    assert build_components(make_config(sampling__temperature=0.7)).sampler.logp_temperature == 1.0


def test_evaluations_have_a_length_of_their_own(make_config):
    components = build_components(make_config(eval__max_completion_length=9, sampling__max_completion_length=300))
    assert (components.sampler.max_length, components.evaluator.sampler.max_length) == (300, 9)
    assert build_components(make_config(sampling__max_completion_length=300)).evaluator.sampler.max_length == 300


def test_evaluations_sample_if_asked_to(make_config):
    assert build_components(make_config()).evaluator.several is None
    changes = {"eval__num_samples": 3, "eval__max_completion_length": 9, "sampling__temperature": 0.7}
    several = build_components(make_config(**changes)).evaluator.several
    assert several is not None
    assert (several.method, several.num_generations, several.max_length) == (Temperature(1.0), 3, 9)


@pytest.mark.parametrize(("batch_size", "width"), [(128, 8), (8, 8), (4, 4)])
def test_an_evaluation_is_no_wider_than_its_records(make_config, batch_size, width):
    """There are 5, for 8 devices; a batch that is smaller comes with its full width each time."""
    components = build_components(make_config(eval__batch_size=batch_size, sampling__max_completion_length=300))
    batches = list(components.evaluator.test())
    assert {len(prompts.prompt_id_P) for _, prompts in batches} == {width}
    assert sum(len(records) for records, _ in batches) == 5


def test_no_evaluation_needs_no_test_split(make_config, data, tmp_path):
    write_splits(tmp_path / "partial", {name: open_split(data, name) for name in ("warmup", "train")}, settings={})
    config = make_config(data__source=str(tmp_path / "partial"), eval__num_problems=0, eval__batch_size=3)
    components = build_components(config)
    assert set(components.inputs.splits) == {"warmup", "train"}
    assert components.inputs.summary == ()


def test_vision_tokens_are_never_sampled_and_the_end_of_a_turn_may_be(make_config):
    components = build_components(make_config())
    forbidden = set(components.inputs.tokenizer.convert_ids_to_tokens(components.sampler.forbidden_token_ids))
    assert forbidden == set(VISION_TOKENS)
    ends = components.inputs.tokenizer.convert_ids_to_tokens(list(components.sampler.eos_token_ids))
    assert set(ends) == {END_OF_TURN, END_OF_TEXT}


def test_ids_without_a_token_are_never_sampled(make_config):
    tokenizer = build_components(make_config()).inputs.tokenizer
    size = len(tokenizer) + 3
    assert {size - 3, size - 2, size - 1} <= set(forbidden_token_ids(tokenizer, size))


@pytest.mark.parametrize(
    ("missing", "changes"),
    [
        ("train", {}),
        ("validation", {"train__stages": ("warmup",), "eval__steps": 1}),
    ],
)
def test_a_missing_split_is_missed_before_training(make_config, data, tmp_path, missing, changes):
    splits = {name: open_split(data, name) for name in _SPLITS if name != missing}
    write_splits(tmp_path / "partial", splits, settings={})
    with pytest.raises(FileNotFoundError, match=f"partial: no split '{missing}', only"):
        build_components(make_config(data__source=str(tmp_path / "partial"), **changes))


def test_splits_that_no_stage_reads_may_be_missing(make_config, data, tmp_path):
    write_splits(tmp_path / "partial", {"warmup": open_split(data, "warmup")}, settings={})
    components = build_components(make_config(data__source=str(tmp_path / "partial"), train__stages=("warmup",)))
    assert set(components.inputs.splits) == {"warmup"}


def test_the_fingerprint_is_of_the_records(make_config, data, tmp_path):
    before = build_components(make_config()).inputs.fingerprints()
    write_splits(tmp_path / "same", {name: open_split(data, name) for name in _SPLITS}, settings={"other": 1})
    assert build_components(make_config(data__source=str(tmp_path / "same"))).inputs.fingerprints() == before
    changed = {name: list(open_split(data, name)) for name in _SPLITS}
    changed["test"].pop()
    write_splits(tmp_path / "changed", changed, settings={})
    assert build_components(make_config(data__source=str(tmp_path / "changed"))).inputs.fingerprints() != before


def test_a_run_killed_while_it_saves_the_tokenizer_begins_it_anew(make_config, monkeypatch):
    config, save = make_config(), PreTrainedTokenizerBase.save_pretrained

    def save_half(self, directory, **settings):
        save(self, directory, **settings)
        (directory / "tokenizer.json").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(PreTrainedTokenizerBase, "save_pretrained", save_half)
    with pytest.raises(KeyboardInterrupt):
        build_components(config)
    monkeypatch.setattr(PreTrainedTokenizerBase, "save_pretrained", save)
    assert len(build_components(config).inputs.tokenizer) > 256
    assert sorted(path.name for path in Path(config.workdir).iterdir()) == ["tokenizer"]


def shortness(prompts, completions, **columns):
    return [0.0] * len(completions)


def on_device(byte_BU, length_B, key_steps, answers):
    return -length_B


def reward(byte_BU, length_B, key_steps, answers):
    return -length_B


def test_functions_of_the_host_are_refused_in_a_fused_step(make_config):
    settings = {"reward__functions": (f"{__name__}:shortness",), "reward__function_weights": (1.0,)}
    fused = {"train__fused": True, "reward__backend": "kernels", "reward__undecided": "wrong"}
    assert build_components(make_config(**settings)).rewarder.spec.functions[0].name == "shortness"
    with pytest.raises(ValueError, match="train.fused: reward functions shortness run on the host; write them as"):
        build_components(make_config(**settings, **fused))


def test_conversations_for_functions_of_the_device_are_refused(make_config):
    settings = {"reward__functions": (f"{__name__}:on_device",), "reward__function_weights": (1.0,)}
    with pytest.raises(ValueError, match="reward.completions='messages' has no effect on functions of the device"):
        build_components(make_config(**settings, reward__completions="messages"))


def test_a_function_cannot_take_the_name_of_a_column(make_config):
    with pytest.raises(ValueError, match="the name 'reward' is taken; rename the function"):
        build_components(make_config(reward__functions=(f"{__name__}:reward",), reward__function_weights=(1.0,)))


def test_batches_that_the_devices_cannot_share_are_refused(make_config):
    """The tests have eight devices, and the model two key/value heads."""
    with pytest.raises(ValueError, match=r"warmup.batch_size=4, eval.batch_size=12: expected multiples of 8, the dev"):
        build_components(make_config(warmup__batch_size=4, eval__batch_size=12, mesh__tensor=1))
    with pytest.raises(ValueError, match=r"devices: train.prompts_per_update=6: expected multiples of 4"):
        build_components(make_config(train__prompts_per_update=6))
    with pytest.raises(ValueError, match=r"warmup.batch_size / train.micro_batches=4: expected multiples of 8"):
        build_components(make_config(warmup__batch_size=16, train__micro_batches=4, mesh__tensor=1))
    with pytest.raises(ValueError, match=r"warmup.batch_size / 2 \(train.gradient_cosine\)=4: expected multiples of 8"):
        build_components(make_config(warmup__batch_size=8, train__gradient_cosine=True, mesh__tensor=1))


def test_more_devices_than_prompts_share_the_heads(make_config):
    components = build_components(make_config(train__prompts_per_update=4, warmup__batch_size=4))
    assert dict(components.loader.mesh.shape) == {"data": 1, "fsdp": 4, "tensor": 2}
