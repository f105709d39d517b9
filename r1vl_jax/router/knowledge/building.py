"""Builds a knowledge base: documents to passages, passages to parts, parts to one base that appears at once."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

from r1vl_jax.router.encoders import Encoder, load_encoder
from r1vl_jax.router.knowledge.base import DOCUMENTS, FILES, SPARSE
from r1vl_jax.router.knowledge.dense import write_vectors
from r1vl_jax.router.knowledge.document import Document
from r1vl_jax.router.knowledge.manifest import Manifest
from r1vl_jax.router.knowledge.parts import Part, chunks, stored, write_part, write_table
from r1vl_jax.router.knowledge.passages import cut
from r1vl_jax.router.knowledge.settings import Settings
from r1vl_jax.router.knowledge.sparse import write_sparse
from r1vl_jax.router.knowledge.unfinished import Unfinished, refuse_loss, restore
from r1vl_jax.router.knowledge.with_faiss import import_faiss, write_faiss
from r1vl_jax.router.words import WordSplitter

MAX_CHARACTERS = 20_000  # of a passage, a caption or a row: a model is shown several at a time

Drop = Callable[[str, str], None]  # name of what is left out, reason
Advance = Callable[[int], None]  # number of documents read so far
Announce = Callable[[str], None]  # what is being written


def log_dropped(name: str, reason: str) -> None:
    logging.getLogger(__name__).warning("left out: %s: %s", name, reason)


def build(
    documents: Iterable[Document],
    directory: str | os.PathLike,
    *,
    name: str,
    kind: str,
    method: str = "sparse",
    encoder: str = "",
    language: str = "english",
    faiss: str = "",
    window_words: int = 100,
    stride_words: int = 50,
    source: str = "",
    drop: Drop = log_dropped,
    advance: Advance = lambda num_documents: None,
    announce: Announce = lambda what: None,
) -> int:
    """Builds a knowledge base, or replaces one; returns the number of its documents.

    Args:
        documents: texts, which are cut into passages; pictures with captions; or rows.
        directory: appears, or is replaced, when all is done.
        name: of the base.
        kind: "text", "image" or "table".
        method: "sparse" (BM25), "dense" (vectors) or "both", whose rankings are fused.
        encoder: of the vectors, as of `load_encoder`; by default "hashing".
        language: whose stop words are left out and whose words are stemmed for sparse retrieval; "" takes words as they
            are.
        faiss: description of an index of faiss over the vectors, such as "HNSW32"; "" for none.
        window_words: length of a passage; 0 takes texts as they are.
        stride_words: from the start of one passage to that of the next.
        source: what the documents come from. A build that was interrupted goes on where it stopped if it is started
            again with the same source and settings; with "" it starts anew.
        drop: is told of documents that are left out: those without a text, and passages, captions and rows of more than
            20,000 characters; by default they are logged.
        advance: is told how many documents were read so far.
        announce: is told what is written when all are read: "documents", "words", "vectors", "faiss".

    Raises:
        ValueError: a setting is wrong, no documents are left, or another program is building this base.
        FileExistsError: the directory is something else, not a knowledge base.
        ModuleNotFoundError: a library that the method needs is not installed; says how.
    """
    settings = Settings(name, kind, method, encoder, language, faiss, window_words, stride_words, source)
    settings.check()
    splitter = WordSplitter(language) if settings.is_sparse else None
    encoder_of_base = load_encoder(settings.encoder_name) if settings.encoder_name else None
    if faiss:
        import_faiss()
    out = Path(os.path.abspath(directory))
    restore(out)
    refuse_loss(out, FILES)
    manifest = _manifest(settings, encoder_of_base)
    with Unfinished.begin(out, asdict(settings) | asdict(manifest), keep=bool(source)) as unfinished:
        passages = _passages(documents, settings, drop, advance)
        parts = _write_parts(passages, unfinished, splitter, encoder_of_base)
        manifest = replace(manifest, num_documents=sum(map(len, parts)))
        _write_base(unfinished.new_base(), parts, manifest, announce)
        unfinished.publish()
    return manifest.num_documents


def _manifest(settings: Settings, encoder: Encoder | None) -> Manifest:
    return Manifest(
        settings.name,
        settings.kind,
        settings.method,
        num_documents=0,
        language=settings.language if settings.is_sparse else "",
        encoder=settings.encoder_name,
        fingerprint=encoder.fingerprint if encoder else "",
        faiss=settings.faiss,
    )


def _passages(documents: Iterable[Document], settings: Settings, drop: Drop, advance: Advance) -> Iterator[Document]:
    window_words, stride_words = settings.window
    for number, document in enumerate(documents, start=1):
        for passage in cut(document, window_words=window_words, stride_words=stride_words):
            if reason := _fault(passage, settings.kind):
                drop(passage.id, reason)
            else:
                yield passage
        advance(number)


def _fault(passage: Document, kind: str) -> str:
    """Why a document cannot be stored; "" if it can."""
    if not passage.text:
        return f"no {'caption' if kind == 'image' else 'text'}"
    if len(passage.text) > MAX_CHARACTERS:
        return f"{len(passage.text):,} characters; expected at most {MAX_CHARACTERS:,} in a passage, a caption or a row"
    if kind == "image" and passage.image is None:
        return "no picture"
    return ""


def _write_parts(
    passages: Iterator[Document], unfinished: Unfinished, splitter: WordSplitter | None, encoder: Encoder | None
) -> list[Part]:
    """Writes the parts that are not there yet; returns all."""
    parts = unfinished.parts()
    rest = islice(passages, sum(map(len, parts)), None)
    for number, documents in enumerate(chunks(rest), start=len(parts)):
        write_part(unfinished.part_path(number), documents, splitter, encoder)
    if not (parts := unfinished.parts()):
        raise ValueError("no documents: the input has none, or all were left out")
    return parts


def _write_base(base: Path, parts: Sequence[Part], manifest: Manifest, announce: Announce) -> None:
    announce("documents")
    write_table(base / DOCUMENTS, map(stored, parts))
    if manifest.is_sparse:
        announce("words")
        write_sparse(base / SPARSE, parts)
    if manifest.is_dense:
        announce("vectors")
        vectors = write_vectors(base, [part.vectors() for part in parts], manifest.num_documents)
    if manifest.faiss:
        announce("faiss")
        write_faiss(base, vectors, manifest.faiss)
    manifest.write(base)
