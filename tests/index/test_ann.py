"""Approximate indexes against flat search, which is exact: the same answers at full effort, the same scores always."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rankpipe.errors import MissingExtraError, StoreError, UsageError
from rankpipe.index import ann, ann_kinds
from rankpipe.index.ann import ApproximateIndex, build, open_ann, open_folder, recall_of, sample, tuned
from rankpipe.index.ann_kinds import Approximate, Binary, Effort, Hnsw, IvfPq, Sq8
from rankpipe.index.dense import FlatIndex, Nearest
from rankpipe.index.vectors import Block, Vectors

faiss = pytest.importorskip("faiss", reason="needs the extra 'dense'")

KINDS = [Sq8(), Binary(), Hnsw(), IvfPq(lists=4)]
FULL = Effort(oversample=64, probes=8)
QUERIES = np.random.default_rng(1).standard_normal((40, 20)).astype(np.float32)


def made(
    documents: int, *, windows: int = 1, distinct: int | None = None, precision: str = "float32", seed: int = 0
) -> Vectors:
    """Random vectors of 20 dimensions of documents with 1 to `windows` windows; `distinct` of them differ."""
    random = np.random.default_rng(seed)
    counts = random.integers(1, windows + 1, documents)
    values = random.standard_normal((int(counts.sum()), 20)).astype(np.float32)
    if distinct is not None:
        values = values[random.integers(0, distinct, len(values))]
    rows = np.sort(random.choice(2 * documents + 1, documents, replace=False)).astype(np.int32)
    return Vectors.of(rows, Block(values, np.cumsum([0, *counts]), np.zeros(documents, bool)), precision)  # type: ignore[arg-type]


def ties(vectors: Vectors) -> NDArray[np.int32]:
    """An order among equal scores that is not that of the rows."""
    return np.random.default_rng(2).permutation(2 * len(vectors.rows) + 1).astype(np.int32)


def answers(found: Nearest) -> list[list[tuple]]:
    """(row, score, window) of every query's documents."""
    passages = np.zeros(len(found.documents), np.int32) if found.passages is None else found.passages
    together = list(zip(found.documents.tolist(), found.scores.tolist(), passages.tolist(), strict=True))
    return [together[begin:end] for begin, end in zip(found.offsets[:-1], found.offsets[1:], strict=True)]


def full(kind: Approximate, vectors: Vectors) -> ApproximateIndex:
    """An index that is searched as thoroughly as can be."""
    return ApproximateIndex(vectors, kind, kind.build(vectors), FULL)


def name(value: object) -> str | None:
    return type(value).__name__ if isinstance(value, Approximate) else None


@pytest.mark.parametrize("kind", KINDS, ids=name)
@pytest.mark.parametrize(
    "vectors",
    [
        made(600),
        made(600, windows=4),
        made(600, precision="float16"),
        made(600, windows=3, precision="float16"),
    ],
    ids=["plain", "windows", "float16", "float16 windows"],
)
def test_at_full_effort_the_answer_is_that_of_flat_search(
    kind: Approximate, vectors: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ann, "QUERIES", 32)  # several blocks of queries
    found = full(kind, vectors).search(QUERIES, 10, ties(vectors), threads=2)
    assert answers(found) == answers(FlatIndex(vectors).search(QUERIES, 10, ties(vectors)))
    assert (found.passages is None) == vectors.plain


@pytest.mark.parametrize("kind", [Sq8(), Binary(), IvfPq(lists=2)], ids=name)
@pytest.mark.parametrize("windows", [1, 3])
def test_ties_fall_as_the_corpus_orders_them(kind: Approximate, windows: int) -> None:
    vectors = made(600, distinct=9, windows=windows)
    found = full(kind, vectors).search(QUERIES, 10, ties(vectors))
    assert answers(found) == answers(FlatIndex(vectors).search(QUERIES, 10, ties(vectors)))


@pytest.mark.parametrize("kind", KINDS, ids=name)
def test_what_is_found_with_little_effort_has_the_scores_of_flat_search(
    kind: Approximate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ann, "DEPTH", 5)
    vectors = made(600, windows=3)
    index = ApproximateIndex(vectors, kind, kind.build(vectors), Effort(1, 1))
    everything = answers(FlatIndex(vectors).search(QUERIES, 600, ties(vectors)))
    found = answers(index.search(QUERIES, 5, ties(vectors)))
    if not isinstance(kind, Sq8):  # which errs too rarely
        assert any(own != exact[:5] for own, exact in zip(found, everything, strict=True))
    for own, exact in zip(found, everything, strict=True):
        assert own == [answer for answer in exact if answer in own]  # row, score and window, in the right order


@pytest.mark.parametrize("kind", KINDS, ids=name)
def test_k_beyond_the_number_of_documents_gives_all_that_are_proposed(kind: Approximate) -> None:
    vectors = made(300)
    found = full(kind, vectors).search(QUERIES, 1000, ties(vectors))
    flat = FlatIndex(vectors).search(QUERIES, 1000, ties(vectors))
    assert answers(found) == answers(flat)
    assert np.diff(found.offsets).tolist() == [300] * len(QUERIES)


@pytest.mark.parametrize("kind", KINDS, ids=name)
def test_an_empty_corpus_and_no_queries_are_no_error(kind: Approximate) -> None:
    index = open_ann(kind, made(0), {})
    assert answers(index.search(QUERIES, 3, np.zeros(1, np.int32))) == [[]] * len(QUERIES)
    some = made(300)
    assert open_ann(kind, some, {"some": 1}).search(QUERIES[:0], 3, ties(some)).offsets.tolist() == [0]


@pytest.mark.parametrize("kind", KINDS, ids=name)
def test_the_same_vectors_give_the_same_files_by_any_number_of_threads(kind: Approximate, tmp_path: Path) -> None:
    for folder, threads in (("one", 1), ("two", 1), ("three", 3)):
        (tmp_path / folder).mkdir()
        build(tmp_path / folder, kind, made(600), threads=threads)
    for file in (ann.HEADER, ann.INDEX):
        first, *others = ((tmp_path / folder / file).read_bytes() for folder in ("one", "two", "three"))
        assert others == [first, first]


@pytest.mark.parametrize("kind", [Binary, IvfPq], ids=["Binary", "IvfPq"])
def test_recall_is_measured_once_for_each_effort_with_all_threads(kind: Any) -> None:
    measured: list[tuple[Effort, int]] = []

    class Watched(kind):
        def candidates(self, index: Any, queries: NDArray[np.float32], count: int, effort: Effort) -> NDArray[np.int64]:
            measured.append((effort, faiss.omp_get_max_threads()))
            return super().candidates(index, queries, count, effort)

    watched, vectors = Watched(), made(3000)
    effort, _ = tuned(watched, watched.build(vectors), vectors, threads=3)
    efforts = [effort for effort, _ in measured]
    assert len(set(efforts)) == len(efforts) > 1
    assert effort in efforts
    assert {threads for _, threads in measured} == {3}


@pytest.mark.parametrize("kind", KINDS, ids=name)
def test_a_query_is_answered_the_same_alone_and_among_others(kind: Approximate) -> None:
    vectors = made(600)
    index = ApproximateIndex(vectors, kind, kind.build(vectors), Effort(1, 2))
    together = answers(index.search(QUERIES, 7, ties(vectors), threads=2))
    alone = [answers(index.search(QUERIES[row : row + 1], 7, ties(vectors)))[0] for row in range(len(QUERIES))]
    assert alone == together


@pytest.mark.parametrize("kind", KINDS, ids=name)
def test_the_recall_that_is_written_down_is_measured_and_reaches_the_target(kind: Approximate) -> None:
    vectors = made(3000)
    index = open_ann(kind, vectors, {})
    assert index.header is not None
    assert index.header.recall is not None
    queries = sample(vectors, kind.seed)
    exact = FlatIndex(vectors).search(queries, 100, ties(vectors))
    assert recall_of(index.search(queries, 100, ties(vectors)), exact) == pytest.approx(index.header.recall, abs=1e-6)
    assert index.header.recall >= 0.95
    below = [step for step in ann_kinds.OVERSAMPLES if step < index.effort.oversample]
    for oversample in below[-1:]:
        less = ApproximateIndex(vectors, kind, index.index, index.effort._replace(oversample=oversample))
        assert recall_of(less.search(queries, 100, ties(vectors)), exact) < 0.95


def test_recall_by_hand() -> None:
    # query 1: the best three score 3 2 2; found 3 2 and a lower one: 2/3. query 2: one of one. mean 5/6
    offsets = np.array([0, 3, 4])
    exact = Nearest(offsets, np.arange(4, dtype=np.int32), np.array([3, 2, 2, 1], np.float32), None)
    found = Nearest(offsets, np.array([0, 9, 8, 3], np.int32), np.array([3, 2, 1, 1], np.float32), None)
    assert recall_of(found, exact) == pytest.approx(5 / 6)


def test_a_target_that_is_not_reached_is_told_and_the_best_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    vectors = made(20_000)
    index = open_ann(Binary(target_recall=1.0), vectors, {})
    assert index.header is not None
    assert index.effort.oversample == 64
    assert capsys.readouterr().err == (
        f"the dense index binary finds {index.header.recall:.3f} of the best 100 documents at most, less than its "
        "target_recall 1\n"
    )


def test_memory_is_told() -> None:
    vectors = made(2000)
    header = open_ann(Sq8(), vectors, {}).header
    assert header is not None
    assert header.vector_bytes == 2000 * 20 * 4
    assert 2000 * 20 <= header.bytes < 2000 * 20 + 1000  # a byte for each dimension, and the ranges


def test_ivf_pq_says_how_many_vectors_it_needs() -> None:
    with pytest.raises(UsageError) as caught:
        open_ann(IvfPq(), made(15), {})
    assert str(caught.value) == (
        "an index of the kind 'ivf-pq' is trained on at least 16 vectors, and there are 15; take {kind: flat}, which "
        "is exact, and fast for so few"
    )


def test_ivf_pq_refuses_more_lists_than_it_can_train() -> None:
    with pytest.raises(UsageError) as caught:
        open_ann(IvfPq(lists=11), made(400), {})
    assert str(caught.value) == (
        "'lists' of an index of the kind 'ivf-pq' is 11, must be at most 10 for 400 vectors: each list is trained on "
        "at least 39"
    )


@pytest.mark.parametrize(("count", "lists"), [(256, 6), (16, 1), (400, 10), (100_000, 1024), (1_000_000, 2048)])
def test_lists_by_their_rule(count: int, lists: int) -> None:
    # 4 sqrt(256) = 64, but 256 / 39 = 6.6; 400 / 39 = 10.3; 4 sqrt(100,000) = 1,265; 4 sqrt(1,000,000) = 4,000
    assert IvfPq()._lists(count) == lists


@pytest.mark.parametrize("size", [1, 3, 7, 20, 40])
def test_codes_need_not_divide_the_dimensions(size: int) -> None:
    vectors = made(400)
    found = full(IvfPq(bytes=size, lists=4), vectors).search(QUERIES, 5, ties(vectors))
    assert answers(found) == answers(FlatIndex(vectors).search(QUERIES, 5, ties(vectors)))


def test_queries_of_other_dimensions_are_refused() -> None:
    vectors = made(5)
    with pytest.raises(UsageError, match="queries are vectors of 19 dimensions, the documents' have 20"):
        open_ann(Sq8(), vectors, {}).search(QUERIES[:, :19], 3, ties(vectors))


def test_an_index_is_built_once_and_again_for_other_settings(store: Path) -> None:
    vectors = made(300)
    for kind in (Hnsw(), Hnsw(), Hnsw(links=8), Hnsw(seed=1), Hnsw(target_recall=0.5), Sq8()):
        open_ann(kind, vectors, {"vectors": "a"})
    assert len(list((store / "ann").iterdir())) == 5


def test_a_damaged_file_is_an_error(store: Path) -> None:
    vectors = made(300)
    open_ann(Hnsw(), vectors, {})
    (path,) = (store / "ann").glob(f"*/{ann.INDEX}")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(StoreError, match=r"the content of index\.faiss is not what was written"):
        open_ann(Hnsw(), vectors, {})


@pytest.mark.parametrize("kind", KINDS, ids=name)
def test_a_folder_that_is_cut_short_is_an_error(kind: Approximate, tmp_path: Path) -> None:
    build(tmp_path, kind, made(300))
    path = tmp_path / ann.INDEX
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(StoreError, match="does not hold a whole dense index"):
        open_folder(tmp_path, kind, made(300))
    (tmp_path / ann.HEADER).write_text(json.dumps({"format": 1}))
    with pytest.raises(StoreError, match="does not hold a whole dense index: 'effort'"):
        open_folder(tmp_path, kind, made(300))


def test_an_index_of_other_vectors_is_an_error(tmp_path: Path) -> None:
    build(tmp_path, Sq8(), made(300))
    with pytest.raises(StoreError, match="indexes 300 vectors of 20 dimensions, not 301 of 20"):
        open_folder(tmp_path, Sq8(), made(301))


def test_without_faiss_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError) as caught:
        open_ann(Hnsw(), made(5), {})
    assert str(caught.value) == (
        "a dense index of another kind than 'flat' needs faiss-cpu: install rankpipe with its extra 'dense', for "
        "example pip install '.[dense]'"
    )
