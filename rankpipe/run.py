"""Run: ranked candidates for some queries, in columns. It is what flows from stage to stage.

One order everywhere: score falling, then doc_id falling, as trec_eval sorts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rankpipe.data import Corpus, Queries
from rankpipe.errors import RankpipeError, UsageError

Rest = Literal["keep", "drop"]
"""What a re-ranker does with the candidates below its depth."""

LOWEST = np.finfo(np.float32).min
"""The lowest score there can be."""
Pieces: TypeAlias = Sequence[tuple[str, float]]
"""A text in pieces, each with a number, such as what it added to a score."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One row of a ranking. Title, text and document are read when asked for.

    rank    from 1
    scores  what named stages gave this document, by their names; NaN where a stage did not score it
    explained  by stages that were asked what made their score: the text that they read, in pieces, and what each adds
    remarks    by stages whose pieces do not add up to their score: what they say instead
    """

    rank: int
    doc_id: str
    score: float
    scores: Mapping[str, float] = field(repr=False)
    _corpus: Corpus = field(repr=False)
    _row: int = field(repr=False)
    explained: Mapping[str, Pieces] = field(default_factory=dict, repr=False)
    remarks: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def title(self) -> str:
        """The document's title, empty if it has none."""
        return self._corpus.texts([self._row], "title")[0]

    @property
    def text(self) -> str:
        """The document's text, without its title."""
        return self._corpus.texts([self._row])[0]

    @property
    def document(self) -> Mapping[str, str]:
        """The document with all of its fields, as texts: id, text, and whatever else it has."""
        return self._corpus.records([self._row])[0]


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Ranked candidates for Q queries, H of them in all.

    Query q owns the slice offsets[q]:offsets[q + 1]. Within it scores fall;
    equal scores stand in falling doc_id order, as in trec_eval; no document stands twice.

    offsets    (Q + 1,) int64, from 0 to H
    documents  (H,) int32, the candidate's row in the corpus
    scores     (H,) float32, higher is better, in the last stage's own unit, finite
    features   name -> (H,) float32: scores that named stages gave, NaN where they gave none
    passages   (H,) int32, the best window of a long document, where a stage chose one; -1 where it chose none
    """

    queries: Queries
    corpus: Corpus
    offsets: NDArray[np.int64]
    documents: NDArray[np.int32]
    scores: NDArray[np.float32]
    features: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    passages: NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        size = len(self.documents)
        expected = {"offsets": np.int64, "documents": np.int32, "scores": np.float32}
        for name, dtype in expected.items():
            if getattr(self, name).dtype != dtype:
                raise UsageError(f"a run's {name} must be {np.dtype(dtype)}, got {getattr(self, name).dtype}")
        if len(self.offsets) != len(self.queries) + 1 or self.offsets[0] != 0 or self.offsets[-1] != size:
            raise UsageError(
                f"offsets of {len(self.queries)} queries and {size} candidates do not run from 0 to {size}"
            )
        if (np.diff(self.offsets) < 0).any():
            raise UsageError("a run's offsets must not fall")
        passages = () if self.passages is None else (("passages", self.passages),)
        for name, values in (("scores", self.scores), *passages, *self.features.items()):
            if len(values) != size:
                raise UsageError(f"{len(values)} {name} for {size} candidates")

    # -- making one ---------------------------------------------------------------------------------------------

    @classmethod
    def empty(cls, queries: Queries, corpus: Corpus) -> Run:
        """No candidates yet."""
        return cls(
            queries, corpus, np.zeros(len(queries) + 1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32)
        )

    @classmethod
    def of(cls, queries: Queries, corpus: Corpus, ranked: Mapping[str, Mapping[str, float]]) -> Run:
        """A run from {query_id: {doc_id: score}}, in any order; queries that are not there have no candidates.

        Raises UsageError for a query or document that is unknown, and for a score that is no number.
        """
        for query_id, ranking in ranked.items():
            if query_id not in queries:
                raise UsageError(f"query {query_id!r} of the run is not among the queries")
            if not isinstance(ranking, Mapping):
                raise UsageError(f"the ranking of query {query_id!r} must be {{doc_id: score}}, got {ranking!r:.100}")
        lists = [ranked.get(query_id, {}) for query_id in queries.ids]
        ids = [doc_id for one in lists for doc_id in one]
        documents = corpus.rows(ids)
        if (documents < 0).any():
            raise UsageError(f"document {ids[int(np.argmin(documents))]!r} of the run is not in the corpus")
        offsets = np.cumsum([0, *map(len, lists)], dtype=np.int64)
        scores = np.fromiter((_number(score) for one in lists for score in one.values()), np.float64, len(ids))
        return cls(queries, corpus, offsets, documents, np.zeros(len(ids), np.float32)).rescored(scores)

    @classmethod
    def from_dict(cls, ranked: Mapping[str, Mapping[str, float]]) -> Run:
        """A run from {query_id: {doc_id: score}}, as to_dict gives it, whose queries and documents have ids only."""
        rankings = [one for one in ranked.values() if isinstance(one, Mapping)]  # `of` says what is wrong with others
        corpus = Corpus.of_ids(dict.fromkeys(chain.from_iterable(rankings)))
        return cls.of(Queries.of(dict.fromkeys(ranked, "")), corpus, ranked)

    @classmethod
    def concatenate(cls, runs: Sequence[Run], queries: Queries | None = None) -> Run:
        """Runs of different queries over one corpus, one below the other. All have the same features.

        Where some have passages, those of the others are -1.

        queries  those of all runs together, where the caller has them
        """
        first = runs[0]
        if len(runs) == 1:
            return first
        names = dict.fromkeys(name for run in runs for name in run.features)
        return cls(
            _joined([run.queries for run in runs]) if queries is None else queries,
            first.corpus,
            np.concatenate([[0], np.cumsum(np.concatenate([run.counts for run in runs]))]).astype(np.int64),
            np.concatenate([run.documents for run in runs]),
            np.concatenate([run.scores for run in runs]),
            {name: np.concatenate([run.features[name] for run in runs]) for name in names},
            _joined_passages(runs),
        )

    @staticmethod
    def read_trec(
        path: Path | str,
        *,
        corpus: Corpus | None = None,
        queries: Queries | None = None,
        ties: Literal["doc_id", "rank"] = "doc_id",
    ) -> Run:
        """Read a TREC run file; see rankpipe.trec."""
        from rankpipe.trec import read_run

        return read_run(Path(path), corpus=corpus, queries=queries, ties=ties)

    def write_trec(self, path: Path | str, *, tag: str = "rankpipe") -> None:
        """Write a TREC run file, whole or not at all; see rankpipe.trec."""
        from rankpipe.trec import write_run

        write_run(self, Path(path), tag=tag)

    # -- reading it ---------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Number of queries."""
        return len(self.queries)

    def __iter__(self) -> Iterator[str]:
        """The query ids."""
        return iter(self.queries.ids)

    def __getitem__(self, query_id: str) -> list[Candidate]:
        """Ranking of one query; KeyError if there is no such query."""
        span = self.span(self.queries.row(query_id))
        return self._candidates(span.start, span.stop)

    def span(self, row: int) -> slice:
        """Where the candidates of the query at a row stand in documents, scores and columns. IndexError for no such row."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)} queries")
        return slice(int(self.offsets[row]), int(self.offsets[row + 1]))

    @property
    def counts(self) -> NDArray[np.int64]:
        """(Q,) candidates of each query."""
        return np.diff(self.offsets)

    @property
    def query_rows(self) -> NDArray[np.int64]:
        """(H,) row of the query that each candidate belongs to."""
        return np.repeat(np.arange(len(self)), self.counts)

    @property
    def ranks(self) -> NDArray[np.int64]:
        """(H,) rank of each candidate within its query, from 1."""
        return np.arange(1, len(self.documents) + 1) - np.repeat(self.offsets[:-1], self.counts)

    def to_dict(self) -> dict[str, dict[str, float]]:
        """{query_id: {doc_id: score}}, each in ranked order."""
        ids, scores = self.corpus.ids(self.documents), self.scores.tolist()
        ends = self.offsets.tolist()
        return {
            query_id: dict(zip(ids[start:end], scores[start:end], strict=True))
            for query_id, start, end in zip(self.queries.ids, ends[:-1], ends[1:], strict=True)
        }

    def __repr__(self) -> str:
        return f"Run({len(self)} queries, {len(self.documents)} candidates)"

    def check(self) -> None:
        """Raise RankpipeError unless candidates are as this class says. What rankpipe's own stages make always is."""
        rows = len(self.corpus)
        known = (self.documents >= 0) & (self.documents < rows) & ~np.isin(self.documents, self.corpus.deleted)
        if not known.all():
            place = int(np.argmin(known))
            query_id = self.queries.ids[int(self.query_rows[place])]
            raise RankpipeError(
                f"the ranking of query {query_id!r} has row {self.documents[place]} of the corpus, where no document is"
            )
        finite = np.isfinite(self.scores)
        if not finite.all():
            raise self._fault(
                int(np.argmin(finite)), f"has the score {self.scores[np.argmin(finite)]}, no finite number"
            )
        within = np.diff(self.query_rows) == 0
        rises = within & (self.scores[1:] > self.scores[:-1])
        if rises.any():
            place = int(np.argmax(rises)) + 1
            above, mine = self.scores[place - 1 : place + 1]
            raise self._fault(
                place, f"has the score {mine}, and the one above it {above}; give scores by run.rescored(scores)"
            )
        ties = self.corpus.tie_order[self.documents]
        wrong = within & (self.scores[1:] == self.scores[:-1]) & (ties[1:] < ties[:-1])
        if wrong.any():
            raise self._fault(
                int(np.argmax(wrong)) + 1,
                "stands below a smaller id with the same score; give scores by run.rescored(scores), which puts them in order",
            )
        pairs = np.sort(self.query_rows * np.int64(rows) + self.documents)
        if (twice := np.flatnonzero(pairs[1:] == pairs[:-1])).size:
            query, row = divmod(int(pairs[twice[0]]), rows)
            raise RankpipeError(
                f"document {self.corpus.ids([row])[0]!r} stands twice in the ranking of query {self.queries.ids[query]!r}"
            )

    def _fault(self, place: int, what: str) -> RankpipeError:
        doc_id = self.corpus.ids([int(self.documents[place])])[0]
        return RankpipeError(
            f"document {doc_id!r} in the ranking of query {self.queries.ids[int(self.query_rows[place])]!r} {what}"
        )

    # -- new runs of it -----------------------------------------------------------------------------------------

    def rescored(self, scores: NDArray[np.floating]) -> Run:
        """The same candidates with new scores (H,), in their new order.

        Scores that are not finite, or too large for float32, raise RankpipeError.
        """
        given = np.asarray(scores)
        if len(given) != len(self.documents):
            raise UsageError(f"{len(given)} scores for {len(self.documents)} candidates")
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
            scores = given.astype(np.float32) + np.float32(0)  # -0.0 becomes 0.0, or it would not tie with it
        if not np.isfinite(scores).all():
            place = int(np.argmin(np.isfinite(scores)))
            query_id = self.queries.ids[int(self.query_rows[place])]
            doc_id = self.corpus.ids([int(self.documents[place])])[0]
            raise RankpipeError(
                f"the score of document {doc_id!r} for query {query_id!r} is {given[place]}, not a finite float32 number"
            )
        order = _order(scores, self.corpus.tie_order[self.documents], self.offsets)
        return replace(self, scores=scores)._taken(order, self.offsets)

    def rescored_to(self, depth: int, score: Callable[[Run], NDArray[np.floating]], *, rest: Rest = "keep") -> Run:
        """Rescore the first `depth` candidates of every query with `score(their run)`.

        rest  "keep": the others stay below in their order, their scores shifted under the lowest new one;
              "drop": they go.
        """
        head = self.top(depth)
        rescored = head.rescored(score(head)) if len(head.documents) else head
        return rescored if rest == "drop" else rescored.above(self.keep(self.ranks > depth))

    def above(self, rest: Run) -> Run:
        """These candidates, and those of `rest` below them, shifted under this run's lowest score for the query.

        Raises RankpipeError where that score is so low that float32 has no numbers left below it.
        """
        lowest = _last_scores(self)
        shifted = _shifted_under(lowest, rest)
        counts = self.counts + rest.counts
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        mine = np.repeat(offsets[:-1], self.counts) + self.ranks - 1
        theirs = np.repeat(offsets[:-1] + self.counts, rest.counts) + rest.ranks - 1

        def merged(upper: NDArray, lower: NDArray) -> NDArray:
            values = np.empty(len(upper) + len(lower), upper.dtype)
            values[mine], values[theirs] = upper, lower
            return values

        return Run(
            self.queries,
            self.corpus,
            offsets,
            merged(self.documents, rest.documents),
            merged(self.scores, shifted),
            {name: merged(values, rest.features[name]) for name, values in self.features.items()},
            None if self.passages is None or rest.passages is None else merged(self.passages, rest.passages),
        )

    def top(self, k: int) -> Run:
        """The first k candidates of every query; k is 0 or more."""
        if k < 0:
            raise UsageError(f"k is {k}, must be at least 0")
        return self if not len(self) or k >= self.counts.max(initial=0) else self.keep(self.ranks <= k)

    def keep(self, mask: NDArray[np.bool_]) -> Run:
        """The candidates where `mask` (H,) is true, their order and scores unchanged."""
        kept = np.concatenate([[0], np.cumsum(mask)]).astype(np.int64)
        return self._taken(np.flatnonzero(mask), kept[self.offsets])

    def select(self, rows: Sequence[int] | NDArray[np.integer]) -> Run:
        """The queries at these rows, with their candidates."""
        rows = np.asarray(rows, np.int64)
        counts = self.counts[rows]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        taken = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], counts)
        return self._taken(taken, offsets, self.queries.select(rows))

    def between(self, start: int, end: int) -> Run:
        """The queries of rows start to end - 1, with their candidates."""
        if start <= 0 and end >= len(self):
            return self
        first, last = self.offsets[start], self.offsets[min(end, len(self))]
        offsets = self.offsets[start : end + 1] - first
        return self._taken(np.arange(first, last), offsets, self.queries.select(slice(start, end)))

    def with_feature(self, name: str, values: NDArray[np.floating]) -> Run:
        """This run with one more column (H,), or an old one replaced."""
        return self.with_features({name: values})

    def with_features(self, columns: Mapping[str, NDArray[np.floating]]) -> Run:
        """This run with more columns (H,), old ones of the same names replaced."""
        added = {name: np.asarray(values, np.float32) for name, values in columns.items()}
        return replace(self, features={**self.features, **added})

    def with_queries(self, queries: Queries) -> Run:
        """The same candidates for rewritten queries."""
        return replace(self, queries=queries)

    def _taken(self, rows: NDArray[np.int64], offsets: NDArray[np.int64], queries: Queries | None = None) -> Run:
        return Run(
            self.queries if queries is None else queries,
            self.corpus,
            offsets,
            self.documents[rows],
            self.scores[rows],
            {name: values[rows] for name, values in self.features.items()},
            None if self.passages is None else self.passages[rows],
        )

    def _candidates(self, start: int, end: int) -> list[Candidate]:
        rows = self.documents[start:end].tolist()
        columns = {name: values[start:end].tolist() for name, values in self.features.items()}
        return [
            Candidate(
                rank=place + 1,
                doc_id=doc_id,
                score=float(self.scores[start + place]),
                scores={name: values[place] for name, values in columns.items()},
                _corpus=self.corpus,
                _row=row,
            )
            for place, (row, doc_id) in enumerate(zip(rows, self.corpus.ids(rows), strict=True))
        ]


def _number(score: object) -> float:
    if not isinstance(score, (str, bytes)):
        try:
            return float(score)  # type: ignore[arg-type] - whatever says that it is a number
        except (TypeError, ValueError, OverflowError):
            pass
    raise UsageError(f"the score {score!r:.100} of the run is no number")


def _rising(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """Whole numbers in the order of the scores, neighbouring floats one apart. -0.0 and 0.0 must not both occur."""
    bits = scores.view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def _falling(numbers: NDArray[np.int64]) -> NDArray[np.float32]:
    """Inverse of _rising."""
    bits = np.where(numbers < 0, -numbers | 0x80000000, numbers)
    return bits.astype(np.uint32).view(np.float32)


def _order(scores: NDArray[np.float32], ties: NDArray[np.int32], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """(H,) positions that put every query's candidates in order: score falling, then `ties` rising."""
    keys = (-_rising(scores) << 31) + ties  # one 64-bit number a candidate: sorting it is far faster than lexsort
    counts = np.diff(offsets)
    if len(counts) and (counts == counts[0]).all():
        within = np.argsort(keys.reshape(len(counts), -1), axis=1) + offsets[:-1, None]
        return within.ravel()
    order = np.empty(len(keys), np.int64)
    for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        order[start:end] = np.argsort(keys[start:end])
        order[start:end] += start
    return order


def _last_scores(run: Run) -> NDArray[np.float32]:
    """(Q,) lowest score of every query; infinity where it has no candidates."""
    lowest = np.full(len(run), np.inf, np.float32)
    some = run.counts > 0
    lowest[some] = run.scores[run.offsets[1:][some] - 1]
    return lowest


def _shifted_under(lowest: NDArray[np.float32], rest: Run) -> NDArray[np.float32]:
    """Scores of `rest` moved down, per query, to start just below `lowest` (Q,), without new ties.

    float32 is too coarse to keep every gap far from zero: where two different scores would fall together, the lower
    one moves down to the next number.
    """
    if not len(rest.documents):
        return rest.scores
    starts = rest.ranks == 1
    filled = rest.counts > 0
    limit = np.repeat(lowest, rest.counts).astype(np.float64)
    first = np.repeat(rest.scores[starts], rest.counts[filled]).astype(np.float64)
    bounded = np.isfinite(limit)
    moved = np.where(bounded, limit - (first - rest.scores), rest.scores)
    moved = np.maximum(moved, LOWEST).astype(np.float32) + np.float32(0)
    # Down a list, the number of a score must fall by `drops`: one where the score falls, one below the limit at the
    # start, else nothing. So number[i] = min over j <= i of (number[j] + total[j]) - total[i], total = sum of drops.
    drops = starts.astype(np.int64)
    drops[1:] |= rest.scores[1:] < rest.scores[:-1]
    total = np.cumsum(drops)
    total -= np.repeat(total[starts] - 1, rest.counts[filled])
    numbers = _rising(moved) + total
    caps = _rising(np.where(bounded, limit, 0).astype(np.float32) + np.float32(0))
    numbers = np.where(starts & bounded, np.minimum(numbers, caps), numbers)
    apart = rest.query_rows << 34  # lets one running minimum serve all queries
    numbers = np.minimum.accumulate(numbers - apart) + apart - total
    to_come = np.repeat(total[rest.offsets[1:][filled] - 1], rest.counts[filled]) - total
    numbers = np.maximum(
        numbers, _rising(np.array(LOWEST, np.float32)) + to_come
    )  # leaves every score room for those below it
    if (full := starts & bounded & (numbers >= caps)).any():
        query_id = rest.queries.ids[int(rest.query_rows[np.argmax(full)])]
        raise RankpipeError(
            f"query {query_id!r}: too few float32 numbers lie below the lowest new score for the candidates that stay "
            "below it; drop them (rest: drop), or score in another unit"
        )
    return _falling(numbers)


def _joined_passages(runs: Sequence[Run]) -> NDArray[np.int32] | None:
    """(H,) passages of several runs, -1 for the candidates of one that has none; None where no run has any."""
    if all(run.passages is None for run in runs):
        return None
    return np.concatenate(
        [np.full(len(run.documents), -1, np.int32) if run.passages is None else run.passages for run in runs]
    )


def _joined(parts: Sequence[Queries]) -> Queries:
    """The queries of several parts, in order."""

    def chained(name: str) -> tuple:
        return tuple(chain.from_iterable(getattr(part, name) for part in parts))

    first = parts[0]
    if any(part.parent is not None for part in parts):
        raise RankpipeError("queries that were split into several are to be fused back before their runs are joined")
    return Queries(
        ids=chained("ids"),
        texts=chained("texts"),
        original=chained("original"),
        fields={name: tuple(text for part in parts for text in part.fields[name]) for name in first.fields},
        terms=None if first.terms is None else chained("terms"),
        vectors=None if first.vectors is None else np.concatenate([part.vectors for part in parts]),  # type: ignore[arg-type]
        made_by=first.made_by,
    )
