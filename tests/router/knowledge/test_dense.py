"""The nearest vectors: against NumPy, on one device, on eight, approximate, and by faiss."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from r1vl_jax.router.knowledge import Document, KnowledgeBase, build, nearest
from r1vl_jax.router.knowledge.nearest import search_blocks, search_mesh

SIZE = 16


@pytest.fixture
def mesh() -> Mesh:
    return Mesh(np.array(jax.devices()).reshape(2, 2, 2), ("data", "fsdp", "tensor"))


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(nearest, "BLOCK", 64)


def _vectors(num_vectors: int, seed: int = 0) -> np.ndarray:
    """Few different values, so that there are ties, in float16."""
    return np.random.default_rng(seed).integers(-1, 2, (num_vectors, SIZE)).astype(np.float16)


def _expected(vectors: np.ndarray, queries: np.ndarray, k: int) -> list[list[int]]:
    scores = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    return [sorted(range(len(vectors)), key=lambda number: (-row[number], number))[:k] for row in scores]


@pytest.mark.parametrize(("num_vectors", "is_approximate"), [(1, False), (64, False), (500, False), (500, True)])
@pytest.mark.parametrize("way", ["blocks", "mesh"])
def test_the_best_are_those_of_numpy_and_ties_go_to_the_lower_number(way, num_vectors, is_approximate, mesh):
    vectors, queries, k = _vectors(num_vectors), _vectors(4, seed=1), min(7, num_vectors)
    # On CPUs approximate search is exact.
    make = {"blocks": search_blocks, "mesh": lambda *args, **settings: search_mesh(*args, mesh, **settings)}[way]
    best = make(vectors, is_approximate=is_approximate)(queries, k)
    numbers = np.asarray(best.number_QK).tolist()
    scores = np.asarray(best.score_QK)
    assert numbers == _expected(vectors, queries, k)
    np.testing.assert_allclose(scores, np.take_along_axis(queries @ vectors.T, np.array(numbers), 1), atol=1e-6)


def test_more_hits_than_a_device_has_vectors_are_found(mesh):
    vectors, queries = _vectors(20), _vectors(2, seed=1)
    best = search_mesh(vectors, mesh)(queries, 15)
    assert np.asarray(best.number_QK).tolist() == _expected(vectors, queries, 15)


def test_no_device_holds_more_than_its_share(mesh, monkeypatch):
    made = []
    make = jax.make_array_from_callback
    monkeypatch.setattr(jax, "make_array_from_callback", lambda *args: made.append(make(*args)) or made[-1])
    search_mesh(_vectors(1_000), mesh)(_vectors(2), 3)
    (array,) = made
    shapes = {shard.data.shape for shard in array.addressable_shards}
    assert shapes == {(128, SIZE)}  # 1,000 / 8 in whole blocks of 64
    assert len({str(shard.index) for shard in array.addressable_shards}) == 8


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("dense") / "base"
    documents = [Document(str(n), f"the number {n} times {n * 7 % 50} is {n * (n * 7 % 50)}") for n in range(150)]
    build(documents, path, name="numbers", kind="table", method="dense", faiss="Flat")
    return path


@pytest.mark.parametrize("search", ["approximate", "faiss", "on a mesh"])
def test_all_ways_find_what_exact_search_finds(directory, search, mesh):
    queries = [f"number {number}" for number in range(40)]
    exact = KnowledgeBase.open(directory, search="exact").search(queries, 5)
    other = KnowledgeBase.open(directory, **({"mesh": mesh} if search == "on a mesh" else {"search": search}))
    for found, expected in zip(other.search(queries, 5), exact, strict=True):
        np.testing.assert_allclose([hit.score for hit in found], [hit.score for hit in expected], atol=1e-5)
        assert found[0].number == expected[0].number


def test_many_queries_are_answered_as_each_alone(directory):
    base = KnowledgeBase.open(directory)
    queries = [f"times {number}" for number in range(70)]
    assert base.search(queries, 3) == [base.search([query], 3)[0] for query in queries]


def test_a_graph_of_faiss_finds_documents_that_are_worded_alike(tmp_path):
    """With faiss's own widths it finds three quarters of them."""
    rng = np.random.default_rng(0)
    colors, shapes, numbers = ("red", "green", "blue"), ("disc", "square", "star"), 1000 + rng.permutation(9000)[:400]
    words = ["".join(rng.choice(list("bdfgklmnprst"), 2)) + f"{vowel}na" for vowel in rng.choice(list("aeiou"), 400)]
    subjects = [subject for each in zip(numbers, words, strict=True) for subject in each]
    texts = [f"The sign {each} shows a {rng.choice(colors)} {rng.choice(shapes)}." for each in subjects]
    documents = [Document(str(number), text) for number, text in enumerate(texts)]
    build(documents, tmp_path / "base", name="signs", kind="table", method="dense", faiss="HNSW32")
    found = KnowledgeBase.open(tmp_path / "base").search([f"What does sign {number} show?" for number in numbers], 5)
    assert np.mean([2 * n in {hit.number for hit in hits} for n, hits in enumerate(found)]) >= 0.95


def test_faiss_takes_no_mesh_and_needs_its_index(directory, mesh, tmp_path):
    with pytest.raises(ValueError, match="takes no mesh"):
        KnowledgeBase.open(directory, search="faiss", mesh=mesh)
    build([Document("a", "text")], tmp_path / "base", name="base", kind="text", method="dense")
    with pytest.raises(ValueError, match="has no index of faiss"):
        KnowledgeBase.open(tmp_path / "base", search="faiss")
    with pytest.raises(ValueError, match="search='nearest': expected one of exact"):
        KnowledgeBase.open(tmp_path / "base", search="nearest")


def test_a_base_without_vectors_has_no_nearest_ones(tmp_path):
    build([Document("a", "text")], tmp_path / "base", name="base", kind="text")
    with pytest.raises(ValueError, match="has no vectors"):
        KnowledgeBase.open(tmp_path / "base", search="exact")


def test_an_index_that_faiss_does_not_know_is_refused(tmp_path):
    with pytest.raises(ValueError, match="faiss='Foo'"):
        build([Document("a", "text")], tmp_path / "base", name="base", kind="text", method="dense", faiss="Foo")
    assert list(tmp_path.iterdir()) == []
