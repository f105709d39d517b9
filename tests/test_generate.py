"""The program asks a model about pictures, and refuses nonsense in a sentence."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.chat_model import write_chat_model
from PIL import Image

import r1vl_jax
from r1vl_jax import generate


def program(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "r1vl_jax.generate", "--compile_cache=", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_prints_the_answer(tmp_path: Path):
    write_chat_model(tmp_path / "model")
    image = Image.new("RGB", (60, 40), "red")
    image.save(tmp_path / "red.png")
    asked = program(
        f"--model={tmp_path / 'model'}", f"--image={tmp_path / 'red.png'}", "--prompt=How many?", "--max_new_tokens=6"
    )
    answer = r1vl_jax.load(str(tmp_path / "model")).generate("How many?", image, max_new_tokens=6)
    assert asked.stdout == f"{answer}\n", asked.stderr
    assert "(cut at --max_new_tokens=6)" in asked.stderr
    pieces: list[str] = []
    generate.ask(
        str(tmp_path / "model"), "How many?", [str(tmp_path / "red.png")], max_new_tokens=6, on_piece=pieces.append
    )
    assert "".join(pieces) == answer


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"model": "no/such"}, "'no/such' is no directory on this machine"),
        ({"images": ["no.png"]}, "a picture: no.png cannot be read (No such file"),
        ({"n": 2}, "n=2: at temperature 0 all answers to a prompt are the same"),
        ({"n": 2, "temperature": 1.0, "on_piece": print}, "--stream: expected --n=1, got 2"),
        ({"prompt": " "}, "--prompt: expected a question, got an empty text"),
    ],
)
def test_nonsense_is_refused_before_the_weights_are_read(arguments: dict, reason: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    if "model" not in arguments:
        monkeypatch.setattr(generate, "load", lambda *args, **settings: pytest.fail("the weights were read"))
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(reason)):
        generate.ask(**{"model": ".", "prompt": "What?", "images": []} | arguments)


def test_a_refusal_is_a_sentence():
    asked = program("--prompt=What?", "--model=.", "--temperature=-1")
    assert asked.returncode == 1
    assert asked.stderr == "temperature: expected a number of at least 0, got -1.0\n"
