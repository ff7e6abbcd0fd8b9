"""Feedback on vectors: by hand from the vectors of a tiny encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

pytest.importorskip("torch", reason="needs the extra 'dense'")

from rankpipe.data import Corpus, Queries
from rankpipe.run import Run
from rankpipe.stages.dense import Dense
from rankpipe.stages.vector_feedback import VectorFeedback, mean_with, of_length_one

CORPUS = Corpus.from_texts(["a sweet apple", "the road to the apple tree", "a car", "pears"])
QUERIES = Queries.of({"q1": "apple", "q2": "car", "q3": "", "q4": "pears"})


@pytest.fixture
def encoder(tiny_encoder: Callable[[Path], Path], tmp_path: Path) -> str:
    return str(tiny_encoder(tmp_path / "encoder"))


def a_run() -> Run:
    ids = CORPUS.ids(np.arange(4))
    return Run.of(QUERIES, CORPUS, {"q1": {ids[0]: 2, ids[1]: 1, ids[2]: 0}, "q2": {ids[2]: 1}, "q3": {ids[3]: 1}})


def test_hyde_and_average_feedback_take_the_mean_of_a_query_and_the_others() -> None:
    mean = mean_with(np.array([1, 0], np.float32), np.array([[0, 1], [0.6, 0.8]], np.float32))
    assert mean.tolist() == pytest.approx([0.533333, 0.6], abs=1e-6)


def test_a_vector_without_length_keeps_none() -> None:
    assert of_length_one(np.array([[3, 4], [0, 0]], np.float32)).tolist() == [
        [pytest.approx(0.6), pytest.approx(0.8)],
        [0, 0],
    ]


@pytest.mark.parametrize("normalise", [True, False])
def test_vectors_move_towards_the_first_documents(encoder: str, normalise: bool) -> None:
    settings = {"model": encoder, "normalise": normalise, "similarity": "dot"}
    whole = Dense(k=4, **settings)
    documents = whole.all_vectors(CORPUS).values
    query = whole.encoders()[1].queries(["apple"]).vectors[0]
    expected = {
        "rocchio": np.float32(0.3) * query + np.float32(0.6) * documents[:2].mean(axis=0),
        "average": (query + documents[0] + documents[1]) / 3,
    }
    stages = {
        "rocchio": VectorFeedback(method="rocchio", alpha=0.3, beta=0.6, documents=2, **settings),
        "average": VectorFeedback(method="average", documents=2, **settings),
    }
    for method, vector in expected.items():
        found = stages[method](a_run()).queries.vectors
        assert found is not None
        if normalise:
            vector = vector / np.linalg.norm(vector)
        assert found[0] == pytest.approx(vector, abs=1e-6)


def test_queries_with_too_few_candidates_keep_their_vectors_and_empty_ones_have_none(encoder: str) -> None:
    stage = VectorFeedback(model=encoder)
    result = stage(a_run())
    vectors = result.queries.vectors
    assert vectors is not None
    own = stage.encoders()[1].queries(["car", "pears"]).vectors
    assert vectors[[1, 3]].tolist() == own.tolist()
    assert not vectors[2].any()
    assert result.queries.texts == QUERIES.texts
    found = Dense(model=encoder, k=4)(result)
    assert found.counts.tolist() == [4, 4, 0, 4]


def test_vectors_that_a_query_has_are_its_own(encoder: str) -> None:
    stage = VectorFeedback(model=encoder, documents=2)
    once = stage(a_run())
    twice = stage(once)
    again = stage(a_run().with_queries(replace(QUERIES, vectors=once.queries.vectors)))
    assert twice.queries.vectors is not None
    assert again.queries.vectors is not None
    assert twice.queries.vectors.tolist() == again.queries.vectors.tolist()
    assert twice.queries.vectors[0].tolist() != once.queries.vectors[0].tolist()  # type: ignore[index]


def test_a_mean_of_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="'alpha' and 'beta' are both 0, and no vector would be left"):
        VectorFeedback(model="m", alpha=0, beta=0)


def test_factors_of_another_method_are_refused() -> None:
    with pytest.raises(ValidationError, match="'alpha' is of 'method: rocchio', and changes nothing of 'average'"):
        VectorFeedback(model="m", method="average", alpha=0.9)
    with pytest.raises(ValidationError, match="'beta' is of 'method: rocchio', and changes nothing of 'average'"):
        VectorFeedback(model="m", method="average", beta=0.9)
