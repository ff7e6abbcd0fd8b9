"""Groups to train with: a query, some documents, and what is wanted of their scores. Drawn step by step from a seed.

What a step is given depends on the seed, the phase and the number of the step alone, so a training that is resumed
draws what it would have drawn, and nothing has to be remembered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rankpipe.data import Corpus
from rankpipe.store import key_digest
from rankpipe.training.candidates import Pool
from rankpipe.training.negatives import Judged, account_of
from rankpipe.training.recipe import Subset


class Group(NamedTuple):
    """One query with the documents that it is trained on.

    documents  (G,) int32 rows of the corpus, none twice
    targets    (G,) float32: grades, or a teacher's scores
    """

    query_id: str
    query: str
    documents: NDArray[np.int32]
    targets: NDArray[np.float32]


class Groups(Protocol):
    """What a phase is trained on."""

    def step(self, step: int) -> list[Group]:
        """The groups of a step; steps count from 1."""
        ...

    def account(self) -> dict[str, Any]:
        """What was drawn and what was left out, as JSON takes it."""
        ...


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How groups are drawn.

    batch   groups of a step
    size    documents of a group
    random  of them, from the whole corpus
    seed    numbers that all drawing depends on, besides the step
    subset  the part of the queries that is used
    """

    batch: int
    size: int
    random: int
    seed: tuple[int, ...]
    subset: Subset | None = None


class Turns:
    """Rows of queries, each once in every round, in an order that the round's own number gives.

    Of a subset a round is a part of them: the same part (fixed), one drawn anew (rs2 with replacement), or, as without
    a subset, the next ones of an order of all (rs2 without replacement).
    """

    def __init__(self, ids: Sequence[str], seed: Sequence[int], subset: Subset | None = None) -> None:
        """Take the queries' ids: a fixed part goes by them, as another phase may have left out some of the queries."""
        self._count = count = len(ids)
        self._seed = tuple(seed)
        self._round, self._order = -1, np.empty(0, np.int64)
        parts = subset is not None and (subset.kind == "fixed" or subset.replacement)
        self._size = math.ceil(subset.ratio * count) if subset is not None and parts else count
        self._fixed = None
        if subset is not None and subset.kind == "fixed":  # the same in every phase: of the training's seed alone
            drawn = [key_digest({"seed": int(self._seed[0]), "query": query_id}) for query_id in ids]
            self._fixed = np.argsort(np.array(drawn), kind="stable")[: self._size]

    def batch(self, wanted: int) -> int:
        """How many rows a step takes: `wanted`, or as many as there are in a round."""
        return min(wanted, self._size)

    def __getitem__(self, turn: int) -> int:
        """Row of a turn; turns count from 0."""
        number, place = divmod(turn, self._size)
        if number != self._round:
            self._order, self._round = self._permutation(number), number
            if self._fixed is not None:
                self._order = self._fixed[self._permutation(number, self._size)]
        return int(self._order[place])

    def _permutation(self, number: int, count: int | None = None) -> NDArray[np.int64]:
        return np.random.default_rng([*self._seed, number]).permutation(count or self._count)


class TaughtGroups:
    """Candidates with the scores that their pipeline gave, and random documents with the lowest it gave the query."""

    def __init__(self, pools: Mapping[str, tuple[Pool, NDArray[np.int32]]], corpus: Corpus, shape: Shape) -> None:
        """Take pools by their sources, each with the rows of the documents that its queries were taken from (or -1).

        A document that a query was taken from is none of its candidates: to find it again would teach nothing else.
        """
        self._shape, self._live = shape, corpus.live_rows()
        self._sources = []
        self._account: dict[str, Any] = {}
        for number, (source, (pool, own)) in enumerate(pools.items()):
            usable = np.flatnonzero([len(np.setdiff1d(pool.of(row)[0], own[row])) > 0 for row in range(len(own))])
            self._account[source] = {
                "queries": len(usable),
                "dropped_without_candidates": len(own) - len(usable),
                "candidates": pool.digest,
            }
            if len(usable):
                self._sources.append(
                    (
                        pool,
                        own,
                        usable,
                        Turns([pool.queries.ids[row] for row in usable], (*shape.seed, number), shape.subset),
                    )
                )
        self.unit = score_unit([pool for pool, *_ in self._sources])

    def __len__(self) -> int:
        """Number of sources that gave queries."""
        return len(self._sources)

    def step(self, step: int) -> list[Group]:
        """The groups of a step: the sources take turns."""
        rng = np.random.default_rng([*self._shape.seed, 1 << 20, step])
        first = (step - 1) * self._shape.batch
        return [self._group(number, rng) for number in range(first, first + self._shape.batch)]

    def each(self) -> list[Group]:
        """A group of every query that has candidates."""
        rng = np.random.default_rng([*self._shape.seed, 1 << 20])
        return [
            self._group_of(pool, own, query, rng) for pool, own, usable, _ in self._sources for query in usable.tolist()
        ]

    def account(self) -> dict[str, Any]:
        """Queries of each source, and the unit of the teacher's scores."""
        return {"sources": self._account, "score_unit": self.unit}

    def _group(self, number: int, rng: np.random.Generator) -> Group:
        turn, source = divmod(number, len(self._sources))
        pool, own, usable, turns = self._sources[source]
        return self._group_of(pool, own, int(usable[turns[turn]]), rng)

    def _group_of(self, pool: Pool, own: NDArray[np.int32], query: int, rng: np.random.Generator) -> Group:
        found, scores = pool.of(query)
        others = np.flatnonzero(found != own[query])
        wanted = min(self._shape.size - self._shape.random, len(others))
        taken = np.sort(rng.permutation(others)[:wanted])
        far = random_rows(self._live, self._shape.size - wanted, np.append(found[taken], own[query]), rng)
        targets = (np.concatenate([scores[taken], pool.scores_of(query, far)]) / self.unit).astype(np.float32)
        documents = np.concatenate([found[taken], far])
        return Group(pool.queries.ids[query], pool.queries.texts[query], documents, targets)


class JudgedGroups:
    """Relevant documents and hard negatives: candidates that no judgement calls relevant."""

    def __init__(
        self,
        judged: Sequence[Judged],
        corpus: Corpus,
        shape: Shape,
        positives: int,
        *,
        only_found: bool = False,
    ) -> None:
        """Take what is known of queries, and how many relevant documents a group has at most.

        only_found  those that are among the candidates, where there are any
        """
        self._shape, self._live, self._positives, self._only_found = shape, corpus.live_rows(), positives, only_found
        self._judged = judged
        self._turns = Turns([one.query_id for one in judged], shape.seed, shape.subset)

    def step(self, step: int) -> list[Group]:
        """The groups of a step: the queries take turns."""
        rng = np.random.default_rng([*self._shape.seed, 1 << 20, step])
        first = (step - 1) * self._shape.batch
        return [self._group(self._judged[self._turns[turn]], rng) for turn in range(first, first + self._shape.batch)]

    def account(self) -> dict[str, Any]:
        """Queries, relevant documents and negatives to draw from."""
        return account_of(self._judged) | {
            "relevant_candidates": int(sum(int(one.found.sum()) for one in self._judged))
        }

    def _group(self, judged: Judged, rng: np.random.Generator) -> Group:
        drawn_from = np.arange(len(judged.positives))
        if self._only_found and judged.found.any():
            drawn_from = drawn_from[judged.found]
        chosen = np.sort(rng.permutation(drawn_from)[: self._positives])
        relevant, grades = judged.positives[chosen], judged.grades[chosen]
        wanted = min(self._shape.size - self._shape.random - len(relevant), len(judged.negatives))
        hard = rng.permutation(judged.negatives)[:wanted]
        far = random_rows(
            self._live, self._shape.size - len(relevant) - wanted, np.concatenate([hard, judged.masked]), rng
        )
        documents = np.concatenate([relevant, hard, far]).astype(np.int32)
        targets = np.zeros(len(documents), np.float32)
        targets[: len(grades)] = grades
        return Group(judged.query_id, judged.text, documents, targets)


def random_rows(
    live: NDArray[np.int32], count: int, without: NDArray[np.int32], rng: np.random.Generator
) -> NDArray[np.int32]:
    """Different rows drawn from the living ones; fewer than `count` where there are not so many."""
    if len(live) < 4 * (count + len(without)):
        return rng.permutation(np.setdiff1d(live, without))[:count].astype(np.int32)
    taken: dict[int, None] = {}
    seen = set(without.tolist())
    while len(taken) < count:
        taken.update((row, None) for row in rng.choice(live, 2 * count).tolist() if row not in seen)
    return np.array(list(taken)[:count], np.int32)


def score_unit(pools: Sequence[Pool]) -> float:
    """Standard deviation of a query's candidates' scores, mean over all queries with two or more; 1 without any."""
    deviations = [
        float(np.std(pool.of(row)[1], dtype=np.float64))
        for pool in pools
        for row in range(len(pool.queries))
        if len(pool.of(row)[1]) > 1
    ]
    mean = float(np.mean(deviations)) if deviations else 0.0
    return mean if mean > 0 else 1.0
