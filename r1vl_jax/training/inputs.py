"""What a run reads: weights, tokenizer and data, each found once, before a device is touched, and handed on by name."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from r1vl_jax import config as settings
from r1vl_jax.checkpoint.hf.chat_template import load_chat_tokenizer
from r1vl_jax.checkpoint.hf.directory import INDEX, SINGLE_FILE, local_directory, weights_fingerprint
from r1vl_jax.checkpoint.hf.processor import PREPROCESSOR_CONFIG, image_processor_files
from r1vl_jax.config import Config
from r1vl_jax.config.data_source import parse_sources
from r1vl_jax.data.chat_format import template_fault
from r1vl_jax.data.digits import task
from r1vl_jax.data.fingerprint import combined_fingerprint
from r1vl_jax.data.records import Split
from r1vl_jax.data.sources.prepare import Prepared
from r1vl_jax.data.tokenizer import load_tokenizer, train_tokenizer
from r1vl_jax.observe.progress import Progress
from r1vl_jax.runtime import processes
from r1vl_jax.training.sources import find_sources, open_splits, prepare_sources

# Each line: any one of these files will do.
_MODEL_FILES = (
    ("config.json",),
    (SINGLE_FILE, INDEX),
    ("tokenizer.json", "vocab.json"),
    ("tokenizer_config.json",),
    (PREPROCESSOR_CONFIG, "image_processor in processor_config.json"),
)


@dataclass(frozen=True)
class Inputs:
    """What a run reads.

    Attributes:
        model: settings of the model; `path` is a local directory, or "" to start from random weights; `adapter_path`
            likewise, or "" to start with a new adapter or none.
        data_directories: hold the splits, one for each source.
        splits: those that the run reads, by name.
        tokenizer: the model's own; without one, a small one trained on the warm-up's records.
        summary: what became of the data's rows, and which splits the run does without, in lines.
    """

    model: settings.Model
    data_directories: tuple[Path, ...]
    splits: Mapping[str, Split]
    tokenizer: PreTrainedTokenizerBase
    summary: tuple[str, ...] = ()

    def fingerprints(self) -> dict[str, str]:
        """Digests of the files that the run depends on."""
        return {
            "data_fingerprint": combined_fingerprint(self.data_directories),
            "weights_fingerprint": weights_fingerprint(self.model.path),
            "adapter_fingerprint": weights_fingerprint(self.model.adapter_path),
        }


def preflight(config: Config) -> Inputs:
    """Finds what the configuration names; writes the embedded task's data, and prepares other data, where not done yet.

    All processes must call this: the main one writes first.

    Raises:
        FileNotFoundError: lists all that is absent, and what to put where. Nothing was written then, but prepared data
            that lack a split.
        ValueError: the data cannot be read as records, or the model's chat template cannot write prompts with pictures.
    """
    absent: list[str] = []
    model = _find_adapter(_find_model(config.model, absent), absent)
    is_embedded = config.data.source == "digits"
    if not is_embedded:
        find_sources(config.data, _required_splits(config), absent)
    _raise_if_absent(absent)
    directory = Path(config.data.directory or Path(config.workdir) / "data")
    with processes.main_process_first():
        if is_embedded:
            _write_embedded_task(config, directory)
            prepared = [Prepared(directory, ())]
        else:
            track = _show_progress if config.observe.progress else None
            prepared = prepare_sources(config.data, directory, track=track)
        weights = [source.weight for source in parse_sources(config.data.source)]
        splits, notes = open_splits([each.directory for each in prepared], weights, _required_splits(config), absent)
        _raise_if_absent(absent)
        tokenizer = _model_tokenizer(Path(model.path)) if model.path else _own_tokenizer(config, splits["warmup"])
    directories, summaries = [each.directory for each in prepared], [each.summary for each in prepared]
    return Inputs(model, tuple(directories), splits, tokenizer, (*itertools.chain(*summaries), *notes))


def _raise_if_absent(absent: list[str]) -> None:
    if absent:
        raise FileNotFoundError("the run lacks what its configuration names:\n  " + "\n  ".join(absent))


def _find_model(model: settings.Model, absent: list[str]) -> settings.Model:
    """The settings with a local directory as their path; what the directory lacks is appended to `absent`."""
    if not model.path:
        return model
    expected = ", ".join(" or ".join(names) for names in _MODEL_FILES)
    try:
        directory = local_directory(model.path)
    except FileNotFoundError as error:
        absent.append(
            f"config.model.path={model.path!r} ({error.__cause__}): put a Qwen2-VL as transformers saves it into the"
            f" directory {model.path} ({expected}), or set config.model.path to one. A run of this project becomes one"
            f" by python -m r1vl_jax.checkpoint.hf_export --run=WORKDIR --out={model.path}"
        )
        return model
    if missing := [" or ".join(names) for names in _MODEL_FILES if not _has_any(directory, names)]:
        absent.append(
            f"config.model.path={model.path!r}: the directory has no {', no '.join(missing)}; put a whole model there"
        )
    return dataclasses.replace(model, path=str(directory))


def _find_adapter(model: settings.Model, absent: list[str]) -> settings.Model:
    """The settings with a local directory as their `adapter_path`; an absent one is appended to `absent`."""
    if not model.adapter_path:
        return model
    try:
        return dataclasses.replace(model, adapter_path=str(local_directory(model.adapter_path)))
    except FileNotFoundError as error:
        absent.append(
            f"config.model.adapter_path={model.adapter_path!r} ({error.__cause__}): put an adapter there, as"
            " PEFT saves it, or set config.model.adapter_path to one. A run of this project becomes one by python -m"
            f" r1vl_jax.checkpoint.hf_export --run=WORKDIR --out={model.adapter_path} --adapter"
        )
        return model


def _has_any(directory: Path, names: Iterable[str]) -> bool:
    if PREPROCESSOR_CONFIG in names:
        return bool(image_processor_files(directory))
    return any((directory / name).is_file() for name in names)


def _show_progress(rows: Iterable[Any], name: str, total: int) -> Iterator[Any]:
    with Progress(name, total) as progress:
        for number, row in enumerate(rows, start=1):
            yield row
            progress.update(number)


def _required_splits(config: Config) -> list[str]:
    """The splits that a run reads, each once."""

    def names() -> Iterator[str]:
        for stage in config.train.stages:
            yield "train" if stage == "step_grpo" else stage
        if not config.model.path:
            yield "warmup"  # the tokenizer is trained on it
        if config.eval.uses_validation_split:
            yield "validation"
        if config.eval.num_problems > 0:
            yield "test"

    return list(dict.fromkeys(names()))


def _write_embedded_task(config: Config, directory: Path) -> None:
    data = config.data
    task.write(
        directory,
        difficulty=data.difficulty,
        shortcut_probability=data.shortcut_probability,
        scans=data.scans,
        vision_pretrain_records=data.vision_pretrain_records,
        warmup_records=data.warmup_records,
        train_records=data.train_records,
        eval_records=data.eval_records,
        seed=config.seed,
        show_progress=config.observe.progress and processes.is_main_process(),
    )


def _model_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint.

    Raises:
        ValueError: its chat template cannot write prompts with pictures; names the file.
    """
    tokenizer, template = load_chat_tokenizer(directory)
    if fault := template_fault(tokenizer):
        where = template.file if template else directory
        remedy = "replace it by" if template else "put chat_template.jinja there,"
        raise ValueError(f"{where}: the chat template: {fault}; {remedy} that of a Qwen2-VL")
    return tokenizer


def _own_tokenizer(config: Config, warmup: Split) -> PreTrainedTokenizerBase:
    """A small tokenizer trained on the warm-up's records, kept with the run."""
    directory = Path(config.workdir) / "tokenizer"
    if not directory.exists():
        unfinished = directory.with_name(".tokenizer-unfinished")  # a run killed here must not leave half of it
        train_tokenizer(task.texts(warmup)).save_pretrained(unfinished)
        unfinished.rename(directory)
    return load_tokenizer(directory)
