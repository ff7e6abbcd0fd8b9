"""An experiment: one pipeline over one split of one data set, run, timed and measured by the data set's own rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from time import perf_counter

from rankpipe.data import Dataset
from rankpipe.errors import UsageError
from rankpipe.evaluation.measures import read_measures
from rankpipe.evaluation.result import Result, evaluate
from rankpipe.pipeline import Pipeline
from rankpipe.pipeline.order import MAKERS, NOTHING, parts_after
from rankpipe.pipeline.pipeline import GIVEN_RUN
from rankpipe.run import Run
from rankpipe.stage import traced
from rankpipe.trec import Ties


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What was run, what came out, and how long it took.

    seconds             wall seconds of each stage over all queries, by its label, without what `prepare` did
    prepare_seconds     building or opening indexes and models
    started, finished   when, in UTC
    """

    pipeline: Pipeline
    dataset: Dataset
    split: str
    run: Run
    result: Result
    seconds: Mapping[str, float]
    prepare_seconds: float
    started: datetime
    finished: datetime


def run_experiment(
    pipeline: Pipeline,
    dataset: Dataset,
    split: str = "test",
    *,
    measures: Sequence[str] | None = None,
    given: Run | None = None,
) -> Experiment:
    """Run a pipeline over the queries of a split and measure it; `measures` default to those of the data set's card.

    given  a run over the data set's corpus that the pipeline re-ranks, in place of searching
    """
    read_measures(measures or dataset.card.measures)  # a misspelt one is refused before any work is done
    began = datetime.now(timezone.utc)
    queries, bound = dataset.queries(split), pipeline.on(dataset.corpus)
    bound.to_yaml()  # which results hold: a stage that has no name there is said before any work is done
    if given is None:
        bound.check()
    known = NOTHING if given is None else GIVEN_RUN
    if "candidates" not in parts_after(bound.stages, known):
        raise UsageError(f"no stage makes candidates; put {MAKERS['candidates']} behind the last one")
    started = perf_counter()
    bound.prepare()
    prepared = perf_counter() - started
    with traced(bound) as trace:
        run = bound.run(queries) if given is None else bound.rerank(given)
    result = evaluate_on(run, dataset, split, measures=measures)
    return Experiment(
        pipeline=bound,
        dataset=dataset,
        split=split,
        run=run,
        result=result,
        seconds=trace.seconds,
        prepare_seconds=prepared,
        started=began,
        finished=datetime.now(timezone.utc),
    )


def given_run(path: Path | str, dataset: Dataset, split: str = "test", *, ties: Ties = "doc_id") -> Run:
    """The rankings that a run file has for the queries of a split, over the data set's corpus."""
    run = Run.read_trec(path, corpus=dataset.corpus, queries=dataset.queries(None), ties=ties)
    wanted = dataset.queries(split)
    return run.select([row for row, query_id in enumerate(run) if query_id in wanted])


def evaluate_on(run: Run, dataset: Dataset, split: str = "test", *, measures: Sequence[str] | None = None) -> Result:
    """Measure a run as the data set's card says: its measures, its relevance cut, self-matches removed or not."""
    card = dataset.card
    result = evaluate(
        run,
        dataset.qrels(split),
        measures or card.measures,
        relevance_cut=card.relevance_cut,
        drop_self=card.self_match,
    )
    return replace(result, assumed=(*dataset.notes, *result.assumed))
