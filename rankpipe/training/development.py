"""What is measured while training, on queries that train nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankpipe.data import Dataset, Qrels, Queries
from rankpipe.evaluation.result import evaluate
from rankpipe.index.dense import FlatIndex
from rankpipe.index.vectors import Block, Vectors
from rankpipe.run import Run
from rankpipe.training.encoders import Encoders
from rankpipe.training.examples import Group
from rankpipe.training.pairs import Pair, PairTexts

DEPTH = 1000
"""Documents that a search gives."""

Scores = Callable[[Sequence[Pair]], Tensor]
"""(H,) scores of pairs by the network as it is."""


@dataclass(frozen=True, eq=False)
class Reranking:
    """Candidates of judged queries, re-ranked by the network and measured as the data set's card says.

    run  the first candidates of the queries
    """

    run: Run
    qrels: Qrels
    dataset: Dataset
    measure: str
    texts: PairTexts
    scores: Scores

    def __call__(self) -> float:
        """The measure's mean over the queries."""
        run = self.run
        documents = [run.documents[run.span(row)] for row in range(len(run))]
        found = self.scores(self.texts.pairs(run.queries.texts, documents)).cpu().numpy()
        return measured(run.rescored(found), self.qrels, self.dataset, self.measure)


@dataclass(frozen=True, eq=False)
class Searching:
    """Judged queries searched with the encoders, and measured as the data set's card says.

    What is searched in are the candidates of all queries and their relevant documents: a corpus of those documents that
    are hard to tell apart, which is encoded anew every time.

    run  the candidates of the queries
    """

    encoders: Encoders
    run: Run
    qrels: Qrels
    dataset: Dataset
    fields: Sequence[str]
    measure: str

    def __call__(self) -> float:
        """The measure's mean over the queries."""
        encoders, corpus = self.encoders, self.dataset.corpus
        rows = self._rows()
        documents = encoders.vectors(encoders.documents(corpus, rows, self.fields)).cpu().numpy()
        block = Block(documents, np.arange(len(rows) + 1, dtype=np.int64), np.zeros(len(rows), bool))
        queries = encoders.vectors(encoders.queries(self.run.queries.texts)).cpu().numpy()
        return searched(Vectors.of(rows, block), queries, self.run.queries, self.qrels, self.dataset, self.measure)

    def _rows(self) -> NDArray[np.int32]:
        corpus = self.dataset.corpus
        relevant = corpus.rows(
            [doc_id for judged in self.qrels.values() for doc_id, grade in judged.items() if grade > 0]
        )
        return np.unique(np.concatenate([self.run.documents, relevant[relevant >= 0]])).astype(np.int32)


def searched(
    vectors: Vectors, queries: NDArray[np.float32], asked: Queries, qrels: Qrels, dataset: Dataset, measure: str
) -> float:
    """The measure's mean over queries, given their vectors, of exact search in vectors of documents."""
    corpus = dataset.corpus
    found = FlatIndex(vectors).search(
        queries, min(DEPTH, len(vectors.rows)), corpus.tie_order, threads=torch.get_num_threads()
    )
    run = Run(asked, corpus, found.offsets, found.documents, found.scores)
    return measured(run, qrels, dataset, measure)


def measured(run: Run, qrels: Qrels, dataset: Dataset, measure: str) -> float:
    """The measure's mean over the queries of some judgements, as the data set's card says."""
    card = dataset.card
    return evaluate(run, qrels, [measure], relevance_cut=card.relevance_cut, drop_self=card.self_match)[measure]


@dataclass(frozen=True, eq=False)
class HeldOutLoss:
    """The loss of groups that train nothing, where there are no judgements; its negative, so that higher is better."""

    groups: Sequence[Group]
    loss: Callable[[Sequence[Group]], float]

    def __call__(self) -> float:
        """The negative mean loss."""
        return -self.loss(self.groups)
