"""Training of a query encoder: at every step queries are searched anew, and it learns from what is found.

ADORE: Zhan et al., SIGIR 2021, arXiv 2104.08051. The documents' vectors are encoded once and stay as they are, so a step
costs the encoding of its queries and a search.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankpipe.data import Dataset, Qrels, Queries
from rankpipe.index.dense import DenseIndex
from rankpipe.index.vectors import Vectors
from rankpipe.models.adapters.attached import Attached
from rankpipe.training import losses
from rankpipe.training import queries as drawing
from rankpipe.training.candidates import no_candidates
from rankpipe.training.development import searched
from rankpipe.training.encoder_folder import write_encoders
from rankpipe.training.encoder_recipe import Adore, QueryEncoderRecipe
from rankpipe.training.encoders import open_encoders
from rankpipe.training.examples import Turns
from rankpipe.training.loop import PhasePlan, Plan
from rankpipe.training.means import Means
from rankpipe.training.negatives import Judged, mined_split


@dataclass(frozen=True, kw_only=True)
class TrainingQueries:
    """What is drawn from a data set.

    judged       queries to train with
    development  those that it is judged by, with their judgements
    account      what was drawn and what was left out, as JSON takes it
    """

    judged: list[Judged]
    development: tuple[Queries, Qrels]
    account: dict[str, Any]


def gather_queries(recipe: QueryEncoderRecipe, dataset: Dataset, *, notify: Callable[[str], None]) -> TrainingQueries:
    """Draw everything. Raises UsageError where the data set has no judgements to train with."""
    account: dict[str, Any] = {}
    train, development = drawing.train_and_development(recipe, dataset, account, needed=True)
    if train is None or development is None:  # never: judgements are needed
        raise drawing.no_judgements(dataset, recipe.split)
    found = mined_split(no_candidates(train), dataset, recipe.split)
    account["judged"]["without_relevant"] = found.unused
    relevant = sum(len(one.positives) for one in found.judged)
    notify(f"{len(found.judged):,} judged queries of '{recipe.split}', {relevant:,} relevant documents")
    of_development = drawing.qrels_of(development, dataset, account["development"]["split"])
    return TrainingQueries(judged=found.judged, development=(development, of_development), account=account)


class Retrieved(NamedTuple):
    """What was found for Q queries, ranked, with relevant documents behind where none was found; at most G each.

    places   (Q, G) int64 places of the documents among the vectors
    grades   (Q, G) float32, 0 for a document that is not known to be relevant
    present  (Q, G) whether a place holds a document that counts
    """

    places: NDArray[np.int64]
    grades: NDArray[np.float32]
    present: NDArray[np.bool_]


def retrieved(
    documents: list[NDArray[np.int32]],
    scores: list[NDArray[np.float32]],
    judged: list[Judged],
    vectors: Vectors,
    margin: float | None,
) -> Retrieved:
    """Put grades to what was found for queries, given the rows found for each, ranked, and their scores.

    Where no relevant document was found, all of them are put behind, in their order. Documents that are no negatives
    and not relevant do not count, nor, with a margin, those that score so much above the best relevant one.
    """
    parts = []
    for rows, values, one in zip(documents, scores, judged, strict=True):
        relevant = np.isin(rows, one.positives)
        counts = relevant | ~np.isin(rows, one.masked)
        if margin is not None and relevant.any():
            counts &= relevant | (values <= values[relevant].max() + margin)
        if not relevant.any():
            rows = np.concatenate([rows, one.positives])
            counts = np.concatenate([counts, np.ones(len(one.positives), bool)])
        grades = dict(zip(one.positives.tolist(), one.grades.tolist(), strict=True))
        parts.append((rows, [grades.get(row, 0.0) for row in rows.tolist()], counts))
    shape = (len(parts), max(len(rows) for rows, _, _ in parts))
    places, found, present = np.zeros(shape, np.int64), np.zeros(shape, np.float32), np.zeros(shape, bool)
    for number, (rows, grades, counts) in enumerate(parts):
        places[number, : len(rows)] = vectors.places(rows)
        found[number, : len(rows)], present[number, : len(rows)] = grades, counts
    return Retrieved(places, found, present)


class QueryEncoderTraining:
    """The query encoder, what it searches in, and how a step's loss and gradients are computed.

    trained  the query encoder, all of it
    """

    def __init__(
        self,
        recipe: QueryEncoderRecipe,
        dataset: Dataset,
        queries: TrainingQueries,
        vectors: Vectors,
        base: Path,
        means: Means,
    ) -> None:
        self._recipe, self._dataset, self._queries, self._vectors = recipe, dataset, queries, vectors
        self._device, self._threads = means.device, means.threads
        self._encoders = open_encoders(recipe, base, means, apart=True)
        self._temperature = recipe.temperature or self._encoders.temperature
        depths = {phase.index: phase.depth for phase in recipe.adore}
        self._indexes = {
            kind: recipe.dense(k=depth, index=kind).open_index(dataset.corpus) for kind, depth in depths.items()
        }
        self.trained = Attached(self._encoders.query, ())

    def plan(self) -> Plan:
        """What the loop is to do."""
        phases = [self._phase(number, phase) for number, phase in enumerate(self._recipe.adore)]
        return Plan.of(self._recipe, phases, self._measure)

    def write(self, folder: Path) -> dict[str, Any]:
        """Write both encoders as a folder of sentence-transformers; the temperature."""
        write_encoders(self._encoders.query, self._encoders.document, folder)
        return {"temperature": self._temperature}

    def _phase(self, number: int, phase: Adore) -> PhasePlan:
        judged, index = self._queries.judged, self._indexes[phase.index]
        turns = Turns([one.query_id for one in judged], (self._recipe.seed, number), self._recipe.subset)
        size = turns.batch(phase.batch)

        def drawn(step: int) -> list[Judged]:
            return [judged[turns[turn]] for turn in range((step - 1) * size, step * size)]

        return PhasePlan.of(
            phase,
            f"{number + 1} {self._recipe.kind_of(phase)}",
            backward=lambda step: self._backward(drawn(step), phase, index),
            queries=lambda step: [one.query_id for one in drawn(step)],
        )

    def _backward(self, judged: list[Judged], phase: Adore, index: DenseIndex) -> float:
        encoders = self._encoders
        part = encoders.queries([one.text for one in judged])
        found = None
        if self._recipe.dropout and not phase.search_with_dropout:
            encoders.query.eval()
            with torch.no_grad():
                found = self._search(encoders.vectors(part), judged, phase, index)
            encoders.query.train()

        def loss(queries: Tensor) -> Tensor:
            places, grades, present = found or self._search(queries.detach(), judged, phase, index)
            scores = torch.einsum("qd,qgd->qg", queries, self._documents(places)) / self._temperature
            of_queries = losses.delta_ranknet(
                scores,
                torch.from_numpy(grades).to(self._device),
                torch.from_numpy(present).to(self._device),
                gain=phase.gain,
                cutoff=phase.cutoff or phase.depth,
            )
            return of_queries.mean()

        return encoders.backward([part], loss)

    def _documents(self, places: NDArray[np.int64]) -> Tensor:
        """(Q, G, D) vectors of documents by their places (Q, G); they have no gradient."""
        gathered = self._vectors.values[places.reshape(-1)].astype(np.float32, copy=False)
        return torch.from_numpy(gathered).to(self._device).view(*places.shape, -1)

    def _search(self, queries: Tensor, judged: list[Judged], phase: Adore, index: DenseIndex) -> Retrieved:
        k, tie_order = min(phase.depth, len(self._vectors.rows)), self._dataset.corpus.tie_order
        found = index.search(queries.float().cpu().numpy(), k, tie_order, threads=self._threads)
        cuts = found.offsets[1:-1]
        documents, scores = np.split(found.documents, cuts), np.split(found.scores, cuts)
        return retrieved(documents, scores, judged, self._vectors, phase.margin)

    def _measure(self) -> float:
        """What exact search gives development queries."""
        queries, qrels = self._queries.development
        vectors = self._encoders.vectors(self._encoders.queries(queries.texts)).cpu().numpy()
        return searched(self._vectors, vectors, queries, qrels, self._dataset, self._recipe.development.measure)
