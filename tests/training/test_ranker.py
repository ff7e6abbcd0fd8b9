"""Training of rankers: from a recipe to a folder that the stage opens, from judgements and from a log of clicks."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'dense'")

from rankpipe import Dataset, Pipeline, Runtime, evaluate
from rankpipe.cli.train import train_recipe
from rankpipe.errors import DataError, MissingExtraError, PipelineError, UsageError
from rankpipe.training.click_log import write_click_log
from rankpipe.training.click_models import PositionBased
from rankpipe.training.folder import Command
from rankpipe.training.ranker_material import FromPipeline, gather_lists
from rankpipe.training.ranker_recipe import RankerRecipe
from rankpipe.training.ranker_training import train_ranker
from rankpipe.training.recipe_file import load_recipe

PIPELINE = """\
stages:
  - bm25: {k: 20}
    name: bm25
  - features: {scores: [bm25]}
"""
GRADES = """\
train: ranker
candidates: {pipeline: features.yaml, depth: 20}
phases:
  - grades: {steps: 30, learning_rate: 0.1, batch: 8}
development: {every: 10, patience: null}
"""
GRADES_PHASE = "grades: {steps: 30, learning_rate: 0.1, batch: 8}"


@pytest.fixture
def train(garden: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """`train(text)`: train a recipe on the garden; what its manifest says. The folder is tmp_path/ranker."""
    (tmp_path / "features.yaml").write_text(PIPELINE)

    def trained(
        text: str, output: Path = tmp_path / "ranker", notify: Callable[[str], None] = lambda _: None
    ) -> dict[str, Any]:
        (tmp_path / "recipe.yaml").write_text(text)
        recipe = load_recipe(tmp_path / "recipe.yaml")
        assert isinstance(recipe, RankerRecipe)
        asked = Command(
            recipe=recipe,
            dataset=Dataset.load(str(garden)),
            output=output,
            runtime=Runtime(device="cpu"),
            command="x",
            force=True,
            notify=notify,
        )
        train_ranker(recipe, asked)
        return json.loads((output / "manifest.json").read_text())

    return trained


def refuses(folder: Path, phase: str, message: str) -> None:
    """Check that a recipe with this phase is refused, with the place and the message that are given."""
    (folder / "features.yaml").write_text(PIPELINE)
    path = folder / "recipe.yaml"
    path.write_text(GRADES.replace(GRADES_PHASE, phase))
    with pytest.raises(PipelineError) as error:
        load_recipe(path)
    assert str(error.value) == f"{path}:{message}"


def clicks_of(garden: Path, path: Path, sessions: int = 400, **changed: Any) -> Path:
    """A log of the training queries, whose best documents stand in BM25's order."""
    dataset = Dataset.load(str(garden))
    run = Pipeline.load("bm25", corpus=dataset.corpus).run(dataset.queries("train")).top(5)
    qrels, rng = dataset.qrels("train"), np.random.default_rng(0)
    lines = []
    for number in range(sessions):
        query = run.queries.ids[number % len(run)]
        shown = [one.doc_id for one in run[query]]
        if not shown:
            continue
        relevance = np.array([[0.9 if qrels[query].get(one, 0) > 0 else 0.1 for one in shown]])
        clicked = (np.flatnonzero(PositionBased().draw(relevance, rng)[0]) + 1).tolist()
        lines.append({"query": query, "shown": shown, "clicks": clicked, "time": number, **changed})
    write_click_log(iter(lines), path)
    return path


def test_judgements_are_learnt_and_the_stage_opens_the_folder(
    train: Callable[..., dict[str, Any]], garden: Path, tmp_path: Path
) -> None:
    manifest = train(GRADES)
    assert manifest["best"]["measure"] == "nDCG@10"
    columns = json.loads((tmp_path / "ranker" / "ranker.json").read_text())["columns"]
    assert columns[:3] == ["score", "reciprocal-rank", "bm25"]
    assert manifest["examples"]["features"]["columns"] == columns
    (tmp_path / "learned.yaml").write_text(PIPELINE + "  - learned: {model: ranker, depth: 20}\n")
    dataset = Dataset.load(str(garden))
    pipeline = Pipeline.load(tmp_path / "learned.yaml", corpus=dataset.corpus)
    run = pipeline.run(dataset.queries("train"))
    assert (
        run.scores.tolist()
        != Pipeline.load("bm25", corpus=dataset.corpus).run(dataset.queries("train")).scores.tolist()
    )
    assert np.isfinite(run.scores).all()


def test_the_same_recipe_gives_the_same_ranker(train: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    train(GRADES)
    train(GRADES, tmp_path / "again")
    first, second = (tmp_path / name / "model.safetensors" for name in ("ranker", "again"))
    assert first.read_bytes() == second.read_bytes()


def test_a_ranker_orders_its_training_queries_better_than_before(
    train: Callable[..., dict[str, Any]], garden: Path, tmp_path: Path
) -> None:
    dataset = Dataset.load(str(garden))
    liked = {doc_id for judged in dataset.qrels("train").values() for doc_id in judged}
    ids = dataset.corpus.ids(dataset.corpus.live_rows())
    lines = "".join(json.dumps({"_id": doc_id, "liked": int(doc_id in liked)}) + "\n" for doc_id in ids)
    (tmp_path / "columns.jsonl").write_text(lines)
    told = PIPELINE.replace("[bm25]}", "[bm25], columns: columns.jsonl}").replace("k: 20", "k: 40")
    (tmp_path / "features.yaml").write_text(told)
    train(GRADES.replace("depth: 20", "depth: 40").replace("rate: 0.1", "rate: 0.5"))
    (tmp_path / "learned.yaml").write_text(told + "  - learned: {model: ranker, depth: 40}\n")
    values = {}
    for name in ("features", "learned"):
        run = Pipeline.load(tmp_path / f"{name}.yaml", corpus=dataset.corpus).run(dataset.queries("train"))
        values[name] = evaluate(run, dataset.qrels("train"), ["nDCG@10"])["nDCG@10"]
    assert values["learned"] > values["features"] + 0.02


def test_a_killed_training_of_two_phases_goes_on_to_the_same_bits(
    train: Callable[..., dict[str, Any]], garden: Path, tmp_path: Path
) -> None:
    clicks_of(garden, tmp_path / "clicks.jsonl")
    more = "  - clicks: {log: clicks.jsonl, positions: 5, steps: 30, learning_rate: 0.05}\n"
    recipe = GRADES.replace("development", f"{more}development")
    train(recipe)

    class Killed(Exception):
        """In the place of a signal."""

    lines = [0]

    def notify(line: str) -> None:
        lines[0] += line.startswith("2 clicks: step")
        if lines[0] == 2:  # after step 20 of the second phase; step 10 was kept
            raise Killed

    with pytest.raises(Killed):
        train(recipe, tmp_path / "again", notify)
    manifest = train(recipe, tmp_path / "again")
    first, second = (tmp_path / name / "model.safetensors" for name in ("ranker", "again"))
    assert first.read_bytes() == second.read_bytes()
    assert manifest["positions"] == json.loads((tmp_path / "ranker" / "manifest.json").read_text())["positions"]


def test_queries_without_judgements_are_learnt_from_clicks(
    train: Callable[..., dict[str, Any]], garden: Path, tmp_path: Path
) -> None:
    clicks_of(garden, tmp_path / "clicks.jsonl")
    (garden / "qrels" / "train.tsv").unlink()  # the log is all that is known of these queries
    phase = "clicks: {log: clicks.jsonl, positions: 5, steps: 10, learning_rate: 0.1}"
    recipe = GRADES.replace("grades: {steps: 30, learning_rate: 0.1, batch: 8}", phase)
    told = train(recipe)["examples"]["phases"][0]
    assert told["sessions"] > 100
    assert told["wrong_lines"] == {}
    with pytest.raises(UsageError) as error:
        train(GRADES)
    assert str(error.value).endswith(
        "has no judgements of split 'train' to learn; it has dev, test. Clicks need no judgements to learn from, but a few to "
        "be judged by: a split 'dev'"
    )


@pytest.mark.parametrize("loss", ["softmax", "list-net", "ranknet", "lambda", "list-mle", "approx-ndcg"])
def test_every_loss_falls(train: Callable[..., dict[str, Any]], loss: str) -> None:
    curve = train(GRADES.replace("batch: 8", f"batch: 8, loss: {loss}"))["curve"]
    losses = [point["loss"] for point in curve]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("method", ["dla", "regression-em", "pair-debias", "naive", "known"])
def test_clicks_are_learnt(train: Callable[..., dict[str, Any]], garden: Path, tmp_path: Path, method: str) -> None:
    clicks_of(garden, tmp_path / "clicks.jsonl")
    more = ", propensities: [1.0, 0.9, 0.7, 0.5, 0.4]" if method == "known" else ""
    phase = f"clicks: {{log: clicks.jsonl, method: {method}{more}, positions: 5, steps: 30, learning_rate: 0.1}}"
    manifest = train(GRADES.replace("grades: {steps: 30, learning_rate: 0.1, batch: 8}", phase))
    told = manifest["examples"]["phases"][0]
    assert told["wrong_lines"] == {}
    assert told["clicks"] > 0
    assert told["sessions_of_queries_that_do_not_train"] > 0  # held out, or in another split as well
    learnt = manifest["positions"][0]
    assert (learnt == {}) == (method == "naive")
    if method != "naive":
        assert len(learnt["propensities"]) == 5
        assert learnt["propensities"][0] == 1


def test_with_context_every_session_is_a_list_of_its_own(
    train: Callable[..., dict[str, Any]], garden: Path, tmp_path: Path
) -> None:
    clicks_of(garden, tmp_path / "clicks.jsonl")
    phase = "clicks: {log: clicks.jsonl, positions: 5, steps: 10, learning_rate: 0.1}"
    together = train(GRADES.replace(GRADES_PHASE, phase))["examples"]["phases"][0]
    manifest = train(GRADES.replace(GRADES_PHASE, phase.replace("steps", "context: true, steps")))
    apart = manifest["examples"]["phases"][0]
    assert apart["lists"] + apart["lists_without_a_click"] == apart["sessions"] == together["sessions"]
    assert together["lists"] < apart["lists"]
    assert apart["clicks"] == together["clicks"]
    assert len(manifest["positions"][0]["propensities"]) == 5


def test_a_column_that_is_the_position_is_told(
    train: Callable[..., dict[str, Any]], garden: Path, tmp_path: Path
) -> None:
    clicks_of(garden, tmp_path / "clicks.jsonl")
    recipe = GRADES.replace(GRADES_PHASE, "clicks: {log: clicks.jsonl, positions: 5, steps: 5, learning_rate: 0.1}")
    lines: list[str] = []
    train(recipe, notify=lines.append)
    [told] = [line for line in lines if "position itself" in line]
    assert told.endswith("leave it out by 'candidates: {..., without: [reciprocal-rank]}'")
    lines.clear()
    train(recipe.replace("depth: 20", "depth: 20, without: [reciprocal-rank]"), notify=lines.append)
    assert lines
    assert not [line for line in lines if "position itself" in line]


def test_clicks_may_go_on_from_judgements(train: Callable[..., dict[str, Any]], garden: Path, tmp_path: Path) -> None:
    clicks_of(garden, tmp_path / "clicks.jsonl")
    more = "  - clicks: {log: clicks.jsonl, positions: 5, steps: 10, learning_rate: 0.01}\n"
    manifest = train(GRADES.replace("development", f"{more}development"))
    assert [point["phase"] for point in manifest["curve"]] == ["1 grades"] * 3 + ["2 clicks"]
    assert manifest["positions"][0] is None
    assert len(manifest["positions"][1]["propensities"]) == 5


def test_a_wrong_log_is_refused_or_its_lines_are_left_out_and_counted(
    train: Callable[..., dict[str, Any]], garden: Path, tmp_path: Path
) -> None:
    path = clicks_of(garden, tmp_path / "clicks.jsonl")
    whole = path.read_text().splitlines()
    path.write_text("\n".join([*whole, whole[0], "{}"]) + "\n")
    phase = "clicks: {log: clicks.jsonl, positions: 5, steps: 10, learning_rate: 0.1}"
    recipe = GRADES.replace("grades: {steps: 30, learning_rate: 0.1, batch: 8}", phase)
    with pytest.raises(DataError) as error:
        train(recipe)
    assert str(error.value).splitlines()[-1] == (
        f"2 of {len(whole) + 2:,} sessions are wrong; mend the log, or leave them out with 'bad: leave-out'"
    )
    assert not (tmp_path / "ranker").exists()
    manifest = train(recipe.replace("positions: 5", "positions: 5, bad: leave-out"))
    wrong = manifest["examples"]["phases"][0]["wrong_lines"]
    assert {kind: one["count"] for kind, one in wrong.items()} == {"form": 1, "repeated": 1}


def test_what_was_shown_and_has_no_features_is_named(
    train: Callable[..., dict[str, Any]], garden: Path, tmp_path: Path
) -> None:
    dataset = Dataset.load(str(garden))
    query = dataset.queries("train").ids[1]  # the text of the first one is in every split
    found = {one.doc_id for one in Pipeline.load("bm25", corpus=dataset.corpus).run(dataset.queries("train"))[query]}
    ids = dataset.corpus.ids(dataset.corpus.live_rows())
    other = next(one for one in ids if one not in found)
    write_click_log(iter([{"query": query, "shown": [other], "clicks": [1]}]), tmp_path / "clicks.jsonl")
    phase = "clicks: {log: clicks.jsonl, steps: 10, learning_rate: 0.1}"
    with pytest.raises(UsageError) as error:
        train(GRADES.replace("grades: {steps: 30, learning_rate: 0.1, batch: 8}", phase))
    told = "clicks.jsonl: 1 of 1 documents that were shown have no features, for they are not among the first 20 candidates of "
    assert told in str(error.value)
    assert f"; the first is {other!r} of query {query!r}. Take the pipeline that showed them" in str(error.value)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("normalise: none", "with 'normalise: min-max' in the stage 'features', and here it is none"),
        ("k1: 1.2", "with 'k1: 0.9' in the stage 'features', and here it is 1.2"),
        ("model: encoder", "with another encoder as 'model' of the stage 'features'"),
    ],
)
def test_a_pipeline_whose_features_come_about_otherwise_is_refused(
    train: Callable[..., dict[str, Any]],
    garden: Path,
    tmp_path: Path,
    tiny_encoder: Callable[..., Path],
    written: str,
    message: str,
) -> None:
    train(GRADES)
    tiny_encoder(tmp_path / "encoder")
    stages = PIPELINE + "  - learned: {model: ranker, depth: 20}\n"
    (tmp_path / "learned.yaml").write_text(stages.replace("[bm25]}", f"[bm25], {written}}}"))
    dataset = Dataset.load(str(garden))
    pipeline = Pipeline.load(tmp_path / "learned.yaml", corpus=dataset.corpus)
    with pytest.raises(UsageError) as error:
        pipeline.run(dataset.queries("dev"))
    assert str(error.value) == (
        f"the ranker {tmp_path / 'ranker'} was trained {message}; give that stage the settings it had in training"
    )


def test_columns_that_are_left_out_are_not_seen(train: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    train(GRADES.replace("depth: 20", "depth: 20, without: [reciprocal-rank, score]"))
    columns = json.loads((tmp_path / "ranker" / "ranker.json").read_text())["columns"]
    assert columns[:2] == ["bm25", "title.bm25"]
    with pytest.raises(UsageError) as error:
        train(GRADES.replace("depth: 20", "depth: 20, without: [rank]"))
    assert str(error.value).startswith(
        "'without' names 'rank', which is no feature; there are score, reciprocal-rank, bm25, "
    )


def test_a_pipeline_without_features_is_refused(train: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(PipelineError) as error:
        train(GRADES.replace("features.yaml", "bm25"))
    assert str(error.value).endswith(":2:24: pipeline 'bm25' leaves no features; put the stage 'features' into it")


def test_a_recipe_that_cannot_be_is_refused_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "train: ranker\ncandidates: {pipeline: features, depth: 5}\nhidden: [0]\n"
        "phases:\n  - clicks: {log: x.jsonl, method: known, steps: 3, learning_rate: 0.1}\n"
    )
    with pytest.raises(PipelineError) as error:
        load_recipe(path)
    assert [line.removeprefix(f"{path}:") for line in str(error.value).splitlines()] == [
        "3:10: 'ranker' setting 'hidden[0]' is 0, must be at least 1",
        "5:5: 'clicks': 'propensities' and 'method: known' need each other",
        f"5:19: 'clicks' setting 'log' is 'x.jsonl', and there is no file {tmp_path / 'x.jsonl'}",
    ]


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        (
            "grades: {steps: 3, learning_rate: 0.1, warm_up: 1.5}",
            "4:53: 'grades' setting 'warm_up' is 1.5, must be at most 1",
        ),
        (
            "lambdamart-clicks: {log: x.jsonl, method: naive, norm: 0.5, steps: 3}",
            "4:5: 'lambdamart-clicks': 'norm' is of 'method: pair-debias', and changes nothing of 'naive'",
        ),
    ],
)
def test_settings_that_would_change_nothing_are_refused(tmp_path: Path, phase: str, message: str) -> None:
    (tmp_path / "x.jsonl").touch()
    refuses(tmp_path, phase, message)


def test_a_killed_training_does_not_go_on_where_the_features_of_development_have_changed(
    garden: Path, tmp_path: Path
) -> None:
    (tmp_path / "features.yaml").write_text(PIPELINE)
    (tmp_path / "recipe.yaml").write_text(GRADES)
    recipe, told = load_recipe(tmp_path / "recipe.yaml"), []
    assert isinstance(recipe, RankerRecipe)
    assert recipe.candidates is not None
    for changed in (False, False, True):
        if changed:  # a word in the text of dev queries alone: what is trained on stays as it was
            path = garden / "queries.jsonl"
            queries = [json.loads(line) for line in path.read_text().splitlines()]
            for one in queries:
                one["text"] += " road" * one["_id"].startswith("dev")
            path.write_text("".join(json.dumps(one) + "\n" for one in queries))
        dataset = Dataset.load(garden)
        candidates = FromPipeline(recipe.candidates, dataset.corpus, Runtime(device="cpu"))
        told.append(gather_lists(recipe, dataset, candidates, notify=lambda _: None).account)
    features = [one["development"]["features"] for one in told]
    assert features[0] == features[1] != features[2]


TREES = "lambdamart: {steps: 30, num_leaves: 4, min_data_in_leaf: 3}"


def test_trees_learn_judgements_and_the_stage_opens_the_folder(
    train: Callable[..., dict[str, Any]], garden: Path, tmp_path: Path
) -> None:
    pytest.importorskip("lightgbm", reason="needs the extra 'ltr'")
    manifest = train(GRADES.replace(GRADES_PHASE, TREES))
    assert [point["step"] for point in manifest["curve"]] == [10, 20, 30]
    assert manifest["best"]["phase"] == "1 lambdamart"
    assert manifest["trained_parameters"] == manifest["best"]["step"]  # trees
    assert manifest["positions"] == [None]
    (tmp_path / "learned.yaml").write_text(PIPELINE + "  - learned: {model: ranker, depth: 20}\n")
    dataset = Dataset.load(str(garden))
    run = Pipeline.load(tmp_path / "learned.yaml", corpus=dataset.corpus).run(dataset.queries("dev"))
    dropped = manifest["examples"]["development"]["dropped_recurring"]
    judged = {query: one for query, one in dataset.qrels("dev").items() if query not in dropped}
    assert evaluate(run, judged, ["nDCG@10"])["nDCG@10"] == pytest.approx(manifest["best"]["value"])
    train(GRADES.replace(GRADES_PHASE, TREES), tmp_path / "again")
    first, second = (tmp_path / name / "model.txt" for name in ("ranker", "again"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("method", ["pair-debias", "naive"])
def test_trees_learn_clicks(train: Callable[..., dict[str, Any]], garden: Path, tmp_path: Path, method: str) -> None:
    pytest.importorskip("lightgbm", reason="needs the extra 'ltr'")
    clicks_of(garden, tmp_path / "clicks.jsonl")
    phase = f"lambdamart-clicks: {{log: clicks.jsonl, method: {method}, positions: 6, steps: 20, min_data_in_leaf: 3}}"
    manifest = train(GRADES.replace(GRADES_PHASE, phase))
    assert manifest["examples"]["phases"][0]["clicks"] > 0
    (learnt,) = manifest["positions"]
    if method == "naive":
        assert learnt == {}
    else:
        assert len(learnt["propensities"]) == 6
        assert learnt["propensities"][0] == 1
        assert learnt["propensities"][5] is None  # five were shown


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            f"{TREES}\n  - {GRADES_PHASE}",
            "1:1: 'ranker': trees are grown in one phase: 'lambdamart' stands alone",
        ),
        (
            "lambdamart: {steps: 3, num_leafs: 4}",
            "4:28: 'lambdamart' has no setting 'num_leafs'; did you mean 'num_leaves'?",
        ),
        ("lambdamart: {steps: 3, num_leaves: 1}", "4:40: 'lambdamart' setting 'num_leaves' is 1, must be at least 2"),
        (
            "lambdamart: {steps: 3, bagging_fraction: 0.5}",
            "4:5: 'lambdamart': 'bagging_fraction' below 1 and 'bagging_freq' above 0 need each other",
        ),
        (f"{TREES}\nhidden: [4]", "1:1: 'ranker': 'hidden' is of networks, and 'lambdamart' grows trees"),
        (
            f"{TREES}\nsubset: {{kind: rs2, ratio: 0.5}}",
            "1:1: 'ranker': 'subset' is of networks; 'lambdamart' has bagging_fraction and bagging_freq",
        ),
    ],
)
def test_settings_of_trees_that_cannot_be_are_refused_with_their_place(
    tmp_path: Path, changed: str, message: str
) -> None:
    refuses(tmp_path, changed, message)


def test_trees_without_lightgbm_say_what_to_install(
    train: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(MissingExtraError) as error:
        train(GRADES.replace(GRADES_PHASE, TREES))
    assert str(error.value) == (
        "phase 'lambdamart' needs lightgbm: install rankpipe with its extra 'ltr', for example pip install '.[ltr]'"
    )


def test_a_ranker_begins_with_no_model(garden: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^a ranker begins with no model; leave out --model$"):
        train_recipe(
            "ranker",
            str(garden),
            tmp_path / "out",
            Runtime(),
            model="minilm",
            recompute=False,
            command="x",
            force=False,
            say=lambda _: None,
        )
