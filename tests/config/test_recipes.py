"""Every recipe in `configs/` resolves."""

import runpy
from pathlib import Path

import pytest

from r1vl_jax.config import resolve

RECIPES = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.py")), ids=lambda path: path.stem)
def test_recipes_resolve(recipe):
    resolve(runpy.run_path(str(recipe))["get_config"]())
