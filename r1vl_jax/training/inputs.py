"""What a run needs to find before it starts: the weights and the data that its configuration names."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from r1vl_jax.checkpoint.hf.directory import INDEX, SINGLE_FILE, local_directory
from r1vl_jax.config import Config
from r1vl_jax.data.digits import task
from r1vl_jax.data.records import open_split
from r1vl_jax.data.tokenizer import load_tokenizer, train_tokenizer

# Each line: any one of these files will do.
_MODEL_FILES = (
    ("config.json",),
    (SINGLE_FILE, INDEX),
    ("tokenizer.json", "vocab.json"),
    ("tokenizer_config.json",),
    ("preprocessor_config.json",),
)


def preflight(config: Config) -> None:
    """Refuses a configuration whose weights or data are not there; touches no device.

    Raises:
        FileNotFoundError: says of everything that is absent what is to be put where.
    """
    absent = [*_absent_weights(config), *_absent_data(config)]
    if absent:
        raise FileNotFoundError("the run lacks what its configuration names:\n  " + "\n  ".join(absent))


def _absent_weights(config: Config) -> Iterator[str]:
    path = config.model.path
    if not path:
        return
    expected = ", ".join(" or ".join(names) for names in _MODEL_FILES)
    try:
        directory = local_directory(path)
    except FileNotFoundError as error:
        yield (
            f"config.model.path={path!r} ({error.__cause__}): put a Qwen2-VL as transformers saves it into the"
            f" directory {path} ({expected}), or set config.model.path to one. A run of this project becomes one by"
            f" python -m r1vl_jax.checkpoint.hf_export --run=WORKDIR --out={path}"
        )
        return
    if missing := [" or ".join(names) for names in _MODEL_FILES if not _has_any(directory, names)]:
        yield f"config.model.path={path!r}: the directory has no {', no '.join(missing)}; put a whole model there"


def _has_any(directory: Path, names: tuple[str, ...]) -> bool:
    return any((directory / name).is_file() for name in names)


def _absent_data(config: Config) -> Iterator[str]:
    if (source := config.data.source) == "digits":
        return  # written by the run itself
    splits = ["train" if stage == "step_grpo" else stage for stage in config.train.stages]
    splits += ["validation", "test"] if config.eval.uses_validation_split else ["test"]
    for split in splits:
        try:
            open_split(source, split)
        except FileNotFoundError as error:
            yield (
                f"config.data.source={source!r} ({error}): expected the split {split!r} in the directory {source}, as"
                " r1vl_jax.data.records.write_splits writes it; or set config.data.source to a directory that has it"
            )


def _data_directory(config: Config) -> Path:
    data = config.data
    if data.source != "digits":
        return Path(data.source)
    directory = Path(data.directory or Path(config.workdir) / "data")
    task.write(
        directory,
        difficulty=data.difficulty,
        shortcut_fraction=data.shortcut_fraction,
        vision_pretrain_records=data.vision_pretrain_records,
        warmup_records=data.warmup_records,
        train_records=data.train_records,
        eval_records=data.eval_records,
        seed=config.seed,
    )
    return directory


def _splits(config: Config) -> Iterator[str]:
    """The splits that a run reads; without weights the tokenizer is trained on those of the warm-up."""
    yield "test"
    if "warmup" in config.train.stages or not config.model.path:
        yield "warmup"
    if "step_grpo" in config.train.stages:
        yield "train"
    if config.eval.uses_validation_split:
        yield "validation"


def _tokenizer(config: Config, data_directory: Path) -> PreTrainedTokenizerBase:
    """The model's own, or a small one trained on the warm-up records and kept with the run."""
    if config.model.path:
        return load_tokenizer(config.model.path)
    directory = Path(config.workdir) / "tokenizer"
    if not directory.exists():
        texts: Iterable[str] = task.texts(open_split(data_directory, "warmup"))
        unfinished = directory.with_name(".tokenizer-unfinished")  # a run killed here must not leave half of it
        train_tokenizer(texts).save_pretrained(unfinished)
        unfinished.rename(directory)
    return load_tokenizer(directory)
