"""Approximate search whose answers are scored exactly: FAISS proposes candidates, the stored vectors score them.

    index.faiss         the index of FAISS, not there where there are no vectors
    ann.json            what it is, the effort a search makes, and the recall measured with it: Header

How thorough a search is, is found when the index is built: the smallest effort whose recall@100 against exact search
reaches the target, on SAMPLE queries made of documents' vectors and noise. They stand for queries that nobody knows
yet; the recall of real queries can be another, and eval/bench/dense.py shows both.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rankpipe import store
from rankpipe.errors import StoreError
from rankpipe.index.ann_kinds import OVERSAMPLES, WIDE, Approximate, Effort, faiss_threads, import_faiss
from rankpipe.index.dense import FlatIndex, Nearest, checked_queries, joined, nothing, ranked
from rankpipe.index.vectors import Vectors

FORMAT = 1
"""Raised whenever the same vectors and settings may give another index or effort than before."""
HEADER, INDEX = "ann.json", "index.faiss"
DEPTH = 100
"""Recall is measured among so many best documents; a search for fewer makes the effort of one for so many."""
SAMPLE = 200
"""Queries that recall is measured with."""
NOISE = np.float32(1.5)
"""Length of the noise in a query of the sample, in lengths of its document's vector. With 1.5, recalls of the sample
around .95 were from .02 above to .07 below those of real queries (minilm; scifact, and mixtures of 20,000 and 100,000
around it and nfcorpus; hnsw, ivf-pq, binary)."""
SUMMED = 2000
"""Vectors that the noise is a sum of."""
QUERIES = 256
"""Queries that FAISS is asked at once."""
SCORED = 16
"""Queries whose candidates one thread scores at once."""


@dataclass(frozen=True)
class Header:
    """What an index holds, and how well it finds.

    effort          that a search makes
    recall          recall@100 against exact search, on a sample of queries; None where there are no vectors
    bytes           of the index of FAISS, in its file
    vector_bytes    of the vectors, which flat search reads, and from which candidates are scored
    """

    kind: str
    vectors: int
    dimensions: int
    target_recall: float
    effort: Effort
    recall: float | None
    bytes: int
    vector_bytes: int

    def as_json(self) -> dict[str, Any]:
        """Its fields, as JSON takes them."""
        return {**asdict(self), "effort": self.effort._asdict()}


@dataclass(frozen=True)
class ApproximateIndex:
    """Search through the candidates of an index of FAISS. Fewer than k documents are found where it proposes fewer.

    header  what the store says of it; None while it is being built
    """

    vectors: Vectors
    kind: Approximate
    index: Any
    effort: Effort
    header: Header | None = None

    def search(
        self, queries: NDArray[np.float32], k: int, tie_order: NDArray[np.int32], *, threads: int = 1
    ) -> Nearest:
        """The best k documents among those proposed for queries (Q, D); their scores are those of flat search.

        Raises UsageError for queries of other dimensions.
        """
        queries = checked_queries(queries, self.vectors)
        if not len(self.vectors.values) or not len(queries):
            return nothing(len(queries), plain=self.vectors.plain)
        rank = partial(_ranked, vectors=self.vectors, k=k, tie_order=tie_order)
        parts: list[Nearest] = []
        with ThreadPoolExecutor(max_workers=threads) as pool:
            for begin in range(0, len(queries), QUERIES):
                asked = queries[begin : begin + QUERIES]
                cuts = range(SCORED, len(asked), SCORED)
                with faiss_threads(threads):
                    proposed = self.kind.candidates(self.index, asked, self._count(k), self.effort)
                parts += pool.map(rank, np.split(asked, cuts), np.split(proposed, cuts))
        return joined(parts, plain=self.vectors.plain)

    def _count(self, k: int) -> int:
        """How many vectors are proposed: for every document wanted, as many as a document has on average."""
        total = len(self.vectors.values)
        return min(self.effort.oversample * max(k, DEPTH) * -(-total // len(self.vectors.rows)), total)


def open_ann(kind: Approximate, vectors: Vectors, key: Mapping[str, Any], *, threads: int = 1) -> ApproximateIndex:
    """The index of a kind over vectors, built into the store if it is not there; `key` is what made the vectors.

    threads  that measure recall; the index itself is built by one

    Raises MissingExtraError without FAISS, UsageError for vectors that the kind cannot index, StoreError for an
    artefact that is damaged.
    """
    faiss = import_faiss()
    made_by = {"format": FORMAT, "faiss": faiss.__version__, "index": asdict(kind), "vectors": dict(key)}
    folder = store.artefact("ann", made_by, lambda folder: build(folder, kind, vectors, threads=threads))
    return open_folder(folder, kind, vectors)


def build(folder: Path, kind: Approximate, vectors: Vectors, *, threads: int = 1) -> None:
    """Write the index of a kind over vectors into an empty folder, tuned to its target by so many threads."""
    effort, recall, path = Effort(1), None, folder / INDEX
    if len(vectors.values):
        index = kind.build(vectors)
        effort, recall = tuned(kind, index, vectors, threads=threads)
        kind.write(index, str(path))
    size = path.stat().st_size if path.exists() else 0
    header = Header(
        kind=asdict(kind)["kind"],
        vectors=len(vectors.values),
        dimensions=vectors.dimensions,
        target_recall=kind.target_recall,
        effort=effort,
        recall=recall,
        bytes=size,
        vector_bytes=vectors.values.nbytes,
    )
    described = {"format": FORMAT, **header.as_json()}
    (folder / HEADER).write_text(json.dumps(described, indent=1), encoding="utf-8")


def open_folder(folder: Path, kind: Approximate, vectors: Vectors) -> ApproximateIndex:
    """Open the index in a folder. Raises StoreError where it is no index, or not one over these vectors."""
    try:
        read = json.loads((folder / HEADER).read_text(encoding="utf-8"))
        effort = Effort(**read["effort"])
        fields: dict[str, Any] = {**read, "effort": effort}
        header = Header(**{name: fields[name] for name in Header.__dataclass_fields__})
        index = kind.read(str(folder / INDEX)) if header.vectors else None
        held = (0 if index is None else index.ntotal, header.dimensions)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:  # FAISS raises RuntimeError
        raise StoreError(f"{folder} does not hold a whole dense index: {str(error).splitlines()[0]}") from error
    if held != vectors.values.shape:
        there, dimensions = vectors.values.shape
        raise StoreError(f"{folder} indexes {held[0]} vectors of {held[1]} dimensions, not {there} of {dimensions}")
    return ApproximateIndex(vectors, kind, index, effort, header)


def tuned(kind: Approximate, index: Any, vectors: Vectors, *, threads: int = 1) -> tuple[Effort, float]:
    """The smallest effort whose recall reaches the target, and that recall; else the largest, and a line that says so.

    Lists are looked for first, while many candidates are scored; then the fewest candidates that do.
    """
    queries = sample(vectors, kind.seed)
    tie_order = np.zeros(int(vectors.rows.max()) + 1, np.int32)
    exact = FlatIndex(vectors).search(queries, DEPTH, tie_order, threads=threads)

    @cache
    def recall(effort: Effort) -> float:
        found = ApproximateIndex(vectors, kind, index, effort).search(queries, DEPTH, tie_order, threads=threads)
        return recall_of(found, exact)

    def reached(effort: Effort) -> bool:
        return recall(effort) >= kind.target_recall

    probes = _first(kind.probes(index), lambda probes: reached(Effort(WIDE, probes)))
    oversample = _first(OVERSAMPLES, lambda oversample: reached(Effort(oversample, probes)))
    effort = Effort(oversample, probes)
    measured = recall(effort)
    if measured < kind.target_recall:
        print(
            f"the dense index {asdict(kind)['kind']} finds {measured:.3f} of the best {DEPTH} documents at most, less "
            f"than its target_recall {kind.target_recall:g}",
            file=sys.stderr,
        )
    return effort, round(measured, 6)


def sample(vectors: Vectors, seed: int) -> NDArray[np.float32]:
    """(at most SAMPLE, D) queries to measure with: vectors of documents, each with noise NOISE times its length added.

    The noise has the documents' covariance: it is a random sum of their vectors, less their mean. Noise of all
    directions alike leaves a document's neighbours what they were, so much less effort would seem to be enough.
    """
    random = np.random.default_rng(seed)
    count = len(vectors.values)
    chosen = np.sort(random.choice(count, min(SAMPLE, count), replace=False))
    others = np.sort(random.choice(count, min(SUMMED, count), replace=False))
    values, summed = vectors.values[chosen].astype(np.float32), vectors.values[others].astype(np.float32)
    noise = random.standard_normal((len(chosen), len(others)), np.float32) @ (summed - summed.mean(axis=0))
    lengths = np.maximum(np.linalg.norm(noise, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return values + NOISE * np.linalg.norm(values, axis=1, keepdims=True) / lengths * noise


def recall_of(found: Nearest, exact: Nearest) -> float:
    """Mean share of the exact answers that were found, counting by scores: of equal documents, any is as good."""
    shares = []
    for query in range(len(exact.offsets) - 1):
        wanted = exact.scores[exact.offsets[query] : exact.offsets[query + 1]]
        got = found.scores[found.offsets[query] : found.offsets[query + 1]]
        shares.append(np.count_nonzero(got >= wanted[-1]) / len(wanted))
    return float(np.mean(shares))


def _first(ladder: tuple[int, ...], reached: Callable[[int], bool]) -> int:
    """The first step that reaches; if only one is there, or none reaches, the last."""
    return next((step for step in ladder[:-1] if reached(step)), ladder[-1])


def _ranked(
    queries: NDArray[np.float32],
    proposed: NDArray[np.int64],
    *,
    vectors: Vectors,
    k: int,
    tie_order: NDArray[np.int32],
) -> Nearest:
    """The best k of the documents that have the proposed vectors (Q, n)."""
    rows, columns = np.nonzero(proposed >= 0)
    places = proposed[rows, columns]
    if not vectors.plain:
        places = np.searchsorted(vectors.offsets, places, side="right") - 1
        both = np.unique(rows * len(vectors.rows) + places)
        rows, places = np.divmod(both, len(vectors.rows))
    return ranked(queries, rows, places, vectors=vectors, k=k, tie_order=tie_order)
