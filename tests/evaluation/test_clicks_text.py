"""eval/clicks_text.py: what sessions tell of documents, by hand, and how many sessions are drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'dense'")

from rankpipe import Corpus, Dataset, Queries, Run


@pytest.fixture
def script(eval_script: Callable[[str], ModuleType]) -> ModuleType:
    return eval_script("clicks_text")


CORPUS = Corpus.from_records([{"id": f"d{at}", "text": "a"} for at in (1, 2, 3)])
RUN = Run.of(
    Queries.of({"q1": "low fat", "q2": "whole grain"}),
    CORPUS,
    {"q1": {"d1": 2.0, "d2": 1.0}, "q2": {"d2": 2.0, "d3": 1.0}},
)


def test_what_sessions_tell_of_documents_is_worked_by_hand(script: ModuleType, tmp_path: Path) -> None:
    clicks = np.zeros((4, script.POSITIONS), bool)
    clicks[:, :2] = [[1, 0], [1, 1], [0, 0], [0, 1]]
    script._write_known(script.Shown(RUN, np.array([0, 0, 1, 1]), clicks), tmp_path)
    columns = [json.loads(line) for line in (tmp_path / "columns.jsonl").read_text().splitlines()]
    # both positions were clicked in 2 of 4 sessions, so each of a query's 2 sessions brings .5 clicks at either
    # d1: 2 clicks, 1 expected; d2: 1 and 0 clicks, 2 expected; d3: 1 click, 1 expected; 3 are added to both
    assert [one["over-expected"] for one in columns] == pytest.approx([5 / 4, 4 / 5, 4 / 4])
    assert [one["clicks"] for one in columns] == pytest.approx(np.log1p([2, 1, 1]).tolist())
    assert [one["shown"] for one in columns] == pytest.approx(np.log1p([2, 4, 2]).tolist())
    texts = [json.loads(line) for line in (tmp_path / "texts.jsonl").read_text().splitlines()]
    assert texts == [
        {"_id": "d1", "clicked": "low fat"},
        {"_id": "d2", "clicked": "low fat"},
        {"_id": "d3", "clicked": "whole grain"},
    ]


def test_sessions_end_with_the_last_click_and_what_is_not_shown_is_not_clicked(script: ModuleType) -> None:
    dataset = Dataset.of(CORPUS, RUN.queries, {"q1": {"d1": 1}, "q2": {"d3": 1}}, split="train")
    shown = script._sessions(RUN, dataset, 1000, np.random.default_rng(0))
    assert shown.clicks.sum() in (1000, 1001)  # a session may bring two
    assert shown.clicks[:-1].sum() < 1000
    assert not shown.clicks[:, 2:].any()
    of_first = shown.of(np.array([0]))
    assert set(of_first.queries.tolist()) == {0}
    first = of_first.clicks[:, :2].mean(0)
    looked = script.PROPENSITIES[:2]
    assert first.tolist() == pytest.approx([looked[0] * 1.0, looked[1] * script.NOISE], abs=0.05)
    assert next(iter(of_first.lines()))["shown"] == ["d1", "d2"]
