"""What is kept, block by block, against sorting everything at once."""

import numpy as np
import pytest
from numpy.typing import NDArray

from rankpipe.index.selection import Contenders

SLACK = 0.25
DOCUMENTS = 1500
RANDOM = np.random.default_rng(0)
ORDERS = {
    "rising": np.arange(DOCUMENTS),
    "falling": -np.arange(DOCUMENTS),
    "equal": np.zeros(DOCUMENTS),
    "one peak among equals": np.where(np.arange(DOCUMENTS) == 700, 1, 0),
    "mixed": RANDOM.standard_normal(DOCUMENTS),
    "mixed ties": RANDOM.integers(0, 5, DOCUMENTS),
}


def kept_places(scores: NDArray[np.float32], spans: NDArray[np.int64], size: int, k: int) -> list[list[int]]:
    """The places that each query has kept of documents, `size` of them in a block; spans as of the whole."""
    kept = Contenders.nothing(np.full(len(scores), SLACK, np.float32), k)
    plain = len(spans) - 1 == scores.shape[1]
    for first in range(0, len(spans) - 1, size):
        own = spans[first : first + size + 1]
        block = np.ascontiguousarray(scores[:, own[0] : own[-1]])
        kept = kept.after(block, own - own[0], first, plain=plain, k=k)
    queries, places = kept.pairs(k)
    assert (np.diff(queries) >= 0).all()
    return [places[queries == query].tolist() for query in range(len(scores))]


def expected(best: NDArray[np.float32], k: int) -> list[int]:
    """Places of all whose score is at most SLACK below the k-th best."""
    return np.flatnonzero(best >= np.sort(best)[::-1][min(k, len(best)) - 1] - SLACK).tolist()


@pytest.mark.parametrize("k", [1, 10, 100, 1499, 1500, 2000])
@pytest.mark.parametrize("size", [1, 63, 64, 65, 1000, DOCUMENTS])
def test_kept_is_what_may_be_among_the_best(size: int, k: int) -> None:
    scores = np.stack(list(ORDERS.values())).astype(np.float32)
    found = kept_places(scores, np.arange(DOCUMENTS + 1), size, k)
    for name, own, places in zip(ORDERS, scores, found, strict=True):
        wanted = expected(own, k) if k < DOCUMENTS else list(range(DOCUMENTS))
        assert places == wanted, name


@pytest.mark.parametrize("size", [1, 64, 500])
def test_a_document_is_kept_by_its_best_window(size: int) -> None:
    counts = RANDOM.integers(1, 5, 500)
    spans = np.cumsum([0, *counts])
    scores = RANDOM.standard_normal((3, spans[-1])).astype(np.float32)
    best = np.maximum.reduceat(scores, spans[:-1], axis=1)
    assert kept_places(scores, spans, size, 20) == [expected(own, 20) for own in best]


def test_no_queries_keep_nothing() -> None:
    assert kept_places(np.empty((0, 300), np.float32), np.arange(301), 64, 5) == []
