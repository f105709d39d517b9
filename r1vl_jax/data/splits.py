"""Splits of records on disk.

A split is an ArrayRecord file with `tensorflow_datasets` metadata, so that
`tfds.builder_from_directory(directory).as_data_source(split)` opens it too. Neither way needs TensorFlow.
"""

import collections
import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath
from tensorflow_datasets.core import dataset_info, splits
from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

from r1vl_jax.data import fields
from r1vl_jax.data.record import Record, UnusableRecord, invalid_reason

FORMAT = "array_record"  # the suffix of record files
_DATASET_NAME = "records"
_MAX_THREADS = 16

_features: Any = tf_feature_pb2  # generated at import: type checkers do not see its members
_example: Any = tf_example_pb2


def write_splits(
    directory: str | os.PathLike, records_by_split: Mapping[str, Iterable[Record]], *, settings: Mapping[str, Any]
) -> list[str]:
    """Writes a data set of one or more splits atomically: an interrupted write leaves no directory.

    Args:
        directory: is created; must not exist.
        records_by_split: records of each split; iterators are consumed one record at a time.
        settings: how the data was generated, as JSON values; `read_settings` returns them.

    Returns:
        One line for each invalid record, which is left out: split, id and reason.

    Raises:
        FileExistsError: the directory exists.
        ValueError: a split has no valid record, or two with one id.
    """
    directory = epath.Path(directory)
    if directory.exists():
        raise FileExistsError(f"{directory}: data is not overwritten; name a new directory, or delete this one")
    unfinished = directory.with_name(f".{directory.name}-unfinished-{os.getpid()}")
    unfinished.mkdir(parents=True)
    dropped: list[str] = []
    try:
        written = [
            _write_split(unfinished, name, _valid_records(name, records, dropped))
            for name, records in records_by_split.items()
        ]
        if empty := [split.name for split in written if not split.num_examples]:
            raise ValueError(f"splits {empty}: none of their records is valid; left out: {dropped[:5]}")
        _write_metadata(unfinished, written, settings)
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
    return Split(builder.as_data_source(split), split)


def split_names(directory: str | os.PathLike) -> list[str]:
    """The splits of a data set.

    Raises:
        FileNotFoundError: there is no data set in this directory.
    """
    return sorted(_open(directory).info.splits)


def is_record_directory(directory: str | os.PathLike) -> bool:
    """Whether `write_splits` wrote this directory."""
    return any(Path(directory).glob(f"*.{FORMAT}-*"))


def read_settings(directory: str | os.PathLike) -> dict[str, Any]:
    """The settings that the data of a directory was generated with.

    Raises:
        FileNotFoundError: there is no data set in this directory.
    """
    return dict(_open(directory).info.metadata or {})


class Split:
    """A sequence of records, each read from disk on access.

    Args:
        name: of the split.
    """

    def __init__(self, source: Any, name: str):
        self._source, self._name = source, name

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        """Reads a record.

        Raises:
            UnusableRecord: the data set, written by another program, has a column of another type or none.
        """
        row = self._source[index]
        try:
            return Record(**fields.from_row(row))
        except ValueError as error:
            raise UnusableRecord(f"{self._name}[{index}]", str(error)) from error

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))


def _open(directory: str | os.PathLike) -> Any:
    if not (epath.Path(directory) / "dataset_info.json").is_file():
        raise FileNotFoundError(f"{directory}: no data set here (expected dataset_info.json); write one first")
    return tfds.builder_from_directory(directory)


def _valid_records(split: str, records: Iterable[Record], dropped: list[str]) -> Iterator[Record]:
    position_of: dict[str, int] = {}
    for position, (record, reason) in enumerate(_with_reasons(records)):
        if reason is not None:
            record_id = getattr(record, "id", None)
            name = record_id if isinstance(record_id, str) and record_id else f"record {position}"
            dropped.append(f"{split} {name}: {reason}")
        elif (first := position_of.setdefault(record.id, position)) != position:
            raise ValueError(
                f"split {split!r}: records {first} and {position} (counted from 0) have one id, {record.id!r}; messages"
                " name records by their ids: make each unique in its split"
            )
        else:
            yield record


def _with_reasons(records: Iterable[Record]) -> Iterator[tuple[Record, str | None]]:
    """Each record with `invalid_reason`, a few of them at a time: pictures are decoded beside each other."""
    num_threads = min(os.cpu_count() or 1, _MAX_THREADS)
    with ThreadPoolExecutor(num_threads) as pool:
        waiting: collections.deque[tuple[Record, Future[str | None]]] = collections.deque()
        for record in records:
            waiting.append((record, pool.submit(invalid_reason, record)))
            if len(waiting) > 2 * num_threads:
                first, reason = waiting.popleft()
                yield first, reason.result()
        for first, reason in waiting:
            yield first, reason.result()


def _write_split(directory: epath.Path, name: str, records: Iterable[Record]) -> Any:
    template = tfds.core.ShardedFileTemplate(
        data_dir=directory, dataset_name=_DATASET_NAME, split=name, filetype_suffix=FORMAT
    )
    path = template.sharded_filepath(shard_index=0, num_shards=1)
    num_records = num_bytes = 0
    # Groups of one record, so that random access decodes one record and not its neighbours.
    with contextlib.closing(ArrayRecordWriter(os.fspath(path), "group_size:1")) as writer:
        for record in records:
            row = _serialize(record)
            writer.write(row)
            num_records, num_bytes = num_records + 1, num_bytes + len(row)
    return tfds.core.SplitInfo(name=name, shard_lengths=[num_records], num_bytes=num_bytes, filename_template=template)


def _write_metadata(directory: epath.Path, written: list[Any], settings: Mapping[str, Any]):
    """Writes the JSON files from which `tensorflow_datasets` reads features and splits."""
    text = tfds.features.Text()
    features = tfds.features.FeaturesDict(
        {
            **dict.fromkeys(fields.TEXTS, text),
            "images": tfds.features.Sequence(tfds.features.Scalar(np.object_)),
            "videos": tfds.features.Sequence(tfds.features.Sequence(tfds.features.Scalar(np.object_))),
            "fps": tfds.features.Sequence(tfds.features.Scalar(np.float32)),
            "other_answers": tfds.features.Sequence(text),
            **dict.fromkeys(("key_steps", "history"), tfds.features.Sequence(tfds.features.Sequence(text))),
        }
    )
    identity = dataset_info.DatasetIdentity(
        name=_DATASET_NAME, version=tfds.core.Version("1.0.0"), data_dir=str(directory), module_name=__name__
    )
    info = tfds.core.DatasetInfo(builder=identity, features=features, metadata=tfds.core.MetadataDict(settings))
    info.set_file_format(FORMAT)
    info.set_splits(splits.SplitDict(written))
    info.write_to_directory(directory)


def _serialize(record: Record) -> bytes:
    """A record as `tf.train.Example`; the writer of `tensorflow_datasets` needs TensorFlow for lists of lists."""
    columns = {name: _bytes([getattr(record, name).encode()]) for name in fields.TEXTS}
    columns["images"] = _bytes(record.images)
    columns |= _ragged("videos", record.videos)
    columns["fps"] = _features.Feature(float_list=_features.FloatList(value=record.fps))
    columns["other_answers"] = _bytes(answer.encode() for answer in record.other_answers)
    columns |= _ragged("key_steps", [[text.encode() for text in group] for group in record.key_steps])
    columns |= _ragged("history", [[text.encode() for text in turns] for turns in record.history])
    return _example.Example(features=_features.Features(feature=columns)).SerializeToString(deterministic=True)


def _ragged(name: str, lists: Sequence[Sequence[bytes]]) -> dict[str, Any]:
    sizes = _features.Int64List(value=[len(items) for items in lists])
    return {
        f"{name}/ragged_flat_values": _bytes(item for items in lists for item in items),
        f"{name}/ragged_row_lengths_0": _features.Feature(int64_list=sizes),
    }


def _bytes(values: Iterable[bytes]) -> Any:
    return _features.Feature(bytes_list=_features.BytesList(value=values))
