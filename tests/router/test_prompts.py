"""The wording of R1-Router's prompts: what each holds, and what a directory of the user's own must have."""

import shutil
from pathlib import Path

import pytest

from r1vl_jax.router import prompts
from r1vl_jax.router.prompts import WORDINGS, load_wording
from r1vl_jax.router.protocol import RETRIEVER_NAMES

HISTORY = [("Who wrote it?", "Jules Verne"), ("When was he\nborn?", "1828")]
SHIPPED = Path(prompts.__file__).parent


@pytest.mark.parametrize("name", WORDINGS)
def test_a_prompt_has_question_history_and_picture_last(name):
    wording = load_wording(name)
    for prompt in (wording.route_prompt, wording.final_prompt):
        text = prompt("How old was he?", HISTORY, has_image=True).text
        assert text.index("How old") < text.index("1. Who wrote it? Jules Verne\n2. When was he born? 1828")
        assert text.endswith("\n<image>")
        assert text.count("<image>") == 1
        assert "<image>" not in prompt("How old was he?", [], has_image=False).text


@pytest.mark.parametrize("name", WORDINGS)
def test_documents_are_read_without_history(name):
    prompt = load_wording(name).answer_prompt("When?", ["ter-1: in\n1828", "ter-2: $question"], has_image=True)
    assert "ter-1: in 1828\nter-2: $question\n" in prompt.text
    assert prompt.text.index("ter-1") < prompt.text.index("When?") < prompt.text.index("<image>")
    assert prompt.system == ""


def test_the_system_prompt_names_every_retriever():
    system = load_wording("full").route_prompt("?", [], has_image=False).system
    assert all(name in system for name in RETRIEVER_NAMES)


def test_a_placeholder_in_a_text_is_no_picture():
    text = load_wording("short").route_prompt("What is <image>?", [("a <image>", "b")], has_image=True).text
    assert text == "Route: What is (image)?\n1. a (image) b\n<image>"


@pytest.mark.parametrize("given", ["<video>", "<image 2>", "<image_2>", "<video 1>"])
def test_neither_is_one_of_another_form(given):
    text = load_wording("short").answer_prompt("Which?", [f"ter-1: see {given}"], has_image=False).text
    assert text == f"ter-1: see ({given[1:-1]})\nWhich?"


def test_words_of_the_users_own(tmp_path):
    shutil.copytree(SHIPPED / "short", tmp_path / "own")
    (tmp_path / "own" / "final.txt").write_text("$image Sum up $question: $history")
    prompt = load_wording(str(tmp_path / "own")).final_prompt("it", HISTORY[:1], has_image=True)
    assert prompt.text == "<image> Sum up it: 1. Who wrote it? Jules Verne"


@pytest.mark.parametrize("text", ["$image $question", "$image $question $history $documents", "$question $history $"])
def test_a_template_needs_its_names(tmp_path, text):
    shutil.copytree(SHIPPED / "short", tmp_path / "own")
    (tmp_path / "own" / "final.txt").write_text(text)
    with pytest.raises(ValueError, match=r"final.txt: expected \$question, \$history, \$image, got \["):
        load_wording(str(tmp_path / "own"))


def test_a_wording_that_is_not_there(tmp_path):
    (tmp_path / "route.txt").touch()
    with pytest.raises(
        FileNotFoundError, match=r"expected full or short, or a directory with route_system.txt, answer"
    ):
        load_wording(str(tmp_path))
