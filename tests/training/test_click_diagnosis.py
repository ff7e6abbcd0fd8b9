"""The diagnosis of a click log: numbers by hand, and verdicts that fit what clicks were drawn with."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'dense'")

from rankpipe import Dataset, Pipeline
from rankpipe.stages.features import feature_columns
from rankpipe.training.click_diagnosis import Diagnosis, diagnose, picture
from rankpipe.training.click_log import write_click_log
from rankpipe.training.click_models import ClickModel, PositionBased
from rankpipe.training.sessions import Sessions

SURE = Diagnosis(
    sessions=1000,
    lists=10,
    clicks=500,
    click_through=np.array([[0.5, 0.4, 0.6], [0.2, 0.1, 0.3]]),
    propensities=np.array([[1, 1, 1], [0.4, 0.3, 0.5]]),
    truth=None,
    effective=400.0,
    disagreement=0.2,
    strength=0.3,
    draws=20,
)


def logged(model: ClickModel, *, blind: bool, sessions: int = 60_000, lists: int = 300) -> tuple[Any, ...]:
    """Features, rows and sessions of lists of 6 documents, whose relevance is a line in 3 features, as a logarithm."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(lists * 6, 3)).astype(np.float32)
    relevance = np.exp(0.5 * features @ np.array([1.0, -1, 0.5]) - 2).clip(0, 1)
    seen = features[:, 2] if blind else np.log(relevance)
    rows = np.stack([at * 6 + np.argsort(-seen[at * 6 : at * 6 + 6]) for at in range(lists)])
    count = np.full(lists, sessions // lists)
    drawn = model.draw(np.repeat(relevance[rows], count, axis=0), rng).reshape(lists, -1, 6)
    pairs = (drawn[:, :, :, None] & ~drawn[:, :, None, :]).sum(1)
    return features, rows, Sessions(rows, count, drawn.sum(1), pairs)


def test_a_bias_is_found_and_correcting_is_likely_to_help() -> None:
    model = PositionBased(eta=1.0)
    found = diagnose(*logged(model, blind=True), draws=5, truth=model.propensities(6).tolist())
    assert found.error is not None
    assert found.error < 0.15
    assert found.verdict.startswith("likely: position 6 is looked at 0.")
    low, high = found.propensities[:, 1], found.propensities[:, 2]
    assert (low <= high).all()
    assert (high - low)[1:].max() < 0.3


def test_without_a_bias_there_is_nothing_to_correct() -> None:
    found = diagnose(*logged(PositionBased(eta=0.0), blind=True), draws=5)
    assert found.verdict == "hardly: no position is looked at less than the first, as far as these clicks show"


def test_a_feature_that_is_the_position_itself_widens_the_band() -> None:
    """With a feature that is the position itself, rankers that begin elsewhere share its effect out otherwise."""
    features, rows, sessions = logged(PositionBased(), blind=True)
    place = np.empty(len(features), np.float32)
    place[rows] = 1 / np.arange(1, rows.shape[1] + 1, dtype=np.float32)
    without = diagnose(features, rows, sessions, draws=6)
    beside = diagnose(np.column_stack([features, place]), rows, sessions, draws=6)
    widths = [np.diff(found.propensities[1:, 1:]).max() for found in (without, beside)]
    assert widths[1] > 3 * widths[0]


def test_of_few_clicks_nothing_is_said() -> None:
    found = diagnose(*logged(PositionBased(), blind=True, sessions=300), draws=2)
    assert found.verdict.startswith(f"cannot be told: {found.clicks} clicks, weighted, are worth ")


def test_the_order_of_relevance_cannot_be_told_from_position() -> None:
    found = diagnose(*logged(PositionBased(), blind=False), draws=2)
    assert found.strength > 0.9
    assert replace(SURE, strength=found.strength).verdict.startswith(
        "uncertain: what was shown was ordered almost as relevance is (correlation "
    )


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        (
            {},
            "likely: position 2 is looked at 0.40 times as often as the first, and correction orders 20 % of all pairs",
        ),
        ({"effective": 99.0}, "cannot be told: 500 clicks, weighted, are worth 99; at least 100 are needed"),
        ({"propensities": np.array([[1, 1, 1], [0.9, 0.75, 1.1]])}, "hardly: no position is looked at less"),
        (
            {"propensities": np.array([[1, 1, 1], [0.8, 0.5, 0.9]])},
            "cannot be told: the bands reach from 0.50 to 0.90; more lists would narrow them",
        ),
        (
            {"propensities": np.array([[1, 1, 1], [1.31, 0.44, 1.15]])},
            "cannot be told: rankers that begin with other weights, on lists drawn anew, find other propensities",
        ),
        ({"disagreement": 0.01}, "hardly: with and without correction, 99.0 % of all pairs"),
        ({"strength": 0.85}, "uncertain: what was shown was ordered almost as relevance is (correlation 0.85)"),
    ],
)
def test_the_verdict_follows_the_evidence(changed: dict[str, Any], verdict: str) -> None:
    assert replace(SURE, **changed).verdict.startswith(verdict)


def test_of_few_draws_the_band_is_no_measure_of_the_estimate() -> None:
    far = np.array([[1, 1, 1], [1.31, 0.44, 0.8]])
    assert not replace(SURE, propensities=far, draws=10).settled
    assert replace(SURE, propensities=far, draws=9).settled


def test_click_through_and_effective_clicks_by_hand() -> None:
    features = np.array([[0.0], [1.0], [2.0]], np.float32)
    rows = np.array([[0, 1], [2, -1]])
    pairs = np.zeros((2, 2, 2), np.int64)
    sessions = Sessions(rows, np.array([100, 50]), np.array([[40, 10], [20, 0]]), pairs)
    found = diagnose(features, rows, sessions, draws=2, steps=3)
    assert found.click_through[:, 0].tolist() == pytest.approx([60 / 150, 10 / 100])
    # Wilson: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n), z = 1.96
    square = 1.959964**2
    middle, half = 0.1 + square / 200, 1.959964 * np.sqrt(0.1 * 0.9 / 100 + square / 40_000)
    expected = [(middle - half) / (1 + square / 100), (middle + half) / (1 + square / 100)]
    assert found.click_through[1, 1:].tolist() == pytest.approx(expected)
    weight = 1 / found.propensities[1, 0]
    assert found.effective == pytest.approx((60 + 10 * weight) ** 2 / (60 + 10 * weight**2))


def test_of_positions_that_nothing_was_shown_in_nothing_is_said() -> None:
    features, rows, sessions = logged(PositionBased(), blind=True, lists=60, sessions=6000)
    wide = [np.pad(one, [(0, 0)] + [(0, 3)] * (one.ndim - 1)) for one in (sessions.clicks, sessions.pairs)]
    rows = np.pad(rows, ((0, 0), (0, 3)), constant_values=-1)
    found = diagnose(features, rows, Sessions(rows, sessions.count, *wide), draws=2, truth=[1.0] * 9)
    assert np.isnan(found.propensities[6:]).all()
    assert not np.isnan(found.propensities[:6]).any()
    assert found.error == pytest.approx(np.abs(found.propensities[:6, 0] - 1).max())
    assert "position 9" not in found.verdict
    assert found.told()["propensities"][8] == {"value": None, "from": None, "to": None}
    ElementTree.fromstring(picture(found))


def test_click_through_counts_lists_that_nobody_clicked() -> None:
    features, rows = np.zeros((2, 1), np.float32), np.array([[0, 1]])
    pairs = np.zeros((1, 2, 2), np.int64)
    clicked = Sessions(rows, np.array([10]), np.array([[5, 1]]), pairs)
    whole = Sessions(np.array([[0, 1], [1, 0]]), np.array([10, 90]), np.array([[5, 1], [0, 0]]), np.repeat(pairs, 2, 0))
    found = diagnose(features, rows, clicked, whole=whole, draws=2, steps=2)
    assert found.click_through[:, 0].tolist() == [0.05, 0.01]
    assert found.sessions == 100


def test_the_picture_is_drawn() -> None:
    root = ElementTree.fromstring(picture(replace(SURE, truth=np.array([1.0, 0.5]))))
    lines = [one for one in root if one.tag.endswith("polyline")]
    assert len(lines) == 2
    assert len(lines[0].attrib["points"].split()) == 2


def test_the_command_prints_and_writes_it(garden: Path, tmp_path: Path, rankpipe: Callable[..., Any]) -> None:
    (tmp_path / "features.yaml").write_text("stages:\n  - bm25: {k: 20}\n  - features\n")
    dataset = Dataset.load(str(garden))
    run = Pipeline.load("bm25", corpus=dataset.corpus).run(dataset.queries("train")).top(3)
    rng, lines = np.random.default_rng(0), []
    for number in range(600):
        query = run.queries.ids[number % len(run)]
        shown = [one.doc_id for one in run[query]]
        clicked = (np.flatnonzero(rng.random(len(shown)) < [0.6, 0.3, 0.1][: len(shown)]) + 1).tolist()
        lines.append({"query": query, "shown": shown, "clicks": clicked, "time": number})
    write_click_log(iter([*lines, {"query": "nobody", "shown": ["d1"], "clicks": []}]), tmp_path / "clicks.jsonl")
    words = ["clicks", tmp_path / "clicks.jsonl", "--dataset", garden, "--pipeline", tmp_path / "features.yaml"]
    words += ["--positions", "3", "--draws", "2", "--depth", "20"]
    done = rankpipe(*words, "--truth", "1,0.5,0.2", "--output", tmp_path / "out")
    assert done.status == 0, done.err
    assert f"{tmp_path / 'clicks.jsonl'}: a query that the data set does not have: 1 line (601)" in done.err
    assert "does correcting for positions help here? " in done.out
    told = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert told["sessions"] == 600
    assert told["truth"] == [1, 0.5, 0.2]
    assert told["log"]["wrong_lines"] == {"query": {"count": 1, "first_lines": [601]}}
    shown = Pipeline.load(tmp_path / "features.yaml", corpus=dataset.corpus).run(dataset.queries("train"))
    columns = [one for one in feature_columns(shown) if one != "reciprocal-rank"]
    assert told["features"] == {
        "pipeline": str(tmp_path / "features.yaml"),
        "columns": columns,
        "without": ["reciprocal-rank"],
    }
    ElementTree.fromstring((tmp_path / "out" / "clicks.svg").read_text())
    exists = f"error: {tmp_path / 'out'} exists already; choose another folder, or replace it with --force\n"
    assert rankpipe(*words, "--output", tmp_path / "out") == (2, "", exists)
    assert rankpipe(*words, "--output", tmp_path / "out", "--force").status == 0
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["truth"] is None
    assert rankpipe(*words, "--without", "score", "--output", tmp_path / "out", "--force").status == 0
    told = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert told["features"]["columns"] == [one for one in feature_columns(shown) if one != "score"]
    assert rankpipe(*words, "--without", "", "--output", tmp_path / "out", "--force").status == 0
    told = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert told["features"]["columns"] == list(feature_columns(shown))
    assert "'without' names 'scor', which is no feature" in rankpipe(*words, "--without", "scor").err
    wrong = rankpipe(*words, "--truth", "1,0.5")
    assert wrong.status == 2
    assert "the truth has 2 propensities, and there are 3 positions" in wrong.err
    assert (
        "--truth is '1,x'; it must be numbers above 0, parted by commas, as 1,0.9,0.7"
        in rankpipe(*words, "--truth", "1,x").err
    )
