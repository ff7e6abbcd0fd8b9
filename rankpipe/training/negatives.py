"""Which candidates are negatives: those that no judgement calls relevant and no guard finds too good.

What was decided of every candidate is kept, and written as a table, `negatives.parquet`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from numpy.typing import NDArray

from rankpipe import npy, store
from rankpipe.data import Corpus, Dataset, Qrels
from rankpipe.errors import UsageError
from rankpipe.evaluation.manifest import described, facts
from rankpipe.pipeline import Pipeline
from rankpipe.run import Run
from rankpipe.stage import walk
from rankpipe.training.candidates import Pool
from rankpipe.training.queries import plain_text

TABLE = "negatives.parquet"
FATES = ("negative", "relevant", "the query itself", "too good", "query without a relevant document")
"""What became of a candidate, by the numbers below."""
NEGATIVE, RELEVANT, ITSELF, TOO_GOOD, UNUSED = range(len(FATES))
BATCH = 1024
"""Queries whose candidates are written together."""


@dataclass(frozen=True, eq=False)
class Judged:
    """What is known of one training query.

    positives  rows of relevant documents, and their grades
    found      which of them are among its candidates
    masked     rows of documents that are no negatives of it, whatever they are drawn for: those that are judged
               relevant to any degree, and those that a guard found too good; rising
    negatives  rows of its candidates that are
    """

    query_id: str
    text: str
    positives: NDArray[np.int32]
    grades: NDArray[np.float32]
    found: NDArray[np.bool_]
    masked: NDArray[np.int32]
    negatives: NDArray[np.int32]


def account_of(judged: Sequence[Judged]) -> dict[str, int]:
    """Queries, relevant documents and negatives to draw from."""
    return {
        "queries": len(judged),
        "relevant": sum(len(one.positives) for one in judged),
        "hard_negatives": sum(len(one.negatives) for one in judged),
    }


class Guarding(Protocol):
    """What tells candidates that are too good to be negatives."""

    def scores(self, row: int) -> NDArray[np.float32]:
        """(n,) scores of the candidates of the query at a row of the pool, in their order."""
        ...

    def limit(self, row: int, positives: NDArray[np.int32]) -> float | None:
        """The score above which a candidate of that query is too good; None where there is nothing to compare with."""
        ...


@dataclass
class Mined:
    """What was found in judgements and candidates, query by query, and what was left out.

    fates      (H,) what became of every candidate of the pool, an index of FATES
    unused     ids of queries without a relevant document in the corpus
    unguarded  queries for which a guard had no relevant document to compare with
    """

    pool: Pool
    guard: Guarding | None = None
    judged: list[Judged] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    unguarded: int = 0

    def __post_init__(self) -> None:
        self.fates = np.full(len(self.pool.documents), NEGATIVE, np.uint8)

    def counts(self) -> dict[str, int]:
        """Candidates of each fate."""
        found = np.bincount(self.fates, minlength=len(FATES)).tolist()
        return {name: count for name, count in zip(FATES, found, strict=True) if count}

    def write_table(self, path: Path, corpus: Corpus) -> None:
        """Write every candidate with its rank, its scores and its fate, a bounded number of queries at a time."""
        guard, pool = self.guard, self.pool
        schema = pa.schema(
            [("query_id", pa.string()), ("doc_id", pa.string()), ("rank", pa.int32()), ("score", pa.float32())]
            + ([("guard_score", pa.float32())] if guard is not None else [])
            + [("fate", pa.dictionary(pa.int8(), pa.string()))]
        )
        with parquet.ParquetWriter(path, schema) as writer:
            for begin in range(0, len(pool.queries), BATCH):
                rows = range(begin, min(begin + BATCH, len(pool.queries)))
                span = slice(int(pool.offsets[begin]), int(pool.offsets[rows[-1] + 1]))
                counts = np.diff(pool.offsets[begin : rows[-1] + 2])
                starts = np.repeat(pool.offsets[begin : rows[-1] + 1], counts)
                columns = {
                    "query_id": np.repeat(np.array(pool.queries.ids[begin : rows[-1] + 1], object), counts),
                    "doc_id": corpus.ids(pool.documents[span]),
                    "rank": (np.arange(span.start, span.stop) - starts + 1).astype(np.int32),
                    "score": pool.scores[span],
                    "fate": pa.DictionaryArray.from_arrays(self.fates[span].astype(np.int8), list(FATES)),
                }
                if guard is not None:
                    columns["guard_score"] = np.concatenate([np.empty(0, np.float32), *map(guard.scores, rows)])
                writer.write_table(pa.table({name: columns[name] for name in schema.names}, schema))


def mined(
    pool: Pool,
    qrels: Qrels,
    corpus: Corpus,
    *,
    relevance_cut: int = 1,
    self_match: bool = False,
    guard: Guarding | None = None,
) -> Mined:
    """Relevant documents and hard negatives of every query of a pool.

    relevance_cut  lowest grade that counts as relevant; lower ones above 0 are neither relevant nor negatives
    self_match     a document with the query's id is the query itself, and no negative
    """
    found = Mined(pool, guard)
    texts = [plain_text(text) for text in pool.queries.texts]
    known = [judged_rows(qrels, query_id, corpus) for query_id in pool.queries.ids]
    of_text: dict[str, list[NDArray[np.int32]]] = {}
    for text, (rows, _) in zip(texts, known, strict=True):
        of_text.setdefault(text, []).append(rows)
    for row, query_id in enumerate(pool.queries.ids):
        fates = found.fates[int(pool.offsets[row]) : int(pool.offsets[row + 1])]
        documents, _ = pool.of(row)
        rows, grades = known[row]
        positive = grades >= relevance_cut
        if not positive.any():
            found.unused.append(query_id)
            fates[:] = UNUSED
            continue
        own = corpus.rows([query_id]) if self_match else np.empty(0, np.int32)
        if guard is not None:
            limit = guard.limit(row, rows[positive])
            found.unguarded += limit is None
            fates[guard.scores(row) > (np.inf if limit is None else limit)] = TOO_GOOD
        fates[np.isin(documents, own)] = ITSELF
        judged = np.unique(np.concatenate(of_text[texts[row]]))  # under any id
        fates[np.isin(documents, judged)] = RELEVANT
        masked = np.unique(np.concatenate([judged, own, documents[fates == TOO_GOOD]]).astype(np.int32))
        negatives = np.array(documents[fates == NEGATIVE], np.int32)
        relevant = rows[positive]
        found.judged.append(
            Judged(
                query_id,
                pool.queries.texts[row],
                relevant,
                grades[positive],
                np.isin(relevant, documents),
                masked,
                negatives,
            )
        )
    return found


def mined_split(pool: Pool, dataset: Dataset, split: str, guard: Guarding | None = None) -> Mined:
    """What mined gives for queries of a split, as the data set's card has it.

    Raises UsageError where no document of the corpus is relevant to any.
    """
    card = dataset.card
    found = mined(
        pool,
        dataset.qrels(split),
        dataset.corpus,
        relevance_cut=card.relevance_cut,
        self_match=card.self_match,
        guard=guard,
    )
    if not found.judged:
        raise UsageError(f"split '{split}' of data set '{dataset.name}' calls no document relevant")
    return found


def judged_rows(qrels: Qrels, query_id: str, corpus: Corpus) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Rows of the documents that are judged relevant to any degree and are in the corpus, and their grades."""
    grades = {doc_id: grade for doc_id, grade in qrels.get(query_id, {}).items() if grade > 0}
    rows = corpus.rows(list(grades))
    values = np.fromiter(grades.values(), np.float32, len(grades))
    return rows[rows >= 0].astype(np.int32), values[rows >= 0]


@dataclass(frozen=True)
class OwnScores:
    """A guard by the scores with which candidates were found."""

    pool: Pool
    margin: float

    def scores(self, row: int) -> NDArray[np.float32]:
        """Those of the pool."""
        return self.pool.of(row)[1]

    def limit(self, row: int, positives: NDArray[np.int32]) -> float | None:
        """The best score of a relevant document that is a candidate, plus the margin."""
        documents, scores = self.pool.of(row)
        relevant = scores[np.isin(documents, positives)]
        return float(relevant.max()) + self.margin if len(relevant) else None


@dataclass(frozen=True)
class GivenScores:
    """A guard by the scores that a pipeline of re-rankers gives candidates and relevant documents.

    offsets, best  where the scores of a query's candidates are, and its best relevant document's score
    digest         of what made them
    """

    offsets: NDArray[np.int64]
    candidates: NDArray[np.float32]
    best: NDArray[np.float32]
    margin: float
    digest: str

    def scores(self, row: int) -> NDArray[np.float32]:
        """Those that the pipeline gave."""
        return self.candidates[int(self.offsets[row]) : int(self.offsets[row + 1])]

    def limit(self, row: int, positives: NDArray[np.int32]) -> float | None:
        """The best score of a relevant document plus the margin."""
        best = float(self.best[row])
        return best + self.margin if len(positives) and np.isfinite(best) else None


def scored_by(
    pipeline: Pipeline, pool: Pool, qrels: Qrels, corpus: Corpus, *, relevance_cut: int, margin: float
) -> GivenScores:
    """A guard whose scores are in the store, or are computed and kept there."""
    relevant = []
    for query_id in pool.queries.ids:
        rows, grades = judged_rows(qrels, query_id, corpus)
        relevant.append(rows[grades >= relevance_cut])
    _check_depths(pipeline, max((len(_first(one, pool.of(row)[0])) for row, one in enumerate(relevant)), default=0))
    pipeline.prepare()
    key = {
        "format": 1,
        "corpus": corpus.digest,
        "candidates": pool.digest,
        "relevant": store.key_digest({"rows": [rows.tolist() for rows in relevant]}),
        "stages": [described(stage) for stage in pipeline.stages],
        "opened": facts(pipeline, counted=False),
    }
    folder = store.artefact("guards", key, lambda folder: _score(folder, pipeline, pool, corpus, relevant))
    candidates, best = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("candidates", "best"))
    return GivenScores(pool.offsets, candidates, best, margin, store.key_digest(key))


def _check_depths(pipeline: Pipeline, longest: int) -> None:
    """Refuse a guard that leaves candidates as they are: their scores would be those of no model."""
    for stage in walk(pipeline):
        depth = getattr(stage, "depth", None)
        if isinstance(depth, int) and "candidates" in stage.needs and depth < longest:
            raise UsageError(
                f"the guard's stage '{stage.type_name()}' scores the first {depth} documents of a query, and there are up to "
                f"{longest} to judge; give it 'depth: {longest}' or more, or 'candidates' a smaller 'depth'"
            )


def _score(folder: Path, pipeline: Pipeline, pool: Pool, corpus: Corpus, relevant: Sequence[NDArray[np.int32]]) -> None:
    best = np.full(len(pool.queries), -np.inf, np.float32)
    candidates = np.empty(len(pool.documents), np.float32)
    for begin in range(0, len(pool.queries), BATCH):
        rows = range(begin, min(begin + BATCH, len(pool.queries)))
        # relevant documents stand first, so that a re-ranker of whatever depth scores them
        documents = [_first(relevant[row], pool.of(row)[0]) for row in rows]
        offsets = np.concatenate([[0], np.cumsum([len(one) for one in documents])]).astype(np.int64)
        falling = np.concatenate([np.arange(len(one), 0, -1) for one in documents]).astype(np.float32)
        queries = pool.queries.select(slice(begin, rows[-1] + 1))
        run = pipeline.rerank(Run(queries, corpus, offsets, np.concatenate(documents), falling), progress=False)
        for number, row in enumerate(rows):
            span = run.span(number)
            order = np.argsort(run.documents[span])
            found, scores = run.documents[span][order], run.scores[span][order]
            own = pool.of(row)[0]
            candidates[int(pool.offsets[row]) : int(pool.offsets[row + 1])] = _looked_up(found, scores, own)
            if len(relevant[row]):
                best[row] = _looked_up(found, scores, relevant[row]).max()
    npy.save(folder / "candidates.npy", candidates)
    npy.save(folder / "best.npy", best)


def _first(first: NDArray[np.int32], others: NDArray[np.int32]) -> NDArray[np.int32]:
    return np.concatenate([first, others[~np.isin(others, first)]]).astype(np.int32)


def _looked_up(found: NDArray[np.int32], scores: NDArray[np.float32], wanted: NDArray[np.int32]) -> NDArray[np.float32]:
    """Scores of documents by their rows, rising; -inf of those that the pipeline dropped."""
    if not len(found):
        return np.full(len(wanted), -np.inf, np.float32)
    at = np.minimum(np.searchsorted(found, wanted), len(found) - 1)
    return np.where(found[at] == wanted, scores[at], np.float32(-np.inf)).astype(np.float32)
