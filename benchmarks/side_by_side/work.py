"""What every side does, as settings; light, for torch's sides must not carry our libraries."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

BETA, LEARNING_RATE, MAX_GRAD_NORM = 0.04, 1e-6, 1.0
# Of every prompt in what ours trains on: to find a record's place in a shuffle of 2 takes grain 6 ms, of 128 0.2.
COPIES = 64


@dataclass(frozen=True)
class Work:
    """What is asked of a side.

    Attributes:
        directory: receives the checkpoint, the records and what the sides write down.
        size: a name of `making.SIZES`.
        dtype: of the computation, "float32" or "bfloat16"; trained weights are float32 always.
        new_tokens: of every completion; none ends early.
        steps: of a repeat, one after another; its seconds are those of one.
        devices: virtual ones of a CPU, over which ours divides the prompts.
        remat: what our backward pass computes again; see `Model` in `r1vl_jax.config`.
        recompute: whether torch's backward pass computes what is inside a layer again, to save memory.
        large_pages: whose memory comes in large pages: "ours" (as launch/local.sh starts a run), "all" or "none".
    """

    directory: Path
    size: str = "small"
    dtype: str = "float32"
    num_prompts: int = 2
    num_generations: int = 4
    new_tokens: int = 128
    steps: int = 1
    devices: int = 1
    remat: str = "block"
    recompute: bool = False
    large_pages: str = "ours"

    @property
    def model(self) -> Path:
        """The checkpoint, as transformers and we open it."""
        return self.directory / f"model-{self.size}"

    @property
    def data(self) -> Path:
        """The prompts as records; ours trains on copies of them, shuffled."""
        return self.directory / f"data-{self.size}-{self.num_prompts}x{COPIES}"

    @property
    def inputs(self) -> Path:
        """The prompts as arrays; see `making`."""
        return self.directory / "inputs.npz"

    @property
    def texts(self) -> Path:
        """The prompts as a list of questions, each with its picture as a file in base64."""
        return self.directory / "texts.json"

    @property
    def num_rows(self) -> int:
        return self.num_prompts * self.num_generations

    @property
    def num_tokens(self) -> int:
        """Completion tokens of a step."""
        return self.num_rows * self.new_tokens

    def write(self) -> None:
        settings = dataclasses.asdict(self) | {"directory": str(self.directory)}
        (self.directory / "work.json").write_text(json.dumps(settings))

    @classmethod
    def read(cls, directory: Path) -> "Work":
        return cls(**json.loads((directory / "work.json").read_text()) | {"directory": directory})


def second_earns_more(prompts: list, completions: list, **columns: object) -> list[float]:
    """The reward on all sides: 1 for every second completion."""
    return [float(row % 2) for row in range(len(completions))]
