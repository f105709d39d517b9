"""Builds a knowledge base from files.

    python -m r1vl_jax.router.build_index --input=passages.jsonl --kind=text --out=bases/wiki
    python -m r1vl_jax.router.build_index --input=pictures.parquet --kind=image --out=bases/pictures [--images=DIR]
    python -m r1vl_jax.router.build_index --input=tables --kind=table --out=bases/tables
        [--method=sparse|dense|both] [--encoder=hashing] [--language=english] [--faiss=HNSW32]

`--input` is a file or a directory of JSON, JSONL, Parquet, Arrow, CSV or TSV. Texts are cut into passages; a picture
has a caption; a row of a table is a document. Rows that cannot be used are left out, and counted with their reasons. A
build that is interrupted goes on when it is started again. OUT appears, or is replaced, when all is done.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from absl import app, flags, logging
from rich.console import Console

from r1vl_jax.data.sources.account import Account
from r1vl_jax.observe.progress import Progress
from r1vl_jax.router.knowledge.building import build
from r1vl_jax.router.knowledge.document import KINDS, METHODS, Document
from r1vl_jax.router.knowledge.files import count_rows, describe, find_files, iterate_rows
from r1vl_jax.router.knowledge.rows import Columns, documents_of
from r1vl_jax.runtime import libtpu

_ACCOUNT = "documents"


def main() -> None:
    source = flags.DEFINE_string("input", None, "File or directory of documents.", required=True)
    kind = flags.DEFINE_enum("kind", None, KINDS, "Texts, captioned pictures, or rows of tables.", required=True)
    out = flags.DEFINE_string("out", None, "Directory of the knowledge base.", required=True)
    name = flags.DEFINE_string("name", "", "Of the base; by default the name of OUT.")
    method = flags.DEFINE_enum("method", "sparse", METHODS, "BM25, vectors, or both with their rankings fused.")
    encoder = flags.DEFINE_string("encoder", "", "Of vectors: hashing, or sentence-transformers:NAME_OR_DIR.")
    language = flags.DEFINE_string("language", "english", "Of stop words and stems; empty: words as they are.")
    faiss = flags.DEFINE_string("faiss", "", "Index of faiss over the vectors, such as HNSW32; empty: none.")
    window = flags.DEFINE_integer("window_words", 100, "Length of a passage; 0: whole texts.")
    stride = flags.DEFINE_integer("stride_words", 50, "From the start of one passage to that of the next.")
    text = flags.DEFINE_string("text_column", "", "Of the text or the caption; by default it is recognised.")
    title = flags.DEFINE_string("title_column", "", "Put before each passage; by default it is recognised.")
    image = flags.DEFINE_string("image_column", "", "Of the picture; by default it is recognised.")
    row_id = flags.DEFINE_string("id_column", "", "Names the documents; by default it is recognised.")
    images = flags.DEFINE_string("images", "", "Root of relative paths of pictures; by default where the input is.")
    separator = flags.DEFINE_string("separator", "", "Of columns in CSV; by default a comma, in TSV a tab.")

    def start(_: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)
        libtpu.skip_without_tpu()
        path, directory = Path(source.value).expanduser(), Path(out.value).expanduser()
        root = Path(images.value) if images.value else path if path.is_dir() else path.parent
        columns = Columns(text.value, title.value, image.value, row_id.value, root)
        account = Account()
        try:
            files = find_files(path)
            with Progress(f"read {path.name}", sum(map(count_rows, files)), console=Console()) as progress:
                num_documents = build(
                    read_documents(files, kind.value, columns, separator.value, account, progress.update),
                    directory,
                    name=name.value or directory.name,
                    kind=kind.value,
                    method=method.value,
                    encoder=encoder.value,
                    language=language.value,
                    faiss=faiss.value,
                    window_words=window.value,
                    stride_words=stride.value,
                    source=f"{describe(files)} {columns} {separator.value}",
                    drop=lambda document, reason: account.drop(_ACCOUNT, document, reason),
                    announce=lambda what: print(f"writing {what}", flush=True),
                )
        except (ValueError, OSError, ModuleNotFoundError) as error:
            raise SystemExit("\n".join([*account.lines(), str(error)])) from None
        except KeyboardInterrupt:
            raise SystemExit("interrupted; the same command goes on") from None
        print(*account.lines(), f"{directory}: {num_documents:,} documents", sep="\n")

    app.run(start)


def read_documents(
    files: Sequence[Path], kind: str, columns: Columns, separator: str, account: Account, advance: Callable[[int], None]
) -> Iterator[Document]:
    """The documents of all files; rows without one are counted, with the reason.

    Raises:
        ValueError: a file cannot be read, or does not have the columns.
    """
    num_rows = 0
    for path in files:
        for number, row in enumerate(iterate_rows(path, separator), start=1):
            if number == 1:
                columns.check(row, kind, path)
            num_rows += 1
            account.row(_ACCOUNT)
            try:
                yield from documents_of(row, kind, columns, f"{path.stem}/{number}")
            except ValueError as error:
                account.drop(_ACCOUNT, f"{path.name}, row {number}", str(error))
            advance(num_rows)


if __name__ == "__main__":
    main()
