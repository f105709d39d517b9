"""One record of training or evaluation data, and splits of them on disk.

A split is an ArrayRecord file described by `tensorflow_datasets`, so it opens with
`tfds.builder_from_directory(directory).as_data_source(split)` too, and neither way needs TensorFlow.
"""

import contextlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath
from PIL import Image
from tensorflow_datasets.core import dataset_info, splits
from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

IMAGE_PLACEHOLDER = "<image>"
_DATASET_NAME = "records"
_FORMAT = "array_record"
_TEXT_FIELDS = ("id", "problem", "solution", "answer", "response", "kind", "source")

_features: Any = tf_feature_pb2  # generated at import, so that type checkers do not know what is inside
_example: Any = tf_example_pb2


@dataclass(frozen=True)
class Record:
    """A question about images, and what is known of its answer.

    Attributes:
        id: unique within the data set; names the record in messages.
        images: encoded files (PNG, JPEG, ...), in the order of their placeholders.
        problem: the question, with one `<image>` where each image belongs.
        solution: a worked solution, or the answer alone where none is to be shown.
        answer: the reference answer.
        key_steps: groups of equivalent spellings of one step each.
        response: the completion that the warm-up imitates; empty for reinforcement learning.
        kind: kind of question; accuracy is reported by it.
        source: data set that the record comes from.
    """

    id: str
    images: tuple[bytes, ...]
    problem: str
    solution: str
    answer: str
    key_steps: tuple[tuple[str, ...], ...]
    response: str
    kind: str
    source: str


def invalid_reason(record: Record) -> str | None:
    """What makes a record unusable, with expected and got; None if nothing does."""
    try:
        usable_images(record)
    except ValueError as error:
        return str(error)
    return None


def usable_images(record: Record) -> list[Image.Image]:
    """The decoded images of a record, in RGB.

    Raises:
        ValueError: the record has no answer, no image or an unreadable one, or not one placeholder for each image.
    """
    if not record.answer.strip():
        raise ValueError("it has no answer")
    if not record.images:
        raise ValueError("it has no image")
    num_placeholders = record.problem.count(IMAGE_PLACEHOLDER)
    if num_placeholders != len(record.images):
        raise ValueError(
            f"expected one {IMAGE_PLACEHOLDER} for each of {len(record.images)} images, got {num_placeholders}"
        )
    return [_read_image(image, number) for number, image in enumerate(record.images, start=1)]


def write_splits(
    directory: str | os.PathLike, records_by_split: Mapping[str, Iterable[Record]], *, settings: Mapping[str, Any]
) -> list[str]:
    """Writes a data set of one or more splits, whole or not at all.

    Args:
        directory: is created; must not exist.
        records_by_split: drawn one record at a time, so iterators are fine.
        settings: what the data was made from, as JSON values; `read_settings` returns them.

    Returns:
        A line for each record left out as unusable: split, id and reason.

    Raises:
        FileExistsError: the directory exists.
        ValueError: a split has no usable record.
    """
    directory = epath.Path(directory)
    if directory.exists():
        raise FileExistsError(f"{directory}: data is not overwritten; name a new directory, or delete this one")
    unfinished = directory.with_name(f".{directory.name}-unfinished-{os.getpid()}")
    unfinished.mkdir(parents=True)
    dropped: list[str] = []
    try:
        written = [
            _write_split(unfinished, name, _usable(name, records, dropped))
            for name, records in records_by_split.items()
        ]
        if empty := [split.name for split in written if not split.num_examples]:
            raise ValueError(f"splits {empty}: none of their records is usable; left out: {dropped[:5]}")
        _write_description(unfinished, written, settings)
        unfinished.rename(directory)
    except BaseException:
        unfinished.rmtree()
        raise
    return dropped


def open_split(directory: str | os.PathLike, split: str) -> "Split":
    """Random access to the records of a split.

    Raises:
        FileNotFoundError: there is no data set in this directory, or it has no such split.
    """
    builder = _open(directory)
    if split not in builder.info.splits:
        raise FileNotFoundError(f"{directory}: no split {split!r}, only {sorted(builder.info.splits)}")
    return Split(builder.as_data_source(split))


def read_settings(directory: str | os.PathLike) -> dict[str, Any]:
    """What the data of a directory was made from.

    Raises:
        FileNotFoundError: there is no data set in this directory.
    """
    return dict(_open(directory).info.metadata or {})


class Split:
    """A sequence of records, each read from disk when asked for."""

    def __init__(self, source: Any):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        row = self._source[index]
        texts = {name: row[name].decode() for name in _TEXT_FIELDS}
        key_steps = tuple(tuple(spelling.decode() for spelling in group) for group in row["key_steps"])
        return Record(images=tuple(row["images"]), key_steps=key_steps, **texts)

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))


def _read_image(encoded: bytes, number: int) -> Image.Image:
    try:
        return Image.open(io.BytesIO(encoded)).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # PIL's, for damaged files
        raise ValueError(f"image {number} ({len(encoded)} bytes) is unreadable: {error}") from error


def _open(directory: str | os.PathLike) -> Any:
    if not (epath.Path(directory) / "dataset_info.json").is_file():
        raise FileNotFoundError(f"{directory}: no data set here (expected dataset_info.json); write one first")
    return tfds.builder_from_directory(directory)


def _usable(split: str, records: Iterable[Record], dropped: list[str]) -> Iterator[Record]:
    for record in records:
        if (fault := invalid_reason(record)) is None:
            yield record
        else:
            dropped.append(f"{split} {record.id}: {fault}")


def _write_split(directory: epath.Path, name: str, records: Iterable[Record]) -> Any:
    template = tfds.core.ShardedFileTemplate(
        data_dir=directory, dataset_name=_DATASET_NAME, split=name, filetype_suffix=_FORMAT
    )
    path = template.sharded_filepath(shard_index=0, num_shards=1)
    num_records = num_bytes = 0
    # Groups of one record, so that random access reads no neighbours.
    with contextlib.closing(ArrayRecordWriter(os.fspath(path), "group_size:1")) as writer:
        for record in records:
            row = _serialize(record)
            writer.write(row)
            num_records, num_bytes = num_records + 1, num_bytes + len(row)
    return tfds.core.SplitInfo(name=name, shard_lengths=[num_records], num_bytes=num_bytes, filename_template=template)


def _write_description(directory: epath.Path, written: list[Any], settings: Mapping[str, Any]):
    """Writes the JSON files by which `tensorflow_datasets` knows features and splits."""
    text = tfds.features.Text()
    features = tfds.features.FeaturesDict(
        {
            **dict.fromkeys(_TEXT_FIELDS, text),
            "images": tfds.features.Sequence(tfds.features.Scalar(np.object_)),
            "key_steps": tfds.features.Sequence(tfds.features.Sequence(text)),
        }
    )
    identity = dataset_info.DatasetIdentity(
        name=_DATASET_NAME, version=tfds.core.Version("1.0.0"), data_dir=str(directory), module_name=__name__
    )
    info = tfds.core.DatasetInfo(builder=identity, features=features, metadata=tfds.core.MetadataDict(settings))
    info.set_file_format(_FORMAT)
    info.set_splits(splits.SplitDict(written))
    info.write_to_directory(directory)


def _serialize(record: Record) -> bytes:
    """A record in the layout of `tensorflow_datasets`, whose own writer needs TensorFlow for lists of lists."""
    columns = {name: _bytes([getattr(record, name).encode()]) for name in _TEXT_FIELDS}
    columns["images"] = _bytes(record.images)
    columns["key_steps/ragged_flat_values"] = _bytes(text.encode() for group in record.key_steps for text in group)
    group_sizes = _features.Int64List(value=[len(group) for group in record.key_steps])
    columns["key_steps/ragged_row_lengths_0"] = _features.Feature(int64_list=group_sizes)
    return _example.Example(features=_features.Features(feature=columns)).SerializeToString(deterministic=True)


def _bytes(values: Iterable[bytes]) -> Any:
    return _features.Feature(bytes_list=_features.BytesList(value=values))
