"""The work of every side, as settings; imports nothing heavy, since torch's sides must not load our libraries."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

BETA, LEARNING_RATE, MAX_GRAD_NORM = 0.04, 1e-6, 1.0
# Copies of every prompt in our training data: grain takes 6 ms to index a shuffle of 2 records, 0.2 ms of 128.
COPIES = 64


@dataclass(frozen=True)
class Work:
    """The work of a side.

    Attributes:
        directory: for the checkpoint, the records and the logs of the sides.
        size: a name of `inputs.SIZES`.
        dtype: compute dtype, "float32" or "bfloat16"; trained weights are always float32.
        new_tokens: tokens per completion; none ends early.
        steps: steps per repeat.
        devices: virtual CPU devices over which our prompts are sharded.
        remat: our rematerialization policy; see `Model` in `r1vl_jax.config`.
        recompute: whether the torch sides use gradient checkpointing.
        large_pages: which sides get huge pages from glibc: "ours" (as under launch/local.sh), "all" or "none".
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
        """The checkpoint, in Hugging Face's format."""
        return self.directory / f"model-{self.size}"

    @property
    def data(self) -> Path:
        """The prompts as records; our side trains on shuffled copies of them."""
        return self.directory / f"data-{self.size}-{self.num_prompts}x{COPIES}"

    @property
    def inputs(self) -> Path:
        """The prompts as arrays; see `inputs`."""
        return self.directory / "inputs.npz"

    @property
    def texts(self) -> Path:
        """The prompts as a list of questions, each with its image file in base64."""
        return self.directory / "texts.json"

    @property
    def num_rows(self) -> int:
        return self.num_prompts * self.num_generations

    @property
    def num_tokens(self) -> int:
        """Completion tokens per step."""
        return self.num_rows * self.new_tokens

    def write(self) -> None:
        settings = dataclasses.asdict(self) | {"directory": str(self.directory)}
        (self.directory / "work.json").write_text(json.dumps(settings))

    @classmethod
    def read(cls, directory: Path) -> "Work":
        return cls(**json.loads((directory / "work.json").read_text()) | {"directory": directory})


def alternating_reward(prompts: list, completions: list, **columns: object) -> list[float]:
    """The reward on all sides: 1 for every second completion."""
    return [float(row % 2) for row in range(len(completions))]
