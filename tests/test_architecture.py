"""Rooms and layers hold: each imports only from those below it, nothing goes in a circle, the root stays empty.

docs/architecture.md draws the layers. Each check of imports and of the root is tried on a made-up package.
"""

import re
from pathlib import Path

import pytest
from helpers.imports import circles, import_graph, modules_at_the_root, unused_modules, upward_imports

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "r1vl_jax"

# From the bottom up; a room imports only from layers before its own, never from a neighbour.
LAYERS = (
    ("arrays", "config", "response_format"),
    ("runtime", "losses", "rewards"),
    ("sharding", "data", "observe"),
    ("models", "report"),
    ("sampling", "checkpoint"),
    ("learner", "evaluation", "chat"),
    ("training",),
    ("aot", "router", "tools"),
    ("train", "generate", "evaluate"),
)
PROGRAMS = {
    f"r1vl_jax.{name}"
    for name in (
        "train",
        "generate",
        "evaluate",
        "aot.__main__",
        "checkpoint.hf_export",
        "data.key_steps.__main__",
        "evaluation.score",
        "report.__main__",
        "rewards.math_verify_worker",
        "router.build_index",
        "router.convert",
        "router.digits.task",
        "router.evaluate",
        "router.rewards",  # which a configuration names
        "router.rollouts",
        "tools.crop",
        "tools.loop",
        "tools.worker",
    )
}
MODULES_AT_THE_ROOT = {"__init__", "train", "generate", "evaluate", "arrays", "response_format"}


def test_imports_run_downward():
    assert upward_imports(import_graph(PACKAGE), LAYERS, PROGRAMS) == []


def test_every_module_is_used():
    assert unused_modules(import_graph(PACKAGE), PROGRAMS) == []


def test_nothing_imports_in_a_circle():
    assert circles(import_graph(PACKAGE)) == []


def test_everything_is_in_the_package_of_its_job():
    assert modules_at_the_root(PACKAGE) == MODULES_AT_THE_ROOT


@pytest.mark.parametrize("room", ["losses", "rewards/kernels"])
def test_pure_functions_see_arrays_and_numbers_only(room):
    graph = import_graph(PACKAGE)
    prefix = f"r1vl_jax.{room.replace('/', '.')}"
    seen = {t for module, targets in graph.items() if module.startswith(prefix) for t in targets}
    assert not {t for t in seen if t.startswith(("r1vl_jax.config", "r1vl_jax.models", "r1vl_jax.data"))}


def test_only_checkpoints_read_another_frameworks_weights():
    """No module outside `checkpoint/hf` imports safetensors, and none imports torch."""
    importers = {
        path.relative_to(PACKAGE).as_posix(): set(
            re.findall(r"^\s*(?:import|from) (safetensors|torch)\b", text, re.MULTILINE)
        )
        for path in PACKAGE.rglob("*.py")
        for text in [path.read_text()]
    }
    assert not any("torch" in modules for modules in importers.values())
    assert [path for path, modules in importers.items() if modules and not path.startswith("checkpoint/hf/")] == []


@pytest.fixture
def package(tmp_path):
    """A package of two rooms, each with a module, that keeps the rules; files are added by the test."""

    def write(files: dict[str, str]) -> dict[str, frozenset[str]]:
        for name, text in {"__init__": "", "losses/kl": "", "learner/steps": "", **files}.items():
            path = tmp_path / "r1vl_jax" / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return import_graph(tmp_path / "r1vl_jax")

    return write


def test_an_upward_import_is_seen(package):
    layers = (("losses",), ("learner",))
    assert upward_imports(package({"learner/steps": "from r1vl_jax.losses import kl"}), layers) == []
    (sentence,) = upward_imports(package({"losses/kl": "from r1vl_jax.learner.steps import update"}), layers)
    assert sentence == "r1vl_jax.losses.kl (layer 0) imports r1vl_jax.learner.steps, which is not below it"


def test_an_import_of_a_neighbour_is_seen(package):
    (sentence,) = upward_imports(package({"learner/steps": "import r1vl_jax.losses.kl"}), (("losses", "learner"),))
    assert "imports r1vl_jax.losses.kl, which is not below it" in sentence


def test_a_package_runs_its_init(package):
    """An upward import in an `__init__` counts, even if only modules below it are imported."""
    graph = package({"losses/__init__": "import r1vl_jax.learner.steps"})
    assert len(upward_imports(graph, (("losses",), ("learner",)))) == 1


def test_a_room_without_a_layer_is_seen(package):
    assert upward_imports(package({"helpers/misc": ""}), (("losses",), ("learner",))) == ["helpers stands on no layer"]


def test_a_circle_is_seen(package):
    within_a_function = "def f():\n    from r1vl_jax.losses import ratio"
    graph = package({"losses/kl": within_a_function, "losses/ratio": "import r1vl_jax.losses.kl"})
    assert circles(graph) == [["r1vl_jax.losses.kl", "r1vl_jax.losses.ratio"]]


def test_a_module_that_nothing_uses_is_seen(package):
    graph = package({"train": "from r1vl_jax.losses import kl"})
    assert unused_modules(graph, {"r1vl_jax.train"}) == ["r1vl_jax.learner.steps"]


def test_a_relative_import_is_refused(package):
    with pytest.raises(AssertionError, match="write relative imports with their full name"):
        package({"losses/kl": "from . import ratio"})


def test_an_unnamed_module_at_the_root_is_seen(package, tmp_path):
    package({"helpers": ""})
    assert modules_at_the_root(tmp_path / "r1vl_jax") - MODULES_AT_THE_ROOT == {"helpers"}
