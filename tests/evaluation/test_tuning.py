"""tune: the setting that is chosen, and what is refused."""

from __future__ import annotations

from typing import ClassVar

import pytest
from pydantic.dataclasses import dataclass

from rankpipe import BM25, Corpus, Cut, Dataset, Fuse, Interpolate, Pipeline, Run, evaluate
from rankpipe.errors import UsageError
from rankpipe.evaluation.tuning import Judged, settings_text, tune
from rankpipe.stage import SETTINGS, Chain, Part, Stage

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


def test_the_own_setting_stays_where_none_is_better() -> None:
    own = Fuse([BM25(fields=("title",)), BM25(fields=("title",))], smoothing=70)
    tuning = tune(Pipeline(stages=(own,)), [Judged(dataset=dataset(), split="dev")])
    assert len({one.mean for one in tuning.tried}) == 1
    assert (tuning.tried[0], tuning.pipeline.stages) == (tuning.before, (own,))
    assert settings_text(tuning.tried[1].stage) == "reciprocal-rank, smoothing 60"


def test_many_branches_get_weights_in_coarser_steps() -> None:
    branches = [BM25(fields=("title",), k1=number) for number in range(9)]
    tuning = tune(Pipeline(stages=(Fuse(branches),)), [Judged(dataset=dataset(), split="dev")])
    weighted = [one.stage.weights for one in tuning.tried if isinstance(one.stage, Fuse) and one.stage.weights]
    assert [sum(weights) for weights in weighted] == pytest.approx([1] * len(weighted), abs=1e-5)
    assert set(map(len, weighted)) == {9}
    assert len(set(weighted)) == 45  # ways to give the two elevenths that are left to nine branches


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


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Reversed(Stage):
    """The last becomes the first."""

    needs: ClassVar[frozenset[Part]] = frozenset({"candidates"})

    def __call__(self, run: Run) -> Run:
        return run.rescored(-run.scores)


def mixed() -> Pipeline:
    stages = BM25(fields=("text",), name="text"), Reversed(), Interpolate(with_="text", weight=0.5), Cut(k=3)
    return Pipeline(stages=stages)


def test_the_weight_of_interpolate_is_chosen() -> None:
    data = dataset()
    tuning = tune(mixed(), [Judged(dataset=data, split="dev")], measure="RR@10")
    assert [settings_text(one.stage) for one in (tuning.before, *tuning.tried[:1])] == [
        "min-max, weight 0.5",
        "min-max, weight 0.55",  # the first that puts the text's order above its reverse
    ]
    assert len(tuning.tried) == 2 * 19
    assert tuning.pipeline.stages == (*mixed().stages[:2], tuning.tried[0].stage, Cut(k=3))
    assert tuning.single == {"the scores of 'text'": (1.0,), "the scores before interpolate": (pytest.approx(4 / 9),)}
    run = Pipeline(stages=tuning.pipeline.stages[:3]).on(data.corpus).run(data.queries("dev"))
    assert evaluate(run, data.qrels("dev"), "RR@10")["RR@10"] == tuning.tried[0].mean == 1.0
    assert tuning.before.mean < 1.0


@pytest.mark.parametrize(
    ("stages", "reason"),
    [
        (
            (Fuse([BM25(), Chain(stages=(BM25(), Reversed()))]),),
            "branch 2 knows no lowest score",
        ),
        ((Interpolate(with_="title"),), "interpolate states no 'minimum'"),
        ((Fuse([BM25(), BM25(k1=1)]),), None),
        ((Interpolate(with_="title", normalise="theoretical-minimum", minimum=[0, 0]),), None),
    ],
    ids=["a branch", "interpolate", "all known", "stated"],
)
def test_that_the_theoretical_minimum_is_not_tried_is_said(stages: tuple[Stage, ...], reason: str | None) -> None:
    said: list[str] = []
    whole = Pipeline(stages=(BM25(fields=("title",), name="title"), *stages))
    tuning = tune(whole, [Judged(dataset=dataset(), split="dev")], notify=said.append)
    left_out = [line for line in said if "theoretical-minimum" in line]
    assert left_out == ([] if reason is None else [f"theoretical-minimum is left out: {reason}"])
    tried = any("theoretical-minimum" in settings_text(one.stage) for one in tuning.tried)
    assert tried == (reason is None)


def test_the_last_stage_that_joins_is_tuned() -> None:
    stages = (*pipeline().stages[:1], Cut(k=3, name="cut"), Interpolate(with_="cut"))
    tuning = tune(Pipeline(stages=stages), [Judged(dataset=dataset(), split="dev")])
    assert tuning.pipeline.stages[:2] == stages[:2]
    assert isinstance(tuning.pipeline.stages[2], Interpolate)


def test_a_pipeline_that_joins_nothing_is_refused() -> None:
    with pytest.raises(UsageError) as raised:
        tune(Pipeline(stages=(BM25(), Cut(k=3))), [Judged(dataset=dataset(), split="dev")])
    assert str(raised.value) == (
        "tune chooses the settings of the last stage of a pipeline that is fuse or interpolate; "
        "the stages of this one are bm25, cut"
    )


def test_an_unknown_measure_is_refused_before_anything_runs() -> None:
    with pytest.raises(UsageError, match="nDGC@10"):
        tune(pipeline(), [Judged(dataset=dataset(), split="dev")], measure="nDGC@10")


def test_a_measure_of_judged_documents_alone_sees_behind_those_that_are_not_judged() -> None:
    documents = [{"id": f"d{n}", "title": "sweet", "text": "sweet fruit"} for n in range(6)]
    corpus = Corpus.from_records([*documents, {"id": "r", "title": "sour", "text": "a long sweet story of fruit"}])
    data = Dataset.of(corpus, {"q": "sweet fruit"}, {"q": {"r": 1}}, split="dev")
    fuse = Fuse([BM25(fields=("title",)), BM25(fields=("text",))])
    tuning = tune(Pipeline(stages=(fuse,)), [Judged(dataset=data, split="dev")], measure="nDCG(judged_only=True)@3")
    assert tuning.before.mean == 1.0
