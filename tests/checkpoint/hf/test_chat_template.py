"""The chat template of a checkpoint is found in whatever file it stands, and its tokenizer uses it."""

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from r1vl_jax.checkpoint.hf.chat_template import find_chat_template, load_chat_tokenizer
from r1vl_jax.data.tokenizer import CHAT_TEMPLATE, train_tokenizer

OTHER = "{{ messages }}"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(["some text to learn from"], vocab_size=300)


@pytest.fixture
def directory(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> Path:
    """A tokenizer as transformers saves it, without its chat template."""
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    return tmp_path


def in_json(directory: Path, name: str, template: object) -> None:
    path = directory / name
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | {"chat_template": template}))


def in_jinja(directory: Path, name: str, template: str) -> None:
    (directory / name).parent.mkdir(exist_ok=True)
    (directory / name).write_text(template)


# The file -> how the template is put there. In order of precedence.
PLACES = {
    "chat_template.json": in_json,
    "chat_template.jinja": in_jinja,
    "processor_config.json": in_json,
    "tokenizer_config.json": in_json,
    "additional_chat_templates/pictures.jinja": in_jinja,
}


@pytest.mark.parametrize("name", PLACES)
def test_a_template_may_stand_in_any_file_alone(name: str, directory: Path):
    PLACES[name](directory, name, CHAT_TEMPLATE)
    tokenizer, template = load_chat_tokenizer(directory)
    assert template is not None
    assert template.file == directory / name
    assert tokenizer.chat_template == template.text == CHAT_TEMPLATE
    turn = {"role": "user", "content": [{"type": "image"}]}
    assert tokenizer.apply_chat_template([turn], tokenize=False) == (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|><|im_end|>\n"
    )


@pytest.mark.parametrize("number", range(1, len(PLACES)))
def test_the_first_file_in_transformers_order_is_taken(number: int, directory: Path):
    first, second = list(PLACES)[number - 1 : number + 1]
    PLACES[first](directory, first, CHAT_TEMPLATE)
    PLACES[second](directory, second, OTHER)
    tokenizer, template = load_chat_tokenizer(directory)
    assert template is not None
    assert template.file == directory / first
    assert tokenizer.chat_template == CHAT_TEMPLATE


def test_without_a_template_the_tokenizer_has_none(directory: Path):
    tokenizer, template = load_chat_tokenizer(directory)
    assert template is None
    assert tokenizer.chat_template is None


@pytest.mark.parametrize(
    "entry",
    [
        [{"name": "tool_use", "template": OTHER}, {"name": "default", "template": CHAT_TEMPLATE}],
        {"default": CHAT_TEMPLATE, "rag": OTHER},
    ],
)
def test_of_named_templates_the_default_is_taken(entry: object, directory: Path):
    in_json(directory, "tokenizer_config.json", entry)
    tokenizer, _ = load_chat_tokenizer(directory)
    assert tokenizer.chat_template == CHAT_TEMPLATE


@pytest.mark.parametrize("entry", [None, "", 7, {}, {"rag": OTHER}, []])
def test_an_entry_without_a_template_is_passed_over(entry: object, directory: Path):
    in_json(directory, "chat_template.json", entry)
    in_json(directory, "tokenizer_config.json", CHAT_TEMPLATE)
    template = find_chat_template(directory)
    assert template is not None
    assert template.file == directory / "tokenizer_config.json"


def test_additional_templates_beside_another_do_not_replace_it(directory: Path):
    in_json(directory, "tokenizer_config.json", CHAT_TEMPLATE)
    in_jinja(directory, "additional_chat_templates/tool_use.jinja", OTHER)
    tokenizer, _ = load_chat_tokenizer(directory)
    assert tokenizer.chat_template == CHAT_TEMPLATE


def test_several_templates_without_a_default_are_refused_by_name(directory: Path):
    for name in ("rag", "tool_use"):
        in_jinja(directory, f"additional_chat_templates/{name}.jinja", OTHER)
    with pytest.raises(ValueError, match="additional_chat_templates: expected one chat template or one called default"):
        find_chat_template(directory)
    in_jinja(directory, "additional_chat_templates/default.jinja", CHAT_TEMPLATE)
    template = find_chat_template(directory)
    assert template is not None
    assert template.text == CHAT_TEMPLATE


def test_a_damaged_file_is_named(directory: Path):
    (directory / "chat_template.json").write_text("{")
    with pytest.raises(ValueError, match=r"chat_template\.json: expected JSON, got something else"):
        find_chat_template(directory)
