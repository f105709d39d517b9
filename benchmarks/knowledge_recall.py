"""Recall of retrieval on R1-Router's embedded task: is the document that answers a sub-question among the first five?

    python -m benchmarks.knowledge_recall [--facts=4000] [--questions=500]

Each sub-question of the task is asked about that many numbers in the knowledge base that has its answer, by BM25, by
exact search of vectors (the hashing encoder), by approximate ones, and by BM25 and vectors with their ranks fused.
"""

import argparse
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
from rich.table import Table

from r1vl_jax.observe.markdown import markdown_table, provenance
from r1vl_jax.router.digits.facts import KINDS, Facts, documents, draw_facts
from r1vl_jax.router.knowledge import KnowledgeBase, build
from r1vl_jax.router.protocol import RETRIEVERS
from r1vl_jax.runtime import libtpu

_K = 5
_WAYS = {  # settings of `build`, and `search` of `open`
    "BM25": ({"method": "sparse"}, ""),
    "vectors, exact": ({"method": "dense"}, "exact"),
    "vectors, `approx_max_k`": ({"method": "dense"}, "approximate"),
    "vectors, faiss HNSW32": ({"method": "dense", "faiss": "HNSW32"}, "faiss"),
    "both, fused": ({"method": "both"}, "exact"),
}


def sub_questions(facts: Sequence[Facts]) -> dict[str, list[tuple[str, str]]]:
    """For each retriever its sub-questions, each with what the id of the document that answers it ends with."""
    lookups = {(retriever, form) for kind in KINDS for retriever, form, _ in kind.lookups}
    asked: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for retriever, form in sorted(lookups):
        (key,) = re.findall(r"{(\w+)}", form)
        asked[retriever] += [(form.format(**vars(each)), f"-{getattr(each, key)}") for each in facts]
    return asked


def recall(base: KnowledgeBase, asked: Sequence[tuple[str, str]]) -> float:
    """The share of sub-questions whose document is among the first five."""
    found = base.search([query for query, _ in asked], _K)
    is_found = [
        any(base.document(hit.number).id.endswith(suffix) for hit in hits)
        for hits, (_, suffix) in zip(found, asked, strict=True)
    ]
    return float(np.mean(is_found))


def measure(directory: Path, num_facts: int, num_questions: int) -> dict[str, dict[str, float]]:
    """Way -> retriever -> recall."""
    facts = draw_facts(num_facts, np.random.default_rng(0))
    asked = sub_questions(facts[:num_questions])
    kinds = {retriever.name: retriever.kind for retriever in RETRIEVERS}
    recalls: dict[str, dict[str, float]] = {}
    for way, (settings, search) in _WAYS.items():
        recalls[way] = {}
        for retriever, of_base in documents(facts).items():
            build(of_base, directory / "base", name=retriever, kind=kinds[retriever], **settings)
            recalls[way][retriever] = recall(KnowledgeBase.open(directory / "base", search=search), asked[retriever])
    return recalls


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.knowledge_recall",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--facts", type=int, default=4_000, help="numbers that something is known about")
    parser.add_argument("--questions", type=int, default=500, help="numbers that are asked about")
    arguments = parser.parse_args()
    libtpu.skip_without_tpu()
    with tempfile.TemporaryDirectory() as temporary:
        recalls = measure(Path(temporary), arguments.facts, arguments.questions)
    table = Table("recall@5", *next(iter(recalls.values())))
    for way, of_way in recalls.items():
        table.add_row(way, *(f"{value:.3f}" for value in of_way.values()))
    packages = [f"{name} {metadata.version(name)}" for name in ("jax", "bm25s", "numpy")]
    command = ["python", "-m", "benchmarks.knowledge_recall", *sys.argv[1:]]
    print(provenance(command, packages), markdown_table(table), sep="\n\n")


if __name__ == "__main__":
    main()
