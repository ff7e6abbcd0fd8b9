"""Pipelines: the registry of stages, YAML with line numbers, checks, Pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rankpipe.pipeline.pipeline import Pipeline

__all__ = ["Pipeline"]


def __getattr__(name: str) -> Any:
    if name != "Pipeline":
        raise AttributeError(f"module 'rankpipe.pipeline' has no attribute {name!r}")
    from rankpipe.pipeline.pipeline import Pipeline  # not at once: listing the stages needs none of it

    return Pipeline
