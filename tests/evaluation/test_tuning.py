"""tune: the setting that is chosen, and what is refused."""

from __future__ import annotations

import pytest

from rankpipe import BM25, Corpus, Cut, Dataset, Fuse, Pipeline, evaluate
from rankpipe.errors import UsageError
from rankpipe.evaluation.tuning import Judged, settings_text, tune

DOCUMENTS = [
    {"id": "d1", "title": "apples", "text": "pears pears cars"},
    {"id": "d2", "title": "pears", "text": "apples and pears"},
    {"id": "d3", "title": "cars", "text": "apples cars trucks"},
    {"id": "d4", "title": "trucks and cars", "text": "red trucks"},
]
BY_TEXT = {"q1": {"d2": 1}, "q2": {"d1": 1}, "q3": {"d4": 1}}
"""Relevance that follows the texts and contradicts the titles."""


def dataset(split: str = "dev") -> Dataset:
    queries = {"q1": "apples and", "q2": "pears cars", "q3": "red trucks"}
    return Dataset.of(Corpus.from_records(DOCUMENTS), queries, BY_TEXT, split=split)


def pipeline() -> Pipeline:
    return Pipeline(stages=(Fuse([BM25(fields=("title",)), BM25(fields=("text",))]), Cut(k=3)), description="both")


def test_the_chosen_setting_is_the_best_of_all_that_were_tried() -> None:
    data = dataset()
    tuning = tune(pipeline(), [Judged(dataset=data, split="dev")], measure="RR@10")
    assert tuning.tried[0].mean == max(one.mean for one in tuning.tried)
    assert len({settings_text(one.stage) for one in tuning.tried}) == len(tuning.tried) > 40
    fuse = tuning.pipeline.stages[0]
    assert fuse == tuning.tried[0].stage
    run = fuse.on(data.corpus).run(data.queries("dev"))
    assert evaluate(run, data.qrels("dev"), "RR@10")["RR@10"] == tuning.tried[0].mean


def test_the_rest_of_the_pipeline_stays_as_it_was() -> None:
    tuned = tune(pipeline(), [Judged(dataset=dataset(), split="dev")]).pipeline
    assert tuned.stages[1] == Cut(k=3)
    assert tuned.description == "both"
    assert isinstance(tuned.stages[0], Fuse)
    assert tuned.stages[0].branches == pipeline().stages[0].parts


def test_the_file_bears_the_evidence_and_loads_again() -> None:
    tuning = tune(pipeline(), [Judged(dataset=dataset(), split="dev"), Judged(dataset=dataset("train"), split="train")])
    text = tuning.to_yaml("rankpipe tune both")
    assert Pipeline.from_yaml(text) == tuning.pipeline
    lines = text.splitlines()
    assert lines[0] == "# made by: rankpipe tune both"
    assert lines[1] == "# measure: nDCG@10, mean over own dev, own train"
    first = tuning.tried[0]
    assert lines[2] == (
        f"# chosen of {len(tuning.tried)} settings: {first.mean:.4f} ({first.values[0]:.4f}, {first.values[1]:.4f})"
    )
    assert lines[3].startswith("#   branch 1 alone: ")


def test_test_queries_are_refused() -> None:
    with pytest.raises(UsageError) as raised:
        tune(pipeline(), [Judged(dataset=dataset("test"), split="test")])
    assert str(raised.value) == ("own test: settings are chosen on train or dev splits; a test split is for reporting")


def test_a_pipeline_without_a_fuse_stage_is_refused() -> None:
    with pytest.raises(UsageError) as raised:
        tune(Pipeline(stages=(BM25(),)), [Judged(dataset=dataset(), split="dev")])
    assert str(raised.value) == (
        "tune chooses the settings of one fuse stage, which is a stage of the pipeline itself; there are 0"
    )


def test_an_unknown_measure_is_refused_before_anything_runs() -> None:
    with pytest.raises(UsageError, match="nDGC@10"):
        tune(pipeline(), [Judged(dataset=dataset(), split="dev")], measure="nDGC@10")
