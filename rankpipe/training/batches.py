"""Batches to train a bi-encoder with: queries, and documents of which one query's are negatives of another's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankpipe.data import Corpus
from rankpipe.errors import UsageError
from rankpipe.training.examples import Turns, random_rows
from rankpipe.training.negatives import Judged, account_of
from rankpipe.training.recipe import Subset


class Batch(NamedTuple):
    """Q queries and their documents, C of them, of which U are different.

    documents  (U,) int32 rows of the corpus
    columns    (C,) int64: which of those a column is; a document may be several queries'
    positive   (Q,) int64: the column of a query's relevant document
    hard       (Q, C) whether a column is a query's own hard negative
    random     (Q, C) whether it is a negative that was not sought out for this query: a random one, or another's
               relevant document
    other_hard (Q, C) whether it is the hard negative of another query, and a negative of this one as well

    A document that a query masks is in no row of the three.
    """

    query_ids: list[str]
    queries: list[str]
    documents: NDArray[np.int32]
    columns: NDArray[np.int64]
    positive: NDArray[np.int64]
    hard: NDArray[np.bool_]
    random: NDArray[np.bool_]
    other_hard: NDArray[np.bool_]


class Batches:
    """What is drawn for every step: queries in turn, a relevant document of each, negatives."""

    def __init__(
        self,
        judged: Sequence[Judged],
        corpus: Corpus,
        *,
        batch: int,
        hard: int,
        random: int,
        in_batch: bool,
        seed: tuple[int, ...],
        subset: Subset | None = None,
    ) -> None:
        self._seed, self._turns = seed, Turns([one.query_id for one in judged], seed, subset)
        self._size = self._turns.batch(batch)
        if not (hard or random or (in_batch and self._size > 1)):
            raise UsageError(f"{len(judged)} judged query gives no negatives; 'hard' or 'random' must be above 0")
        self._judged, self._live = judged, corpus.live_rows()
        self._hard, self._random, self._in_batch = hard, random, in_batch

    def step(self, step: int) -> Batch:
        """The batch of a step; steps count from 1. A query stands in it twice only where a round ends in it."""
        rng = np.random.default_rng([*self._seed, 1 << 20, step])
        first = (step - 1) * self._size
        queries = [self._judged[self._turns[turn]] for turn in range(first, first + self._size)]
        positive, hard, far = [], [], []
        for one in queries:
            positive.append(one.positives[rng.integers(len(one.positives))])
            drawn = rng.permutation(one.negatives)[: self._hard]
            hard.append(drawn)
            wanted = self._random + self._hard - len(drawn)  # what candidates cannot give is drawn from all documents
            far.append(random_rows(self._live, wanted, np.concatenate([drawn, one.masked]), rng))
        return self._joined(queries, np.array(positive, np.int32), hard, far)

    def account(self) -> dict[str, Any]:
        """Queries, relevant documents and negatives to draw from."""
        return account_of(self._judged)

    def _joined(
        self,
        queries: Sequence[Judged],
        positive: NDArray[np.int32],
        hard: Sequence[NDArray[np.int32]],
        far: Sequence[NDArray[np.int32]],
    ) -> Batch:
        count = len(queries)
        owners = [np.repeat(np.arange(count), [len(one) for one in parts]) for parts in (hard, far)]
        owner = np.concatenate([np.arange(count), *owners])
        kind = np.repeat([0, 1, 2], [count, len(owners[0]), len(owners[1])])
        rows = np.concatenate([positive, *hard, *far]).astype(np.int32)
        documents, columns = np.unique(rows, return_inverse=True)
        own = owner == np.arange(count)[:, None]
        allowed = ~np.stack([np.isin(rows, one.masked) for one in queries])
        if not self._in_batch:
            allowed &= own
        return Batch(
            query_ids=[one.query_id for one in queries],
            queries=[one.text for one in queries],
            documents=documents,
            columns=columns.astype(np.int64).reshape(-1),
            positive=np.arange(count, dtype=np.int64),
            hard=allowed & own & (kind == 1),
            random=allowed & np.where(kind == 2, True, (kind == 0) & ~own),
            other_hard=allowed & ~own & (kind == 1),
        )
