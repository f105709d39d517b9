"""The import graph of the package, read from its source: who imports whom, and which room each module is in."""

import ast
from collections.abc import Collection, Mapping
from pathlib import Path

PACKAGE = "r1vl_jax"

Graph = Mapping[str, frozenset[str]]  # module -> modules of the package that it imports


def import_graph(root: Path) -> dict[str, frozenset[str]]:
    """Every module below `root`, by dotted name, with the modules of the package that it imports, lazily or not."""
    path_of = {_name(root, path): path for path in root.rglob("*.py")}
    return {name: frozenset(_imported(name, path, path_of) - {name}) for name, path in path_of.items()}


def room(module: str) -> str:
    """The package, or the module at the root, that a module belongs to: "losses" for "r1vl_jax.losses.logprob"."""
    return module.removeprefix(f"{PACKAGE}.").partition(".")[0]


def upward_imports(graph: Graph, layers: tuple[tuple[str, ...], ...], programs: Collection[str] = ()) -> list[str]:
    """A sentence for every import of a room on the same layer or a higher one, and for every room without a layer.

    Programs and the package's own `__init__` may import anything.
    """
    layer_of = {name: number for number, names in enumerate(layers) for name in names}
    sentences = [
        f"{each} stands on no layer" for each in sorted({room(m) for m in graph} - layer_of.keys() - {PACKAGE})
    ]
    for module, targets in sorted(graph.items()):
        if module in programs or module == PACKAGE:
            continue
        own = layer_of.get(room(module), len(layers))
        above = [t for t in sorted(targets) if room(t) != room(module) and layer_of.get(room(t), len(layers)) >= own]
        sentences += [f"{module} (layer {own}) imports {target}, which is not below it" for target in above]
    return sentences


def unused_modules(graph: Graph, programs: Collection[str]) -> list[str]:
    """Modules that nothing imports and that are no program."""
    used = frozenset().union(*graph.values()) | {PACKAGE, *programs, *(name.rpartition(".")[0] for name in programs)}
    return sorted(graph.keys() - used)


def modules_at_the_root(root: Path) -> set[str]:
    """Names of the modules beside the packages."""
    return {path.stem for path in root.glob("*.py")}


def circles(graph: Graph) -> list[list[str]]:
    """Groups of modules that import each other, directly or by way of others."""
    reachable = {module: _reachable(graph, module) for module in graph}
    groups = {
        tuple(sorted({module, *(other for other in reachable[module] if module in reachable[other])}))
        for module in graph
        if module in reachable[module]
    }
    return [list(group) for group in sorted(groups)]


def longest_chain(graph: Graph) -> list[str]:
    """The rooms of the longest chain of imports between rooms, from the top down."""
    below: dict[str, set[str]] = {}
    for module, targets in graph.items():
        below.setdefault(room(module), set()).update(room(t) for t in targets if room(t) != room(module))
    chains: dict[str, list[str]] = {}

    def chain(name: str, above: tuple[str, ...] = ()) -> list[str]:
        if name not in chains:
            lower = [chain(other, (*above, name)) for other in below.get(name, ()) if other not in (*above, name)]
            chains[name] = [name, *max(lower, key=len, default=[])]
        return chains[name]

    return max((chain(name) for name in below), key=len)


def _name(root: Path, path: Path) -> str:
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(own: str, path: Path, path_of: Mapping[str, Path]) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: write relative imports with their full name"
            assert node.module
            # `from package import module` imports the module; any other name, the package's own `__init__`.
            names |= {
                full if (full := f"{node.module}.{alias.name}") in path_of else node.module for alias in node.names
            }
    # Importing a module runs the `__init__` of every package above it, those that have run already aside.
    above = {name.rsplit(".", depth)[0] for name in names for depth in range(1, name.count(".") + 1)}
    return (names | {package for package in above if not own.startswith(f"{package}.")}) & path_of.keys()


def _reachable(graph: Graph, start: str) -> set[str]:
    seen: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        if (module := waiting.pop()) not in seen:
            seen.add(module)
            waiting += graph[module]
    return seen
