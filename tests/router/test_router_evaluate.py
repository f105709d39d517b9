"""The loop with a real model, and what the program writes: traces, a page, measures beside baselines."""

import json
import shutil

import pytest
from helpers.chat_model import write_chat_model

import r1vl_jax
from r1vl_jax.chat.generation import Settings
from r1vl_jax.chat.prefix_reuse import PrefixReuse
from r1vl_jax.router.datasets import read_questions
from r1vl_jax.router.digits import task
from r1vl_jax.router.evaluate import choose_baselines, evaluate, sample_with
from r1vl_jax.router.loop import BASELINES, Router
from r1vl_jax.router.prompts import load_wording
from r1vl_jax.router.search import find_bases


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    out = tmp_path_factory.mktemp("router")
    write_chat_model(out / "model", "qwen2_vl")
    sizes = {"warmup_questions": 6, "train_questions": 6, "eval_questions": 3, "vision_pretrain_records": 1}
    task.write(out / "task", num_facts=60, **sizes)
    return out


def test_it_writes_traces_and_measures(directory):
    model = r1vl_jax.load(str(directory / "model"))
    reuse = PrefixReuse(2, 512)
    sample = sample_with(model, Settings(max_new_tokens=8, temperature=1.0), reuse)
    router = Router(model.prompter.encode, sample, load_wording("short"), find_bases(directory / "task" / "bases"))
    questions = read_questions(directory / "task" / "questions" / "test.jsonl")
    modes, out = ["router", "no retrieval"], directory / "out"
    with pytest.raises(ValueError, match="none of 3 searches is right"):
        evaluate(router, questions, out, modes, batch_size=2, records=directory / "none")
    summaries = json.loads((out / "summary.json").read_text())  # which is there all the same
    assert summaries.keys() == set(modes)
    assert summaries["router"]["num_questions"] == 3
    assert summaries["router"]["ended"] == {"unreadable": 3}  # random weights
    assert summaries["router"]["unreadable"] == 5 + 3  # tries of the first step and of the answer
    assert summaries["no retrieval"]["unreadable"] == 3
    rows = [json.loads(line) for line in (directory / "out" / "router.jsonl").read_text().splitlines()]
    assert [row["trajectory"]["kind"] for row in rows] == ["item", "boxes", "sign"]
    assert len({text for row in rows for text, _ in row["unreadable"]}) > 10  # other random numbers for each try
    page = (directory / "out" / "router.html").read_text()
    assert page.count("The search ended: no response was in the format.") == 3
    assert page.count("data:image/png;base64,") == 3
    assert reuse.num_reused_pictures > reuse.num_pictures / 2  # a response that cannot be read is sampled again
    assert "pictures not seen again" in reuse.describe()


def test_a_stopped_evaluation_goes_on_and_gives_the_same(directory, tmp_path):
    model = r1vl_jax.load(str(directory / "model"))
    searcher = find_bases(directory / "task" / "bases")
    questions = read_questions(directory / "task" / "questions" / "test.jsonl")
    settings = Settings(max_new_tokens=8, temperature=1.0)

    def ask(out, *, stop_after: int | None = None, **changes) -> list[str]:
        asked, sample = [], sample_with(model, settings)

        def counted(prompts, call):
            asked.append(call)
            if len({number for number, _ in asked}) == stop_after:
                raise KeyboardInterrupt
            return sample(prompts, call)

        router = Router(model.prompter.encode, counted, load_wording("short"), searcher)
        evaluate(router, questions, out, settings=vars(settings) | changes, batch_size=1)
        return asked

    whole = ask(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        ask(tmp_path / "stopped", stop_after=3)
    assert len(list((tmp_path / "stopped" / "router" / "parts").iterdir())) == 2
    rest = ask(tmp_path / "stopped")
    assert rest == [call for call in whole if call[0] == 2]
    for name in ("router.jsonl", "summary.json"):
        assert (tmp_path / "stopped" / name).read_text() == (tmp_path / "whole" / name).read_text()
    assert ask(tmp_path / "stopped") == []
    with pytest.raises(ValueError, match="has predictions made with other settings; .*\n  top_k: 0, now 5"):
        ask(tmp_path / "stopped", top_k=5)


def test_baselines_are_chosen_by_name():
    assert choose_baselines(["all"]) == list(BASELINES)
    assert choose_baselines([BASELINES[1]]) == [BASELINES[1]]
    with pytest.raises(ValueError, match="--baselines: expected some of no retrieval, Text Retriever, .*, got some"):
        choose_baselines(["some"])


def test_bases_are_one_of_each_kind(directory, tmp_path):
    with pytest.raises(FileNotFoundError, match="no knowledge bases"):
        find_bases(tmp_path)
    for name in ("first", "second"):
        shutil.copytree(directory / "task" / "bases" / "text", tmp_path / name)
    with pytest.raises(ValueError, match="second: a second knowledge base of kind text"):
        find_bases(tmp_path)
