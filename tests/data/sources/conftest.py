"""Pictures, and data sets of rows as files."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (28, 28), "teal").save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def root(tmp_path: Path, png: bytes) -> Path:
    """A directory with the picture `pictures/a.png`."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(png)
    return tmp_path


@pytest.fixture
def write_json(root: Path):
    def write(name: str, rows: object) -> Path:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(json.dumps(rows))
        return root / name

    return write
