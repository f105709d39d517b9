"""The files beside the weights of an export: copied, with the entries changed that the run decided otherwise."""

import json
from pathlib import Path

import pytest

from r1vl_jax.checkpoint.hf.files import copy_files

LIMITS = {"min_pixels": 784, "max_pixels": 400_000}
STATED = {**LIMITS, "size": {"shortest_edge": 784, "longest_edge": 400_000}}
PUBLISHED = {"min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "image_mean": [0.5, 0.25, 0.125]}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    directory.mkdir()
    write(directory, "config.json", {"dtype": "bfloat16"})
    return directory


def write(directory: Path, name: str, content: dict) -> None:
    (directory / name).write_text(json.dumps(content))


def copied(source: Path, *, eos_token_ids: tuple[int, ...] = (2, 0), dtype: str = "bfloat16") -> Path:
    out = source.with_name("out")
    out.mkdir()
    copy_files(source, out, eos_token_ids=eos_token_ids, **LIMITS, dtype=dtype)
    return out


def read(directory: Path, name: str) -> dict:
    return json.loads((directory / name).read_text())


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"size": {"min_pixels": 3136, "max_pixels": 12845056}},
        {"size": {"shortest_edge": 3136, "longest_edge": 12845056}},
        {"size": None},
    ],
)
def test_the_pixel_limits_are_written_in_both_spellings(source: Path, limits: dict):
    write(source, "preprocessor_config.json", PUBLISHED | limits)
    assert read(copied(source), "preprocessor_config.json") == PUBLISHED | STATED


def test_the_pixel_limits_are_written_into_the_file_of_transformers_5(source: Path):
    video = {"size": {"shortest_edge": 1, "longest_edge": 2}, "video_processor_type": "Qwen2VLVideoProcessor"}
    content = {"image_processor": PUBLISHED, "processor_class": "Qwen2VLProcessor", "video_processor": video}
    write(source, "processor_config.json", content)
    out = copied(source)
    assert read(out, "processor_config.json") == content | {"image_processor": PUBLISHED | STATED}
    assert not (out / "preprocessor_config.json").exists()


def test_the_pixel_limits_are_written_into_every_file_that_has_them(source: Path):
    write(source, "preprocessor_config.json", PUBLISHED)
    write(source, "processor_config.json", {"image_processor": PUBLISHED})
    out = copied(source)
    assert read(out, "preprocessor_config.json") == read(out, "processor_config.json")["image_processor"]


def test_files_that_state_what_the_run_did_are_copied_byte_for_byte(source: Path):
    content = {
        "config.json": {"dtype": "bfloat16"},
        "preprocessor_config.json": PUBLISHED | STATED,
        "processor_config.json": {"processor_class": "Qwen2VLProcessor"},
        "generation_config.json": {"eos_token_id": [0, 2]},
    }
    for name, each in content.items():
        (source / name).write_text(json.dumps(each, indent=7))
    out = copied(source)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        name: (source / name).read_bytes() for name in content
    }


@pytest.mark.parametrize("eos", [0, [0], None])
def test_the_end_tokens_of_the_run_are_added(source: Path, eos: object):
    write(source, "generation_config.json", {"eos_token_id": eos, "top_k": 1})
    assert read(copied(source), "generation_config.json") == {"eos_token_id": [2, 0], "top_k": 1}


def test_additional_chat_templates_are_copied(source: Path):
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "default.jinja").write_text("{{ messages }}")
    out = copied(source)
    assert (out / "additional_chat_templates" / "default.jinja").read_text() == "{{ messages }}"
    assert not (out / "generation_config.json").exists()
