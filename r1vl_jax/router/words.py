"""Words of a text: as an index counts them, and as windows are measured."""

import re
import unicodedata
from collections.abc import Callable

# Characters of scripts without spaces, each of which is a word: Chinese, and Japanese syllables.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
_HAS_UNSPACED = re.compile(f"[{_UNSPACED}]").search
_PIECE = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")
_MAX_KNOWN = 2_000_000

LANGUAGES = tuple(
    "danish dutch english french german italian norwegian portuguese russian spanish swedish turkish".split()
)


def pieces(text: str) -> list[tuple[int, int]] | None:
    """Where the words of a text in a script without spaces begin and end; None if spaces divide its words."""
    return [match.span() for match in _PIECE.finditer(text)] if _HAS_UNSPACED(text) else None


def split_words(text: str) -> list[str]:
    """The lower-cased words of a text: runs of letters and digits."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())


class WordSplitter:
    """Splits texts into lower-cased words; with a language, without its stop words, and stemmed.

    Raises:
        ValueError: the language is not known.
        ModuleNotFoundError: it needs bm25s (stop words) and PyStemmer; says how to install them.
    """

    def __init__(self, language: str):
        self._stem = _Stems(*_stemmer(language)) if language else None

    def split(self, text: str) -> list[str]:
        """The words in their order, repetitions included."""
        words = split_words(text)
        return words if self._stem is None else list(filter(None, map(self._stem.__getitem__, words)))


class _Stems(dict[str, str]):
    """Word -> stem; "" of a stop word."""

    def __init__(self, stem: Callable[[str], str], stop_words: frozenset[str]):
        super().__init__()
        self._stem, self._stop_words = stem, stop_words

    def __missing__(self, word: str) -> str:
        if len(self) >= _MAX_KNOWN:
            self.clear()
        self[word] = stem = "" if word in self._stop_words else self._stem(word)
        return stem


def _stemmer(language: str) -> tuple[Callable[[str], str], frozenset[str]]:
    if language not in LANGUAGES:
        raise ValueError(
            f"language={language!r}: expected one of {', '.join(LANGUAGES)}, or '' to take words as they are"
        )
    try:
        import Stemmer
        from bm25s import stopwords
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"stop words and stems of {language} need bm25s and PyStemmer: pip install bm25s PyStemmer (the extra"
            " [router]), or set the language to '' to take words as they are"
        ) from error
    name = "EN" if language == "english" else language.upper()
    return Stemmer.Stemmer(language).stemWord, frozenset(getattr(stopwords, f"STOPWORDS_{name}"))
