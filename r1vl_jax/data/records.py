"""The schema of a training or evaluation record, and splits of records on disk.

A split is an ArrayRecord file with `tensorflow_datasets` metadata, so that
`tfds.builder_from_directory(directory).as_data_source(split)` opens it too. Neither way needs TensorFlow.
"""

import collections
import contextlib
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath
from PIL import Image
from tensorflow_datasets.core import dataset_info, splits
from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

from r1vl_jax.data import fields
from r1vl_jax.data.pictures import open_picture
from r1vl_jax.data.placeholders import IMAGE_PLACEHOLDER, match_placeholders
from r1vl_jax.rewards.key_steps import parse_key_steps

_VIDEO_PLACEHOLDER = "<video>"
_DATASET_NAME = "records"
_FORMAT = "array_record"
_FINGERPRINT_CACHE = "fingerprint.json"
_MAX_THREADS = 16

_features: Any = tf_feature_pb2  # generated at import: type checkers do not see its members
_example: Any = tf_example_pb2


class UnusableRecord(ValueError):
    """A record that cannot be used.

    Attributes:
        name: the record's id, or where it stands.
        reason: why, with expected and actual value.
    """

    def __init__(self, name: object, reason: str):
        super().__init__(f"record {name!r}: {reason}")
        self.name, self.reason = str(name), reason


@dataclass(frozen=True)
class Record:
    """A question about one or more images, with its reference answer.

    Lists become tuples, and key steps in any layout of `parse_key_steps` become groups. Values of other types stay as
    they are: `invalid_reason` names them.

    Attributes:
        id: unique within its split, not empty; error messages name the record by it.
        images: encoded image files (PNG, JPEG, ...), in the order of their placeholders; none for text alone.
        problem: the question, with one `<image>` placeholder for each image.
        solution: a worked solution, or only the answer if there is none.
        answer: the reference answer; empty only with a response, for supervised fine-tuning alone.
        key_steps: key steps of the solution, each as a group of equivalent spellings.
        response: target completion for supervised fine-tuning; empty for reinforcement learning.
        kind: type of question; accuracy is also reported per kind.
        source: name of the data set that the record comes from.
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

    @classmethod
    def make(
        cls,
        problem: str,
        *,
        images: Sequence[bytes | str | os.PathLike | Image.Image] = (),
        answer: str = "",
        key_steps: Any = (),
        response: str = "",
        solution: str = "",
        id: str = "",
        kind: str = "",
        source: str = "",
    ) -> "Record":
        """A valid record; all that is not given has a default.

        Args:
            problem: without any `<image>`, one for each image is put first.
            images: encoded files, paths of files, or images in memory.
            answer: needed, unless there is a response.
            key_steps: in any layout of `parse_key_steps`.
            solution: by default the answer.
            id: by default a digest of the content.

        Raises:
            UnusableRecord: the record is invalid; says what is wrong with it.
        """
        try:
            encoded = tuple(map(_encoded, images))
            if isinstance(problem, str):
                problem, encoded, _ = match_placeholders(problem, encoded)
            content = hashlib.sha256(repr((problem, encoded, answer, response)).encode("utf-8", "replace")).hexdigest()
            record = cls(
                id=id or content[:16],
                images=tuple(encoded),
                problem=problem,
                solution=solution or (answer if isinstance(answer, str) else ""),
                answer=answer,
                key_steps=key_steps,
                response=response,
                kind=kind,
                source=source,
            )
        except (ValueError, OSError) as error:
            raise UnusableRecord(id or "without id", str(error)) from error
        if (reason := invalid_reason(record)) is not None:
            raise UnusableRecord(record.id, reason)
        return record

    def __post_init__(self) -> None:
        if isinstance(self.images, list):
            object.__setattr__(self, "images", tuple(self.images))
        with contextlib.suppress(ValueError):
            object.__setattr__(self, "key_steps", parse_key_steps(self.key_steps))


def invalid_reason(record: Record) -> str | None:
    """Why a record is invalid, with expected and actual value; None if it is valid."""
    try:
        decode_images(record)
    except ValueError as error:
        return str(error)
    return None


def decode_images(record: Record) -> list[Image.Image]:
    """The images of a valid record, decoded by `pictures.open_picture`.

    Raises:
        ValueError: a field has another type, or the record has neither answer nor response, an unreadable image, a
            placeholder of a video, or another number of placeholders than images.
    """
    fields.check(record)
    if not record.answer.strip() and not record.response.strip():
        raise ValueError("it has no answer, and no response to train on")
    if _VIDEO_PLACEHOLDER in record.problem:
        raise ValueError(f"records hold still images, and its problem has {_VIDEO_PLACEHOLDER}; give frames as images")
    num_placeholders = record.problem.count(IMAGE_PLACEHOLDER)
    if num_placeholders != len(record.images):
        raise ValueError(
            f"expected one {IMAGE_PLACEHOLDER} for each of {len(record.images)} images, got {num_placeholders}"
        )
    return [_decode_image(image, number, record.id) for number, image in enumerate(record.images, start=1)]


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
    return any(Path(directory).glob(f"*.{_FORMAT}-*"))


def read_settings(directory: str | os.PathLike) -> dict[str, Any]:
    """The settings that the data of a directory was generated with.

    Raises:
        FileNotFoundError: there is no data set in this directory.
    """
    return dict(_open(directory).info.metadata or {})


def fingerprint(directory: str | os.PathLike) -> str:
    """SHA-256 digest of the record files of a data set, by name and content.

    The digest is cached in the directory, together with the name, size and modification time of each file, and is
    computed again when one of these differs. A read-only directory works without the cache.

    Raises:
        FileNotFoundError: there are no record files in this directory.
    """
    files = sorted(Path(directory).glob(f"*{_FORMAT}*"))
    if not files:
        raise FileNotFoundError(f"{directory}: no record files here (expected *{_FORMAT}*)")
    return hash_files({path.name: path for path in files}, Path(directory) / _FINGERPRINT_CACHE)


def hash_files(files: Mapping[str, Path], cache: Path) -> str:
    """SHA-256 digest of files by name and content.

    Args:
        files: by the name that counts.
        cache: a file that keeps the digest; it is computed again when a name, size or modification time differs.
    """
    stats = [[name, (stat := path.stat()).st_size, stat.st_mtime_ns] for name, path in files.items()]
    cached = _read_cache(cache)
    if cached.get("files") == stats and isinstance(cached.get("sha256"), str):
        return cached["sha256"]
    digest = hashlib.sha256()
    for name, path in files.items():
        with path.open("rb") as file:
            digest.update(name.encode() + hashlib.file_digest(file, "sha256").digest())
    _write_cache(cache, {"files": stats, "sha256": digest.hexdigest()})
    return digest.hexdigest()


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


def _encoded(image: bytes | str | os.PathLike | Image.Image) -> bytes:
    """The encoded file of an image: given, read, or made."""
    if isinstance(image, str | os.PathLike):
        return Path(image).read_bytes()
    if isinstance(image, Image.Image):
        image.save(file := io.BytesIO(), format="PNG")
        return file.getvalue()
    return image


def _decode_image(encoded: bytes, number: int, record_id: str) -> Image.Image:
    try:
        return open_picture(encoded, name=f"image {number} of record {record_id!r}")
    except ValueError as error:
        raise ValueError(f"image {number} ({len(encoded)} bytes) is unreadable: {error}") from error


def _open(directory: str | os.PathLike) -> Any:
    if not (epath.Path(directory) / "dataset_info.json").is_file():
        raise FileNotFoundError(f"{directory}: no data set here (expected dataset_info.json); write one first")
    return tfds.builder_from_directory(directory)


def _read_cache(path: Path) -> dict[str, Any]:
    """The cached fingerprint; empty if there is none or it is unreadable."""
    try:
        cached = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return cached if isinstance(cached, dict) else {}


def _write_cache(path: Path, content: Mapping[str, Any]) -> None:
    """Writes the cache in one move, since several processes may do so at once; not at all if the directory forbids."""
    unfinished = path.with_name(f".{path.name}-unfinished-{os.getpid()}")
    with contextlib.suppress(OSError):
        unfinished.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
        unfinished.replace(path)


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
        data_dir=directory, dataset_name=_DATASET_NAME, split=name, filetype_suffix=_FORMAT
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
    """A record as `tf.train.Example`; the writer of `tensorflow_datasets` needs TensorFlow for lists of lists."""
    columns = {name: _bytes([getattr(record, name).encode()]) for name in fields.TEXTS}
    columns["images"] = _bytes(record.images)
    columns["key_steps/ragged_flat_values"] = _bytes(text.encode() for group in record.key_steps for text in group)
    group_sizes = _features.Int64List(value=[len(group) for group in record.key_steps])
    columns["key_steps/ragged_row_lengths_0"] = _features.Feature(int64_list=group_sizes)
    return _example.Example(features=_features.Features(feature=columns)).SerializeToString(deterministic=True)


def _bytes(values: Iterable[bytes]) -> Any:
    return _features.Feature(bytes_list=_features.BytesList(value=values))
