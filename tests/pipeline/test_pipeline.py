"""Pipeline: loading, checking, running in batches, searching."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from rankpipe import BM25, Chain, Corpus, Cut, Fuse, Interpolate, Pipeline, Rescore, Run, Runtime
from rankpipe.errors import PipelineError, UsageError
from rankpipe.pipeline.pipeline import find_file
from rankpipe.stage import traced

TEXTS = ["red apples and pears", "green apples", "a red car", "pears", "cars and trucks"]


@pytest.fixture
def corpus() -> Corpus:
    return Corpus.from_texts(TEXTS)


def assert_same_run(one: Run, other: Run) -> None:
    assert one.queries.ids == other.queries.ids
    assert one.offsets.tolist() == other.offsets.tolist()
    assert one.documents.tolist() == other.documents.tolist()
    assert np.array_equal(one.scores, other.scores)
    assert {name: values.tolist() for name, values in one.features.items()} == {
        name: values.tolist() for name, values in other.features.items()
    }


def test_queries_may_be_a_mapping_texts_or_one_text(corpus: Corpus) -> None:
    pipeline = BM25().on(corpus)
    assert pipeline.run({"a": "pears"}).to_dict().keys() == {"a"}
    assert list(pipeline.run(["pears", "cars"])) == ["q1", "q2"]
    assert list(pipeline.run("pears")) == ["q1"]


def test_no_queries_give_an_empty_run(corpus: Corpus) -> None:
    run = BM25().on(corpus).run({})
    assert len(run) == 0
    assert run.documents.tolist() == []


def test_a_corpus_without_documents_is_prepared_and_searched() -> None:
    empty = Corpus.from_texts([])
    Pipeline(stages=(BM25(),)).prepare(empty)
    assert BM25().on(empty).run("pears").to_dict() == {"q1": {}}


def test_batches_of_any_size_give_the_same_run(corpus: Corpus) -> None:
    first = Fuse([BM25(name="all"), BM25(k1=0.0)], name="first")
    pipeline = (first >> Cut(k=4) >> Interpolate(with_="first")).on(corpus)
    queries = {f"q{number}": text for number, text in enumerate([*TEXTS, "", "nothing of it"])}
    whole = pipeline.run(queries)
    assert set(whole.features) == {"all", "first"}
    for size in (1, 2, 3, 100):
        assert_same_run(pipeline.run(queries, batch_size=size), whole)


def test_threads_do_not_change_the_run(corpus: Corpus) -> None:
    queries = TEXTS * 50
    one = Pipeline(stages=(BM25(),), corpus=corpus, runtime=Runtime(threads=1)).run(queries)
    assert_same_run(Pipeline(stages=(BM25(),), corpus=corpus, runtime=Runtime(threads=3)).run(queries), one)


def test_a_batch_size_below_one_is_refused(corpus: Corpus) -> None:
    with pytest.raises(UsageError, match=r"^batch_size is 0, must be at least 1$"):
        BM25().on(corpus).run("pears", batch_size=0)


def test_a_pipeline_without_a_corpus_says_how_to_give_it_one() -> None:
    with pytest.raises(UsageError) as raised:
        Pipeline(stages=(BM25(),)).run("pears")
    assert str(raised.value) == (
        "the pipeline has no corpus; give it one with pipeline.on(corpus) or Pipeline.load(..., corpus=)"
    )


def test_a_wrong_order_is_refused_before_anything_runs(corpus: Corpus) -> None:
    with pytest.raises(PipelineError) as raised:
        (Cut(k=3) >> BM25()).on(corpus).run("pears")
    assert str(raised.value) == (
        "'cut' needs candidates, and no stage before it makes any; put a retriever such as 'bm25' first"
    )


def test_search_gives_ranked_candidates_with_text_and_the_score_of_every_stage(corpus: Corpus) -> None:
    pipeline = (Fuse([BM25(name="plain"), BM25(b=0.0)]) >> Cut(k=3)).on(corpus)
    found = pipeline.search("red pears", k=2)
    assert [candidate.rank for candidate in found] == [1, 2]
    assert found[0].doc_id == "d1"
    assert found[0].text == "red apples and pears"
    assert set(found[0].scores) == {"fuse", "plain", "bm25", "cut"}
    assert found[0].scores["cut"] == found[0].score


def test_search_for_what_nothing_has_is_an_empty_list(corpus: Corpus) -> None:
    pipeline = BM25().on(corpus)
    assert pipeline.search("zebra") == []
    assert pipeline.search("") == []
    assert pipeline.search("the of and") == []


def test_seconds_of_every_stage_are_told(corpus: Corpus) -> None:
    pipeline = (Fuse([BM25(), BM25(k1=0.0)]) >> Cut(k=3)).on(corpus)
    with traced(pipeline) as trace:
        pipeline.run("pears")
    assert list(trace.labels.values()) == ["fuse", "bm25", "bm25-2", "cut"]
    assert set(trace.seconds) == {"fuse", "bm25", "bm25-2", "cut"}


def test_a_pipeline_is_a_stage_so_it_nests(corpus: Corpus) -> None:
    inner = BM25().on(corpus)
    nested = Fuse([inner, BM25()]).on(corpus)
    assert_same_run(nested.run("red pears"), Fuse([BM25(), BM25()]).on(corpus).run("red pears"))


def test_operators_and_yaml_give_equal_pipelines() -> None:
    built = Fuse([BM25(k=5) >> Cut(k=2), BM25(fields=("title",))], method="convex", name="x") >> Cut(k=1)
    text = """
description: none
stages:
  - fuse:
      method: convex
      branches:
        - [bm25: {k: 5}, cut: {k: 2}]
        - bm25: {fields: [title]}
    name: x
  - cut: {k: 1}
"""
    loaded = Pipeline.from_yaml(text)
    assert loaded.stages == built.stages
    assert loaded.description == "none"
    assert Pipeline.from_yaml(loaded.to_yaml()) == loaded


def test_a_stage_behind_a_pipeline_leaves_it_a_pipeline(corpus: Corpus) -> None:
    pipeline = Pipeline(stages=(BM25(k=9),), description="words", corpus=corpus, runtime=Runtime(threads=1))
    longer = pipeline >> Cut(k=1)
    assert (longer.stages, longer.description) == ((BM25(k=9), Cut(k=1)), "words")
    assert (longer.corpus, longer.runtime) == (corpus, Runtime(threads=1))
    assert_same_run(longer.run("red pears"), (BM25(k=9) >> Cut(k=1)).on(corpus).run("red pears"))


def test_what_yaml_could_not_say_of_a_pipeline_is_refused() -> None:
    with pytest.raises(ValidationError, match="a pipeline has no 'name', which YAML could not say"):
        Pipeline(stages=(BM25(),), name="p")
    for made in (lambda: Pipeline(stages=(BM25(),), description=""), lambda: BM25(name="")):
        with pytest.raises(ValidationError, match="at least 1 character"):
            made()


def test_a_reference_comes_back_from_yaml_as_it_was() -> None:
    pipeline = Pipeline(stages=(BM25(), Rescore(model="/models/mine/")))
    assert Pipeline.from_yaml(pipeline.to_yaml()) == pipeline


def test_chaining_flattens_unless_a_chain_has_a_name() -> None:
    assert (BM25() >> (Cut(k=2) >> Cut(k=1))).stages == (BM25(), Cut(k=2), Cut(k=1))
    named = Chain(stages=(BM25(), Cut(k=2)), name="both")
    assert (named >> Cut(k=1)).stages == (named, Cut(k=1))


def test_a_shipped_pipeline_is_found_by_its_name_and_a_file_goes_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_file("bm25").name == "bm25.yaml"
    assert Pipeline.load("bm25").stages == (BM25(),)
    (tmp_path / "bm25").write_text("stages: [bm25: {k: 7}]")
    assert Pipeline.load("bm25").stages == (BM25(k=7),)


def test_an_unknown_name_tells_what_is_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as raised:
        find_file("bm52")
    shipped = ", ".join(sorted(path.stem for path in find_file("bm25").parent.glob("*.yaml")))
    assert str(raised.value) == (
        f"there is no pipeline file 'bm52', and rankpipe ships none of that name; it ships {shipped}"
    )


def test_every_shipped_pipeline_loads_and_comes_back_from_its_yaml() -> None:
    for path in find_file("bm25").parent.glob("*.yaml"):
        pipeline = Pipeline.load(path)
        assert pipeline.description, path
        assert Pipeline.from_yaml(pipeline.to_yaml()) == pipeline
