"""Evaluation: measures, comparisons, tables, reports. Names are imported on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rankpipe.evaluation.comparison import Comparison, compare
    from rankpipe.evaluation.measures import DEFAULT_MEASURES
    from rankpipe.evaluation.result import Result, evaluate

__all__ = ["DEFAULT_MEASURES", "Comparison", "Result", "compare", "evaluate"]

_MODULES = {
    "DEFAULT_MEASURES": "measures",
    "Comparison": "comparison",
    "Result": "result",
    "compare": "comparison",
    "evaluate": "result",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
