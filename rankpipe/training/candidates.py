"""Candidates of training queries: a pipeline's run of them, kept in the store by what made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rankpipe import npy, store
from rankpipe.data import Queries
from rankpipe.evaluation.manifest import described, facts
from rankpipe.pipeline import Pipeline
from rankpipe.progress import tracked
from rankpipe.run import Run

FORMAT = 1
BATCH = 1024
"""Queries whose whole rankings are in memory at once."""


@dataclass(frozen=True, eq=False)
class Pool:
    """Candidates of Q queries, the first ones of their rankings, in ranked order; H in all.

    offsets    (Q + 1,) int64: query q owns offsets[q]:offsets[q + 1]
    documents  (H,) int32 rows of the corpus
    scores     (H,) float32, in the pipeline's unit
    floor      (Q,) float32: the lowest score in the query's whole ranking, which stands for what was not found
    digest     of what made it
    """

    queries: Queries
    offsets: NDArray[np.int64]
    documents: NDArray[np.int32]
    scores: NDArray[np.float32]
    floor: NDArray[np.float32]
    digest: str

    def of(self, query: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Documents and scores of the query at a row."""
        span = slice(int(self.offsets[query]), int(self.offsets[query + 1]))
        return self.documents[span], self.scores[span]

    def scores_of(self, query: int, documents: NDArray[np.int32]) -> NDArray[np.float32]:
        """(n,) scores that the query at a row gave documents; the floor for what is none of its candidates."""
        known = dict(zip(*(one.tolist() for one in self.of(query)), strict=True))
        return np.array([known.get(row, self.floor[query]) for row in documents.tolist()], np.float32)

    def run(self, pipeline: Pipeline, depth: int) -> Run:
        """The first candidates as a run over the pipeline's corpus."""
        whole = Run(self.queries, pipeline.corpus, self.offsets, self.documents, self.scores)  # type: ignore[arg-type]
        return whole.top(depth)


def candidates(pipeline: Pipeline, queries: Queries, depth: int) -> Pool:
    """The candidates that a pipeline, bound to its corpus, finds for queries: from the store, or run and kept there."""
    pipeline.check()
    pipeline.prepare()
    key = _key(pipeline, queries, depth)
    folder = store.artefact("candidates", key, lambda folder: _run(folder, pipeline, queries, depth))
    names = ("offsets", "documents", "scores", "floor")
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in names}
    return Pool(queries, **arrays, digest=store.key_digest(key))


def no_candidates(queries: Queries) -> Pool:
    """A pool of queries that nothing was searched for."""
    offsets, floor = np.zeros(len(queries) + 1, np.int64), np.zeros(len(queries), np.float32)
    return Pool(queries, offsets, np.empty(0, np.int32), np.empty(0, np.float32), floor, digest="none")


def _key(pipeline: Pipeline, queries: Queries, depth: int) -> Mapping[str, Any]:
    return {
        "format": FORMAT,
        "corpus": pipeline.corpus.digest if pipeline.corpus is not None else None,
        "stages": [described(stage) for stage in pipeline.stages],
        "opened": facts(pipeline, counted=False),
        "queries": store.key_digest({"ids": queries.ids, "texts": queries.texts}),
        "depth": depth,
    }


def _run(folder: Path, pipeline: Pipeline, queries: Queries, depth: int) -> None:
    counts: list[NDArray[np.int64]] = []
    documents: list[NDArray[np.int32]] = [np.empty(0, np.int32)]
    scores: list[NDArray[np.float32]] = [np.empty(0, np.float32)]
    floor: list[NDArray[np.float32]] = [np.empty(0, np.float32)]
    batches = [queries.select(slice(start, start + BATCH)) for start in range(0, len(queries), BATCH)]
    for part in tracked(batches, len(queries), "queries"):
        run = pipeline.run(part, progress=False)
        lowest = np.zeros(len(run), np.float32)
        some = run.counts > 0
        lowest[some] = run.scores[run.offsets[1:][some] - 1]
        floor.append(lowest)
        first = run.top(depth)
        counts.append(first.counts)
        documents.append(first.documents)
        scores.append(first.scores)
    offsets = np.concatenate([[0], np.cumsum(np.concatenate([np.empty(0, np.int64), *counts]))]).astype(np.int64)
    npy.save(folder / "offsets.npy", offsets)
    for name, parts in (("documents", documents), ("scores", scores), ("floor", floor)):
        npy.save(folder / f"{name}.npy", np.concatenate(parts))
