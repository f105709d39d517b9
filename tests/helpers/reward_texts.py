"""Random completions, from well-formed to adversarial; fast enough for 100,000 of them."""

import numpy as np

from r1vl_jax import response_format
from r1vl_jax.data.digits.puzzles import KINDS, Puzzle

HEADINGS = (
    *response_format.HEADINGS,
    "### Step 1:",
    "### Step 2:",
    "### Step 3:",
    "### Step 01:",
    "### Step 9999999999:",
)
NUMBERS = ("7", "7.0", "-7", "+7", "07", "14/2", r"\frac{14}{2}", r"-\frac{-14}{2}", "700%", r"700 \%", "7e0", "1,007")
NUMBERS += (
    "0",
    "-0",
    "0/3",
    "3/0",
    ".5",
    "0.5",
    "1/2",
    "50%",
    "7.",
    "1,23",
    "1234,567",
    "12,345.50",
    "7" * 33,
    "7" * 20,
    *("1, 234", "1234", "5$6", "56", "5$", "5K", "5k", "twelve", "12", "~7", "7 or 8", "$$7$$", "```", "7-8", "7:00"),
)
OPTIONS = (
    "A",
    "b",
    "(C)",
    "(D) 4",
    "D: 4",
    "d. 4",
    "E) 5",
    "K",
    "(a",
    "A1",
    "J.",
    "B:",
    "x",
    "seven",
    "Seven!",
    "7 cm",
    *("b:45", "B:C", "B: 4 or C: 5", "(B):", "B: C: 4", "(b) 4", "North", "northern", "pi", "x=7", "yes"),
)
PIECES = (
    *HEADINGS,
    *NUMBERS,
    *OPTIONS,
    *("\n", "\n\n", " ", "\t", "\r", "\v", "\f", "\x00", "###", "\n###", "#", ":", "$", "~", "\\", r"\,", r"\ ", r"\!"),
    *(r"\quad", r"\qquad", r"\left(", r"\right)", r"\leftarrow", r"\quadx", "a", "B", ".", "...", "=", "+", "(", ")"),
    *("3 + 4 = 7", "3+4=7", "3 plus 4 is 7", "café", "Ω", "\u00a0", "prime", "primes", "seven", "THE sum", "the sum"),
)
SPELLINGS = (
    "3+4=7",
    "3 + 4 = 7",
    "prime",
    "the sum",
    "7",
    "2.5",
    ".5",
    "café",
    "Ω",
    "a",
    "",
    " ",
    "$",
    "x ",
    "\n",
    ".",
)
SPELLINGS += (r"\frac{14}{2}", "seven is prime", "=7", "7.", "B", "### Step 1:", "step", "a\\,b", "aaaaab", "abab")


def puzzle(rng: np.random.Generator) -> Puzzle:
    return KINDS[rng.integers(len(KINDS))].draw(rng, int(rng.integers(1, 4)))


def record(rng: np.random.Generator, source: Puzzle, *, groups: int = 4, alternatives: int = 3) -> dict:
    """A record with the puzzle's answer and key steps, or random ones."""
    key_steps: list = [list(spellings[:alternatives]) for spellings in source.key_steps][:groups]
    while len(key_steps) < groups and rng.random() < 0.7:
        key_steps.append(_choose_several(rng, SPELLINGS, alternatives))
    if rng.random() < 0.1:
        key_steps = [_choose_several(rng, SPELLINGS, 1)[0:1] or "prime"]
    answer = source.answer if rng.random() < 0.5 else _choose(rng, [*NUMBERS, *OPTIONS, "$", "X y"])
    return {"answer": answer, "key_steps": key_steps}


def completion(rng: np.random.Generator, source: Puzzle, max_bytes: int) -> bytes:
    """A completion of a random kind, truncated at `max_bytes`."""
    kind = _KINDS[rng.integers(len(_KINDS))]
    return kind(rng, source)[:max_bytes]


def mutated(rng: np.random.Generator, source: Puzzle) -> bytes:
    """A puzzle's response with a few random edits, like the output of a model in training."""
    text = bytearray(source.path.encode())
    for _ in range(rng.integers(4)):
        index, edit = int(rng.integers(len(text) + 1)), rng.integers(4)
        if edit == 0:
            text[index:index] = _choose(rng, PIECES).encode()
        elif edit == 1:
            del text[index : index + int(rng.integers(1, 12))]
        elif edit == 2:
            del text[index:]
        else:
            text[index : index + 1] = bytes([rng.integers(256)])
    return bytes(text)


def _concatenated(rng: np.random.Generator, source: Puzzle) -> bytes:
    return "".join(_choose_several(rng, (*PIECES, source.path, source.answer), 25)).encode()


def _shuffled(rng: np.random.Generator, source: Puzzle) -> bytes:
    """Sections in random order, each heading with or without a body, on its own line or not."""
    parts = [heading + _choose(rng, ["\n", " ", ""]) for heading in _choose_several(rng, HEADINGS, 8)]
    bodies = [_choose(rng, [*PIECES, *source.steps, source.answer, ""]) for _ in parts]
    ends = [_choose(rng, ["\n", "\n\n", " ", ""]) for _ in parts]
    return "".join(map("".join, zip(parts, bodies, ends, strict=True))).encode()


def _answered(rng: np.random.Generator, source: Puzzle) -> bytes:
    """A valid response with a random answer."""
    answer = "".join(_choose_several(rng, [*NUMBERS, *OPTIONS, " ", "$", "\n", r"\left"], 3)) or source.answer
    return response_format.compose("d", "r", list(source.steps), answer).encode()


def _binary(rng: np.random.Generator, source: Puzzle) -> bytes:
    return rng.bytes(int(rng.integers(60)))


def _repeated(rng: np.random.Generator, source: Puzzle) -> bytes:
    """One piece repeated, as by a degenerate model."""
    return (_choose(rng, PIECES) + _choose(rng, PIECES)).encode() * int(rng.integers(1, 40))


def _empty(rng: np.random.Generator, source: Puzzle) -> bytes:
    return b""


_KINDS = (
    mutated,
    mutated,
    mutated,
    _concatenated,
    _concatenated,
    _shuffled,
    _shuffled,
    _answered,
    _answered,
    _binary,
    _repeated,
    _empty,
)


def _choose(rng: np.random.Generator, choices) -> str:
    return choices[rng.integers(len(choices))]


def _choose_several(rng: np.random.Generator, choices, limit: int) -> list[str]:
    return [_choose(rng, choices) for _ in range(rng.integers(limit + 1))]
