"""Key steps for the records of a data set, by rule or by a language model, and a page to look at them.

    python -m r1vl_jax.data.key_steps --data=SOURCE --out=key_steps.jsonl [--page=key_steps.html] [--images=DIR]
    python -m r1vl_jax.data.key_steps --data=SOURCE --out=key_steps.jsonl --model=DIR
    python -m r1vl_jax.data.key_steps --data=SOURCE --out=key_steps.jsonl --model=NAME --endpoint=http://localhost:8000/v1
        [--max_calls=1000] [--prompts=DIR]

`--data` is what `data.source` takes, files or a name on the hub, with `--images`, `--layout` and `--columns` as in
`data`. OUT gets a line for each record that has no key steps of its own; lines that it has already, edited or not, stay
as they are. A run reads it with `data.key_steps=OUT`. A model is a checkpoint or, with `--endpoint`, one behind an
OpenAI-compatible endpoint, whose key is that of the environment variable OPENAI_API_KEY. Its replies are kept beside
OUT, so that nothing is asked twice.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from absl import app, flags, logging
from etils import epath
from rich.console import Console

import r1vl_jax
from r1vl_jax.config.settings import KEY_STEPS_SUFFIX
from r1vl_jax.data.key_steps import checkpoint
from r1vl_jax.data.key_steps.by_model import OWN_PROMPTS, Prompts, key_steps_by_model
from r1vl_jax.data.key_steps.endpoint import Endpoint
from r1vl_jax.data.key_steps.file import KeyStepsFile, only_writer
from r1vl_jax.data.key_steps.over_files import Find, by_rule, find_key_steps, read_records, read_spread
from r1vl_jax.data.key_steps.replies import Ask, Cache, limited
from r1vl_jax.data.record import UnusableRecord
from r1vl_jax.data.records import is_record_directory
from r1vl_jax.data.sources.files import find_files, local_source
from r1vl_jax.data.sources.preparation import Part, Preparation, split_parts
from r1vl_jax.observe.progress import Progress
from r1vl_jax.report.key_steps import write_page

_RULE = "rule"
_NUM_REASONS, _NUM_NAMES = 5, 3  # of records that cannot be used, which are printed


def main() -> None:
    data = flags.DEFINE_string("data", None, "File, directory or name on the hub.", required=True)
    images = flags.DEFINE_string("images", "", "Root of relative paths of pictures.")
    layout = flags.DEFINE_string("layout", "", "Layout of the rows; by default it is recognised.")
    columns = flags.DEFINE_string("columns", "", "Columns of other names, as problem=question,answer=label.")
    out = flags.DEFINE_string("out", None, "File of key steps, a JSON object a line.", required=True)
    limit = flags.DEFINE_integer("limit", 0, "The first so many records of each split; 0 for all.", lower_bound=0)
    page = flags.DEFINE_string("page", "", "HTML page that shows records with their key steps.")
    num_shown = flags.DEFINE_integer("page_records", 50, "Records on the page, spread over all.", lower_bound=1)
    model = flags.DEFINE_string("model", "", "Directory of a checkpoint, or a model's name at the endpoint.")
    endpoint = flags.DEFINE_string("endpoint", "", "URL of an OpenAI-compatible endpoint, up to /v1.")
    prompts = flags.DEFINE_string("prompts", str(OWN_PROMPTS), "Directory with extract.txt, keep.txt and spell.txt.")
    max_calls = flags.DEFINE_integer(
        "max_calls", 1_000_000, "Most prompts that the model is asked; further tries do not count.", lower_bound=1
    )
    timeout_s = flags.DEFINE_float("timeout_s", 120.0, "Of a reply of the endpoint, in seconds.", lower_bound=0.1)

    dtype = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of a checkpoint and its computation.")
    cache = flags.DEFINE_string("compile_cache", "~/.cache/r1vl_jax", "Directory for compiled programs; '' for none.")

    def start(_: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)
        path, by = Path(out.value), model.value or _RULE
        try:
            _check(path, page.value, model.value, endpoint.value)
            parts = _parts(data.value, images.value, layout.value, columns.value)
            with contextlib.ExitStack() as stack:
                stack.enter_context(only_writer(path))
                if not model.value:
                    find = stack.enter_context(by_rule())
                else:
                    read = Prompts.read(Path(prompts.value))
                    ask = stack.enter_context(
                        _ask(
                            by, endpoint.value, timeout_s=timeout_s.value, dtype=dtype.value, compile_cache=cache.value
                        )
                    )
                    replies = Cache(path.with_suffix(".replies"), {"model": by, "endpoint": endpoint.value})
                    ask = stack.enter_context(replies).cached(limited(ask, max_calls.value))
                    find = partial(key_steps_by_model, ask=ask, prompts=read, forget=replies.forget)
                account = _find(parts, path, find, by=by, limit=limit.value)
            if page.value:
                shown = read_spread(parts, num_shown.value, limit=limit.value)
                write_page(epath.Path(page.value), shown, KeyStepsFile(path))
        except (ValueError, OSError) as error:
            raise SystemExit(str(error)) from None
        except KeyboardInterrupt:
            raise SystemExit(f"interrupted; what was found is in {path}, and another call goes on") from None
        print(*account, path, *([page.value] if page.value else []), sep="\n")

    app.run(start)


def _check(path: Path, page: str, model: str, endpoint: str) -> None:
    """Raises `ValueError` for settings that cannot be meant."""
    if path.suffix != KEY_STEPS_SUFFIX:
        raise ValueError(f"--out={path}: expected a file that ends in {KEY_STEPS_SUFFIX}")
    if path.is_dir():
        raise ValueError(f"--out={path}: expected a file, got a directory")
    if page and Path(page).resolve() == path.resolve():
        raise ValueError(f"--page={page}: expected another file than --out, such as {path.with_suffix('.html')}")
    if page and Path(page).is_dir():
        raise ValueError(f"--page={page}: expected a file, got a directory")
    if endpoint and not model:
        raise ValueError("--endpoint: expected the model's name there, too: --model=NAME")


def _parts(data: str, images: str, layout: str, columns: str) -> list[Part]:
    source = str(local_source(data))
    if is_record_directory(source):
        raise ValueError(f"--data={data}: expected files; this is a directory of records, which have their key steps")
    preparation = Preparation(source, data, images, layout, columns, key_steps="none")
    return list(split_parts(preparation, find_files(source)))


@contextlib.contextmanager
def _ask(model: str, endpoint: str, *, timeout_s: float, dtype: str, compile_cache: str) -> Iterator[Ask]:
    if endpoint:
        with Endpoint(endpoint, model, timeout_s=timeout_s) as asked:
            yield asked.ask
    else:
        from r1vl_jax.runtime import compilation_cache, libtpu  # JAX takes seconds to start

        libtpu.skip_without_tpu()
        compilation_cache.enable_compilation_cache(compile_cache)
        yield checkpoint.asks(r1vl_jax.load(model, dtype=dtype, param_dtype=dtype).generate)


def _find(parts: Sequence[Part], path: Path, find: Find, *, by: str, limit: int) -> list[str]:
    """The account of all records, with those that could not be read."""
    num_rows = sum(min(part.num_rows or 0, limit or math.inf) for part in parts)
    left_out: dict[str, list[str]] = {}  # reason -> records

    def drop(error: UnusableRecord) -> None:
        left_out.setdefault(error.reason, []).append(error.name)

    with Progress("key steps", int(num_rows), console=Console()) as progress:
        items = read_records(parts, limit=limit, drop=drop)
        account = find_key_steps(items, path, find, by=by, advance=progress.update)
    most = sorted(left_out.items(), key=lambda reason: -len(reason[1]))[:_NUM_REASONS]
    return [*account, *(f"{len(names):,} records: cannot be used: {why} ({_some(names)})" for why, names in most)]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NUM_NAMES]) + (", ..." if len(names) > _NUM_NAMES else "")


if __name__ == "__main__":
    main()
