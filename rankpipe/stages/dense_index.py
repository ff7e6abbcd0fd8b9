"""The setting `index` of dense retrieval: which kind of index, told apart by its `kind`, and its own settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from rankpipe.index.ann_kinds import INDEX_SETTINGS, Binary, Hnsw, IvfPq, Sq8


@dataclass(frozen=True, kw_only=True, config=INDEX_SETTINGS)
class Flat:
    """Exact search through all vectors."""

    kind: Literal["flat"] = "flat"


DenseKind = Annotated[Flat | Hnsw | IvfPq | Sq8 | Binary, Field(discriminator="kind")]
"""flat is exact; the others have FAISS propose candidates, score those exactly, and aim at a `target_recall`."""
