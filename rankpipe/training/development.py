"""What is measured while training, on queries that train nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from rankpipe.data import Dataset, Qrels
from rankpipe.evaluation.result import evaluate
from rankpipe.run import Run
from rankpipe.training.examples import Group
from rankpipe.training.pairs import Pair, PairTexts

Scores = Callable[[Sequence[Pair]], Tensor]
"""(H,) scores of pairs by the network as it is."""


@dataclass(frozen=True, eq=False)
class Reranking:
    """Candidates of judged queries, re-ranked by the network alone and measured as the data set's card says.

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
        run, card = self.run, self.dataset.card
        documents = [run.documents[start:end] for start, end in zip(run.offsets[:-1], run.offsets[1:], strict=True)]
        found = self.scores(self.texts.pairs(run.queries.texts, documents)).cpu().numpy()
        result = evaluate(
            run.rescored(found.astype(np.float32)),
            self.qrels,
            [self.measure],
            relevance_cut=card.relevance_cut,
            drop_self=card.self_match,
        )
        return result[self.measure]


@dataclass(frozen=True, eq=False)
class HeldOutLoss:
    """The loss of groups that train nothing, where there are no judgements; its negative, so that higher is better."""

    groups: Sequence[Group]
    loss: Callable[[Sequence[Group]], float]

    def __call__(self) -> float:
        """The negative mean loss."""
        return -self.loss(self.groups)
