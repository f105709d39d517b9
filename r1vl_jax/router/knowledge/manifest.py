"""What a knowledge base says of itself: knowledge_base.json in its directory."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

FILE = "knowledge_base.json"
VERSION = 1  # of the files of a base; raised when older ones cannot be read any more
_BUILD = "python -m r1vl_jax.router.build_index"


@dataclass(frozen=True)
class Manifest:
    """Attributes:
    name: of the base.
    kind: "text", "image" or "table".
    method: "sparse", "dense" or "both".
    num_documents: passages, pictures or rows; at least one.
    language: of the words of sparse retrieval.
    encoder, fingerprint: name of the encoder of the vectors, and what tells it from others; "" without vectors.
    faiss: description of faiss's index; "" without one.
    version: of the files.
    """

    name: str
    kind: str
    method: str
    num_documents: int
    language: str = ""
    encoder: str = ""
    fingerprint: str = ""
    faiss: str = ""
    version: int = VERSION

    @property
    def is_sparse(self) -> bool:
        return self.method != "dense"

    @property
    def is_dense(self) -> bool:
        return self.method != "sparse"

    def write(self, directory: Path) -> None:
        (directory / FILE).write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n", "utf-8")

    @classmethod
    def read(cls, directory: Path) -> "Manifest":
        """What the base in a directory says.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is of another version, or damaged.
        """
        path = directory / FILE
        if not path.is_file():
            raise FileNotFoundError(f"{directory}: no knowledge base here (expected {FILE}); {_BUILD} makes one")
        said = _read_object(path)
        if said.get("version") != VERSION:
            raise ValueError(
                f"{directory}: a knowledge base of version {said.get('version')!r}, and this release reads version"
                f" {VERSION}; build it again with {_BUILD}"
            )
        names = {field.name for field in fields(cls)}
        if said.keys() != names or not isinstance(said["num_documents"], int) or said["num_documents"] < 1:
            raise ValueError(f"{path}: damaged; expected {', '.join(sorted(names))}; build it again with {_BUILD}")
        return cls(**said)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(path.read_text("utf-8"))
    except (ValueError, OSError):
        said = None
    if not isinstance(said, dict):
        raise ValueError(f"{path}: damaged; expected a JSON object; build it again with {_BUILD}")
    return said
