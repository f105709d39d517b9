"""Tokens read, and time of prefill, of R1-Router's searches with and without what earlier prompts have read.

    python -m benchmarks.prefix_reuse --model=DIR --searches=runs/router_tiny/router/router.jsonl

Replays the searches that `router.evaluate` wrote, in the words of `full`, with the picture last as in the original, and
first: in rounds, one prompt for each search, of which one token is sampled. Pictures are enlarged to the size of usual
ones.
"""

import argparse
import base64
import dataclasses
import io
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from PIL import Image
from rich.table import Table

import r1vl_jax
from r1vl_jax.chat.generation import Settings
from r1vl_jax.chat.prefix_reuse import PrefixReuse
from r1vl_jax.chat.pretrained import Pretrained
from r1vl_jax.data.prompts import EncodedPrompt
from r1vl_jax.data.turns import Conversation, make_turn
from r1vl_jax.observe.markdown import markdown_table, provenance
from r1vl_jax.router.prompts import Prompt, Wording, load_wording
from r1vl_jax.runtime import libtpu

_ONE = Settings(max_new_tokens=1)


def rounds(searches: Sequence[Mapping[str, Any]], wording: Wording) -> Iterator[list[tuple[int, Prompt]]]:
    """The prompts of each round, each with the number of its search."""
    most = max(len(search["lookups"]) for search in searches)
    for number in range(most + 1):
        going_on = [(index, each) for index, each in enumerate(searches) if len(each["lookups"]) >= number]
        yield [
            (index, wording.route_prompt(each["question"], _history(each, number), has_image=True))
            for index, each in going_on
        ]
        asked = [(index, each["lookups"][number]) for index, each in going_on if len(each["lookups"]) > number]
        if asked:
            yield [
                (index, wording.answer_prompt(lookup["sub_question"], lookup["documents"], has_image=True))
                for index, lookup in asked
            ]
    yield [
        (index, wording.final_prompt(each["question"], _history(each, most), has_image=True))
        for index, each in enumerate(searches)
    ]


def _history(search: Mapping[str, Any], number: int) -> list[tuple[str, str]]:
    return [(lookup["sub_question"], lookup["answer"]) for lookup in search["lookups"][:number]]


def picture_first(wording: Wording) -> Wording:
    """The same words with the picture in front."""
    texts = dataclasses.asdict(wording)
    moved = {name: "$image\n" + texts[name].replace("\n$image", "") for name in ("route", "answer", "final")}
    return Wording(**texts | moved)


def replay(model: Pretrained, batches: Sequence[Sequence[EncodedPrompt]], reuse: PrefixReuse | None) -> float:
    """Seconds of all rounds."""
    start = time.perf_counter()
    for batch in batches:
        model.answer(batch, _ONE, reuse)
    return time.perf_counter() - start


def encode(model: Pretrained, prompt: Prompt, picture: Image.Image) -> EncodedPrompt:
    system = [{"role": "system", "content": prompt.system}] if prompt.system else []
    return model.prompter.encode(Conversation([*system, make_turn("user", prompt.text)], [picture]))


def measure(model: Pretrained, searches: Sequence[Mapping[str, Any]], side: int, width: int) -> Table:
    pictures = [Image.open(io.BytesIO(base64.b64decode(each["image"]))).resize((side, side)) for each in searches]
    table = Table("picture")
    for name in ("tokens", "read with reuse", "pictures", "seen with reuse", "seconds anew", "seconds with reuse"):
        table.add_column(name, justify="right")
    wording = load_wording("full")
    for name, words in {"last (the original)": wording, "first": picture_first(wording)}.items():
        batches = [
            [encode(model, prompt, pictures[index]) for index, prompt in of_round]
            for of_round in rounds(searches, words)
        ]
        seconds = {}
        for reusing in (False, True):
            for _ in range(2):  # the first compiles
                reuse = PrefixReuse(len(searches), width) if reusing else None
                seconds[reusing] = replay(model, batches, reuse)
        assert reuse is not None
        counts = reuse.num_tokens, reuse.num_tokens - reuse.num_reused
        seen = reuse.num_pictures, reuse.num_pictures - reuse.num_reused_pictures
        times = (f"{seconds[each]:.1f}" for each in (False, True))
        table.add_row(name, *(f"{count:,}" for count in (*counts, *seen)), *times)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="directory of a checkpoint")
    parser.add_argument("--searches", type=Path, required=True, help="MODE.jsonl of router.evaluate")
    parser.add_argument("--limit", type=int, default=16, help="searches that are replayed, at one time")
    parser.add_argument("--side", type=int, default=448, help="of a picture, in pixels")
    parser.add_argument("--width", type=int, default=4096, help="most tokens of a prompt, a multiple of 128")
    arguments = parser.parse_args()
    libtpu.skip_without_tpu()
    with arguments.searches.open() as file:
        searches = [json.loads(line)["trajectory"] for line, _ in zip(file, range(arguments.limit), strict=False)]
    model = r1vl_jax.load(arguments.model)
    table = measure(model, searches, arguments.side, arguments.width)
    command = ["python", "-m", "benchmarks.prefix_reuse", *sys.argv[1:]]
    print(provenance(command, [f"jax {metadata.version('jax')}"]), markdown_table(table), sep="\n\n")


if __name__ == "__main__":
    main()
