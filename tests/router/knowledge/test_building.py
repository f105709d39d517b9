"""Builds that are interrupted, started twice, refused; documents that cannot be stored."""

import subprocess
import sys

import pytest

from r1vl_jax.router.encoders import HashingEncoder
from r1vl_jax.router.knowledge import Document, KnowledgeBase, build, building, parts
from r1vl_jax.router.knowledge.unfinished import Unfinished

DOCUMENTS = [Document(f"d{number}", f"number {number} of ten") for number in range(10)]


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(parts, "MAX_DOCUMENTS", 3)


@pytest.fixture
def encoded(monkeypatch):
    """The texts that are encoded."""
    texts: list[str] = []
    encode = HashingEncoder.encode
    monkeypatch.setattr(HashingEncoder, "encode", lambda self, some: texts.extend(some) or encode(self, some))
    return texts


def _build(path, documents=DOCUMENTS, **settings):
    return build(documents, path, **{"name": "base", "kind": "table", "method": "both", "source": "s", **settings})


def _until(number: int):
    yield from DOCUMENTS[:number]
    raise KeyboardInterrupt


def test_an_interrupted_build_goes_on_behind_its_last_part(tmp_path, small_parts, encoded):
    with pytest.raises(KeyboardInterrupt):
        _build(tmp_path / "base", _until(8))
    assert not (tmp_path / "base").exists()
    assert _build(tmp_path / "base") == 10
    assert encoded == [document.text for document in DOCUMENTS]  # each once
    base = KnowledgeBase.open(tmp_path / "base")
    assert [base.document(number) for number in range(10)] == DOCUMENTS
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


@pytest.mark.parametrize(
    "change", [{"source": "other"}, {"language": ""}, {"name": "other"}, {"encoder": "hashing:64"}]
)
def test_a_build_of_something_else_starts_anew(tmp_path, small_parts, encoded, change):
    with pytest.raises(KeyboardInterrupt):
        _build(tmp_path / "base", _until(8))
    encoded.clear()
    _build(tmp_path / "base", **change)
    assert len(encoded) == 10


def test_a_part_that_is_cut_is_made_again(tmp_path, small_parts):
    with pytest.raises(KeyboardInterrupt):
        _build(tmp_path / "base", _until(8))
    part = tmp_path / ".base-unfinished" / "part_00001.arrow"
    part.write_bytes(part.read_bytes()[:100])
    assert _build(tmp_path / "base") == 10


def test_without_a_source_nothing_is_kept(tmp_path, small_parts):
    with pytest.raises(KeyboardInterrupt):
        _build(tmp_path / "base", _until(8), source="")
    assert list(tmp_path.iterdir()) == []


def test_a_build_that_fails_leaves_the_base_that_was_there(tmp_path):
    _build(tmp_path / "base")
    with pytest.raises(ValueError, match="no documents"):
        _build(tmp_path / "base", [])
    assert len(KnowledgeBase.open(tmp_path / "base")) == 10


def test_a_base_whose_replacement_was_killed_is_brought_back(tmp_path):
    _build(tmp_path / "base")
    (tmp_path / "base").rename(tmp_path / ".base-replaced")
    with pytest.raises(ValueError, match="no documents"):
        _build(tmp_path / "base", [])
    assert len(KnowledgeBase.open(tmp_path / "base")) == 10


def test_two_programs_do_not_build_one_base(tmp_path):
    with Unfinished.begin(tmp_path / "base", {}, keep=False), pytest.raises(ValueError, match="another program"):
        _build(tmp_path / "base")


@pytest.mark.parametrize("name", ["notes.txt", "knowledge_base.json"])
def test_files_of_the_users_are_not_replaced(tmp_path, name):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / name).write_text("mine")
    (tmp_path / "base" / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match=r"thesis\.tex.*name another directory"):
        _build(tmp_path / "base")
    assert (tmp_path / "base" / name).read_text() == "mine"


def test_documents_that_cannot_be_stored_are_named_and_the_others_kept(tmp_path):
    dropped = []
    documents = [
        Document("empty", " "),
        Document("long row", "x" * 1_000_000),
        Document("no picture", "a caption"),
        Document("sun", "a caption", b"picture"),
    ]
    kept = _build(tmp_path / "base", documents, kind="image", drop=lambda *each: dropped.append(each))
    assert kept == 1
    assert [name for name, _ in dropped] == ["empty", "long row", "no picture"]
    assert [reason[:20] for _, reason in dropped] == ["no caption", "1,000,000 characters", "no picture"]


def test_a_text_of_a_megabyte_is_cut(tmp_path):
    text = " ".join(f"word{number}" for number in range(100_000))
    assert _build(tmp_path / "base", [Document("long", text)], kind="text", method="sparse") == 1_999
    base = KnowledgeBase.open(tmp_path / "base")
    (hits,) = base.search(["word99930"], 5)
    assert [base.document(hit.number).id for hit in hits] == ["long#1998", "long#1999"]


def test_captions_and_rows_stay_whole(tmp_path):
    _build(tmp_path / "base", [Document("a", "word " * 150)])
    assert len(KnowledgeBase.open(tmp_path / "base").document(0).text.split()) == 150


def test_all_wrong_settings_are_listed(tmp_path):
    wrong = {"name": " ", "kind": "sound", "method": "sparse", "encoder": "hashing", "faiss": "Flat"}
    with pytest.raises(ValueError, match="cannot be built so") as error:
        _build(tmp_path / "base", **wrong, language="klingon", window_words=10, stride_words=11)
    for sentence in (
        "name=''",
        "kind='sound'",
        "encoder='hashing'",
        "faiss='Flat'",
        "language='klingon'",
        "stride_words=11",
    ):
        assert sentence in str(error.value)


def test_progress_is_told(tmp_path):
    read, written = [], []
    _build(tmp_path / "base", advance=read.append, announce=written.append, faiss="Flat")
    assert (read, written) == (list(range(1, 11)), ["documents", "words", "vectors", "faiss"])


def test_without_libraries_it_says_what_to_install(tmp_path, monkeypatch):
    for library, settings in (("bm25s", {"language": ""}), ("Stemmer", {}), ("faiss", {"faiss": "Flat"})):
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(ModuleNotFoundError, match="pip install"):
            _build(tmp_path / "base", **settings)
        monkeypatch.delitem(sys.modules, library)


def test_the_program_builds_what_python_opens(tmp_path):
    (tmp_path / "prices.csv").write_text("fruit,price\napple,3\n,\nplum,5\n")
    command = [
        sys.executable,
        "-m",
        "r1vl_jax.router.build_index",
        f"--input={tmp_path / 'prices.csv'}",
        "--kind=table",
    ]
    ended = subprocess.run([*command, f"--out={tmp_path / 'base'}"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "documents: 2 of 3 rows kept, 1 dropped" in ended.stdout
    assert "1 x no text (prices/2)" in ended.stdout
    base = KnowledgeBase.open(tmp_path / "base")
    assert (base.name, base.kind, len(base)) == ("base", "table", 2)
    assert base.document(1).text == "fruit: plum; price: 5"


def test_the_most_characters_are_more_than_a_windows_words():
    assert building.MAX_CHARACTERS >= 100 * 100
