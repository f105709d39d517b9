"""Asks a model about pictures, or about a text alone.

    python -m r1vl_jax.generate --model=DIR --image=a.png --prompt="How many squares are there?"
        [--max_new_tokens=512] [--temperature=0.7 --top_k=20 --top_p=0.9 --n=4 --seed=0] [--stream]
        [--system="Be brief."] [--dtype=bfloat16] [--adapter=DIR]

`--model` is a directory in Hugging Face's layout, such as an export, or a name on the hub; `--adapter` the directory of
a LoRA adapter in PEFT's format. `--image` is given once for each picture; pictures come before the prompt, or where it
has `<image>`. `--video`, likewise, is a file (decoded by PyAV) or a directory of frames. A model that was trained with
an instruction is asked with it, unless `--noinstruction` is given. Answers are printed, one after another; with
`--stream` the one answer as it is made.
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from absl import app, flags

from r1vl_jax.chat.generation import Settings
from r1vl_jax.chat.messages import read_messages, read_prompt
from r1vl_jax.chat.pretrained import Answer, load
from r1vl_jax.runtime import compilation_cache, libtpu


def ask(
    model: str,
    prompt: str,
    images: Sequence[str],
    videos: Sequence[str] = (),
    *,
    system: str = "",
    has_instruction: bool = True,
    dtype: str = "float32",
    adapter: str | None = None,
    on_piece: Callable[[str], None] | None = None,
    **settings: Any,
) -> list[Answer]:
    """The answers to a prompt. What can be checked without the weights is refused before they are read.

    Args:
        on_piece: receives the one answer piece by piece, and none is returned; None for answers as a whole.
        settings: those of `generation.Settings`.

    Raises:
        FileNotFoundError, ValueError: the model, the prompt, a picture or a setting cannot be used.
    """
    if not prompt.strip():
        raise ValueError("--prompt: expected a question, got an empty text")
    num_answers = Settings(**settings).n
    if on_piece is not None and num_answers > 1:
        raise ValueError(f"--stream: expected --n=1, got {num_answers}")
    messages = [*read_prompt(prompt, images, list(videos))]
    if system:
        messages = [{"role": "system", "content": system}, *messages]
    read_messages(messages)
    loaded = load(model, dtype=dtype, param_dtype=dtype, adapter=adapter)
    instruction = None if has_instruction else ""
    if on_piece is not None:
        settings.pop("n", None)
        for piece in loaded.stream(messages, instruction=instruction, **settings):
            on_piece(piece)
        return []
    answers = loaded.chat(messages, instruction=instruction, **settings)
    return answers if num_answers > 1 else [answers]


def main() -> None:
    model = flags.DEFINE_string("model", None, "Directory of the model, or its name on the hub.", required=True)
    prompt = flags.DEFINE_string("prompt", None, "What to ask.", required=True)
    image = flags.DEFINE_multi_string("image", [], "A picture; may be given several times.")
    video = flags.DEFINE_multi_string("video", [], "A video, or a directory of frames; may be given several times.")
    system = flags.DEFINE_string("system", "", "A system prompt.")
    max_new_tokens = flags.DEFINE_integer("max_new_tokens", 512, "Most tokens of an answer.")
    temperature = flags.DEFINE_float("temperature", 0.0, "0 takes the likeliest token each time.")
    top_k = flags.DEFINE_integer("top_k", 0, "Sample from the k likeliest tokens; 0 from all.")
    top_p = flags.DEFINE_float("top_p", 1.0, "Sample from the likeliest tokens whose probabilities sum to p.")
    n = flags.DEFINE_integer("n", 1, "Number of answers.")
    stream = flags.DEFINE_bool("stream", False, "Print the answer as it is made.")
    seed = flags.DEFINE_integer("seed", 0, "Of the random numbers.")
    instruction = flags.DEFINE_bool("instruction", True, "Ask with the instruction that the model was trained with.")
    dtype = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the weights and the computation.")
    adapter = flags.DEFINE_string("adapter", None, "Directory of a LoRA adapter in PEFT's format.")
    cache = flags.DEFINE_string("compile_cache", "~/.cache/r1vl_jax", "Directory for compiled programs; '' for none.")

    def start(_: list[str]) -> None:
        compilation_cache.enable_compilation_cache(cache.value)
        settings = {
            "max_new_tokens": max_new_tokens.value,
            "temperature": temperature.value,
            "top_k": top_k.value,
            "top_p": top_p.value,
            "n": n.value,
            "seed": seed.value,
        }
        try:
            answers = ask(
                model.value,
                prompt.value,
                image.value,
                video.value,
                system=system.value,
                has_instruction=instruction.value,
                dtype=dtype.value,
                adapter=adapter.value,
                on_piece=partial(print, end="", flush=True) if stream.value else None,
                **settings,
            )
        except (ValueError, OSError, ModuleNotFoundError) as error:  # the last one: PyAV, for videos
            raise SystemExit(str(error)) from None
        if stream.value:
            print()
        for answer in answers:
            print(answer)
            if not answer.has_ended:
                print(f"(cut at --max_new_tokens={max_new_tokens.value})", file=sys.stderr)

    libtpu.skip_without_tpu()
    app.run(start)


if __name__ == "__main__":
    main()
