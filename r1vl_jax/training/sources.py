"""From `data.source` to splits of records: found, prepared if they are files, opened, and mixed if they are several."""

from collections.abc import Sequence
from pathlib import Path

from r1vl_jax.config import Data
from r1vl_jax.config.data_source import parse_sources
from r1vl_jax.config.settings import KEY_STEPS
from r1vl_jax.config.validation import SOURCE_SETTINGS, source_settings_without_effect
from r1vl_jax.data.records import Split, is_record_directory, open_split, split_names
from r1vl_jax.data.sources.files import find_files, local_source
from r1vl_jax.data.sources.mixture import Mixture
from r1vl_jax.data.sources.preparation import Preparation
from r1vl_jax.data.sources.prepare import Prepared, Track, prepare

_SUPERVISED = ("vision_pretrain", "warmup")


def find_sources(data: Data, names: Sequence[str], absent: list[str]) -> None:
    """Looks for sources other than the embedded task; what is not there is appended to `absent`.

    Args:
        names: of the splits that are needed; those of files are known when they are prepared.

    Raises:
        ValueError: files that are not read, or settings of files where there are only directories of records.
    """
    sources = parse_sources(data.source)
    if all(is_record_directory(source.name) for source in sources):
        if without_effect := source_settings_without_effect(data):
            raise ValueError(
                f"data.source={data.source!r} is a directory of records, for which {', '.join(without_effect)} have no"
                " effect; unset them"
            )
        open_splits([Path(source.name) for source in sources], [None] * len(sources), names, absent)
        return
    if data.key_steps not in KEY_STEPS and not Path(data.key_steps).is_file():
        absent.append(
            f"config.data.key_steps={data.key_steps!r}: no such file; make it with python -m r1vl_jax.data.key_steps"
        )
    for source in sources:
        try:
            if not is_record_directory(source.name):
                find_files(local_source(source.name))
        except FileNotFoundError as error:
            absent.append(
                f"config.data.source={source.name!r} ({error}): put a data set there, as a JSON, JSONL or Parquet file"
                " or a directory of such (docs/data.md), or set config.data.source to one"
            )


def prepare_sources(data: Data, directory: Path, *, track: Track | None = None) -> list[Prepared]:
    """The records of each source other than the embedded task, prepared where they are files of another format.

    Args:
        directory, track: as in `prepare`.

    Raises:
        FileNotFoundError, ValueError: as `prepare`.
    """
    settings = {name: getattr(data, name) for name in SOURCE_SETTINGS}
    return [
        Prepared(Path(source.name), ())
        if is_record_directory(source.name)
        else prepare(Preparation(str(local_source(source.name)), name=source.name, **settings), directory, track=track)
        for source in parse_sources(data.source)
    ]


def open_splits(
    directories: Sequence[Path], weights: Sequence[float | None], names: Sequence[str], absent: list[str]
) -> tuple[dict[str, Split], list[str]]:
    """The splits of a run, mixed where several sources have them.

    A supervised stage without a split of its own reads `train`. Without `test` there is no evaluation before, between
    and after the stages.

    Args:
        directories: of records, one for each source.
        weights: of the sources; they hold for what is trained on.
        names: of the splits.
        absent: receives a line for each split that the run cannot do without.

    Returns:
        The splits, and lines that say what is done without.
    """
    names_of = {directory: split_names(directory) for directory in directories}
    splits, notes = {}, []
    for name in names:
        stand_in = "train" if name in _SUPERVISED and not any(name in held for held in names_of.values()) else name
        having = [number for number, directory in enumerate(directories) if stand_in in names_of[directory]]
        if having:
            found = [open_split(directories[number], stand_in) for number in having]
            splits[name] = _mix(found, [weights[number] for number in having], name)
            notes += [f"there is no split {name}: {stand_in} is read in its place"] if stand_in != name else []
            lacking = [str(path) for number, path in enumerate(directories) if number not in having]
            notes += [f"{path} has no split {stand_in}: it is left out of {name}" for path in lacking]
        elif name == "test":
            notes.append("there is no split test: no evaluation before, between and after the stages (data.test_size)")
        else:
            held = sorted(set().union(*names_of.values()))
            remedy = "set data.validation_size, or eval.steps=0" if name == "validation" else "set data.source to one"
            absent.append(f"config.data.source: {directories[0]}: no split {name!r}, only {held}; {remedy}")
    return splits, notes


def open_held_out(directories: Sequence[Path], name: str = "") -> tuple[Split, str, list[str]]:
    """A split for evaluation, each record of all sources that have it once.

    Args:
        name: of the split; "" is "test", or else the only one that there is.

    Returns:
        The split, its name, and a line for each source without it.

    Raises:
        FileNotFoundError: no source has it.
    """
    names_of = {directory: split_names(directory) for directory in directories}
    names = sorted(set().union(*names_of.values()))
    name = name or ("test" if "test" in names or len(names) > 1 else names[0])
    having = [directory for directory in directories if name in names_of[directory]]
    found = [open_split(directory, name) for directory in having or directories[:1]]  # which says what it has
    notes = [f"{directory} has no split {name}: it is left out" for directory in directories if directory not in having]
    return _mix(found, [None] * len(found), name), name, notes


def _mix(splits: Sequence[Split], weights: Sequence[float | None], name: str) -> Split:
    if len(splits) == 1:
        return splits[0]
    is_held_out = name in ("validation", "test")
    given = [weight for weight in weights if weight is not None]
    return Mixture(splits, None if is_held_out or not given else given, name)
