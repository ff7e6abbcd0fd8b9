"""What a ranker of features is trained on: lists of judged or clicked documents, the features of each, development.

Candidates and features come from a pipeline, or from a data set that has features itself (feature_dataset).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rankpipe.data import Corpus, Dataset, Qrels, Queries
from rankpipe.errors import UsageError
from rankpipe.evaluation.manifest import described
from rankpipe.models.runtime import Runtime
from rankpipe.pipeline import Pipeline
from rankpipe.run import Run
from rankpipe.stage import walk
from rankpipe.stages.features import RECIPROCAL_RANK, Features, feature_columns, feature_matrix
from rankpipe.training import queries as drawing
from rankpipe.training.click_lists import ClickLists, click_lists, in_words, nothing_judged, trainable
from rankpipe.training.click_log import ClickLog, read_click_log
from rankpipe.training.click_phases import FromLog
from rankpipe.training.feature_dataset import FeatureDataset
from rankpipe.training.ranker_recipe import FeatureCandidates, Grades, LambdaMart, RankerRecipe
from rankpipe.training.sessions import Sessions


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


class Candidates(Protocol):
    """Where candidates and their features come from.

    these     as a message calls a query's candidates
    deciding  settings that the features depend on; None where there are none
    """

    these: str
    deciding: Mapping[str, Any] | None

    def run(self, queries: Queries) -> Run:
        """Candidates with their features."""
        ...

    def told(self) -> dict[str, Any]:
        """What made them, as JSON takes it."""
        ...


class FromPipeline:
    """The first candidates that a pipeline finds, with what its stage `features` leaves."""

    def __init__(self, asked: FeatureCandidates, corpus: Corpus, runtime: Runtime) -> None:
        self._asked = asked
        self._pipeline = Pipeline.load(asked.pipeline, corpus=corpus, runtime=runtime)
        features = [stage for stage in walk(self._pipeline) if isinstance(stage, Features)]
        self.deciding: Mapping[str, Any] | None = features[-1].deciding() if features else None
        self.these = f"the first {asked.depth} candidates of {asked.pipeline!r}"

    def run(self, queries: Queries) -> Run:
        """Candidates with their features. Raises UsageError for a pipeline that leaves none."""
        run = self._pipeline.run(queries, progress=False).top(self._asked.depth)
        if not feature_columns(run):
            raise UsageError(
                f"pipeline {self._asked.pipeline!r} leaves no features; it has to end with the stage 'features'"
            )
        return run

    def told(self) -> dict[str, Any]:
        """Its stages."""
        return {"pipeline": [described(stage) for stage in self._pipeline.stages]}


class FromLists:
    """The documents of a query's list in a data set that has features itself."""

    these = "the documents of the query's list"
    deciding: Mapping[str, Any] | None = None

    def __init__(self, lists: FeatureDataset) -> None:
        self._lists = lists

    def run(self, queries: Queries) -> Run:
        """The queries' lists."""
        whole = self._lists.run
        return whole.select([whole.queries.row(query_id) for query_id in queries.ids])

    def told(self) -> dict[str, Any]:
        """Digests of the files."""
        return {"files": dict(self._lists.files)}


@dataclass(frozen=True, eq=False)
class RankerMaterial:
    """What is drawn from a data set.

    columns      names of the F features
    features     (H, F) float32 of all documents in lists
    lists        by phase
    deciding     settings that the columns depend on; None where there are none
    development  candidates of the queries that it is judged by, and their judgements
    account      what was drawn and what was left out, as JSON takes it
    """

    columns: tuple[str, ...]
    deciding: Mapping[str, Any] | None
    features: NDArray[np.float32]
    lists: list[Lists]
    development: tuple[Run, Qrels]
    account: dict[str, Any]


def gather_lists(
    recipe: RankerRecipe, dataset: Dataset, candidates: Candidates, *, notify: Callable[[str], None]
) -> RankerMaterial:
    """Find the candidates of all queries and their features, and what is known of them."""
    account: dict[str, Any] = {}
    judged = any(isinstance(phase, Grades | LambdaMart) for phase in recipe.phases)
    train, development = drawing.train_and_development(recipe, dataset, account, needed=False)
    if development is None or (judged and train is None):
        what = (f"judgements of split '{recipe.split}' to learn",) if judged else ()
        raise nothing_judged(dataset, *what)
    gathered = Gathered(recipe, dataset, candidates)
    lists = []
    account["phases"] = []
    for phase in recipe.phases:
        if isinstance(phase, FromLog):
            log = read_click_log(phase.log, dataset.queries(None), dataset.corpus)
            one, told = gathered.of_clicks(phase, log, trainable(dataset, recipe.split, development))
        elif train is not None:
            one, told = gathered.of_grades(gathered.run(train))
        else:  # never: it was looked for above
            raise nothing_judged(dataset)
        notify(in_words(told))
        if isinstance(phase, FromLog) and recipe.candidates is not None and RECIPROCAL_RANK in gathered.columns:
            notify(
                f"if the log is that of pipeline {recipe.candidates.pipeline!r}, its column '{RECIPROCAL_RANK}' is the position "
                f"itself, and takes its place: leave it out by 'candidates: {{..., without: [{RECIPROCAL_RANK}]}}'"
            )
        lists.append(one)
        account["phases"].append(told)
    features = gathered.features()
    account["features"] = {
        "columns": list(gathered.columns),
        **candidates.told(),
        "digest": hashlib.sha256(features.tobytes()).hexdigest()[:32],
    }
    split = account["development"]["split"]
    qrels = drawing.qrels_of(development, dataset, split)
    run = gathered.run(development)
    depth = recipe.development.depth or recipe.depth
    account["development"]["features"] = hashlib.sha256(
        run.documents.tobytes() + feature_matrix(run, gathered.columns).tobytes()
    ).hexdigest()[:32]
    return RankerMaterial(
        gathered.columns,
        candidates.deciding,
        features,
        lists,
        (run if depth is None else run.top(depth), qrels),
        account,
    )


class Gathered:
    """Runs of queries, and the rows of their features."""

    def __init__(self, recipe: RankerRecipe, dataset: Dataset, candidates: Candidates) -> None:
        self._recipe, self._dataset, self._candidates = recipe, dataset, candidates
        self._parts: list[NDArray[np.float32]] = []
        self._rows = 0
        self.columns: tuple[str, ...] = ()

    def run(self, queries: Queries) -> Run:
        """Candidates with their features. Raises UsageError for one that is left out and is not there."""
        run = self._candidates.run(queries)
        there = feature_columns(run)
        without = () if self._recipe.candidates is None else self._recipe.candidates.without
        if (unknown := next((name for name in without if name not in there), None)) is not None:
            raise UsageError(f"'without' names {unknown!r}, which is no feature; there are {', '.join(there)}")
        self.columns = tuple(name for name in there if name not in without)
        if not self.columns:
            raise UsageError("'without' names all features that there are")
        return run

    def of_grades(self, run: Run) -> tuple[Lists, dict[str, Any]]:
        """Lists of a run that have two documents of different grades."""
        qrels = self._dataset.qrels(self._recipe.split)
        first, width = self._take(run), int(run.counts.max(initial=1))
        ids, rows, grades = [], [], []
        itself = self._dataset.card.self_match
        for query, query_id in enumerate(run.queries.ids):
            span = run.span(query)
            judged = qrels.get(query_id, {})
            documents = run.corpus.ids(run.documents[span])
            kept = np.array([not (itself and one == query_id) for one in documents], bool)
            found = np.array([max(0.0, float(judged.get(one, 0))) for one in documents], np.float32)[kept]
            if len(set(found.tolist())) < 2:
                continue
            ids.append(query_id)
            own = first + np.arange(span.start, span.stop)[kept]
            rows.append(np.pad(own, (0, width - len(own)), constant_values=-1))
            grades.append(np.pad(found, (0, width - len(own))))
        if not ids:
            raise UsageError(
                f"none of {len(run)} judged queries of split '{self._recipe.split}' has a relevant document and another one "
                f"among {self._candidates.these}"
            )
        told = {"lists": len(ids), "queries_without_anything_to_learn": len(run) - len(ids)}
        return Lists(ids, np.stack(rows), np.stack(grades)), told

    def of_clicks(self, phase: FromLog, log: ClickLog, queries: Queries) -> tuple[Lists, dict[str, Any]]:
        """Lists of a log that were clicked, with the features that the pipeline gives their documents."""
        found = click_lists(phase, log, queries, self._dataset.corpus)
        return self._with_features(found, log.path), found.account

    def features(self) -> NDArray[np.float32]:
        """(H, F) of all documents taken so far."""
        return np.concatenate(self._parts)

    def _take(self, run: Run) -> int:
        """Take the features of a run's candidates; the row of the first."""
        first = self._rows
        self._parts.append(feature_matrix(run, self.columns))
        self._rows += len(run.documents)
        return first

    def _with_features(self, found: ClickLists, log: Path) -> Lists:
        queries, owners, shown = found.queries, found.owners.tolist(), found.sessions.shown
        asked = np.unique(found.owners)
        run = self.run(queries.select(asked))
        first = self._take(run)
        place = {
            (int(owner), int(row)): first + at
            for at, (owner, row) in enumerate(zip(asked[run.query_rows].tolist(), run.documents.tolist(), strict=True))
        }
        rows = np.full(shown.shape, -1, np.int64)
        missing: list[tuple[int, int]] = []
        for number, owner in enumerate(owners):
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
                f"not among {self._candidates.these}; the first "
                f"is {self._dataset.corpus.ids([document])[0]!r} of query {queries.ids[owner]!r}. Take the pipeline that showed "
                "them, and a depth, and a stage 'cut' in it, that keeps them"
            )
        return Lists([queries.ids[owner] for owner in owners], rows, None, found.sessions, found.whole)
