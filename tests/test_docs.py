"""What README, CONTRIBUTING and docs/ name is there: links, commands and their flags, settings, files, functions."""

import ast
import functools
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from r1vl_jax.config import default, unknown_settings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
_SECTIONS = "model|data|sampling|reward|loss|optim|mesh|train|eval|observe|vision_pretrain|warmup"
_WORDS = r"(?:[^\s`\"']|\"[^\"]*\"|'[^']*')+"  # a word of a command line, its quoted parts whole

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def test_readme_is_read_in_five_minutes():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pages
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in _anchors(linked), target


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _commands(page: Path) -> list[list[str]]:
    """The command lines of a page: those in blocks of bash, and those in backticks."""
    text = page.read_text().replace("\\\n", " ")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)", text)
    parts = [part.strip() for line in lines for part in re.split(r"&&|\s#\s", line.replace("\n", " "))]
    starts = ("python", ".venv/bin/python", "launch/", "pytest", "ruff", "sbatch")
    words = [re.findall(_WORDS, part) for part in parts]
    words = [[w for w in each if not re.fullmatch(r"[A-Z_]+=\S*", w)] for each in words]
    return [each for each in words if len(each) > 1 and each[0].startswith(starts)]


@pages
def test_commands_are_there_with_their_flags(page: Path):
    for words in _commands(page):
        command = " ".join(words)
        if words[1] == "-m" and "python" in words[0] and words[2] not in ("pytest", "venv"):
            _check_program(words[2], words[3:], command)
        elif "pytest" in words[0] or "pytest" in words[:3]:
            _check_tests(words)
        elif words[0].startswith("launch/") or words[0] == "sbatch":
            script = next(word for word in words if word.startswith("launch/"))
            assert (ROOT / script).is_file(), command
            _check_settings(words, command)


def _check_program(module: str, arguments: list[str], command: str) -> None:
    assert importlib.util.find_spec(module) is not None, command
    _check_settings(arguments, command)
    known = _help(module)
    for name in re.findall(r"(?:^|[\s\[])--(\w+)", " ".join(arguments)):
        assert name == "config" or re.search(rf"--(\[no\])?{name.removeprefix('no')}\b", known), f"{command}: --{name}"


def _check_settings(arguments: list[str], command: str) -> None:
    given = [shlex.split(word)[0] for word in arguments if "--config." in word]
    assert list(unknown_settings(given)) == [], command
    for word in arguments:
        recipe = word.removeprefix("--config=")
        if recipe.startswith("configs/"):
            assert (ROOT / recipe).is_file(), command


@functools.cache
def _help(module: str) -> str:
    """What the program says of itself."""
    ended = subprocess.run([sys.executable, "-m", module, "--helpfull"], cwd=ROOT, capture_output=True, text=True)
    if "--helpfull" in ended.stderr or not ended.stdout:  # argparse
        ended = subprocess.run([sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert "Traceback" not in ended.stderr, f"{module}: {ended.stderr}"
    return ended.stdout + ended.stderr


def _check_tests(words: list[str]) -> None:
    for word in words:
        if word.startswith("tests/"):
            assert (ROOT / word.partition("::")[0]).exists(), " ".join(words)


@pages
def test_names_in_backticks_are_those_of_the_code(page: Path):
    """Settings (`model.remat`), files (`losses/egsw.py`) and what they define (`losses/policy_gradient.py: k3_kl`)."""
    text = page.read_text()
    if page.name == "CHANGELOG.md":
        return  # which tells of what was
    for file, name in re.findall(r"`([\w./]+\.(?:py|sh|ipynb))(?:: (\w+))?`", text):
        found = [path for path in (ROOT / file, ROOT / "r1vl_jax" / file) if path.is_file()]
        assert found or "/" not in file, f"{page.name}: {file}"
        if name:
            assert name in _defined(found[0]), f"{page.name}: {file}: {name}"
    for setting in re.findall(rf"`((?:{_SECTIONS})\.[a-z_.0-9]+)(?:=[^`]*)?`", text):
        assert _is_setting(setting) or _is_code(setting), f"{page.name}: {setting}"


def _defined(file: Path) -> set[str]:
    return {getattr(node, "name", "") for node in ast.walk(ast.parse(file.read_text()))}


def _is_setting(name: str) -> bool:
    return not list(unknown_settings([f"--config.{name}=0"]))


def _is_code(name: str) -> bool:
    """Whether it names a module of the package, or something in one."""
    if name.endswith(".py"):
        return (ROOT / "r1vl_jax" / name).is_file()
    parts = name.split(".")
    path = ROOT / "r1vl_jax"
    while parts and (path / parts[0]).is_dir():
        path /= parts.pop(0)
    return not parts or (path / f"{parts[0]}.py").is_file() or parts[0] in (path / "__init__.py").read_text()


def test_settings_of_the_checks_are_those_of_the_configuration():
    assert set(_SECTIONS.split("|")) == {name for name, value in default().items() if hasattr(value, "items")}
