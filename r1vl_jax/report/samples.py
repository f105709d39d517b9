"""What the model wrote: pictures, questions and completions, with what earned a reward marked in the text."""

import base64
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from r1vl_jax import response_format
from r1vl_jax.observe.completions import own_rewards, question, read_completions
from r1vl_jax.report.markup import Markup, element, join, text

Row = Mapping[str, Any]
Span = tuple[int, int]

_MAX_STEPS = 4
_PROMPTS_PER_STEP = 3
_SIGNATURES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg"}


def samples(workdir: epath.Path) -> Iterator[Markup]:
    """The first prompts of a few steps, first and last among them, each with all its completions."""
    for path in _spread(sorted((workdir / "completions").glob("completions_*.parquet"))):
        rows = read_completions(path)
        groups = [list(group) for _, group in itertools.groupby(rows, lambda row: (row["prompt"], row["image"]))]
        if groups:
            title = element("h3", f"Step {rows[0]['step']}")
            yield element("section", title, *(prompt_card(group) for group in groups[:_PROMPTS_PER_STEP]))


def _spread(paths: Sequence[epath.Path]) -> list[epath.Path]:
    """At most `_MAX_STEPS` of them at even distances, with both ends."""
    last, count = len(paths) - 1, min(len(paths), _MAX_STEPS)
    return [paths[round(number * last / max(count - 1, 1))] for number in range(count)]


def prompt_card(group: Sequence[Row]) -> Markup:
    """One prompt: its picture, question and reference on the left, its completions, best first, on the right."""
    row = group[0]
    asked = element("p", question(row), class_="question")
    reference = element("p", "answer ", element("b", row["answer"]), " · ", row["kind"], class_="reference")
    prompt = element("div", picture(row["image"]), asked, reference, class_="prompt")
    best_first = sorted(group, key=lambda row: -row["reward"])
    return element("article", prompt, element("div", *map(completion_card, best_first), class_="completions"))


def picture(image: bytes) -> Markup:
    """The picture itself, inside the page; nothing if there is none that a browser shows."""
    kind = next((kind for signature, kind in _SIGNATURES.items() if image.startswith(signature)), None)
    if kind is None:
        return Markup()
    return element(
        "img", src=f"data:{kind};base64,{base64.b64encode(image).decode()}", alt="the picture of the question"
    )


def completion_card(row: Row) -> Markup:
    """One completion: what it earned, its text with matched key steps marked, the list of key steps."""
    key_steps, spans = json.loads(row["key_steps"]), json.loads(row["key_step_spans"])
    return element(
        "div",
        _earned(row),
        element("pre", annotated(row["completion"], spans)),
        _chips(key_steps, spans),
        class_="card",
    )


def _earned(row: Row) -> Markup:
    """Total reward, its parts, and the advantage as a bar to the left or right of zero."""
    side = "plus" if row["advantage"] >= 0 else "minus"
    width = min(abs(row["advantage"]) / 3, 1) * 50  # 3 standard deviations fill a side
    bar = element("span", element("i", class_=side, style=f"width:{width:.1f}%"), class_="bar")
    parts = [
        element("span", "reward ", element("b", f"{row['reward']:.2f}"), class_="total"),
        element("span", f"accuracy {row['step_accuracy']:.2f}", class_="part"),
        _flag("answer", row["answer_correct"]),
        element("span", f"key steps {row['key_step_match']:.0%}", class_="part"),
        element("span", f"validity {row['step_validity']:.0f}", class_="part"),
        _flag("complete", row["complete"]),
        _flag("in order", row["ordered"]),
        *(element("span", f"{name} {value:.2f}", class_="part") for name, value in own_rewards(row).items()),
        element("span", "advantage ", element("b", f"{row['advantage']:+.2f}"), bar, class_="advantage"),
    ]
    return element("div", *parts, class_="earned")


def _flag(label: str, value: float) -> Markup:
    kind, sign = ("yes", "✓") if value else ("no", "✗")
    return element("span", f"{sign} {label}", class_=f"flag {kind}")


def _chips(key_steps: Sequence[str | Sequence[str]], spans: Sequence[Sequence[Span]]) -> Markup:
    """Every key step by its first spelling, with a sign that says whether it was matched; the others on hovering."""
    chips = []
    for number, (group, found) in enumerate(zip(key_steps, spans, strict=True), start=1):
        spellings = [group] if isinstance(group, str) else group
        kind, sign = ("yes", "✓") if found else ("no", "✗")
        label = join(element("sup", number), sign, " ", spellings[0] if spellings else "(empty)")
        chips.append(element("span", label, class_=f"chip {kind}", title="  or  ".join(spellings)))
    return element("div", element("span", "key steps", class_="label"), *chips, class_="chips") if chips else Markup()


def annotated(completion: str, spans: Sequence[Sequence[Span]]) -> Markup:
    """The text with headings set off and matched key steps marked by their number; spans of groups may overlap."""
    headings = list(_heading_spans(completion))
    cuts = {0, len(completion), *itertools.chain(*headings), *itertools.chain(*itertools.chain(*spans))}
    edges = sorted(cut for cut in cuts if 0 <= cut <= len(completion))
    return join(*(_piece(completion, start, end, headings, spans) for start, end in itertools.pairwise(edges)))


def _piece(completion: str, start: int, end: int, headings: Sequence[Span], spans: Sequence[Sequence[Span]]) -> Markup:
    """The text between two neighbouring edges; a mark's number stands where its span ends."""
    piece = text(completion[start:end])
    covering = [n for n, group in enumerate(spans, start=1) if any(a <= start and end <= b for a, b in group)]
    ending = [n for n in covering if any(b == end for _, b in spans[n - 1])]
    if any(a <= start and end <= b for a, b in headings):
        piece = element("b", piece, class_="heading")
    if covering:
        piece = element("mark", piece, title="key step " + ", ".join(map(str, covering)))
    return join(piece, *(element("sup", number) for number in ending))


def _heading_spans(completion: str) -> Iterator[Span]:
    """Lines that open a section."""
    start = 0
    for line in completion.split("\n"):
        if line.startswith(
            (
                response_format.DESCRIPTION,
                response_format.RATIONALE,
                response_format.THINK,
                response_format.STEP,
                response_format.ANSWER,
            )
        ):
            yield start, start + len(line)
        start += len(line) + 1
