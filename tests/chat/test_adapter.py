"""Adapters that PEFT writes are loaded, and answer as in transformers with PEFT; others are refused by name."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from helpers.chat_model import write_chat_model
from helpers.twins import ARCHITECTURES
from safetensors.numpy import load_file, save_file

import r1vl_jax
from r1vl_jax.checkpoint.hf.load import read_config
from r1vl_jax.checkpoint.hf.peft import load_adapter
from r1vl_jax.data.images import load_image_processor
from r1vl_jax.data.processor import Processor
from r1vl_jax.data.tokenizer import load_tokenizer
from r1vl_jax.models.qwen2_vl.model import Definition

# By suffix in the text decoder and, as `attn.qkv`, in the vision tower; one layer alone has the last.
TARGETS = ["q_proj", "down_proj", "attn.qkv", "layers.1.self_attn.o_proj"]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """A model and an adapter with random A and B, and PEFT's model of both."""
    directory = tmp_path_factory.mktemp(request.param)
    torch_model = write_chat_model(directory / "model", request.param)
    settings = peft.LoraConfig(r=3, lora_alpha=6, target_modules=TARGETS, use_rslora=True)
    model = peft.get_peft_model(torch_model, settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    model.save_pretrained(directory / "adapter")
    return directory, model.eval()


def test_greedy_answers_are_those_of_peft(written):
    directory, peft_model = written
    model = r1vl_jax.load(str(directory / "model"), adapter=directory / "adapter")
    answer = model.generate("How many?", max_new_tokens=16)
    processor = Processor(load_tokenizer(directory / "model"), load_image_processor(directory / "model"))
    turn = {"role": "user", "content": "How many?"}
    text = processor.tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
    tensors = {name: torch.as_tensor(array) for name, array in processor([text]).items()}
    with torch.no_grad():
        tokens = peft_model.generate(**tensors, do_sample=False, max_new_tokens=16)[0, tensors["input_ids"].shape[1] :]
    assert answer.token_ids == tokens.tolist()
    assert answer != r1vl_jax.load(str(directory / "model")).generate("How many?", max_new_tokens=16)


def test_an_adapters_instruction_counts(written, tmp_path: Path):
    directory, _ = written
    shutil.copytree(directory / "adapter", tmp_path / "adapter")
    (tmp_path / "adapter" / "instruction.txt").write_text("Think.\n")
    model = r1vl_jax.load(str(directory / "model"), adapter=str(tmp_path / "adapter"))
    assert model.prompter.instruction == "Think."


def change_tensors(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def rewrite(adapter: Path) -> None:
        tensors = dict(load_file(adapter / "adapter_model.safetensors"))
        change(tensors)
        save_file(tensors, adapter / "adapter_model.safetensors")

    return rewrite


def change_config(**changes) -> Callable[[Path], None]:
    def rewrite(adapter: Path) -> None:
        path = adapter / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return rewrite


NAME = "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (change_config(use_dora=True), "only plain LoRA is supported:\n  use_dora: expected False, got True"),
        (change_config(peft_type="IA3"), "peft_type: expected 'LORA', got 'IA3'"),
        (change_config(rank_pattern={"q_proj": 8}), "rank_pattern: expected {}, got {'q_proj': 8}"),
        (change_config(modules_to_save=["lm_head"]), "modules_to_save: expected None, got ['lm_head']"),
        (change_config(r=0), "r: expected an integer of at least 1, got 0"),
        (change_tensors(lambda t: t.pop(NAME)), f"the adapter is not one of this model:\n  missing: {NAME}"),
        (change_tensors(lambda t: t.update({NAME: np.zeros((3, 5), "f")})), f"misshapen: {NAME}: expected [3, 128]"),
        (change_tensors(lambda t: t.update({"lm_head.lora_A.weight": t[NAME]})), "extra: lm_head.lora_A.weight"),
        (lambda a: (a / "adapter_model.safetensors").write_bytes(b"half"), "truncated or damaged"),
        (lambda a: (a / "adapter_model.safetensors").unlink(), "expected adapter_model.safetensors, which"),
        (lambda a: (a / "adapter_config.json").unlink(), "expected adapter_config.json, found"),
    ],
)
def test_other_adapters_are_refused_by_name(written, tmp_path: Path, damage, reason: str):
    directory, _ = written
    shutil.copytree(directory / "adapter", tmp_path / "adapter")
    damage(tmp_path / "adapter")
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(reason)):
        load_adapter(tmp_path / "adapter", Definition(read_config(str(directory / "model"))))
