"""How long a knowledge base takes to build and to search, and how much memory: made-up passages, 100 words each.

    python -m benchmarks.knowledge_bases [--passages=1000000] [--method=sparse] [--faiss=HNSW32] [--directory=DIR]

Words are drawn by Zipf's law from 500,000, of which the most frequent are English stop words; a document has 550 words,
ten passages. Both measurements are of processes of their own: the program that builds the base from a JSONL file, and
one that opens it and asks single queries of ten words, each from some passage, and the same queries at once. Memory is
the peak of the build, and of the search what it holds beside the pages of the files that it maps.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
from rich.table import Table

from r1vl_jax.observe.markdown import markdown_table, provenance
from r1vl_jax.router.knowledge import KnowledgeBase
from r1vl_jax.runtime import libtpu

_VOCABULARY, _DOCUMENT_WORDS, _PASSAGES_OF_DOCUMENT = 500_000, 550, 10
_ZIPF_OFFSET = 2.7
_STOP_WORDS = "the of and in to a is was for as on with by that it at are be this not or but an".split()
_QUERY_WORDS, _NUM_QUERIES, _K = 10, 100, 10
_SEARCH = "--search-only"


@dataclass(frozen=True)
class Searched:
    """Attributes:
    open_s: to open the base, in seconds.
    median_ms, slowest_ms: of a single query by the clock, in milliseconds; the first one does not count.
    processor_ms: likewise the median of the processors' time.
    together_ms: of one query by the clock, when all are asked at once.
    memory_mib: of the process beside mapped files, in MiB.
    recall: share of the five best of exact search among its five best, mean over the queries.
    """

    open_s: float
    median_ms: float
    slowest_ms: float
    processor_ms: float
    together_ms: float
    memory_mib: float
    recall: float


def write_documents(path: Path, num_passages: int, *, seed: int = 0) -> None:
    """Writes documents of ten passages each."""
    with path.open("w") as file:
        for number, text in enumerate(_texts(num_passages // _PASSAGES_OF_DOCUMENT, np.random.default_rng(seed))):
            file.write(json.dumps({"id": str(number), "title": "", "text": text}) + "\n")


def _texts(num_documents: int, rng: np.random.Generator) -> Iterator[str]:
    words = np.array(_STOP_WORDS + [_word(rank) for rank in range(_VOCABULARY - len(_STOP_WORDS))], dtype=object)
    cumulative = np.cumsum(1 / (np.arange(_VOCABULARY) + _ZIPF_OFFSET))
    for start in range(0, num_documents, 1_000):
        shape = (min(1_000, num_documents - start), _DOCUMENT_WORDS)
        drawn = np.searchsorted(cumulative, rng.random(shape) * cumulative[-1])
        yield from (" ".join(row) for row in words[drawn])


def _word(rank: int) -> str:
    """A made-up word, of its own for each rank; shorter ones are more frequent."""
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    word, rest = syllables[rank % 70], rank // 70
    while rest:
        word, rest = word + syllables[rest % 70], rest // 70
    return word + "n"


def queries(base: KnowledgeBase, rng: np.random.Generator) -> list[str]:
    """Words that stand one behind the other in some passage."""
    numbers, starts = rng.integers(len(base), size=_NUM_QUERIES), rng.integers(90, size=_NUM_QUERIES)
    texts = (base.document(int(number)).text.split() for number in numbers)
    return [" ".join(text[start : start + _QUERY_WORDS]) for text, start in zip(texts, starts, strict=True)]


def measure_search(directory: Path, search: str) -> Searched:
    started = time.perf_counter()
    base = KnowledgeBase.open(directory, search=search)
    opened = time.perf_counter()
    asked = queries(base, np.random.default_rng(1))
    clock, processor = zip(*(_seconds(base, [query]) for query in asked), strict=True)
    together, _ = _seconds(base, asked)
    memory_mib = _anonymous_mib()
    return Searched(
        open_s=opened - started,
        median_ms=1e3 * float(np.median(clock[1:])),
        slowest_ms=1e3 * max(clock[1:]),
        processor_ms=1e3 * float(np.median(processor[1:])),
        together_ms=1e3 * together / len(asked),
        memory_mib=memory_mib,
        recall=_recall(base, KnowledgeBase.open(directory, search="exact") if search else base, asked),
    )


def _seconds(base: KnowledgeBase, asked: Sequence[str]) -> tuple[float, float]:
    """Of a search, by the clock and of the processors."""
    started, started_processor = time.perf_counter(), time.process_time()
    base.search(asked, _K)
    return time.perf_counter() - started, time.process_time() - started_processor


def _recall(base: KnowledgeBase, exact: KnowledgeBase, asked: Sequence[str]) -> float:
    found, expected = ([{hit.number for hit in hits} for hits in each.search(asked, 5)] for each in (base, exact))
    return float(np.mean([len(got & right) / len(right) for got, right in zip(found, expected, strict=True) if right]))


def _anonymous_mib() -> float:
    status = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(status[1]) / 1024 if status else float("nan")


def _run(command: Sequence[str]) -> tuple[str, float, float, float]:
    """What a program prints, its seconds by the clock and of processors, and its peak of memory in MiB."""
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        printed = program.stdout.read() if program.stdout else ""
        _, status, usage = os.wait4(program.pid, 0)
        program.returncode = os.waitstatus_to_exitcode(status)
    if program.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return printed, time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.knowledge_bases",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--method", default="sparse", choices=["sparse", "dense", "both"])
    parser.add_argument("--faiss", default="", help="index of faiss, searched beside the exact search")
    parser.add_argument("--directory", default="", help="of the files; by default a temporary one")
    parser.add_argument(_SEARCH, default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    libtpu.skip_without_tpu()
    if arguments.search_only:
        search = "" if arguments.search_only == "words" else arguments.search_only
        print(json.dumps(asdict(measure_search(Path(arguments.directory) / "base", search))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        _measure(Path(arguments.directory or temporary), arguments.passages, arguments.method, arguments.faiss)


def _measure(directory: Path, num_passages: int, method: str, faiss: str) -> None:
    source, base = directory / "documents.jsonl", directory / "base"
    write_documents(source, num_passages)
    options = [f"--method={method}", *([f"--faiss={faiss}"] if faiss else [])]
    program = [sys.executable, "-m", "r1vl_jax.router.build_index", f"--input={source}", f"--out={base}", "--kind=text"]
    _, build_s, processor_s, build_mib = _run([*program, *options])
    disk_mib = sum(path.stat().st_size for path in base.rglob("*") if path.is_file()) / 2**20
    table = Table(
        *("search", "build", "processor", "memory", "disk", "open", "a query", "slowest", "processor", "of many"),
        *("memory", "recall@5"),
    )
    for search in _searches(method, faiss):
        again = [sys.executable, "-m", "benchmarks.knowledge_bases", f"--directory={directory}", f"{_SEARCH}={search}"]
        found = Searched(**json.loads(_run(again)[0].splitlines()[-1]))
        table.add_row(
            search,
            f"{build_s:.0f} s",
            f"{processor_s:.0f} s",
            f"{build_mib:,.0f} MiB",
            f"{disk_mib:,.0f} MiB",
            f"{found.open_s:.1f} s",
            f"{found.median_ms:.1f} ms",
            f"{found.slowest_ms:.1f} ms",
            f"{found.processor_ms:.1f} ms",
            f"{found.together_ms:.1f} ms",
            f"{found.memory_mib:,.0f} MiB",
            f"{found.recall:.2f}",
        )
    packages = [f"{name} {metadata.version(name)}" for name in ("jax", "bm25s", "numpy")]
    print(
        provenance(["python", "-m", "benchmarks.knowledge_bases", *sys.argv[1:]], packages),
        markdown_table(table),
        sep="\n\n",
    )


def _searches(method: str, faiss: str) -> list[str]:
    return ["words"] if method == "sparse" else ["exact", "approximate", *(["faiss"] if faiss else [])]


if __name__ == "__main__":
    main()
