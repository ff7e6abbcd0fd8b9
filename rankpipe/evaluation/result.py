"""Result, and evaluate: how well a run answers its judged queries.

The values are ir_measures'. Its providers break ties between equal scores in different ways, and one of them compares
scores in single precision; so they are given, in place of scores, whole numbers that fall by one from rank to rank.
Documents are named by their rows, which no id with odd characters in it can upset.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import ir_measures
from ir_measures import Measure

from rankpipe.data import Qrels
from rankpipe.errors import UsageError
from rankpipe.evaluation.measures import (
    DEFAULT_MEASURES,
    LARGEST_RELEVANCE,
    is_binary,
    read_measures,
    with_relevance_cut,
)
from rankpipe.run import Run

JUNK = -1
"""Grades below stand for it: to measures all are alike, and pytrec_eval writes outside its table for a query of lower ones."""


@dataclass(frozen=True, eq=False)
class Result(Mapping[str, float]):
    """What `evaluate` found: {measure: value over all judged queries}.

    means      measure -> mean over the judged queries (of counting measures such as NumRet, the sum)
    per_query  measure -> {query_id: value}, in the order of the judgements
    assumed    sentences on what was left out, counted as 0 or taken as relevant
    """

    means: Mapping[str, float]
    per_query: Mapping[str, Mapping[str, float]]
    assumed: tuple[str, ...] = ()

    def __getitem__(self, measure: str) -> float:
        return self.means[measure]

    def __iter__(self) -> Iterator[str]:
        return iter(self.means)

    def __len__(self) -> int:
        return len(self.means)

    def __repr__(self) -> str:
        return f"Result({', '.join(f'{measure} {value:.4f}' for measure, value in self.means.items())})"


def evaluate(
    run: Run | Mapping[str, Mapping[str, float]],
    qrels: Qrels | Mapping[str, Mapping[str, int]],
    measures: Iterable[str | Measure] | str | Measure = DEFAULT_MEASURES,
    *,
    relevance_cut: int = 1,
    drop_self: bool = False,
) -> Result:
    """Measure a run against judgements.

    run            of a pipeline, a file (Run.read_trec), or {query_id: {doc_id: score}}
    measures       names as ir_measures writes them, or its objects; results are found under the same names
    relevance_cut  lowest relevance that binary measures (R, RR, AP, P, ...) take as relevant, 1 or more, unless their
                   name says one, as in RR(rel=2)@10. nDCG uses the grades themselves, as gains, as trec_eval does
    drop_self      remove candidates whose doc_id is the query's own id before measuring (ArguAna, Quora)

    The mean is over all queries with a judgement, as with `trec_eval -c`: those that the run does not have or found
    nothing for count as 0, and so do those without a relevant document. Queries without a judgement are left out.
    A document without a judgement counts as not relevant; Judged@10 is the share of judged documents among the first
    ten (fewer, if the ranking is shorter), and so says how far the other figures can be trusted.

    Raises UsageError for an unknown measure, a measure that no installed provider has, and for a run and judgements
    that share no query. RankpipeError for a run whose candidates are not in order; see Run.check.
    """
    if isinstance(run, Mapping):
        run = Run.from_dict(run)
    run.check()
    wanted = read_measures(measures)
    if type(relevance_cut) is not int or not 1 <= relevance_cut <= LARGEST_RELEVANCE:
        raise UsageError(f"relevance_cut must be a whole number, 1 to {LARGEST_RELEVANCE}, not {relevance_cut!r}")
    judged = {query_id: documents for query_id, documents in Qrels.of(qrels).items() if documents}
    _check_judgements(run, judged)
    assumed: list[str] = []
    if drop_self:
        run = _without_self(run, assumed)
    _note_queries(run, judged, assumed)
    _note_relevance(wanted, judged, relevance_cut, assumed)
    asked = {name: with_relevance_cut(measure, relevance_cut) for name, measure in wanted.items()}
    named = _judgements_by_row(run, judged, assumed)
    values = _values(set(asked.values()), named, _rankings(run, judged))
    per_query = {name: {query_id: values[measure, query_id] for query_id in judged} for name, measure in asked.items()}
    means = {name: _mean(asked[name], of_queries.values()) for name, of_queries in per_query.items()}
    return Result(means, per_query, tuple(assumed))


def _check_judgements(run: Run, judged: Mapping[str, Mapping[str, int]]) -> None:
    if not judged:
        raise UsageError("there are no judgements to measure against")
    if not any(query_id in run.queries for query_id in judged):
        ours = f"the run's begin with {run.queries.ids[0]!r}" if len(run) else "the run has none"
        raise UsageError(
            f"the run and the judgements share no query: {ours}, the judgements' with {next(iter(judged))!r}"
        )
    for query_id, documents in judged.items():
        for doc_id, relevance in documents.items():
            if abs(relevance) > LARGEST_RELEVANCE:
                raise UsageError(
                    f"relevance of document {doc_id!r} for query {query_id!r} is {relevance}; "
                    f"measures take at most {LARGEST_RELEVANCE}"
                )


def _without_self(run: Run, assumed: list[str]) -> Run:
    """The run without the candidates that bear their query's id."""
    own = run.corpus.rows(run.queries.ids)
    same = run.documents == own[run.query_rows]
    assumed.append(f"{_count(int(same.sum()), 'candidate')} with the id of the query removed before measuring")
    return run.keep(~same)


def _note_queries(run: Run, judged: Mapping[str, Mapping[str, int]], assumed: list[str]) -> None:
    unjudged = sum(query_id not in judged for query_id in run.queries.ids)
    if unjudged:
        assumed.append(f"{unjudged} of the run's {_count(len(run), 'query')} without judgements left out")
    absent = sum(query_id not in run.queries for query_id in judged)
    if absent:
        assumed.append(f"{_count(absent, 'judged query')} not in the run counted as 0")
    counts = zip(run.queries.ids, run.counts.tolist(), strict=True)
    empty = sum(count == 0 and query_id in judged for query_id, count in counts)
    if empty:
        assumed.append(f"{_count(empty, 'judged query')} without candidates counted as 0")


def _note_relevance(
    wanted: Mapping[str, Measure], judged: Mapping[str, Mapping[str, int]], cut: int, assumed: list[str]
) -> None:
    highest = [max(documents.values()) for documents in judged.values()]
    binary = [name for name, measure in wanted.items() if is_binary(measure) and "rel" not in measure.params]
    if binary and (cut > 1 or max(highest) > 1):
        assumed.append(f"relevance {cut} or more taken as relevant in {', '.join(binary)}")
    without = sum(relevance < cut for relevance in highest)
    if without:
        assumed.append(
            f"{_count(without, 'judged query')} without a document of relevance {cut} or more kept in the mean"
        )
    rates = [name for name, measure in wanted.items() if measure.NAME == "Judged"]
    if rates and all(relevance > 0 for documents in judged.values() for relevance in documents.values()):
        assumed.append(f"only relevant documents are judged, so {', '.join(rates)} is their share, no more")


def _judgements_by_row(
    run: Run, judged: Mapping[str, Mapping[str, int]], assumed: list[str]
) -> dict[str, dict[str, int]]:
    """The judgements with rows in place of doc_ids; documents that the corpus lacks get names no row has."""
    ids = list(dict.fromkeys(doc_id for documents in judged.values() for doc_id in documents))
    rows = run.corpus.rows(ids)
    absent = int((rows < 0).sum())
    if absent and run.corpus.fields:  # a corpus of ids only was made from the run itself
        assumed.append(f"{_count(absent, 'judged document')} not in the corpus counted as not found")
    names = {
        doc_id: str(row) if row >= 0 else f"absent {place}"
        for place, (doc_id, row) in enumerate(zip(ids, rows.tolist(), strict=True))
    }
    return {
        query_id: {names[doc_id]: max(relevance, JUNK) for doc_id, relevance in documents.items()}
        for query_id, documents in judged.items()
    }


def _rankings(run: Run, judged: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """{query_id: {row: number of candidates from this one down}} of the judged queries that have any."""
    names = list(map(str, run.documents.tolist()))
    ends = run.offsets.tolist()
    return {
        query_id: dict(zip(names[start:end], range(end - start, 0, -1), strict=True))
        for query_id, start, end in zip(run.queries.ids, ends[:-1], ends[1:], strict=True)
        if end > start and query_id in judged
    }


def _values(
    measures: set[Measure], judged: dict[str, dict[str, int]], rankings: dict[str, dict[str, int]]
) -> dict[tuple[Measure, str], float]:
    """Value of every measure for every judged query. Query ids, too, are numbered on their way through C."""
    number = {query_id: str(place) for place, query_id in enumerate(judged)}
    ids = list(judged)
    by_number = {number[query_id]: documents for query_id, documents in judged.items()}
    try:
        evaluator = ir_measures.evaluator(sorted(measures, key=str), by_number)
    except ValueError as error:
        raise UsageError(f"ir_measures cannot measure this: {' '.join(str(error).split())}") from error
    try:
        metrics = list(evaluator.iter_calc({number[query_id]: ranking for query_id, ranking in rankings.items()}))
    except ZeroDivisionError:  # a provider's, by a number of documents
        names = ", ".join(sorted(map(str, measures)))
        raise UsageError(
            f"ir_measures divides by 0 for {names}: too few documents are judged to be, or not to be, relevant"
        ) from None
    values = {(metric.measure, ids[int(metric.query_id)]): float(metric.value) for metric in metrics}
    for measure in sorted(measures, key=str):
        if (absent := next((one for one in ids if (measure, one) not in values), None)) is not None:
            raise UsageError(f"ir_measures gives no value of {measure} for query {absent!r}, so that it has no mean")
    return values


def _mean(measure: Measure, values: Iterable[float]) -> float:
    aggregator = measure.aggregator()
    if isinstance(aggregator, ir_measures.MeanAgg):
        exact = list(values)
        return math.fsum(exact) / len(exact)
    for value in values:
        aggregator.add(value)
    return float(aggregator.result())


def _count(number: int, thing: str) -> str:
    """`1 query`, `2 queries`."""
    plural = f"{thing[:-1]}ies" if thing.endswith("y") else f"{thing}s"
    return f"{number} {thing if number == 1 else plural}"
