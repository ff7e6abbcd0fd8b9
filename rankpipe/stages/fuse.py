"""Fuse: the candidates of several branches in one ranking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from math import fsum
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
from annotated_types import Ge, MinLen
from numpy.typing import NDArray
from pydantic import model_validator
from pydantic.dataclasses import dataclass

from rankpipe.data import Queries
from rankpipe.errors import UsageError
from rankpipe.run import Run
from rankpipe.stage import SETTINGS, Part, Several, Stage, apply
from rankpipe.stages.normalise import Normalisation, floors, normalised

BY_SCORES = ("convex", "comb-sum", "comb-mnz")
"""Methods that fuse by scores; the others go by ranks."""
Method = Literal["reciprocal-rank", "inverse-square-rank", "borda", "convex", "comb-sum", "comb-mnz"]


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Fuse(Stage):
    """Run every branch on the same queries, and rank all their candidates together.

    What a document gets from a branch that did not find it stands in brackets: it never gains by being missing.

    method  by ranks: "reciprocal-rank" (0), "inverse-square-rank" (0), "borda" (the mean of the points left over);
            by scores: "convex", the mean weighted by the branches' weights, "comb-sum", the sum, and "comb-mnz", the
            number of branches that found the document times the sum of what their scores are above what stands here in
            brackets (0, or the branch's lowest value if that is less)

    branches   at least one; in Python the one setting that may be given without its name: Fuse([a, b])
    weights    one per branch, none negative, not all 0; all 1 by default. "convex" divides them by their sum
    k          candidates kept per query; all by default
    smoothing  of "reciprocal-rank"; 60 is Cormack, Clarke and Büttcher's
    normalise  of scores, by the methods that use them; see rankpipe.stages.normalise
    minimum    one per branch, for normalise: theoretical-minimum: the lowest score that the branch's last stage can
               give. BM25 (0) and dense with `similarity: cosine` (-1) know their own, so it is needed for other
               branches only

    Scores: the method's, float32. The queries stay as they were before the branches. Scores that stages of the
    branches left under their names are kept, NaN for a document that only other branches found; where branches share
    a name, or chose other passages, the first branch that has a value wins.
    """

    makes: ClassVar[frozenset[Part]] = frozenset({"candidates"})

    branches: Annotated[Several[Stage], MinLen(1)] = field(kw_only=False)
    method: Method = "reciprocal-rank"
    weights: Several[Annotated[float, Ge(0)]] | None = None
    k: Annotated[int, Ge(1)] | None = None
    smoothing: Annotated[float, Ge(0)] = 60
    normalise: Normalisation = "min-max"
    minimum: Several[float] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Fuse:
        for name, values in (("weights", self.weights), ("minimum", self.minimum)):
            if values is not None and len(values) != len(self.branches):
                raise ValueError(
                    f"'{name}' has {len(values)} value{'s' * (len(values) != 1)} for {len(self.branches)} branches"
                )
        if self.weights is not None and not any(self.weights):
            raise ValueError("'weights' are all 0; at least one must be above 0")
        if self.normalise != "min-max" and self.method not in BY_SCORES:
            raise ValueError(
                f"'normalise: {self.normalise}' is of the methods that go by scores ({', '.join(BY_SCORES)}), and "
                f"'method' is '{self.method}'"
            )
        if self.smoothing != 60 and self.method != "reciprocal-rank":
            raise ValueError(f"'smoothing' is of 'method: reciprocal-rank', and 'method' is '{self.method}'")
        if self.normalise == "theoretical-minimum":
            self._minima()
        elif self.minimum is not None:
            raise ValueError("'minimum' is for 'normalise: theoretical-minimum' only")
        return self

    def _minima(self) -> Sequence[float | None]:
        """Lowest score of every branch, as stated or as the branch itself knows it."""
        if self.normalise != "theoretical-minimum":
            return [None] * len(self.branches)
        if (unknown := self.unknown_minimum) is not None:
            raise ValueError(f"'normalise: theoretical-minimum' needs 'minimum': {unknown}")
        return self.minimum or [branch.lowest_score for branch in self.branches]

    @property
    def unknown_minimum(self) -> str | None:
        """Which branch has no lowest score that is known, and what could be stated; None where `minimum` states them."""
        for number, branch in enumerate(self.branches, start=1):
            if self.minimum is None and branch.lowest_score is None:
                setting = branch.lowest_score_setting
                remedy = "" if setting is None else f"; state '{setting}' in it, if that is its model's"
                return f"branch {number} knows no lowest score{remedy}"
        return None

    @property
    def parts(self) -> tuple[Stage, ...]:
        """The branches."""
        return tuple(self.branches)

    def __call__(self, run: Run) -> Run:
        """Run the branches and fuse them. Raises UsageError if a branch gives other queries or another corpus."""
        return self.fused(run, [apply(branch, run) for branch in self.branches])

    def fused(self, run: Run, runs: list[Run]) -> Run:
        """Fuse what the branches gave for a run."""
        for number, one in enumerate(runs, start=1):
            if one.queries.ids != run.queries.ids or one.corpus.digest != run.corpus.digest:
                raise UsageError(f"branch {number} of fuse gave other queries, or another corpus, than it was given")
        union = united(runs, run.queries)
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
            scores = self._fused(runs, union)
        fused = Run(
            run.queries,
            run.corpus,
            union.offsets,
            union.documents,
            np.zeros(len(union.documents), np.float32),
            _features(runs, union),
            _passages(runs, union),
        ).rescored(scores)
        return fused if self.k is None else fused.top(self.k)

    def _fused(self, runs: list[Run], union: United) -> NDArray[np.float64]:
        weights = np.array(self.weights or [1.0] * len(runs))
        if self.method in BY_SCORES:
            values = np.full((len(runs), len(union.documents)), np.nan)
            missing = np.empty((len(runs), len(union.offsets) - 1))
            minima = self._minima()
            for row, (one, places) in enumerate(zip(runs, union.places, strict=True)):
                scores = normalised(one.scores, one.offsets, self.normalise, minima[row])
                values[row, places] = scores
                missing[row] = floors(scores, one.offsets)
            missing = np.repeat(missing, np.diff(union.offsets), axis=1)
            if self.method == "comb-mnz":
                return comb_mnz(values, missing, weights)
            return comb_sum(values, missing, shares(weights) if self.method == "convex" else weights)
        ranks = np.zeros((len(runs), len(union.documents)), np.int64)
        for row, (one, places) in enumerate(zip(runs, union.places, strict=True)):
            ranks[row, places] = one.ranks
        if self.method == "reciprocal-rank":
            return reciprocal_rank(ranks, weights, self.smoothing)
        if self.method == "inverse-square-rank":
            return inverse_square_rank(ranks, weights)
        counts = np.stack([one.counts for one in runs])
        return borda(ranks, weights, np.repeat(counts, np.diff(union.offsets), axis=1), np.diff(union.offsets))


# -- the formulas: B branches, H fused candidates; ranks (B, H) from 1, 0 where a branch did not find the document -------


def reciprocal_rank(
    ranks: NDArray[np.int64], weights: NDArray[np.float64], smoothing: float = 60
) -> NDArray[np.float64]:
    """(H,) sum of 1 / (smoothing + rank) over the branches that found the document.

    Cormack, Clarke and Büttcher, SIGIR 2009, 'Reciprocal Rank Fusion outperforms Condorcet and individual Rank
    Learning Methods'.
    """
    return weighted_sum(np.where(ranks > 0, 1 / (smoothing + np.maximum(ranks, 1)), 0), weights)


def inverse_square_rank(ranks: NDArray[np.int64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """(H,) sum of 1 / rank² times the number of branches, of weight above 0, that found the document.

    Mourão, Martins and Magalhães, 2014, 'Inverse Square Rank Fusion for Multimodal Search'.
    """
    found = ranks > 0
    return finders(found, weights) * weighted_sum(np.where(found, np.maximum(ranks, 1.0) ** -2, 0), weights)


def borda(
    ranks: NDArray[np.int64], weights: NDArray[np.float64], counts: NDArray[np.int64], sizes: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(H,) sum of points. Of c documents in all, a branch gives its first c points, its second c - 1, ...

    The documents that a branch of n did not find share the rest: each gets the mean of c - n, ..., 1.

    counts  (B, H) n: candidates of the branch for the candidate's query
    sizes   (Q,) c: fused candidates of each query

    Aslam and Montague, SIGIR 2001, 'Models for Metasearch', section 2.
    """
    size = np.repeat(sizes, sizes)
    return weighted_sum(np.where(ranks > 0, size - ranks + 1, (size - counts + 1) / 2), weights)


def comb_sum(
    values: NDArray[np.float64], missing: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(H,) sum of values (B, H), those that are NaN replaced by `missing` (B, H).

    Fox and Shaw, TREC-2 1994, 'Combination of Multiple Searches'. With weights that sum to 1, the convex combination
    of Bruch, Gai and Ingber, TOIS 2023 (arXiv 2210.11934), equation 1.
    """
    return weighted_sum(np.where(np.isnan(values), missing, values), weights)


def comb_mnz(
    values: NDArray[np.float64], missing: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(H,) sum of what values (B, H) have above `missing`, times the branches, of weight above 0, that found it.

    Fox and Shaw, TREC-2 1994, 'Combination of Multiple Searches'. Theirs is the sum of values; `missing` is 0 unless
    there are negative ones, and then counting from it keeps a document from sinking because more branches found it.
    """
    found = ~np.isnan(values)
    return finders(found, weights) * weighted_sum(np.where(found, values - missing, 0), weights)


def shares(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """(B,) weights divided by their sum, which may be beyond float64."""
    return weights / weights.max() / fsum(weights / weights.max())


def finders(found: NDArray[np.bool_], weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """(H,) number of branches, of weight above 0, that found the document; found is (B, H)."""
    return found[weights > 0].sum(axis=0)


def weighted_sum(parts: NDArray[np.floating], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """(H,) weighted sum of parts (B, H), the smallest added first: equal parts, equal sums, in any order of branches."""
    return np.sort(parts * weights[:, None], axis=0).sum(axis=0)


# -- the same documents, side by side ------------------------------------------------------------------------------------


class United(NamedTuple):
    """All documents that any of B runs has for a query, in the order of their rows.

    offsets    (Q + 1,) int64
    documents  (H,) int32
    places     B arrays: where each candidate of a run stands in the union
    """

    offsets: NDArray[np.int64]
    documents: NDArray[np.int32]
    places: list[NDArray[np.int64]]


def united(runs: list[Run], queries: Queries) -> United:
    """Unite the candidates of runs of the same queries over the same corpus."""
    rows = max(len(runs[0].corpus), 1)
    keys, places = np.unique(
        np.concatenate([one.query_rows * rows + one.documents for one in runs]), return_inverse=True
    )
    offsets = np.searchsorted(keys, np.arange(len(queries) + 1) * rows)
    ends = np.cumsum([len(one.documents) for one in runs])
    return United(offsets, (keys % rows).astype(np.int32), np.split(places, ends[:-1]))


def _features(runs: list[Run], union: United) -> dict[str, NDArray[np.float32]]:
    merged: dict[str, NDArray[np.float32]] = {}
    for one, places in zip(runs, union.places, strict=True):
        for name, values in one.features.items():
            column = merged.setdefault(name, np.full(len(union.documents), np.nan, np.float32))
            column[places] = np.where(np.isnan(column[places]), values, column[places])
    return merged


def _passages(runs: list[Run], union: United) -> NDArray[np.int32] | None:
    if all(one.passages is None for one in runs):
        return None
    merged = np.full(len(union.documents), -1, np.int32)
    for one, places in zip(runs, union.places, strict=True):
        if one.passages is not None:
            merged[places] = np.where(merged[places] < 0, one.passages, merged[places])
    return merged
