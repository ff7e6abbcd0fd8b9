"""Candidates of training queries: kept in the store by what made them, cut, and with the lowest score there was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rankpipe import BM25, Corpus, CrossEncoder, Pipeline
from rankpipe.data import Queries
from rankpipe.training import candidates as module
from rankpipe.training.candidates import candidates

CORPUS = Corpus.from_texts([f"apple {'tree ' * number}" for number in range(1, 9)] + ["road"])
QUERIES = Queries.of({"a": "apple tree", "b": "nothing that is there", "c": "road"})


@pytest.fixture
def pipeline() -> Pipeline:
    return BM25(k=6).on(CORPUS)


def test_candidates_are_the_first_of_the_ranking_and_the_floor_its_last_score(pipeline: Pipeline) -> None:
    run = pipeline.run(QUERIES)
    pool = candidates(pipeline, QUERIES, 3)
    assert np.diff(pool.offsets).tolist() == [3, 0, 1]
    documents, scores = pool.of(0)
    assert documents.tolist() == run.documents[:3].tolist()
    assert scores.tolist() == run.scores[:3].tolist()
    assert pool.floor.tolist() == [run.scores[5], 0, run.scores[6]]
    assert pool.run(pipeline, 2).to_dict() == run.top(2).to_dict()


def test_what_a_cross_encoder_counted_makes_no_other_candidates(
    tmp_path: Path, tiny_cross_encoder: Callable[..., Path]
) -> None:
    stage = CrossEncoder(model=str(tiny_cross_encoder(tmp_path)))
    pipeline = Pipeline(stages=(BM25(k=6), stage), corpus=CORPUS)
    first = candidates(pipeline, QUERIES, 3)
    assert stage.counted(CORPUS)["pairs"] > 0
    assert candidates(pipeline, QUERIES, 3).digest == first.digest


def test_candidates_are_kept_by_what_made_them(
    pipeline: Pipeline, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = candidates(pipeline, QUERIES, 3)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("run again")

    made = module._run
    monkeypatch.setattr(module, "_run", refuse)
    again = candidates(pipeline, QUERIES, 3)
    assert again.digest == first.digest
    assert again.documents.tolist() == first.documents.tolist()
    monkeypatch.setattr(module, "_run", made)
    others: list[Callable[[], Any]] = [
        lambda: candidates(pipeline, QUERIES, 4),
        lambda: candidates(pipeline, QUERIES.select([0, 2]), 3),
        lambda: candidates(BM25(k=7).on(CORPUS), QUERIES, 3),
        lambda: candidates(BM25(k=6).on(CORPUS.without(["d9"])), QUERIES, 3),
    ]
    assert len({first.digest, *(other().digest for other in others)}) == 5
    assert len(list((store / "candidates").iterdir())) == 5


def test_batches_make_no_difference(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = candidates(pipeline, QUERIES, 3)
    monkeypatch.setattr(module, "BATCH", 1)
    monkeypatch.setattr(module, "FORMAT", "apart")
    parts = candidates(pipeline, QUERIES, 3)
    for name in ("offsets", "documents", "scores", "floor"):
        assert getattr(parts, name).tolist() == getattr(whole, name).tolist()
