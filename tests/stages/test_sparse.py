"""The stage sparse by itself: against brute force, its settings, empty texts, its store."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

pytest.importorskip("torch", reason="needs the extra 'dense'")
pytest.importorskip("transformers", reason="needs the extra 'dense'")

from rankpipe import BM25, Corpus, Fuse, Queries, Run, Runtime, Sparse
from rankpipe.errors import MissingExtraError, UsageError
from rankpipe.models.sparse_encoder import SparseEncoder

WORDS = ["apple", "fruit", "road", "car", "sweet", "tree", "the", "q7", "zebra"]
FLOAT32 = Runtime(dtype="float32")


def texts(count: int, seed: int) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, random.integers(1, 9))) for _ in range(count)]


DOCUMENTS = [*texts(40, 1), "sweet apple", "sweet apple", "sweet apple", "", "  "]
CORPUS = Corpus.from_records([{"id": f"d{number}", "title": "", "text": text} for number, text in enumerate(DOCUMENTS)])
QUERIES = Queries.of([*texts(6, 2), "", "sweet apple"])


def run(stage: Sparse, corpus: Corpus = CORPUS, queries: Queries = QUERIES) -> Run:
    with FLOAT32.active():
        return stage(Run.empty(queries, corpus))


def dense(encode: Callable[..., Any], given: list[str], most: int | None = None) -> NDArray[np.float64]:
    found = encode(given, most) if most else encode(given)
    weights = np.zeros((len(given), 96))
    for row, text in enumerate(given):
        part = slice(found.offsets[row], found.offsets[row + 1])
        if text.strip():
            weights[row, found.terms[part]] = found.weights[part]
    return weights


def brute_force(documents: NDArray[np.float64], queries: NDArray[np.float64]) -> list[dict[str, float]]:
    """For each query (Q, V) the scores, above 0, of documents (N, V)."""
    return [
        {f"d{row}": score for row, score in enumerate(scores.tolist()) if score > 0} for scores in queries @ documents.T
    ]


def lists(found: Run) -> list[list[tuple[str, float]]]:
    return [list(ranking.items()) for ranking in found.to_dict().values()]


def check(found: Run, expected: list[dict[str, float]], k: int = 1000) -> None:
    """The k best are found, with their scores, in the one order; sums of other orders may differ in the last digits."""
    for ours, scores in zip(lists(found), expected, strict=True):
        assert ours == sorted(ours, key=lambda pair: (pair[1], pair[0]), reverse=True)
        assert np.allclose([score for _, score in ours], [scores[doc_id] for doc_id, _ in ours], atol=1e-4)
        assert np.allclose([score for _, score in ours], sorted(scores.values(), reverse=True)[:k], atol=1e-4)


@pytest.mark.parametrize("k", [3, 1000])
def test_candidates_are_those_of_the_largest_dot_products(
    tmp_path: Path, tiny_masked_lm: Callable[..., Path], k: int
) -> None:
    folder = tiny_masked_lm(tmp_path)
    encoder = SparseEncoder(str(folder), FLOAT32)
    expected = brute_force(dense(encoder.documents, DOCUMENTS), dense(encoder.queries, list(QUERIES.texts)))
    found = run(Sparse(model=str(folder), k=k))
    check(found, expected, k)
    assert (found.scores > 0).all()


def test_equal_scores_stand_in_falling_doc_id_order_at_the_cut_too(
    tmp_path: Path, tiny_masked_lm: Callable[..., Path]
) -> None:
    corpus = Corpus.from_texts(["sweet apple"] * 12)  # d1 to d12; "d9" is the greatest as text
    found = run(Sparse(model=str(tiny_masked_lm(tmp_path)), k=4), corpus, Queries.of(["sweet apple"]))
    assert [doc_id for doc_id, _ in lists(found)[0]] == ["d9", "d8", "d7", "d6"]
    assert len(set(found.scores.tolist())) == 1


def test_terms_are_cut_on_both_sides(tmp_path: Path, tiny_masked_lm: Callable[..., Path]) -> None:
    folder = tiny_masked_lm(tmp_path)
    encoder = SparseEncoder(str(folder), FLOAT32)
    documents, queries = dense(encoder.documents, DOCUMENTS, 4), dense(encoder.queries, list(QUERIES.texts), 2)
    check(run(Sparse(model=str(folder), max_terms=4, max_query_terms=2)), brute_force(documents, queries))


def test_queries_may_have_a_model_of_their_own(tmp_path: Path, tiny_masked_lm: Callable[..., Path]) -> None:
    one, other = tiny_masked_lm(tmp_path / "one"), tiny_masked_lm(tmp_path / "other", seed=5)
    documents = dense(SparseEncoder(str(one), FLOAT32).documents, DOCUMENTS)
    queries = dense(SparseEncoder(str(other), FLOAT32).queries, list(QUERIES.texts))
    check(run(Sparse(model=str(one), query_model=str(other))), brute_force(documents, queries))


def test_a_query_model_of_another_vocabulary_is_refused(tmp_path: Path, tiny_masked_lm: Callable[..., Path]) -> None:
    one, other = tiny_masked_lm(tmp_path / "one"), tiny_masked_lm(tmp_path / "other", spare=1)
    with pytest.raises(UsageError) as caught:
        run(Sparse(model=str(one), query_model=str(other)))
    assert str(caught.value) == (
        f"query_model '{other}' has another vocabulary than model '{one}'; their terms must be the same"
    )


def test_queries_may_be_their_own_tokens(tmp_path: Path, tiny_masked_lm: Callable[..., Path]) -> None:
    folder = tiny_masked_lm(tmp_path)
    encoder = SparseEncoder(str(folder), FLOAT32)
    queries = Queries.of(["apple road apple", "tree", ""])
    weights = np.zeros((3, 96))
    weights[0, [encoder.vocabulary.index("apple"), encoder.vocabulary.index("road")]] = 1
    weights[1, encoder.vocabulary.index("tree")] = 1
    expected = brute_force(dense(encoder.documents, DOCUMENTS), weights)
    assert any(expected)
    check(run(Sparse(model=str(folder), queries="tokens"), queries=queries), expected)


def test_empty_texts_match_nothing(tmp_path: Path, tiny_masked_lm: Callable[..., Path]) -> None:
    found = run(Sparse(model=str(tiny_masked_lm(tmp_path)))).to_dict()
    assert found["q7"] == {}
    assert not {"d43", "d44"} & {doc_id for ranking in found.values() for doc_id in ranking}


def test_weighted_terms_of_the_queries_are_not_read(tmp_path: Path, tiny_masked_lm: Callable[..., Path]) -> None:
    stage = Sparse(model=str(tiny_masked_lm(tmp_path)))
    queries = Queries(QUERIES.ids, QUERIES.texts, terms=({"apple": 1.0},) * len(QUERIES))
    assert lists(run(stage, queries=queries)) == lists(run(stage))


def test_the_index_is_built_once_for_what_it_depends_on(
    tmp_path: Path, store: Path, tiny_masked_lm: Callable[..., Path]
) -> None:
    folder = str(tiny_masked_lm(tmp_path / "model"))

    def kept() -> int:
        return len([path for path in (store / "sparse").iterdir() if not path.name.startswith(".")])

    searching: list[dict[str, Any]] = [{}, {"k": 7}, {"queries": "tokens"}, {"max_query_terms": 2}]
    for settings in searching:
        run(Sparse(model=folder, **settings))
        assert kept() == 1
    making: list[dict[str, Any]] = [{"max_terms": 3}, {"max_length": 9}, {"fields": ["text"]}]
    for number, settings in enumerate(making):
        run(Sparse(model=folder, **settings))
        assert kept() == 2 + number
    tiny_masked_lm(tmp_path / "model", seed=9)
    run(Sparse(model=folder))
    assert kept() == 5


def test_of_a_corpus_that_grows_or_shrinks_only_new_documents_are_encoded(
    tmp_path: Path, tiny_masked_lm: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    encode = SparseEncoder.documents

    def noted(self: SparseEncoder, texts: list[str], *rest: Any) -> Any:
        asked.extend(texts)
        return encode(self, texts, *rest)

    monkeypatch.setattr(SparseEncoder, "documents", noted)
    folder, long = str(tiny_masked_lm(tmp_path)), " ".join(["car"] * 63)
    more = CORPUS.extended([{"id": "g", "text": "sweet zebra"}, {"id": "h", "text": long}])
    less = more.without(["d3", "g"])
    again = less.extended([{"id": "g", "text": "the road"}])  # a segment of its own, behind the old one
    filled = [text for text in DOCUMENTS if text.strip()]
    for corpus, new in ((CORPUS, filled), (more, ["sweet zebra", long]), (less, []), (again, ["the road"])):
        asked.clear()
        found, stage = run(Sparse(model=folder), corpus), Sparse(model=folder)
        assert asked == new
        texts = corpus.joined_texts(corpus.live_rows())
        ids = corpus.ids(corpus.live_rows())
        with FLOAT32.active():
            expected = brute_force(
                dense(stage.encoders()[0].documents, texts), dense(stage.encoders()[1].queries, list(QUERIES.texts))
            )
            assert stage.counted(corpus).get("truncated_share", 0) == round((corpus is not CORPUS) / len(texts), 6)
        check(found, [{ids[int(row[1:])]: score for row, score in scores.items()} for scores in expected])


def test_tokens_as_queries_open_no_network_once_the_index_is_there(
    tmp_path: Path, tiny_masked_lm: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_masked_lm(tmp_path)
    first = run(Sparse(model=str(folder), queries="tokens"))
    import transformers

    monkeypatch.delattr(transformers, "AutoModelForMaskedLM")
    assert lists(run(Sparse(model=str(folder), queries="tokens"))) == lists(first)


def test_the_manifest_hears_of_the_model_and_of_what_was_cut(
    tmp_path: Path, tiny_masked_lm: Callable[..., Path]
) -> None:
    corpus = Corpus.from_texts(["car " * 63, "car", "road", "tree"])
    stage = Sparse(model=str(tiny_masked_lm(tmp_path)))
    with FLOAT32.active():
        assert stage.counted(corpus) == {}
        stage.prepare(corpus)
        facts = stage.facts(corpus)
        assert stage.counted(corpus) == {"truncated_share": 0.25}
        stage(Run.empty(Queries.of(["car", " ", "road " * 63]), corpus))
        assert stage.counted(corpus) == {"truncated_share": 0.25, "truncated_query_share": 0.5}  # one says nothing
    assert (facts["dtype"], facts["pooling"]) == ("float32", "max")
    assert facts["model"] == facts["query_model"]


def test_its_lowest_score_lets_it_be_fused_by_the_theoretical_minimum(
    tmp_path: Path, tiny_masked_lm: Callable[..., Path]
) -> None:
    stage = Sparse(model=str(tiny_masked_lm(tmp_path)))
    assert stage.lowest_score == 0.0
    fused = Fuse(branches=(BM25(), stage), method="convex", weights=(0.5, 0.5))
    with FLOAT32.active():
        assert len(fused(Run.empty(QUERIES, CORPUS)).documents)


@pytest.mark.parametrize("setting", [{"query_model": "x"}, {"max_query_terms": 3}])
def test_tokens_as_queries_take_no_settings_of_encoded_ones(setting: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=f"encodes no queries, so it takes no '{next(iter(setting))}'"):
        Sparse(model="m", queries="tokens", **setting)


@pytest.mark.parametrize("setting", ["k", "max_terms", "max_query_terms", "max_length"])
@pytest.mark.parametrize("value", [0, -1, 2.5, True])
def test_what_counts_is_a_whole_number_above_zero(setting: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        Sparse(model="m", **{setting: value})


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError) as caught:
        run(Sparse(model="m"))
    assert str(caught.value) == (
        "stage 'sparse' needs transformers: install rankpipe with its extra 'dense', for example pip install '.[dense]'"
    )
