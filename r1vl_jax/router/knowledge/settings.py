"""How a knowledge base is built."""

from dataclasses import dataclass

from r1vl_jax.router.encoders import HASHING
from r1vl_jax.router.knowledge.document import KINDS, METHODS
from r1vl_jax.router.words import LANGUAGES


@dataclass(frozen=True)
class Settings:
    """See `build`."""

    name: str
    kind: str
    method: str = "sparse"
    encoder: str = ""
    language: str = "english"
    faiss: str = ""
    window_words: int = 100
    stride_words: int = 50
    source: str = ""

    @property
    def is_sparse(self) -> bool:
        return self.method != "dense"

    @property
    def encoder_name(self) -> str:
        """Of the vectors; "" without vectors."""
        return (self.encoder or HASHING) * (self.method != "sparse")

    @property
    def window(self) -> tuple[int, int]:
        """Length and stride of the windows in words; captions and rows stay whole."""
        return (self.window_words, self.stride_words) if self.kind == "text" else (0, 0)

    def check(self) -> None:
        """Raises ValueError with all faults."""
        if faults := [*self._choices(), *self._contradictions()]:
            raise ValueError("a knowledge base cannot be built so:\n  " + "\n  ".join(faults))

    def _choices(self) -> list[str]:
        choices = (("kind", KINDS), ("method", METHODS), ("language", (*LANGUAGES, "")))
        return [
            f"{name}={getattr(self, name)!r}: expected one of {', '.join(map(repr, known))}"
            for name, known in choices
            if getattr(self, name) not in known
        ]

    def _contradictions(self) -> list[str]:
        is_cut = self.window_words > 0
        faults = {
            "name='': expected a name": not self.name.strip(),
            f"encoder={self.encoder!r}: the method 'sparse' has no vectors; set method='dense' or 'both'": (
                self.encoder and self.method == "sparse"
            ),
            f"faiss={self.faiss!r}: the method 'sparse' has no vectors; set method='dense' or 'both'": (
                self.faiss and self.method == "sparse"
            ),
            f"window_words={self.window_words}: expected a positive number, or 0 for whole texts": self.window_words
            < 0,
            f"stride_words={self.stride_words}: expected a number from 1 to window_words={self.window_words}": (
                is_cut and not 1 <= self.stride_words <= self.window_words
            ),
        }
        return [sentence for sentence, holds in faults.items() if holds]
