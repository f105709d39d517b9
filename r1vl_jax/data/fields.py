"""The fields of a record: whether each has its type, and how they are read from a row of `tensorflow_datasets`."""

from collections.abc import Iterable, Mapping
from typing import Any

from r1vl_jax.rewards.key_steps import parse_key_steps

TEXTS = ("id", "problem", "solution", "answer", "response", "kind", "source")


def check(record: Any) -> None:
    """Checks the types of a record's fields.

    Raises:
        ValueError: names the first field that has another type, with what was expected and found.
    """
    for name in ("images", "key_steps", *TEXTS):
        if not hasattr(record, name):
            raise ValueError(f"expected a Record, got {_show(record)}")
    for name in TEXTS:
        _check_text(name, getattr(record, name))
    if not record.id:
        raise ValueError("field 'id': expected a text that names the record, got ''")
    _check_images(record.images)
    try:
        groups = parse_key_steps(record.key_steps)
    except ValueError as error:
        raise ValueError(f"field 'key_steps': {error}") from None
    for group in groups:
        for spelling in group:
            _check_text("key_steps", spelling)


def from_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a record from a row, whose texts are bytes of UTF-8.

    Raises:
        ValueError: names the column that is not there or has another type.
    """
    columns = {name: _decode(name, row.get(name)) for name in TEXTS}
    images = _items("images", row.get("images"), "encoded image files (bytes)")
    key_steps = [_decode_group(group) for group in _items("key_steps", row.get("key_steps"), "groups of texts")]
    return columns | {"images": tuple(images), "key_steps": key_steps}


def _check_text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise ValueError(f"field {name!r}: expected text (str), got {_show(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"field {name!r}: expected text that UTF-8 can write, got {value[error.start]!r}, half of a surrogate pair,"
            f" as character {error.start} (counted from 0)"
        ) from None


def _check_images(images: Any) -> None:
    if not isinstance(images, tuple):
        raise ValueError(f"field 'images': expected a tuple of encoded image files (bytes), got {_show(images)}")
    for number, image in enumerate(images, start=1):
        if not isinstance(image, bytes):
            raise ValueError(
                f"field 'images': expected encoded image files (bytes), got {_show(image)} as image {number}; give the"
                " bytes of the file, as Path(...).read_bytes() reads them"
            )


def _items(name: str, value: Any, expected: str) -> Iterable[Any]:
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise ValueError(f"field {name!r}: expected a sequence of {expected}, got {_show(value)}")
    return value


def _decode_group(group: Any) -> list[str]:
    is_bare = isinstance(group, str | bytes)
    return [
        _decode("key_steps", spelling) for spelling in ([group] if is_bare else _items("key_steps", group, "texts"))
    ]


def _decode(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, bytes):
        raise ValueError(f"field {name!r}: expected text, got {_show(value)}")
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"field {name!r}: expected text in UTF-8, got {_show(value)} ({error.reason})") from None


def _show(value: Any) -> str:
    """A value, shortened, with its type."""
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:60] + '...'} ({type(value).__name__})"
