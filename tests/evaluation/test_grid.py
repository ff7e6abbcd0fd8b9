"""tune over settings that are named: every combination against a run of its own, and what is said of those that cannot be."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rankpipe import BM25, Cut, Dataset, Fuse, Pipeline
from rankpipe.errors import UsageError
from rankpipe.evaluation.experiment import evaluate_on
from rankpipe.evaluation.grid import tune_settings
from rankpipe.evaluation.tuning import Judged

FUSED = Pipeline(
    stages=[
        Fuse([BM25(fields=("title",), k=20), BM25(fields=("text",), k=20)], method="convex", weights=(0.5, 0.5)),
        Cut(k=10),
    ]
)


@pytest.fixture
def judged(garden: Path) -> list[Judged]:
    dataset = Dataset.load(str(garden))
    return [Judged(dataset=dataset, split="train"), Judged(dataset=dataset, split="dev")]


def measured(pipeline: Pipeline, judged: list[Judged]) -> tuple[float, ...]:
    return tuple(
        evaluate_on(
            pipeline.on(one.dataset.corpus).run(one.dataset.queries(one.split)),
            one.dataset,
            one.split,
            measures=["nDCG@10"],
        )["nDCG@10"]
        for one in judged
    )


def test_every_combination_is_measured_as_the_whole_pipeline_is(judged: list[Judged]) -> None:
    tries = {"bm25-2.k1": [0.1, 3.0], "bm25.b": [0.0, 1.0], "cut.k": [2, 10]}
    told: list[str] = []
    grid = tune_settings(FUSED, judged, tries, notify=told.append)
    fuse = FUSED.stages[0]
    assert isinstance(fuse, Fuse)
    titles, texts = fuse.branches
    expected = {
        (k1, b, k): measured(
            Pipeline(stages=[replace(fuse, branches=(replace(titles, b=b), replace(texts, k1=k1))), Cut(k=k)]), judged
        )
        for k1 in (0.1, 3.0)
        for b in (0.0, 1.0)
        for k in (2, 10)
    }
    found = {tuple(one.chosen.values()): one.values for one in grid.tried}
    assert found.keys() == expected.keys()
    for values, of_one in found.items():
        assert of_one == pytest.approx(expected[values])
    means = [one.mean for one in grid.tried]
    assert means == sorted(means, reverse=True)
    assert means[0] == pytest.approx(max(sum(values) / 2 for values in expected.values()))
    assert grid.before.values == pytest.approx(measured(FUSED, judged))
    assert measured(grid.pipeline, judged) == pytest.approx(grid.tried[0].values)
    assert told == ["trying 8 combinations of bm25-2.k1, bm25.b, cut.k"]


def test_what_stands_before_the_first_change_stays_as_it_is(judged: list[Judged]) -> None:
    pipeline = Pipeline(stages=[BM25(k=20, name="first"), Cut(k=10)])
    grid = tune_settings(pipeline, judged, {"cut.k": [1, 5]})
    assert grid.pipeline.stages[0] is pipeline.stages[0]
    assert {one.chosen["cut.k"]: one.values for one in grid.tried} == {
        k: pytest.approx(measured(Pipeline(stages=[BM25(k=20), Cut(k=k)]), judged)) for k in (1, 5)
    }


def test_the_choice_is_written_with_the_evidence(judged: list[Judged]) -> None:
    grid = tune_settings(Pipeline(stages=[BM25(name="words")]), judged[:1], {"words.k1": [0.5, 2.0], "words.b": [0.3]})
    lines = grid.to_yaml("rankpipe tune x").splitlines()
    best, second = grid.tried
    assert lines[:5] == [
        "# made by: rankpipe tune x",
        f"# measure: nDCG@10, mean over {judged[0]}",
        f"# chosen of 2 combinations: words.k1 {best.chosen['words.k1']}, words.b 0.3: {best.mean:.4f}",
        f"#   as it was before: {grid.before.mean:.4f}",
        f"#   next: words.k1 {second.chosen['words.k1']}, words.b 0.3: {second.mean:.4f}",
    ]
    assert Pipeline.from_yaml(grid.to_yaml("x")) == grid.pipeline


@pytest.mark.parametrize(
    ("tries", "message"),
    [
        ({"bm52.k1": [1.0]}, "'bm52.k1': no stage is called 'bm52'; did you mean 'bm25'?"),
        ({"k1": [1.0]}, "'k1': no stage is called ''; there are: bm25, bm25-2, cut, fuse"),
        ({"bm25.feilds": [1.0]}, "'bm25.feilds': 'bm25' has no setting 'feilds'; did you mean 'fields'?"),
        ({"bm25.k1": [1.0, -1.0]}, "bm25.k1 -1.0: input should be greater than or equal to 0"),
        ({"bm25.k1": []}, "0 combinations; there must be 1 to 2,000"),
        ({"bm25.k1": [0.1] * 50, "bm25.b": [0.1] * 50}, "2,500 combinations; there must be 1 to 2,000"),
    ],
)
def test_what_cannot_be_is_said_before_any_work(judged: list[Judged], tries: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        tune_settings(FUSED, judged, tries)
    assert str(raised.value) == message


def test_nothing_is_chosen_on_test_queries(judged: list[Judged]) -> None:
    with pytest.raises(UsageError, match="settings are chosen on train or dev splits"):
        tune_settings(FUSED, [replace(judged[0], split="test")], {"bm25.k1": [1.0]})


def test_the_command_tries_settings(garden: Path, tmp_path: Path, rankpipe: Callable[..., Any]) -> None:
    words = ("tune", "bm25", "--dataset", garden, "--split", "train")
    done = rankpipe(
        *words, "--try", "bm25.k1=0.5,2", "--try", "bm25.fields=[text],[title, text]", "--output", tmp_path / "t.yaml"
    )
    assert done.status == 0, done.err
    assert "trying 4 combinations of bm25.k1, bm25.fields\n" in done.err
    assert (tmp_path / "t.yaml").read_text().startswith("# made by: rankpipe tune bm25 --dataset ")
    Pipeline.load(tmp_path / "t.yaml")
    for wrong in ("bm25.k1", "k1=1", "bm25.k1=", "bm25.k1=[", "=1"):
        assert rankpipe(*words, "--try", wrong) == (
            2,
            "",
            f"error: --try is {wrong!r}; it must be a stage, a setting and values of it, as bm25.k1=0.6,0.9,1.2\n",
        )
    twice = rankpipe(*words, "--try", "bm25.k1=1", "--try", "bm25.k1=2")
    assert twice.err == "error: --try names 'bm25.k1' twice; give all values at once\n"
