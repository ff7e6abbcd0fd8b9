"""eval/cross_encoder.py: the recipes that it writes, what makes a cell another one, and its table."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the extra 'dense'")

from rankpipe.training.cross_encoder_recipe import CrossEncoderRecipe
from rankpipe.training.recipe_file import load_recipe

SCRIPT = Path(__file__).parents[2] / "eval" / "cross_encoder.py"


@pytest.fixture(scope="module")
def script(eval_script: Callable[[str], ModuleType]) -> ModuleType:
    return eval_script("cross_encoder")


def test_every_method_has_a_recipe(script: ModuleType, tmp_path: Path) -> None:
    for protocol in script.PROTOCOLS.values():
        for method in script.METHODS[1:]:
            (tmp_path / "recipe.yaml").write_text(script._recipe(method, 2, protocol, tmp_path / "warm"))
            recipe = load_recipe(tmp_path / "recipe.yaml")
            assert isinstance(recipe, CrossEncoderRecipe)
            assert (recipe.seed, recipe.steps, recipe.max_length) == (2, protocol.steps, script.MAX_LENGTH)
            assert (recipe.adapter.method if recipe.adapter else "full") == method
            assert recipe.phases[0].learning_rate == {"full": 5e-5, "sora": 8e-4, "adalora": 2e-3}.get(method, 2e-4)


def test_the_network_is_warmed_without_judgements(script: ModuleType) -> None:
    recipe = load_recipe(script.WARM)
    assert isinstance(recipe, CrossEncoderRecipe)
    assert [tuple(phase.queries) for phase in recipe.phases] == [("titles", "sentences")]  # type: ignore[attr-defined]
    assert recipe.max_length == script.MAX_LENGTH


def cell(method: str, seed: int, mixed: list[float]) -> dict[str, Any]:
    values = {"first": [0.2, 0.4, 0.6], "alone": [0.1, 0.3, 0.5], "mixed": mixed}
    per_query = {kind: dict(zip("abc", row, strict=True)) for kind, row in values.items()}
    return {
        "dataset": "tiny",
        "method": method,
        "trained_parameters": 1234,
        "seconds": {"warm": 60.0, "tuning": 60.0 * seed},
        "most_memory": (seed + 1) << 20,
        "intruder_dimensions": seed,
        "development": {"first": 0.3, "by_weight": {"0.0": 0.2, "0.5": 0.32 + 0.02 * seed, "1.0": 0.3}},
        "curve": {"warm": [{"seconds": 60.0, "nDCG@10": 0.25}], "tuning": [{"seconds": 120.0}]},
        "results": {"test": per_query, **({"other": per_query} if seed == 0 else {})},
    }


def test_the_table_has_means_over_seeds_and_queries(script: ModuleType) -> None:
    rows = [cell("lora", 0, [0.3, 0.5, 0.7]), cell("lora", 1, [0.4, 0.6, 0.5])]
    lines = list(script._table(json.loads(json.dumps(rows))))
    # mixed by query, over seeds: .35 .55 .6; less first: .15 .15 0; t = .1 / (.0866 / sqrt 3) = 2, two degrees of freedom
    assert lines[2] == (
        "| tiny | lora | 2 | 0.3000 | 0.3300 | 0.4000 | 0.3000 | 0.5000 | 0.184 | 1,234 | 2 | 2 | 0 | other 0.4000 → 0.5000 (p 0.000) |"
    )
    assert lines[-2:] == ["- tiny, warming up: 1 min 0.2500", "- tiny, then lora: "]
