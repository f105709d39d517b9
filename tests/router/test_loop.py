"""The loop: what it asks, when it ends, and what it keeps, with completions written by the test."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from r1vl_jax.data.prompts import EncodedPrompt
from r1vl_jax.data.records import open_split
from r1vl_jax.router.datasets import Question
from r1vl_jax.router.evaluate import evaluate
from r1vl_jax.router.knowledge import Document, build
from r1vl_jax.router.loop import BASELINES, LIMIT, NOT_SEARCHED, STOPPED, UNREADABLE, Limits, Response, Router
from r1vl_jax.router.measures import measure, summarize
from r1vl_jax.router.prompts import load_wording
from r1vl_jax.router.protocol import NONE, write_answer, write_retrieval
from r1vl_jax.router.rewards import step_reward
from r1vl_jax.router.search import EVERY, open_bases
from r1vl_jax.router.teacher import write_teacher_records

TEXT, IMAGE, TABLE = "Text Retriever", "Text Image Retriever", "Table Retriever"
PAGES = ["Jules Verne wrote Mysterious Island.", "Herman Melville wrote Moby Dick."]
ROWS = ["author: Jules Verne; born: 1828", "author: Herman Melville; born: 1819"]
BORN = Question(
    id="q", text="When was its author born?", image=None, golds=("1828",), source="two", retrievers=(TEXT, TABLE)
)
WHO, WHEN = "Who wrote Mysterious Island?", "When was Jules Verne born?"
STOP = write_retrieval("Enough.")


@pytest.fixture(scope="module")
def searcher(tmp_path_factory):
    out = tmp_path_factory.mktemp("bases")
    for kind, texts in {"text": PAGES, "table": ROWS}.items():
        build([Document(str(n), text) for n, text in enumerate(texts)], out / kind, name=kind, kind=kind)
    return open_bases([out / "text", out / "table"])


class Script:
    """Answers to prompts, by what the prompt contains; a list is used up from the front."""

    def __init__(self, replies: dict[str, str | list[str]]):
        self.replies, self.asked, self.calls, self.systems = replies, [], [], []

    def encode(self, conversation) -> EncodedPrompt:
        text = "".join(part["text"] for part in conversation.turns[-1]["content"] if part["type"] == "text")
        self.asked.append(text)
        self.systems.append([turn["content"] for turn in conversation.turns if turn["role"] == "system"])
        number = len(self.asked) - 1
        return EncodedPrompt(np.full(len(text.split()), number, np.int32), np.zeros(len(text.split()), np.int32), ())

    def sample(self, prompts: Sequence[EncodedPrompt], call: tuple[int, int]) -> list[Response]:
        self.calls.append(call)
        texts = [self._reply(self.asked[prompt.token_S[0]]) for prompt in prompts]
        return [Response(text, len(text.split())) for text in texts]

    def _reply(self, prompt: str) -> str:
        reply = next(reply for part, reply in self.replies.items() if part in prompt)
        return reply if isinstance(reply, str) else reply.pop(0)


TWO_LOOKUPS = {
    "Final:": write_answer("So.", "1828"),
    "2. ": STOP,
    "1. ": write_retrieval("Verne.", WHEN, TABLE),
    "Route:": write_retrieval("A book.", WHO, TEXT),
    WHO: write_answer("ter-1.", "Jules Verne"),
    WHEN: write_answer("tar-1.", "1828"),
}


def router(script: Script, searcher, **settings) -> Router:
    return Router(script.encode, script.sample, load_wording("short"), searcher, **settings)


def test_it_looks_up_until_it_stops(searcher):
    script = Script(TWO_LOOKUPS)
    (trace,) = router(script, searcher).answer([BORN])
    assert (trace.ended, trace.prediction, trace.num_retrievals) == (STOPPED, "1828", 2)
    first, second = trace.trajectory.lookups
    assert (first.sub_question, first.retriever, first.answer) == (WHO, TEXT, "Jules Verne")
    assert first.documents[0] == f"ter-1: {PAGES[0]}"
    assert (second.documents[0], second.answer) == (f"tar-1: {ROWS[0]}", "1828")
    assert script.asked[1].endswith(WHO)
    assert "Route" not in script.asked[1]  # a conversation without history
    assert script.asked[2] == f"Route: {BORN.text}\n1. {WHO} Jules Verne"
    assert trace.num_tokens[0] == sum(len(text.split()) for text in script.asked)
    assert len(set(script.calls)) == len(script.calls)  # random numbers of its own for each call


def test_many_questions_are_sampled_together(searcher):
    script = Script(TWO_LOOKUPS)
    other = dataclasses.replace(BORN, id="other")
    traces = router(script, searcher).answer([BORN, other])
    assert [trace.trajectory.id for trace in traces] == ["q", "other"]
    assert len(script.calls) == 6  # as many as for one: three routes, two readings, the final answer


def test_the_system_prompt_is_that_of_routing(searcher):
    wording = load_wording("full")
    script = Script({"has to be looked up": STOP, "Origin question": write_answer("So.", "1828")})
    Router(script.encode, script.sample, wording, searcher).answer([BORN])
    assert script.systems == [[wording.route_system], []]


def test_limits_are_those_of_the_original():
    assert Limits() == Limits(max_lookups=3, route_tries=5, answer_tries=3)


def test_searches_with_a_look_up_that_failed_are_not_kept(searcher, tmp_path):
    nowhere = Script(TWO_LOOKUPS | {"Route:": write_retrieval("A picture.", WHO, IMAGE)})
    unread = Script(TWO_LOOKUPS | {WHO: "no format"})
    traces = [trace for script in (nowhere, unread) for trace in router(script, searcher).answer([BORN])]
    with pytest.raises(ValueError, match="none of 2 searches is right"):
        write_teacher_records(tmp_path / "none", traces, [1.0, 1.0], load_wording("short"))


def test_an_evaluation_runs_each_mode_and_keeps_right_searches(searcher, tmp_path):
    asking = router(Script(TWO_LOOKUPS), searcher)
    summaries = evaluate(asking, [BORN], tmp_path / "out", ["router", EVERY], records=tmp_path / "records")
    assert {mode: summary["retrievals"] for mode, summary in summaries.items()} == {"router": 2, EVERY: 4}
    assert [record.id for record in open_split(tmp_path / "records", "warmup")] == [f"q/{n}" for n in range(1, 7)]


def test_it_ends_at_the_limit(searcher):
    script = Script(TWO_LOOKUPS | {"2. ": write_retrieval("More.", WHO, TEXT), "1. ": write_retrieval("x", WHO, TEXT)})
    (trace,) = router(script, searcher, limits=Limits(max_lookups=2)).answer([BORN])
    assert (trace.ended, len(trace.trajectory.lookups), trace.prediction) == (LIMIT, 2, "1828")


def test_what_cannot_be_read_is_sampled_again(searcher):
    first = ["nonsense", "<think>x</think><sub-question>a</sub-question><ret>Web</ret>", STOP]
    (trace,) = router(Script(TWO_LOOKUPS | {"Route:": first}), searcher).answer([BORN])
    assert (trace.ended, trace.trajectory.lookups) == (STOPPED, ())
    assert [text for text, _ in trace.unreadable] == [
        "nonsense",
        "<think>x</think><sub-question>a</sub-question><ret>Web</ret>",
    ]
    assert "'Web'" in trace.unreadable[1][1]


def test_it_does_not_try_for_ever(searcher):
    replies = {"Final:": "1828", "Route:": "no format"}
    (trace,) = router(Script(replies), searcher).answer([BORN])
    assert (trace.ended, trace.prediction, len(trace.unreadable)) == (UNREADABLE, "", 5 + 3)


def test_an_answer_that_cannot_be_read_is_none(searcher):
    (trace,) = router(Script(TWO_LOOKUPS | {WHO: "no format"}), searcher).answer([BORN])
    assert trace.trajectory.lookups[0].answer == "nothing"


@pytest.mark.parametrize("baseline", [name for name in BASELINES if name != IMAGE])  # there is no such base here
def test_baselines(searcher, baseline):
    script = Script(TWO_LOOKUPS)
    (trace,) = router(script, searcher, baseline=baseline).answer([BORN])
    assert trace.num_retrievals == {EVERY: 4, "no retrieval": 0}.get(baseline, 2)
    if baseline == "no retrieval":
        assert (trace.ended, script.asked) == (NOT_SEARCHED, [f"Final: {BORN.text}"])
    else:
        assert {each.retriever for each in trace.trajectory.lookups} == {baseline}
    if baseline == EVERY:
        assert [line[:5] for line in trace.trajectory.lookups[1].documents[:2]] == ["ter-1", "tar-1"]


def test_a_retriever_without_a_base_is_named(searcher):
    script = Script(TWO_LOOKUPS | {"Route:": write_retrieval("A picture.", WHO, IMAGE)})
    (trace,) = router(script, searcher).answer([BORN])
    assert trace.trajectory.lookups[0].documents == ()
    assert trace.num_retrievals == 1  # the second look-up


def test_right_searches_become_records(searcher, tmp_path):
    traces = router(Script(TWO_LOOKUPS), searcher).answer([BORN, dataclasses.replace(BORN, id="wrong")])
    (cut,) = router(Script(TWO_LOOKUPS), searcher, limits=Limits(max_lookups=1)).answer(
        [dataclasses.replace(BORN, id="cut")]
    )
    assert write_teacher_records(tmp_path / "records", [*traces, cut], [1.0, 0.9, 1.0], load_wording("short")) == 2
    taught, asked = (list(open_split(tmp_path / "records", split)) for split in ("warmup", "train"))
    first = [f"q/{number}" for number in range(1, 7)]
    assert [record.id for record in taught] == [*first, "cut/1", "cut/2", "cut/3"]
    assert [record.kind for record in taught[6:]] == ["ret", "ans", "ans"]  # at the limit nobody was asked to stop
    assert [dataclasses.replace(record, response="") for record in taught] == asked
    responses = [record.response for record in taught]
    rewards = step_reward(responses, kind=[r.kind for r in taught], answer=[r.answer for r in taught])
    assert rewards == pytest.approx([1.0] * len(taught))
    with pytest.raises(ValueError, match="none of 1 searches is right"):
        write_teacher_records(tmp_path / "none", traces[:1], [0.0], load_wording("short"))


def test_measures(searcher):
    (trace,) = router(Script(TWO_LOOKUPS), searcher).answer([BORN])
    measured = measure(BORN, trace)
    assert (measured["tokens_read"], measured["tokens_written"]) == trace.num_tokens
    assert trace.num_tokens[1] == sum(len(TWO_LOOKUPS[part].split()) for part in TWO_LOOKUPS)
    assert (measured["recall"], measured["exact_match"], measured["routing_accuracy"]) == (1, 1, 1)
    once = dataclasses.replace(BORN, retrievers=(TABLE,), golds=("1829",))
    assert measure(once, trace)["routing_accuracy"] == 0  # the first is another; the second is one too many
    summary = summarize([BORN, once], [trace, trace])
    assert (summary["recall"], summary["routing_accuracy"], summary["ended"]) == (0.5, 0.5, {STOPPED: 2})
    assert summary["by_source"]["two"]["num_questions"] == 2
    assert NONE not in [each.sub_question for each in trace.trajectory.lookups]
