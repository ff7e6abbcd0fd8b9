"""Training of a ranker of features: what is drawn, the loss of a step, what is written.

OUTPUT/ has, besides what every training leaves (rankpipe.training.folder):
    ranker.json   names of the columns, layers; model.safetensors: weights (rankpipe.models.ranker_folder)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankpipe.data import Dataset, Qrels, Queries
from rankpipe.errors import UsageError
from rankpipe.evaluation.manifest import described
from rankpipe.models.adapters.attached import Attached
from rankpipe.models.feature_ranker import FeatureRanker
from rankpipe.models.ranker_folder import write_ranker
from rankpipe.pipeline import Pipeline
from rankpipe.run import Run
from rankpipe.stages.features import feature_columns, feature_matrix
from rankpipe.store import file_digest
from rankpipe.training import losses
from rankpipe.training import queries as drawing
from rankpipe.training.click_log import ClickLog, read_click_log
from rankpipe.training.click_losses import ClickLoss, Dual, PairDebias, RegressionEM, Weighted, propensities_of
from rankpipe.training.development import measured
from rankpipe.training.examples import Turns
from rankpipe.training.feature_ranking import AttachedRanker, scored, shown
from rankpipe.training.folder import Command
from rankpipe.training.loop import PhasePlan, Plan
from rankpipe.training.means import Means
from rankpipe.training.ranker_recipe import Clicks, Grades, RankerPhase, RankerRecipe
from rankpipe.training.sessions import Sessions

LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "softmax": losses.softmax,
    "list-net": losses.list_net,
    "ranknet": losses.ranknet,
    "lambda": losses.lambda_ndcg,
    "list-mle": losses.list_mle,
    "approx-ndcg": losses.approx_ndcg,
}


@dataclass(frozen=True, eq=False)
class Lists:
    """L lists of up to G documents that a phase learns from.

    ids       of their queries
    rows      (L, G) int64 rows of `features`; -1 where a list is shorter
    grades    (L, G) float32, of phases that learn judgements
    sessions  of phases that learn clicks
    whole     likewise, with the lists that nobody clicked
    """

    ids: list[str]
    rows: NDArray[np.int64]
    grades: NDArray[np.float32] | None = None
    sessions: Sessions | None = None
    whole: Sessions | None = None


@dataclass(frozen=True, eq=False)
class RankerMaterial:
    """What is drawn from a data set.

    columns      names of the F features
    features     (H, F) float32 of all documents in lists
    lists        by phase
    development  candidates of the queries that it is judged by, and their judgements
    account      what was drawn and what was left out, as JSON takes it
    """

    columns: tuple[str, ...]
    features: NDArray[np.float32]
    lists: list[Lists]
    development: tuple[Run, Qrels]
    account: dict[str, Any]


def train_ranker(recipe: RankerRecipe, asked: Command) -> str:
    """Train, leave a folder, and say what is best; what a killed, equal call has done is gone on with.

    Raises UsageError for a recipe that asks for what the data set does not have, DataError for a log that is wrong.
    """
    runtime = asked.runtime
    if asked.processes.count > 1:
        raise UsageError(f"a ranker is trained by one process; {asked.processes.count} were started")
    pipeline = Pipeline.load(recipe.candidates.pipeline, corpus=asked.dataset.corpus, runtime=runtime)
    with runtime.active():
        material = gather_lists(recipe, asked.dataset, pipeline, notify=asked.notify)
    return asked.run(None, material.account, lambda: RankerTraining(recipe, asked.dataset, material, asked.means))


def gather_lists(
    recipe: RankerRecipe, dataset: Dataset, pipeline: Pipeline, *, notify: Callable[[str], None]
) -> RankerMaterial:
    """Find the candidates of all queries and their features, and what is known of them."""
    account: dict[str, Any] = {}
    judged = any(isinstance(phase, Grades) for phase in recipe.phases)
    train, development = drawing.train_and_development(recipe, dataset, account, needed=False)
    if development is None or (judged and train is None):
        raise _no_judgements(recipe, dataset, judged=judged)
    gathered = Gathered(recipe, dataset, pipeline)
    lists = []
    account["phases"] = []
    for phase in recipe.phases:
        if isinstance(phase, Clicks):
            log = read_click_log(phase.log, dataset.queries(None), dataset.corpus)
            one, told = gathered.of_clicks(phase, log, trainable(dataset, recipe.split, development))
        elif train is not None:
            one, told = gathered.of_grades(gathered.run(train))
        else:  # never: it was looked for above
            raise _no_judgements(recipe, dataset, judged=True)
        notify(
            ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in told.items() if isinstance(value, int))
        )
        lists.append(one)
        account["phases"].append(told)
    features = gathered.features()
    account["features"] = {
        "columns": list(gathered.columns),
        "pipeline": [described(stage) for stage in pipeline.stages],
        "digest": hashlib.sha256(features.tobytes()).hexdigest()[:32],
    }
    split = account["development"]["split"]
    qrels = drawing.qrels_of(development, dataset, split)
    depth = recipe.development.depth or recipe.candidates.depth
    return RankerMaterial(gathered.columns, features, lists, (gathered.run(development).top(depth), qrels), account)


def trainable(dataset: Dataset, split: str, development: Queries) -> Queries:
    """Queries, judged or not, that may be trained on: none of development or of another split, nor one with its text."""
    others = {query_id for other in dataset.splits if other != split for query_id in dataset.queries(other).ids}
    others |= set(development.ids)
    texts = drawing.other_texts(dataset, split) | {drawing.plain_text(text) for text in development.texts}
    queries = dataset.queries(None)
    kept = [
        row
        for row, (query_id, text) in enumerate(zip(queries.ids, queries.texts, strict=True))
        if query_id not in others and drawing.plain_text(text) not in texts
    ]
    return queries.select(kept)


def _no_judgements(recipe: RankerRecipe, dataset: Dataset, *, judged: bool) -> UsageError:
    there = f"it has {', '.join(dataset.splits)}" if dataset.splits else "it has no judgements at all"
    what = f"judgements of split '{recipe.split}' to learn" if judged else "judged queries to decide what to keep by"
    return UsageError(
        f"data set '{dataset.name}' has no {what}; {there}. Clicks need no judgements to learn from, but a few to be judged by: "
        "a split 'dev'"
    )


class Gathered:
    """Runs of queries, and the rows of their features."""

    def __init__(self, recipe: RankerRecipe, dataset: Dataset, pipeline: Pipeline) -> None:
        self._recipe, self._dataset, self._pipeline = recipe, dataset, pipeline
        self._parts: list[NDArray[np.float32]] = []
        self._rows = 0
        self.columns: tuple[str, ...] = ()

    def run(self, queries: Queries) -> Run:
        """Candidates with their features. Raises UsageError for a pipeline that leaves none."""
        run = self._pipeline.run(queries, progress=False).top(self._recipe.candidates.depth)
        columns = feature_columns(run)
        if not columns:
            raise UsageError(
                f"pipeline {self._recipe.candidates.pipeline!r} leaves no features; it has to end with the stage 'features'"
            )
        self.columns = columns
        return run

    def of_grades(self, run: Run) -> tuple[Lists, dict[str, Any]]:
        """Lists of a run that have two documents of different grades."""
        qrels = self._dataset.qrels(self._recipe.split)
        first, width = self._take(run), int(run.counts.max(initial=1))
        ids, rows, grades = [], [], []
        itself = self._dataset.card.self_match
        for query, query_id in enumerate(run.queries.ids):
            begin, end = int(run.offsets[query]), int(run.offsets[query + 1])
            judged = qrels.get(query_id, {})
            documents = run.corpus.ids(run.documents[begin:end])
            kept = np.array([not (itself and one == query_id) for one in documents], bool)
            found = np.array([max(0.0, float(judged.get(one, 0))) for one in documents], np.float32)[kept]
            if len(set(found.tolist())) < 2:
                continue
            ids.append(query_id)
            own = first + np.arange(begin, end)[kept]
            rows.append(np.pad(own, (0, width - len(own)), constant_values=-1))
            grades.append(np.pad(found, (0, width - len(own))))
        if not ids:
            raise UsageError(
                f"none of {len(run)} judged queries of split '{self._recipe.split}' has a relevant document and another one "
                f"among its first {self._recipe.candidates.depth} candidates"
            )
        told = {"lists": len(ids), "queries_without_anything_to_learn": len(run) - len(ids)}
        return Lists(ids, np.stack(rows), np.stack(grades)), told

    def of_clicks(self, phase: Clicks, log: ClickLog, queries: Queries) -> tuple[Lists, dict[str, Any]]:
        """Lists of a log that were clicked, with the features that the pipeline gives their documents."""
        if phase.bad == "refuse":
            log.refuse_problems()
        own = log.of(queries)
        shown = own.added_up(queries, self._dataset.corpus, phase.positions)
        run = self._pipeline_features(shown.queries, shown.sessions, queries, log.path)
        return run, {
            "lists": len(run.ids),
            "sessions": int(shown.sessions.count.sum()),
            "clicks": int(shown.sessions.clicks.sum()),
            "lists_without_a_click": len(shown.sessions) - len(run.ids),
            "sessions_of_queries_that_do_not_train": len(log.sessions) - len(own.sessions),
            "wrong_lines": log.problems.told(),
            "log": file_digest(log.path),
        }

    def features(self) -> NDArray[np.float32]:
        """(H, F) of all documents taken so far."""
        return np.concatenate(self._parts)

    def _take(self, run: Run) -> int:
        """Take the features of a run's candidates; the row of the first."""
        first = self._rows
        self._parts.append(feature_matrix(run, self.columns))
        self._rows += len(run.documents)
        return first

    def _pipeline_features(self, owners: NDArray[np.int64], sessions: Sessions, queries: Queries, log: Path) -> Lists:
        clicked = np.flatnonzero(sessions.clicks.sum(1) > 0)
        if not len(clicked):
            raise UsageError(
                f"{log}: nothing is left to learn: of its sessions that are whole, {int(sessions.count.sum()):,} are of queries "
                f"that train, and none of these has a click in the first {sessions.shown.shape[1]} positions"
            )
        asked = np.unique(owners[clicked])
        run = self.run(queries.select(asked))
        first = self._take(run)
        place = {
            (int(owner), int(row)): first + at
            for at, (owner, row) in enumerate(zip(asked[run.query_rows].tolist(), run.documents.tolist(), strict=True))
        }
        shown = sessions.shown[clicked]
        rows = np.full(shown.shape, -1, np.int64)
        missing: list[tuple[int, int]] = []
        for number, owner in enumerate(owners[clicked].tolist()):
            for at, document in enumerate(shown[number].tolist()):
                if document < 0:
                    continue
                if (owner, document) in place:
                    rows[number, at] = place[owner, document]
                else:
                    missing.append((owner, document))
        if missing:
            owner, document = missing[0]
            raise UsageError(
                f"{log}: {len(missing):,} of {int((shown >= 0).sum()):,} documents that were shown have no features, for they are "
                f"not among the first {self._recipe.candidates.depth} candidates of {self._recipe.candidates.pipeline!r}; the first "
                f"is {self._dataset.corpus.ids([document])[0]!r} of query {queries.ids[owner]!r}. Take the pipeline that showed "
                "them, and a depth, and a stage 'cut' in it, that keeps them"
            )
        kept = Sessions(shown, sessions.count[clicked], sessions.clicks[clicked], sessions.pairs[clicked])
        return Lists([queries.ids[owner] for owner in owners[clicked].tolist()], rows, None, kept, sessions)


class RankerTraining:
    """The ranker, what is learnt of positions, and how a step's loss and gradients are computed.

    trained  both
    """

    def __init__(self, recipe: RankerRecipe, dataset: Dataset, material: RankerMaterial, means: Means) -> None:
        self._recipe, self._dataset, self._material, self._device = recipe, dataset, material, means.device
        torch.manual_seed(recipe.seed)
        self._ranker = FeatureRanker(len(material.columns), recipe.hidden)
        self._ranker.fit_scale(material.features)
        self._features = torch.from_numpy(material.features).to(self._device)
        self._clicks = [click_loss(phase) if isinstance(phase, Clicks) else None for phase in recipe.phases]
        times = [phase.propensity_rate / phase.learning_rate for phase in recipe.phases if isinstance(phase, Clicks)]
        self.trained: Attached = AttachedRanker(self._ranker, self._clicks, times=times)
        self.trained.network.to(self._device)

    def plan(self) -> Plan:
        """What the loop is to do."""
        phases = [self._phase(number, phase) for number, phase in enumerate(self._recipe.planned)]
        return Plan.of(self._recipe, phases, self._measure, begun=False)

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the ranker; what was learnt of positions, by phase."""
        write_ranker(self._ranker.cpu(), self._material.columns, folder)
        filled = [
            None if one.sessions is None else np.asarray(one.sessions.present.any(0)) for one in self._material.lists
        ]
        told = zip(self._clicks, filled, strict=True)
        return {"positions": [None if one is None else propensities_of(one, there) for one, there in told]}

    def _phase(self, number: int, phase: Any) -> PhasePlan:
        lists: Lists = self._material.lists[number]
        turns = Turns(len(lists.ids), (self._recipe.seed, number), self._recipe.subset)
        size = min(phase.batch, len(lists.ids))

        def drawn(step: int) -> NDArray[np.int64]:
            return np.array([turns[turn] for turn in range((step - 1) * size, step * size)], np.int64)

        def backward(step: int) -> float:
            loss = self._loss(phase, lists, self._clicks[number], drawn(step))
            loss.backward()
            return float(loss.detach())

        return PhasePlan.of(
            phase,
            f"{number + 1} {self._recipe.kind_of(self._recipe.phases[number])}",
            backward=backward,
            queries=lambda step: [lists.ids[at] for at in drawn(step).tolist()],
            optimizer=phase.optimizer,
        )

    def _loss(self, phase: RankerPhase, lists: Lists, clicks: ClickLoss | None, drawn: NDArray[np.int64]) -> Tensor:
        scores, present = scored(self._ranker, self._features, lists.rows[drawn])
        if isinstance(phase, Grades) and lists.grades is not None:
            grades = torch.from_numpy(lists.grades[drawn]).to(self._device)
            return LOSSES[phase.loss](scores, grades, present).mean()
        if clicks is None or lists.sessions is None:  # never: a phase learns one or the other
            raise UsageError(f"a ranker has no phase {type(phase).__name__}")
        return clicks(scores, shown(lists.sessions, drawn, present))

    def _measure(self) -> float:
        """The measure's mean over development queries, whose candidates are re-ranked."""
        run, qrels = self._material.development
        columns = feature_matrix(run, self._material.columns)
        scores = self._ranker(torch.from_numpy(columns).to(self._device)).cpu().numpy()
        return measured(run.rescored(scores), qrels, self._dataset, self._recipe.development.measure)


def click_loss(phase: Clicks) -> ClickLoss:
    """What a phase learns clicks with."""
    if phase.method == "dla":
        return Dual(phase.positions, limit=phase.limit)
    if phase.method == "regression-em":
        return RegressionEM(phase.positions)
    if phase.method == "pair-debias":
        return PairDebias(phase.positions)
    known = None if phase.propensities is None else torch.tensor(phase.propensities)
    return Weighted(known, limit=phase.limit)
