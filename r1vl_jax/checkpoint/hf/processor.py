"""The settings of the image processor in a checkpoint directory, in the layouts of transformers 4 and 5."""

import json
from pathlib import Path
from typing import Any

from r1vl_jax.checkpoint.hf.directory import read_json

PREPROCESSOR_CONFIG = "preprocessor_config.json"
PROCESSOR_CONFIG = (
    "processor_config.json"  # transformers 5 has the settings in an entry of this file, without the other
)
_ENTRY = "image_processor"


def image_processor_files(directory: Path) -> list[Path]:
    """The files that have the settings of the image processor; transformers reads the first of them.

    Raises:
        ValueError: a file is no JSON.
    """
    found = []
    if (path := directory / PROCESSOR_CONFIG).is_file() and isinstance(_content(path).get(_ENTRY), dict):
        found.append(path)
    if (path := directory / PREPROCESSOR_CONFIG).is_file():
        found.append(path)
    return found


def write_pixel_limits(directory: Path, *, min_pixels: int, max_pixels: int) -> None:
    """Writes the limits into every file that has them, in both spellings; a file that states them stays as it is."""
    stated = {
        "min_pixels": min_pixels,
        "max_pixels": max_pixels,
        "size": {"shortest_edge": min_pixels, "longest_edge": max_pixels},
    }
    for path in image_processor_files(directory):
        content = _content(path)
        processor = content[_ENTRY] if path.name == PROCESSOR_CONFIG else content
        if not stated.items() <= processor.items():
            processor.update(stated)
            path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def _content(path: Path) -> dict[str, Any]:
    return read_json(path.parent, path.name)
