"""Exact search against brute force in float64: the same documents, in the same order, with the same scores."""

import numpy as np
import pytest
from numpy.typing import NDArray
from threadpoolctl import threadpool_info, threadpool_limits

from rankpipe.errors import UsageError
from rankpipe.index import dense
from rankpipe.index.dense import FlatIndex, exact_scores
from rankpipe.index.vectors import Block, Vectors


def made(
    documents: int, seed: int = 0, *, windows: int = 1, distinct: int | None = None, precision: str = "float32"
) -> Vectors:
    """Random vectors of 24 dimensions of documents with 1 to `windows` windows; `distinct` of them differ."""
    random = np.random.default_rng(seed)
    counts = random.integers(1, windows + 1, documents)
    values = random.standard_normal((int(counts.sum()), 24)).astype(np.float32)
    if distinct is not None:
        values = values[random.integers(0, distinct, len(values))]
    rows = np.sort(random.choice(2 * documents + 1, documents, replace=False)).astype(np.int32)
    return Vectors.of(rows, Block(values, np.cumsum([0, *counts]), np.zeros(documents, bool)), precision)  # type: ignore[arg-type]


def brute_force(vectors: Vectors, query: NDArray[np.float32], k: int, ties: NDArray[np.int32]) -> list[tuple]:
    """(row, score, window) of the best k: all scores in float64, rounded once, sorted."""
    scores = (vectors.values.astype(np.float64) @ query.astype(np.float64)).astype(np.float32)
    found = []
    for place, row in enumerate(vectors.rows.tolist()):
        own = scores[vectors.offsets[place] : vectors.offsets[place + 1]]
        found.append((row, float(own.max()), int(own.argmax())))
    return sorted(found, key=lambda entry: (-entry[1], ties[entry[0]]))[:k]


@pytest.mark.parametrize("k", [1, 10, 1000])
@pytest.mark.parametrize(
    "vectors",
    [
        made(500),
        made(500, windows=5),
        made(500, distinct=7),  # many ties at every cut
        made(500, distinct=7, windows=3),
        made(500, precision="float16"),
        made(500, precision="float16", windows=4),
        made(3),
        made(0),
    ],
    ids=["plain", "windows", "ties", "ties of windows", "float16", "float16 windows", "few", "none"],
)
def test_flat_equals_brute_force(vectors: Vectors, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "BLOCK", 64)  # several blocks of documents,
    monkeypatch.setattr(dense, "QUERIES", 4)  # and of queries
    random = np.random.default_rng(1)
    ties = random.permutation(2 * 500 + 1).astype(np.int32)
    queries = random.standard_normal((9, 24)).astype(np.float32)
    found = FlatIndex(vectors).search(queries, k, ties, threads=2)
    assert (found.passages is None) == vectors.plain
    for number, query in enumerate(queries):
        own = slice(found.offsets[number], found.offsets[number + 1])
        passages = np.zeros(len(found.documents), np.int32) if found.passages is None else found.passages
        got = list(zip(found.documents[own].tolist(), found.scores[own].tolist(), passages[own].tolist(), strict=True))
        assert got == brute_force(vectors, query, k, ties)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_query_is_answered_alike_whatever_else_is_asked(precision: str, threads: int) -> None:
    vectors = made(700, windows=2, distinct=300, precision=precision)
    ties = np.random.default_rng(3).permutation(1401).astype(np.int32)
    queries = np.random.default_rng(4).standard_normal((3 * dense.FEW, 24)).astype(np.float32)
    index = FlatIndex(vectors)
    alone = [index.search(query[None], 10, ties) for query in queries]
    for count in (1, 2, 3, 4, 5, dense.FEW, dense.FEW + 1, len(queries)):  # by the loop, in fours and not, and by BLAS
        found = index.search(queries[:count], 10, ties, threads=threads)
        for column in ("documents", "scores", "passages"):
            together = np.concatenate([getattr(one, column) for one in alone[:count]])
            assert np.array_equal(getattr(found, column), together), (count, column)
        assert np.diff(found.offsets).tolist() == [10] * count


def test_a_product_takes_no_more_threads_than_the_search_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    def blas_threads() -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    if not blas_threads():
        pytest.skip("numpy has a BLAS here whose threads cannot be told")
    multiplied, matmul = [], np.matmul

    def watched(*arrays: NDArray, **out: NDArray) -> NDArray:
        multiplied.append(set(blas_threads()))
        return matmul(*arrays, **out)

    monkeypatch.setattr(np, "matmul", watched)
    queries = np.random.default_rng(4).standard_normal((dense.FEW + 1, 24)).astype(np.float32)
    with threadpool_limits(3, user_api="blas"):
        for threads in (1, 2):
            FlatIndex(made(100)).search(queries, 10, np.arange(201, dtype=np.int32), threads=threads)
        assert set(blas_threads()) == {3}  # what others use is as it was
    assert multiplied == [{1}, {2}]


def test_more_equal_documents_than_the_room_for_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = made(3000, distinct=1)
    ties = np.arange(6001, dtype=np.int32)[::-1].copy()
    found = FlatIndex(vectors).search(np.ones((1, 24), np.float32), 5, ties)
    assert found.documents.tolist() == vectors.rows[::-1][:5].tolist()


def test_no_queries_are_no_error() -> None:
    found = FlatIndex(made(5)).search(np.empty((0, 24), np.float32), 3, np.arange(11, dtype=np.int32))
    assert (found.offsets.tolist(), len(found.documents)) == ([0], 0)


@pytest.mark.parametrize(("value", "length"), [(np.nan, "nan"), (np.inf, "inf"), (3e38, "1.46969e+39")])
def test_queries_whose_products_would_not_be_finite_are_refused(value: float, length: str) -> None:
    queries = np.ones((3, 24), np.float32)
    queries[1] = value
    with pytest.raises(UsageError) as caught:
        FlatIndex(made(5)).search(queries, 3, np.arange(11, dtype=np.int32))
    assert str(caught.value) == (
        f"the vector of the query in row 1 has the length {length}; its products with vectors of documents would not be finite"
    )


def test_queries_of_other_dimensions_are_refused() -> None:
    with pytest.raises(UsageError) as caught:
        FlatIndex(made(5)).search(np.ones((1, 23), np.float32), 3, np.arange(11, dtype=np.int32))
    assert str(caught.value) == (
        "queries are vectors of 23 dimensions, the documents' have 24; both must come from encoders that fit each other"
    )


def test_scores_of_pairs_are_those_of_the_search() -> None:
    vectors = made(50, windows=3)
    queries = np.random.default_rng(2).standard_normal((4, 24)).astype(np.float32)
    found = FlatIndex(vectors).search(queries, 50, np.arange(101, dtype=np.int32))
    scores, windows = exact_scores(
        queries, np.repeat(np.arange(4), np.diff(found.offsets)), vectors.places(found.documents), vectors
    )
    assert np.array_equal(scores, found.scores)
    assert found.passages is not None
    assert np.array_equal(windows, found.passages)
