"""Rooms and layers hold: each imports only from those below it, nothing goes in a circle, the root stays empty.

docs/architecture.md draws the layers. Each check is tried on a made-up package that breaks it.
"""

from pathlib import Path

import pytest
from helpers.imports import circles, import_graph, upward_imports

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "r1vl_jax"

# From the bottom up; a room imports only from layers before its own, never from a neighbour.
LAYERS = (
    ("arrays", "config", "response_format"),
    ("runtime", "losses", "rewards"),
    ("sharding", "data", "observe"),
    ("models", "report"),
    ("sampling", "checkpoint"),
    ("learner", "evaluation"),
    ("training",),
    ("aot",),
    ("train",),
)
MODULES_AT_THE_ROOT = {"__init__", "train", "arrays", "response_format"}


def test_imports_run_downward():
    assert upward_imports(import_graph(PACKAGE), LAYERS) == []


def test_nothing_imports_in_a_circle():
    assert circles(import_graph(PACKAGE)) == []


def test_everything_is_in_the_package_of_its_job():
    assert {path.stem for path in PACKAGE.glob("*.py")} == MODULES_AT_THE_ROOT


@pytest.mark.parametrize("room", ["losses", "rewards/kernels"])
def test_pure_functions_see_arrays_and_numbers_only(room):
    graph = import_graph(PACKAGE)
    prefix = f"r1vl_jax.{room.replace('/', '.')}"
    seen = {t for module, targets in graph.items() if module.startswith(prefix) for t in targets}
    assert not {t for t in seen if t.startswith(("r1vl_jax.config", "r1vl_jax.models", "r1vl_jax.data"))}


def test_only_the_checkpoints_know_another_frameworks_names():
    """No module outside `checkpoint/hf`, `data` and the model's configuration imports transformers or safetensors."""
    allowed = ("checkpoint/hf", "data/", "models/")
    others = [
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if "import safetensors" in (text := path.read_text()) or "from safetensors" in text or "import torch" in text
    ]
    assert [path for path in others if not path.startswith(allowed)] == []


@pytest.fixture
def package(tmp_path):
    """A package of two rooms, each with a module, that keeps the rules; files are added by the test."""

    def write(**files: str) -> dict:
        for path, text in {"__init__": "", "losses/kl": "", "learner/steps": "", **files}.items():
            file = (
                tmp_path / "r1vl_jax" / path.replace("__", "/")
                if "__init__" not in path
                else tmp_path / "r1vl_jax" / path
            )
            file.with_suffix(".py").parent.mkdir(parents=True, exist_ok=True)
            file.with_suffix(".py").write_text(text)
        return import_graph(tmp_path / "r1vl_jax")

    return write


def test_an_upward_import_is_seen(package):
    layers = (("losses",), ("learner",), ("train",))
    used = "from r1vl_jax.losses import kl\nfrom r1vl_jax.learner import steps"
    assert upward_imports(package(train=used, learner__steps="from r1vl_jax.losses import kl"), layers) == []
    (sentence,) = upward_imports(package(train=used, losses__kl="from r1vl_jax.learner.steps import update"), layers)
    assert sentence == "r1vl_jax.losses.kl (layer 0) imports r1vl_jax.learner.steps, which is not below it"


def test_a_room_without_a_layer_is_seen(package):
    assert upward_imports(package(helpers__misc=""), (("losses",), ("learner",))) == ["helpers stands on no layer"]


def test_a_circle_is_seen(package):
    graph = package(
        losses__kl="def f():\n    from r1vl_jax.losses import ratio", losses__ratio="import r1vl_jax.losses.kl"
    )
    assert circles(graph) == [["r1vl_jax.losses.kl", "r1vl_jax.losses.ratio"]]
