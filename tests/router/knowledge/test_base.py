"""Knowledge bases: built, opened, searched, replaced, and refused where they are not what was asked for."""

import dataclasses
import json

import pytest

from r1vl_jax.router.knowledge import Document, KnowledgeBase, build

ROWS = [
    Document("apple", "fruit: apple; price: 3 dollars"),
    Document("pear", "fruit: pear; price: 5 dollars"),
    Document("plum", "fruit: plum; price: 5 dollars"),
    Document("lamp", "furniture: reading lamp; price: 40 dollars"),
]


@pytest.fixture
def make(tmp_path):
    def make(documents=ROWS, directory="base", open_with=None, **settings) -> KnowledgeBase:
        build(documents, tmp_path / directory, **{"name": "prices", "kind": "table", **settings})
        return KnowledgeBase.open(tmp_path / directory, **(open_with or {}))

    return make


def _ids(base: KnowledgeBase, query: str, k: int = 2) -> list[str]:
    (hits,) = base.search([query], k)
    return [base.document(hit.number).id for hit in hits]


@pytest.mark.parametrize("method", ["sparse", "dense", "both"])
def test_the_document_that_answers_is_found(make, method):
    base = make(method=method)
    assert (base.name, base.kind, len(base)) == ("prices", "table", len(ROWS))
    assert _ids(base, "What does a reading lamp cost?", 1) == ["lamp"]
    assert base.document(1) == ROWS[1]


@pytest.mark.parametrize("method", ["sparse", "dense", "both"])
def test_a_query_of_nothing_has_no_hits_and_the_others_keep_theirs(make, method):
    empty, found, spaces = make(method=method).search(["", "pear", " \n"], 3)
    assert (empty, spaces) == ([], [])
    assert found[0].number == 1


def test_pictures_are_kept_with_their_captions(make):
    picture = Document("sun", "a yellow sun", b"\x89PNG")
    base = make([picture], kind="image")
    assert base.document(0) == picture


def test_a_base_that_is_replaced_while_it_is_open_stays_as_it_was(make):
    old = make(method="both")
    new = make([Document("sofa", "furniture: sofa")], method="both")
    assert (_ids(old, "plum", 1), len(old)) == (["plum"], 4)
    assert (_ids(new, "sofa", 1), len(new)) == (["sofa"], 1)


def test_a_directory_without_a_base_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no knowledge base here"):
        KnowledgeBase.open(tmp_path)


@pytest.mark.parametrize("changes", [{"version": 0}, {"fingerprint": "hashing:512 version 0"}, {"num_documents": 5}])
def test_a_base_of_another_version_encoder_or_size_is_refused(make, tmp_path, changes):
    make(method="dense")
    path = tmp_path / "base" / "knowledge_base.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    reason = {"version": "of version 0", "fingerprint": "of another encoder", "num_documents": "expected 5 documents"}
    with pytest.raises(ValueError, match=reason[next(iter(changes))]):
        KnowledgeBase.open(tmp_path / "base")


@pytest.mark.parametrize("file", ["documents.arrow", "vectors.npy", "vectors.faiss", "sparse/vocab.index.json"])
@pytest.mark.parametrize("is_cut", [False, True])
def test_a_damaged_base_is_refused(make, tmp_path, file, is_cut):
    make(method="both", faiss="Flat")
    path = tmp_path / "base" / file
    content = path.read_bytes()
    path.unlink()
    if is_cut:
        path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="base: damaged, build it again"):
        KnowledgeBase.open(tmp_path / "base")


def test_an_encoder_may_lie_elsewhere_now(make, tmp_path):
    make(method="dense", encoder="hashing:64")
    assert len(KnowledgeBase.open(tmp_path / "base", encoder="hashing:64")) == 4
    with pytest.raises(ValueError, match=r"of another encoder: .*\(hashing:64\), got .*\(hashing\)"):
        KnowledgeBase.open(tmp_path / "base", encoder="hashing")


def test_a_question_that_is_no_list_and_no_hits_are_refused(make):
    base = make()
    with pytest.raises(ValueError, match=r"expected a list of queries, got one text; write \[query\]"):
        base.search("pear", 3)
    with pytest.raises(ValueError, match="k=0: expected at least 1"):
        base.search(["pear"], 0)
    with pytest.raises(IndexError, match="expected a number from 0 to 3"):
        base.document(-1)


def test_nothing_to_build_from_is_refused_and_leaves_nothing(make, tmp_path):
    with pytest.raises(ValueError, match="no documents"):
        make([])
    assert list(tmp_path.iterdir()) == []


def test_documents_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ROWS[0].text = "other"  # pyright: ignore[reportAttributeAccessIssue]
