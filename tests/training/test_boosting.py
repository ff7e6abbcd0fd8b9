"""Trees: equal to LightGBM's own training, the best step is kept, and clicks are learnt with and without correction."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

lightgbm = pytest.importorskip("lightgbm", reason="needs the extra 'ltr'")

from rankpipe.data.svmlight import FeatureLists, read_svmlight  # noqa: E402
from rankpipe.errors import UsageError  # noqa: E402
from rankpipe.evaluation.list_measures import list_measures  # noqa: E402
from rankpipe.training.boosting import Judge, grow_on_clicks, grow_on_grades, parameters  # noqa: E402
from rankpipe.training.click_models import PositionBased  # noqa: E402
from rankpipe.training.lambda_clicks import ClickLambdas  # noqa: E402
from rankpipe.training.ranker_recipe import LambdaMart, Trees  # noqa: E402
from rankpipe.training.sessions import Sessions, ranked, simulate  # noqa: E402


def drawn(queries: int, seed: int, documents: int = 12) -> FeatureLists:
    """Lists whose grade follows the first two of 5 features; the third looks like the first where there is noise."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(documents - 4, documents + 1, size=queries)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    features = rng.normal(size=(offsets[-1], 5)).astype(np.float32)
    grades = np.clip(np.round(0.5 + 1.2 * features[:, 0] + 1.2 * np.abs(features[:, 1])), 0, 4).astype(np.float32)
    return FeatureLists(tuple(f"q{at}" for at in range(queries)), offsets, grades, features)


def measured(lists: FeatureLists, scores: NDArray[np.floating], name: str = "nDCG@5") -> float:
    return float(np.nanmean(list_measures(scores, lists.grades, lists.offsets)[name]))


SETTINGS = [
    LambdaMart(steps=40),
    LambdaMart(
        steps=30,
        learning_rate=0.2,
        num_leaves=7,
        max_depth=3,
        min_data_in_leaf=5,
        feature_fraction=0.6,
        bagging_fraction=0.7,
        bagging_freq=2,
        lambda_l2=1.0,
        max_bin=63,
        lambdarank_truncation_level=5,
        lambdarank_norm=False,
        sigmoid=2.0,
    ),
]


def own_training(lists: FeatureLists, settings: LambdaMart, seed: int) -> Any:
    """LightGBM as its users call it."""
    told = {
        "objective": "lambdarank",
        "learning_rate": settings.learning_rate,
        "num_leaves": settings.num_leaves,
        "max_depth": settings.max_depth or -1,
        "min_data_in_leaf": settings.min_data_in_leaf,
        "feature_fraction": settings.feature_fraction,
        "bagging_fraction": settings.bagging_fraction,
        "bagging_freq": settings.bagging_freq,
        "lambda_l2": settings.lambda_l2,
        "max_bin": settings.max_bin,
        "lambdarank_truncation_level": settings.lambdarank_truncation_level,
        "lambdarank_norm": settings.lambdarank_norm,
        "sigmoid": settings.sigmoid,
        "seed": seed,
        "num_threads": 1,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    data = lightgbm.Dataset(lists.features, label=lists.grades, group=lists.counts)
    return lightgbm.train(told, data, num_boost_round=settings.steps)


@pytest.mark.parametrize("settings", SETTINGS)
def test_trees_are_those_of_lightgbms_own_training(settings: LambdaMart) -> None:
    train, test = drawn(80, 0), drawn(40, 1)
    own = np.asarray(own_training(train, settings, 3).predict(test.features))
    found = grow_on_grades(train, settings, seed=3).ranker.scores(test.features)
    assert found.tolist() == pytest.approx(own.tolist(), abs=1e-6)
    assert measured(test, found) > 0.8


@pytest.mark.parametrize("settings", SETTINGS)
def test_on_lightgbms_example_ndcg_is_that_of_lightgbms_own_training(
    real_file: Callable[[str], Path], settings: LambdaMart
) -> None:
    train, test = (read_svmlight(real_file(f"ltr-lightgbm/{name}.txt.gz"), features=300) for name in ("train", "test"))
    own = np.asarray(own_training(train, settings, 1).predict(test.features))
    found = grow_on_grades(train, settings, seed=1).ranker.scores(test.features)
    assert measured(test, found) == pytest.approx(measured(test, own), abs=1e-6)
    assert measured(test, found) > measured(test, np.zeros(len(test.grades)))


def test_a_bag_that_cannot_be_parted_ends_nothing() -> None:
    train = drawn(6, 0)
    settings = LambdaMart(steps=60, min_data_in_leaf=12, bagging_fraction=0.5, bagging_freq=1)
    own = own_training(train, settings, 3)
    grown = grow_on_grades(train, settings, seed=3)
    assert grown.progress.step == 60
    assert grown.ranker.trees == own.num_trees()
    assert grown.ranker.scores(train.features).tolist() == pytest.approx(own.predict(train.features).tolist(), abs=1e-6)


def test_trees_that_part_nothing_are_no_ranker() -> None:
    train = drawn(4, 0)
    with pytest.raises(
        UsageError, match=rf"^no tree parts the {len(train.grades)} documents of the lists, where a leaf keeps"
    ):
        grow_on_grades(train, LambdaMart(steps=5, min_data_in_leaf=200))


def test_the_best_step_is_kept_and_patience_ends() -> None:
    train, development = drawn(40, 0), drawn(40, 1)
    noisy = FeatureLists(train.query_ids, train.offsets, train.grades[::-1].copy(), train.features)  # nothing to learn
    said: list[str] = []
    judge = Judge(
        development.features, lambda scores: measured(development, scores), "nDCG@5", 2, 3, "1 trees", said.append
    )
    grown = grow_on_grades(noisy, LambdaMart(steps=500), judge)
    progress = grown.progress
    values = [point["nDCG@5"] for point in progress.curve]
    assert progress.best == max(values)
    assert progress.best_at is not None
    assert progress.best_at == ("1 trees", 2 * (values.index(max(values)) + 1))
    assert len(values) == values.index(max(values)) + 1 + 3
    assert progress.stopped == ["1 trees"]
    assert grown.ranker.trees == progress.best_at[1]
    assert measured(development, grown.ranker.scores(development.features)) == pytest.approx(progress.best)
    assert said[-1] == "1 trees: no better nDCG@5 in 3 measurements; stopped"


def test_the_same_seed_gives_the_same_trees_and_another_gives_others() -> None:
    settings, lists = SETTINGS[1], drawn(40, 0)
    first, again, other = (grow_on_grades(lists, settings, seed=seed).ranker.text for seed in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize("grade", [31.0, 0.5])
def test_grades_that_lambdamart_cannot_learn_are_refused(grade: float) -> None:
    lists = drawn(5, 0)
    lists.grades[3] = grade
    with pytest.raises(UsageError) as error:
        grow_on_grades(lists, LambdaMart(steps=1))
    assert str(error.value) == f"grade {grade:g} is none that LambdaMART learns: whole numbers up to 30"


def test_grades_below_0_count_as_0() -> None:
    lists = drawn(20, 0)
    below = FeatureLists(lists.query_ids, lists.offsets, np.where(lists.grades == 0, -2, lists.grades), lists.features)
    settings = LambdaMart(steps=5)
    assert grow_on_grades(below, settings).ranker.text == grow_on_grades(lists, settings).ranker.text


def test_naive_clicks_are_learnt_as_lightgbms_own_lambdas_learn_grades() -> None:
    # one click in every list: then its best DCG is 1, and LightGBM divides by 1
    lists = drawn(60, 0)
    shown = ranked(lists, np.zeros(len(lists.grades)), 12)
    best = np.zeros(len(lists.grades), np.float32)
    for begin, end in zip(lists.offsets[:-1], lists.offsets[1:], strict=True):
        best[begin + int(np.argmax(lists.features[begin:end, 0]))] = 1
    clicks = np.where(shown >= 0, best[shown], 0).astype(np.int64)
    pairs = clicks[:, :, None] * ((1 - clicks) * (shown >= 0))[:, None, :]
    sessions = Sessions(shown, np.ones(len(shown), np.int64), clicks, pairs)
    told = {"learning_rate": 0.1, "num_leaves": 7, "min_data_in_leaf": 10}
    naive = grow_on_clicks(
        lists.features, ClickLambdas(sessions=sessions, norm=None), Trees(steps=20, **told)
    ).ranker.scores(lists.features)
    graded = FeatureLists(lists.query_ids, lists.offsets, best, lists.features)
    own = grow_on_grades(graded, LambdaMart(steps=20, lambdarank_norm=False, **told)).ranker.scores(lists.features)
    assert np.corrcoef(naive, own)[0, 1] > 0.9999
    assert naive.tolist() == pytest.approx(own.tolist(), abs=1e-3)  # LightGBM reads its sigmoid off a table


def test_unbiased_lambdamart_orders_better_than_clicks_taken_for_relevance() -> None:
    train, test = drawn(300, 0), drawn(200, 1)
    logging = (
        train.features[:, 2] + 0.3 * train.features[:, 0]
    )  # shows first what has much of a feature that is worth nothing
    shown = ranked(train, logging, 10)
    sessions = simulate(train, shown, PositionBased(eta=1.0), 30_000, np.random.default_rng(5), highest=4)
    settings = Trees(steps=60, num_leaves=8, min_data_in_leaf=20)
    values = {}
    for name, norm in (("naive", None), ("unbiased", 0.0)):
        grown = grow_on_clicks(train.features, ClickLambdas(sessions=sessions, norm=norm), settings)
        values[name] = measured(test, grown.ranker.scores(test.features), "nDCG@10")
        assert (grown.positions is None) == (norm is None)
    labels = grow_on_grades(train, LambdaMart(steps=60, num_leaves=8)).ranker.scores(test.features)
    assert values["unbiased"] > values["naive"] + 0.01
    assert values["unbiased"] < measured(test, labels, "nDCG@10") + 0.01


def test_settings_reach_lightgbm_under_its_own_names() -> None:
    told = parameters(LambdaMart(steps=3, num_leaves=5), seed=4, threads=2)
    assert told["num_leaves"] == 5
    assert told["max_depth"] == -1
    assert told["objective"] == "lambdarank"
    assert (told["seed"], told["num_threads"]) == (4, 2)
    assert "steps" not in told
