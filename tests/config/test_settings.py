"""Every setting is documented; the instruction is given as text or as a file."""

import dataclasses
import re

import pytest

from r1vl_jax import config


def undocumented(section, path: str) -> list[str]:
    """Settings that the docstring of their section does not name."""
    names = []
    for field in dataclasses.fields(section):
        value, name = getattr(section, field.name), f"{path}.{field.name}"
        if dataclasses.is_dataclass(value):
            names += undocumented(value, name)
        elif not re.search(rf"^ +[\w, ]*\b{field.name}\b[\w, ]*:", section.__doc__, re.MULTILINE):
            names.append(name)
    return names


def test_every_setting_is_documented():
    assert undocumented(config.Config(), "config") == []


def test_no_instruction():
    assert config.read_instruction(config.Data()) == ""


def test_an_instruction_is_stripped():
    assert config.read_instruction(config.Data(instruction="  Think first.\n")) == "Think first."


def test_an_instruction_file_is_read_as_utf_8(tmp_path):
    path = tmp_path / "instruction.txt"
    path.write_bytes("\nDenke Schritt für Schritt.\nAntworte kurz.\n".encode())
    text = config.read_instruction(config.Data(instruction_file=str(path)))
    assert text == "Denke Schritt für Schritt.\nAntworte kurz."


@pytest.mark.parametrize(("content", "message"), [(None, "No such file"), (b"\xff", "utf-8"), (b" \n", "is empty")])
def test_an_unreadable_instruction_file_is_named(tmp_path, content, message):
    path = tmp_path / "instruction.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"data.instruction_file={str(path)!r}: ") + f".*{message}"):
        config.read_instruction(config.Data(instruction_file=str(path)))
