"""Groups to train with: a query, some documents, and what is wanted of their scores. Drawn step by step from a seed.

What a step is given depends on the seed, the phase and the number of the step alone, so a training that is resumed
draws what it would have drawn, and nothing has to be remembered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rankpipe.data import Corpus, Qrels
from rankpipe.training.candidates import Pool


class Group(NamedTuple):
    """One query with the documents that it is trained on.

    documents  (G,) int32 rows of the corpus, none twice
    targets    (G,) float32: grades, or a teacher's scores
    """

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
    """

    batch: int
    size: int
    random: int
    seed: tuple[int, ...]


class Turns:
    """Rows 0 to count - 1, each once in every round, in an order that the round's own number gives."""

    def __init__(self, count: int, seed: Sequence[int]) -> None:
        self._count, self._seed = count, tuple(seed)
        self._round, self._order = -1, np.empty(0, np.int64)

    def __getitem__(self, turn: int) -> int:
        """Row of a turn; turns count from 0."""
        number, place = divmod(turn, self._count)
        if number != self._round:
            self._order = np.random.default_rng([*self._seed, number]).permutation(self._count)
            self._round = number
        return int(self._order[place])


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
                self._sources.append((pool, own, usable, Turns(len(usable), (*shape.seed, number))))
        self.unit = _unit([pool for pool, *_ in self._sources])

    def __len__(self) -> int:
        """Number of sources that gave queries."""
        return len(self._sources)

    def step(self, step: int) -> list[Group]:
        """The groups of a step: the sources take turns."""
        rng = np.random.default_rng([*self._shape.seed, 1 << 20, step])
        first = (step - 1) * self._shape.batch
        return [self._group(number, rng) for number in range(first, first + self._shape.batch)]

    def account(self) -> dict[str, Any]:
        """Queries of each source, and the unit of the teacher's scores."""
        return {"sources": self._account, "score_unit": self.unit}

    def _group(self, number: int, rng: np.random.Generator) -> Group:
        turn, source = divmod(number, len(self._sources))
        pool, own, usable, turns = self._sources[source]
        query = int(usable[turns[turn]])
        found, scores = pool.of(query)
        others = np.flatnonzero(found != own[query])
        wanted = min(self._shape.size - self._shape.random, len(others))
        taken = np.sort(rng.permutation(others)[:wanted])
        far = _random(self._live, self._shape.size - wanted, np.append(found[taken], own[query]), rng)
        known = dict(zip(found.tolist(), scores.tolist(), strict=True))
        far_scores = np.array([known.get(row, pool.floor[query]) for row in far.tolist()], np.float32)
        targets = (np.concatenate([scores[taken], far_scores]) / self.unit).astype(np.float32)
        return Group(pool.queries.texts[query], np.concatenate([found[taken], far]), targets)


@dataclass(frozen=True, eq=False)
class Judged:
    """What is known of one training query.

    positives  rows of relevant documents, and their grades
    masked     rows of all documents that are judged relevant to any degree, rising: none of them is a negative
    """

    text: str
    positives: NDArray[np.int32]
    grades: NDArray[np.float32]
    masked: NDArray[np.int32]
    negatives: NDArray[np.int32]


class JudgedGroups:
    """Relevant documents and hard negatives: candidates that no judgement calls relevant."""

    def __init__(self, judged: Sequence[Judged], corpus: Corpus, shape: Shape, positives: int) -> None:
        self._shape, self._live, self._positives = shape, corpus.live_rows(), positives
        self._judged = judged
        self._turns = Turns(len(judged), shape.seed)

    def step(self, step: int) -> list[Group]:
        """The groups of a step: the queries take turns."""
        rng = np.random.default_rng([*self._shape.seed, 1 << 20, step])
        first = (step - 1) * self._shape.batch
        return [self._group(self._judged[self._turns[turn]], rng) for turn in range(first, first + self._shape.batch)]

    def account(self) -> dict[str, Any]:
        """Queries, relevant documents and negatives to draw from."""
        return {
            "queries": len(self._judged),
            "relevant": int(sum(len(one.positives) for one in self._judged)),
            "hard_negatives": int(sum(len(one.negatives) for one in self._judged)),
        }

    def _group(self, judged: Judged, rng: np.random.Generator) -> Group:
        chosen = np.sort(rng.permutation(len(judged.positives))[: self._positives])
        relevant, grades = judged.positives[chosen], judged.grades[chosen]
        wanted = min(self._shape.size - self._shape.random - len(relevant), len(judged.negatives))
        hard = rng.permutation(judged.negatives)[:wanted]
        far = _random(self._live, self._shape.size - len(relevant) - wanted, np.concatenate([hard, judged.masked]), rng)
        documents = np.concatenate([relevant, hard, far]).astype(np.int32)
        targets = np.zeros(len(documents), np.float32)
        targets[: len(grades)] = grades
        return Group(judged.text, documents, targets)


@dataclass
class Mined:
    """What was found in judgements and candidates, query by query, and what was left out.

    masked  candidates that are no negatives because they are judged relevant
    unused  ids of queries without a relevant document in the corpus
    """

    judged: list[Judged] = field(default_factory=list)
    masked: int = 0
    unused: list[str] = field(default_factory=list)


def mined(pool: Pool, qrels: Qrels, corpus: Corpus, *, relevance_cut: int = 1, self_match: bool = False) -> Mined:
    """Relevant documents and hard negatives of every query of a pool.

    relevance_cut  lowest grade that counts as relevant; lower ones above 0 are neither relevant nor negatives
    self_match     a document with the query's id is the query itself, and no negative
    """
    found = Mined()
    for row, query_id in enumerate(pool.queries.ids):
        grades = {doc_id: grade for doc_id, grade in qrels.get(query_id, {}).items() if grade > 0}
        rows = corpus.rows(list(grades))
        values = np.fromiter(grades.values(), np.float32, len(grades))
        there = rows >= 0
        positive = there & (values >= relevance_cut)
        if not positive.any():
            found.unused.append(query_id)
            continue
        masked = np.unique(np.append(rows[there], corpus.rows([query_id]) if self_match else []).astype(np.int32))
        documents, _ = pool.of(row)
        negatives = documents[~np.isin(documents, masked)]
        found.masked += len(documents) - len(negatives)
        found.judged.append(Judged(pool.queries.texts[row], rows[positive], values[positive], masked, negatives))
    return found


def _random(
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


def _unit(pools: Sequence[Pool]) -> float:
    """Standard deviation of a query's candidates' scores, mean over all queries with two or more; 1 without any."""
    deviations = [
        float(np.std(pool.of(row)[1], dtype=np.float64))
        for pool in pools
        for row in range(len(pool.queries))
        if len(pool.of(row)[1]) > 1
    ]
    mean = float(np.mean(deviations)) if deviations else 0.0
    return mean if mean > 0 else 1.0
