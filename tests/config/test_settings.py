"""The instruction, given as text or as a file."""

import re

import pytest

from r1vl_jax import config


def test_no_instruction():
    assert config.instruction(config.Data()) == ""


def test_an_instruction_is_stripped():
    assert config.instruction(config.Data(instruction="  Think first.\n")) == "Think first."


def test_an_instruction_file_is_read_as_utf_8(tmp_path):
    path = tmp_path / "instruction.txt"
    path.write_bytes("\nDenke Schritt für Schritt.\nAntworte kurz.\n".encode())
    assert config.instruction(config.Data(instruction_file=str(path))) == "Denke Schritt für Schritt.\nAntworte kurz."


@pytest.mark.parametrize(("content", "message"), [(None, "No such file"), (b"\xff", "utf-8"), (b" \n", "is empty")])
def test_an_unreadable_instruction_file_is_named(tmp_path, content, message):
    path = tmp_path / "instruction.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"data.instruction_file={str(path)!r}: ") + f".*{message}"):
        config.instruction(config.Data(instruction_file=str(path)))
