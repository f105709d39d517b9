"""Generation beside transformers' `generate` with its cache: the same checkpoint, pictures, questions and answers.

    python -m benchmarks.generate [--size=small] [--batches=1,8] [--new_tokens=128] [--repeats=5] [--json=FILE]

Greedy, float32, pictures of 224 x 224 and 40 tokens of text; no answer ends early. Each side is given texts and
pictures and returns texts, so both cut the pictures into patches, with the same code. Sides take turns, in one process
and after a call that compiles; the table has medians (and the fastest repeats, which other programs disturb least), how
much faster ours is, and whether all tokens are equal. Weights are random.
"""

import argparse
import base64
import dataclasses
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from transformers import Qwen2VLForConditionalGeneration

import r1vl_jax
from benchmarks.side_by_side.inputs import SIZES, write_inputs
from benchmarks.side_by_side.work import Work

Tokens = list[list[int]]


def main() -> None:
    arguments = _parser().parse_args()
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        work = Work(Path(temporary), size=arguments.size, num_prompts=max(arguments.batches))
        write_inputs(work)
        questions, encoded = zip(*json.loads(work.texts.read_text()), strict=True)
        images = [Image.open(io.BytesIO(base64.b64decode(each))).convert("RGB") for each in encoded]
        ours, theirs = _ours(work), _transformers(work)
        for size in arguments.batches:
            batch = list(questions[:size]), images[:size], arguments.new_tokens
            results.append({"batch": size} | _compare(ours, theirs, batch, repeats=arguments.repeats))
    _print(results)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


def _compare(ours: Callable[..., Tokens], theirs: Callable[..., Tokens], batch: tuple, *, repeats: int) -> dict:
    start = time.perf_counter()
    tokens = ours(*batch)
    first_s = time.perf_counter() - start
    is_equal = tokens == theirs(*batch)
    seconds = {"ours": [], "transformers": []}
    for _ in range(repeats):
        for name, side in (("ours", ours), ("transformers", theirs)):
            start = time.perf_counter()
            side(*batch)
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    fastest = {name: min(values) for name, values in seconds.items()}
    return {
        "first_s": first_s,
        "median_s": medians,
        "fastest_s": fastest,
        "ratio": medians["transformers"] / medians["ours"],
        "ratio_of_fastest": fastest["transformers"] / fastest["ours"],
        "seconds": seconds,
        "tokens_equal": is_equal,
    }


def _ours(work: Work) -> Callable[..., Tokens]:
    model = r1vl_jax.load(str(work.model))
    # Without end tokens every answer has all its tokens.
    model.__dict__["prompter"] = dataclasses.replace(model.prompter, eos_token_ids=())

    def generate(questions: list[str], images: list[Image.Image], new_tokens: int) -> Tokens:
        return [answer.token_ids for answer in model.generate(questions, images, max_new_tokens=new_tokens)]

    return generate


def _transformers(work: Work) -> Callable[..., Tokens]:
    model: Any = Qwen2VLForConditionalGeneration.from_pretrained(work.model, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    processor = r1vl_jax.load(str(work.model)).prompter.processor

    def generate(questions: list[str], images: list[Image.Image], new_tokens: int) -> Tokens:
        turns = [
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": each}]}] for each in questions
        ]
        text = processor.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        inputs = processor(text, images=[[image] for image in images])
        tensors = {name: torch.as_tensor(array) for name, array in inputs.items()}
        with torch.no_grad():
            sequence_BS = model.generate(**tensors, do_sample=False, max_new_tokens=new_tokens)
        tokens = sequence_BS[:, inputs["input_ids"].shape[1] :]
        processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return np.asarray(tokens).tolist()

    return generate


def _print(results: list[dict]) -> None:
    table = Table("batch", "ours, s", "transformers, s", "times as fast", "first call of ours, s", "same tokens")
    for each in results:
        cells = [f"{each['median_s'][name]:.3f} ({each['fastest_s'][name]:.3f})" for name in ("ours", "transformers")]
        ratio = f"{each['ratio']:.2f} ({each['ratio_of_fastest']:.2f})"
        equal = "yes" if each["tokens_equal"] else "no"
        table.add_row(str(each["batch"]), *cells, ratio, f"{each['first_s']:.1f}", equal)
    Console(width=120).print(table)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.generate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="small", choices=SIZES)
    parser.add_argument("--batches", type=lambda text: [int(each) for each in text.split(",")], default=[1, 8])
    parser.add_argument("--new_tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file for all results")
    return parser


if __name__ == "__main__":
    main()
