"""Re-ranking a run that was given: Pipeline.rerank."""

from __future__ import annotations

import pytest

from rankpipe import BM25, RM3, Chain, Corpus, Cut, Fuse, Interpolate, Pipeline, Queries, Run, Stage
from rankpipe.errors import PipelineError
from rankpipe.pipeline.pipeline import GIVEN_RUN

CORPUS = Corpus.from_texts(["apples", "pears", "cars"])
QUERIES = Queries.of({"a": "apples", "b": "cars"})
GIVEN = Run.of(QUERIES, CORPUS, {"a": {"d1": 1, "d2": 3}, "b": {"d3": 5, "d1": 4, "d2": 2}})


def test_the_candidates_are_those_of_the_run_and_its_scores_bear_the_name_run() -> None:
    pipeline = Pipeline(stages=(Cut(k=2), Interpolate(with_="run", weight=1)), corpus=CORPUS)
    run = pipeline.rerank(GIVEN)
    assert {query_id: list(ranked) for query_id, ranked in run.to_dict().items()} == {
        "a": ["d2", "d1"],
        "b": ["d3", "d1"],
    }
    assert run.features["run"].tolist() == [3, 1, 5, 4]


def test_batches_of_any_size_give_the_same_run() -> None:
    pipeline = Pipeline(stages=(Cut(k=2),), corpus=CORPUS)
    whole = pipeline.rerank(GIVEN)
    for size in (1, 2, 3):
        part = pipeline.rerank(GIVEN, batch_size=size)
        assert part.to_dict() == whole.to_dict()
        assert part.queries is GIVEN.queries


def test_a_run_of_no_queries_stays_one() -> None:
    empty = Run.empty(Queries.of({}), CORPUS)
    assert len(Pipeline(stages=(Cut(k=2),), corpus=CORPUS).rerank(empty)) == 0


DEAF = (
    "'bm25' replaces the candidates of the given run, which then count for nothing; re-ranking begins with a re-ranker"
)


@pytest.mark.parametrize(
    "stages",
    [(BM25(),), (Cut(k=2), BM25()), (Fuse([BM25(), BM25(k1=0.5)]),), (Cut(k=2), Chain(stages=(BM25(), Cut(k=1))))],
)
def test_a_pipeline_that_replaces_the_candidates_is_refused(stages: tuple[Stage, ...]) -> None:
    with pytest.raises(PipelineError) as raised:
        Pipeline(stages=stages, corpus=CORPUS).rerank(GIVEN)
    assert str(raised.value) == DEAF


def test_a_retriever_may_stand_beside_the_candidates_or_search_for_what_they_taught() -> None:
    beside = Pipeline(stages=(Fuse([Cut(k=1), BM25(k=1)]),), corpus=CORPUS).rerank(GIVEN)
    assert {query_id: set(ranked) for query_id, ranked in beside.to_dict().items()} == {"a": {"d2", "d1"}, "b": {"d3"}}
    taught = Pipeline(stages=(RM3(documents=1, terms=2, max_share=1), BM25()), corpus=CORPUS).rerank(GIVEN)
    assert set(taught.to_dict()["a"]) == {"d1", "d2"}  # pears stand in the first candidate
    with pytest.raises(PipelineError, match="'bm25' replaces the candidates of the given run"):
        Pipeline(stages=(BM25(), RM3(), BM25()), corpus=CORPUS).rerank(GIVEN)


def test_a_file_that_begins_with_a_re_ranker_is_right_only_where_a_run_is_given() -> None:
    text = "stages: [cut: {k: 2}, interpolate: {with: run}]"
    with pytest.raises(PipelineError, match="'cut' needs candidates"):
        Pipeline.from_yaml(text)
    assert Pipeline.from_yaml(text, given=GIVEN_RUN).stages == (Cut(k=2), Interpolate(with_="run"))


def test_a_stage_cannot_take_the_name_of_the_given_scores() -> None:
    text = "stages: [{cut: {k: 2}, name: run}]"
    with pytest.raises(PipelineError) as raised:
        Pipeline.from_yaml(text, given=GIVEN_RUN)
    assert "the name 'run' is that of the given run's scores; choose another one" in str(raised.value)
    assert Pipeline.from_yaml("stages: [{bm25: {k: 2}, name: run}]").stages[0].name == "run"
