"""HyDE: vectors of a query and of passages that a tiny model writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extras 'dense' and 'llm'")

from rankpipe.data import Corpus, Queries
from rankpipe.errors import UsageError
from rankpipe.run import Run
from rankpipe.stages.dense import Dense
from rankpipe.stages.hyde import Hyde

CORPUS = Corpus.from_texts(["a sweet apple", "the road to the apple tree", "a car"])
QUERIES = Queries.of({"q1": "apple", "q2": "", "q3": "the car"})


def test_a_query_gets_the_mean_of_its_vector_and_its_passages(
    tiny_encoder: Callable[[Path], Path], model: Any, tmp_path: Path
) -> None:
    encoder = str(tiny_encoder(tmp_path / "encoder"))
    numbers = iter(range(99))
    model.answer = lambda user: "" if user.endswith("the car") else f"A passage\nno. {next(numbers)}."
    stage = Hyde(model=encoder, writer="any", endpoint=model.endpoint, passages=3, similarity="dot", normalise=False)
    run = Run.empty(QUERIES, CORPUS)
    result = stage(run).queries
    assert result.vectors is not None
    documents, queries = stage.encoders()
    passages = [" ".join(one.split()) for one in stage.answered(run)[0]]
    assert sorted(passages) == ["A passage no. 0.", "A passage no. 1.", "A passage no. 2."]
    parts = [queries.queries(["apple"]).vectors[0], *documents.documents(passages).vectors]
    assert result.vectors[0] == pytest.approx(np.mean(parts, axis=0), abs=1e-6)
    assert not result.vectors[1].any()
    assert result.vectors[2].tolist() == queries.queries(["the car"]).vectors[0].tolist()
    assert result.texts == QUERIES.texts
    assert stage.counted(CORPUS)["refused_empty"] == 6  # three answers, asked for twice
    assert stage.counted(CORPUS)["unchanged"] == 1
    found = Dense(model=encoder, k=3, similarity="dot", normalise=False)(stage(run))
    assert found.counts.tolist() == [3, 0, 3]


def test_vectors_have_length_one_where_the_encoder_gives_such(
    tiny_encoder: Callable[[Path], Path], model: Any, tmp_path: Path
) -> None:
    encoder = str(tiny_encoder(tmp_path / "encoder"))
    stage = Hyde(model=encoder, writer="any", endpoint=model.endpoint, passages=2, similarity="cosine")
    vectors = stage(Run.empty(QUERIES, CORPUS)).queries.vectors
    assert vectors is not None
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 0, 1], abs=1e-6)


def test_passages_that_would_all_be_the_same_are_refused() -> None:
    with pytest.raises(ValueError, match="at temperature 0 the 8 passages of a query are all the same"):
        Hyde(model="any", writer="any", temperature=0.0)
    assert Hyde(model="any", writer="any", temperature=0.0, passages=1).passages == 1


def test_vectors_of_another_encoder_are_refused(tiny_encoder: Callable[..., Path], model: Any, tmp_path: Path) -> None:
    one, other = (str(tiny_encoder(tmp_path / name, seed=seed)) for name, seed in (("one", 1), ("other", 2)))
    run = Hyde(model=one, writer="any", endpoint=model.endpoint, passages=1)(Run.empty(QUERIES, CORPUS))
    assert Dense(model=one, k=3)(run).counts.tolist() == [3, 0, 3]
    for stage, name in ((Dense(model=other, k=3), "model"), (Dense(model=one, k=3, dimensions=8), "dimensions")):
        with pytest.raises(UsageError) as error:
            stage(run)
        assert str(error.value).startswith(f"'dense' takes vectors that the queries were given with '{name}: ")
        assert str(error.value).endswith("; give both stages the same, or put 'original' between them")
