"""The inverted index: by hand, against a BM25 in plain Python, ties at the cut, gaps, impacts, edges, damage."""

import contextlib
import json
import math
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankpipe.errors import DataError, StoreError, UsageError
from rankpipe.index import indexing, kernels
from rankpipe.index.bm25 import LENGTHS, length_bytes
from rankpipe.index.inverted import InvertedIndex, Ranking, TermQueries, build, build_impacts
from rankpipe.index.layout import growing_array


class Words:
    """Words between spaces; `the` is dropped, a final s cut."""

    fingerprint = "words"

    def words(self, text: str) -> list[str]:
        return text.split()

    def term(self, word: str) -> str | None:
        return None if word == "the" else word.removesuffix("s")


WORDS = Words()


def index_of(folder: Path, texts: list[str], rows: np.ndarray | None = None) -> InvertedIndex:
    folder.mkdir(parents=True, exist_ok=True)
    build(folder, texts, WORDS, rows=rows)
    return InvertedIndex.open(folder)


def found(ranking: Ranking) -> list[list[tuple[int, float]]]:
    """(document, score) of each query."""
    pairs = list(zip(ranking.documents.tolist(), ranking.scores.tolist(), strict=True))
    return [pairs[a:b] for a, b in zip(ranking.offsets[:-1], ranking.offsets[1:], strict=True)]


def search(index: InvertedIndex, texts: list[str], k: int = 10, **options) -> list[list[tuple[int, float]]]:
    ties = options.pop("ties", np.arange(index.header.rows, dtype=np.int32))
    return found(index.search(index.queries(texts, WORDS), k, ties, **options))


def plain_bm25(texts: list[str], query: str, k: int, ties: list[int], k1: float, b: float) -> list[tuple[int, float]]:
    """The definition, term by term and document by document."""
    counts = [Counter(t for w in text.split() if (t := WORDS.term(w)) is not None) for text in texts]
    filled = [c for c in counts if c]
    average = sum(c.total() for c in filled) / max(len(filled), 1)
    frequencies = Counter(term for terms in counts for term in terms)
    scores = []
    for row, terms in enumerate(counts):
        score = 0.0
        for word in query.split():
            term = WORDS.term(word)
            if term is not None and terms[term]:
                idf = math.log(1 + (len(filled) - frequencies[term] + 0.5) / (frequencies[term] + 0.5))
                length = LENGTHS[length_bytes(np.array([terms.total()]))[0]]
                score += idf * terms[term] / (terms[term] + k1 * (1 - b + b * length / average))
        if score:
            scores.append((row, score))
    return sorted(scores, key=lambda pair: (-round(pair[1], 5), ties[pair[0]]))[:k]


def test_three_documents_by_hand(tmp_path: Path) -> None:
    index = index_of(tmp_path, ["cat dog", "cat cat the mouse", "bird"])
    # lengths 2, 3, 1; average 2; df(cat) 2: idf = ln(1 + 1.5 / 2.5) = .470004; k1 .9, b .4
    # row 0: 1 / (1 + .9 (.6 + .4 * 2 / 2)) = .526316 -> .247370
    # row 1: 2 / (2 + .9 (.6 + .4 * 3 / 2)) = .649351 -> .305197
    [[first, second]] = search(index, ["cats"])
    assert first == (1, pytest.approx(0.305197, abs=1e-6))
    assert second == (0, pytest.approx(0.247370, abs=1e-6))


def test_a_repeated_query_term_counts_each_time(tmp_path: Path) -> None:
    index = index_of(tmp_path, ["cat dog", "cat", "bird"])
    once, twice = search(index, ["cat", "cat cats"])
    assert [score for _, score in twice] == pytest.approx([2 * score for _, score in once])


def test_weights_of_terms_multiply_their_part(tmp_path: Path) -> None:
    index = index_of(tmp_path, ["cat dog", "cat", "dog dog", "bird"])
    ties = np.arange(4, dtype=np.int32)
    cat, dog = (dict(pairs) for pairs in search(index, ["cat", "dog"]))
    [both] = found(index.search(index.weighted_queries([{"cat": 0.5, "dog": 2.0, "fish": 9.0, "bird": 0.0}]), 10, ties))
    assert dict(both) == pytest.approx({0: 0.5 * cat[0] + 2 * dog[0], 1: 0.5 * cat[1], 2: 2 * dog[2]})


texts_of_few_words = st.lists(
    st.lists(st.sampled_from(["a", "b", "c", "d", "e", "f", "the", "as"]), max_size=6).map(" ".join), max_size=40
)


@settings(max_examples=150, deadline=None)
@given(
    texts=texts_of_few_words,
    queries=st.lists(st.lists(st.sampled_from(["a", "b", "c", "d", "x", "the"]), max_size=5).map(" ".join), max_size=5),
    k=st.integers(1, 12),
    k1=st.sampled_from([0.0, 0.9, 1.2, 7.5]),
    b=st.sampled_from([0.0, 0.4, 1.0]),
    seed=st.integers(0, 99),
)
def test_every_result_is_that_of_plain_python(tmp_path_factory, texts, queries, k, k1, b, seed) -> None:
    index = index_of(tmp_path_factory.mktemp("index"), texts)
    ties = np.random.default_rng(seed).permutation(len(texts)).astype(np.int32)
    answers = search(index, queries, k, ties=ties, k1=k1, b=b)
    assert len(answers) == len(queries)
    for query, answer in zip(queries, answers, strict=True):
        expected = plain_bm25(texts, query, k, ties.tolist(), k1, b)
        assert [row for row, _ in answer] == [row for row, _ in expected]
        assert [score for _, score in answer] == pytest.approx([score for _, score in expected], rel=1e-5)


def zipfian_texts(documents: int, seed: int) -> list[str]:
    """Texts of 1 to 60 words whose frequencies fall as in language."""
    generator = np.random.default_rng(seed)
    return [
        " ".join(f"w{n}" for n in generator.zipf(1.3, size) if n < 5000)
        for size in generator.integers(1, 60, documents)
    ]


@pytest.mark.parametrize("k", [1, 10, 100, 1000, 40_000])
def test_several_windows_and_every_way_of_selecting_give_the_full_sort(tmp_path: Path, k: int) -> None:
    documents = 2 * kernels.WINDOW + 77
    index = index_of(tmp_path, zipfian_texts(documents, 1))
    ties = np.random.default_rng(2).permutation(documents).astype(np.int32)
    queries = index.queries(["w1", "w1 w2 w3 w5 w9", "w900 w1000", "w1 w4000", "w3 w3 w77 w2 w400"], WORDS)
    ranking = index.search(queries, k, ties)
    offsets = np.arange(6) * documents
    everything = np.tile(np.arange(documents, dtype=np.int32), 5)
    scores = index.score(queries, offsets, everything).reshape(5, documents)
    for answer, of_query in zip(found(ranking), scores, strict=True):
        order = np.lexsort([ties, -of_query])[: min(k, np.count_nonzero(of_query))]
        assert answer == list(zip(order.tolist(), of_query[order].tolist(), strict=True))


def test_ties_at_the_cut_go_by_tie_order(tmp_path: Path) -> None:
    index = index_of(tmp_path, ["cat"] * 5000 + ["dog"] * 5000)
    ties = np.random.default_rng(3).permutation(10_000).astype(np.int32)
    for k in (1, 7, 4999):
        [answer] = search(index, ["cat"], k, ties=ties)
        assert [row for row, _ in answer] == np.argsort(ties[:5000])[:k].tolist()


def test_the_order_of_query_terms_changes_no_bit(tmp_path: Path) -> None:
    index = index_of(tmp_path, zipfian_texts(500, 4))
    there, back = search(index, ["w1 w2 w7 w30 w2", "w2 w30 w2 w7 w1"], 500)
    assert there == back


def test_threads_change_nothing(tmp_path: Path) -> None:
    index = index_of(tmp_path, zipfian_texts(300, 5))
    texts = [f"w{n} w{n + 1} w{n % 7}" for n in range(1000)]
    assert search(index, texts, 20, threads=4) == search(index, texts, 20)


def test_given_candidates_get_the_scores_of_the_search_and_0_where_nothing_matches(tmp_path: Path) -> None:
    index = index_of(tmp_path, ["cat dog", "bird", "dog"])
    queries = index.queries(["cat dog", "bird"], WORDS)
    searched = [dict(pairs) for pairs in search(index, ["cat dog", "bird"])]
    scores = index.score(queries, np.array([0, 3, 4]), np.array([2, 1, 0, 1]))
    assert scores.tolist() == [searched[0][2], 0, searched[0][0], searched[1][1]]


def test_rows_may_have_gaps(tmp_path: Path) -> None:
    index = index_of(tmp_path, ["cat", "", "dog cat"], rows=np.array([2, 5, 90_000]))
    closed = index_of(tmp_path / "closed", ["cat", "", "dog cat"])
    [answer] = search(index, ["cat"])
    [expected] = search(closed, ["cat"])
    assert answer == [({0: 2, 2: 90_000}[row], score) for row, score in expected]
    assert index.header.rows == 90_001
    assert index.header.documents == 2


def test_impacts_are_scored_by_the_dot_product(tmp_path: Path) -> None:
    build_impacts(tmp_path, [{"cat": 1.5, "dog": 0.25}, {}, {"cat": 0.5}, {"##ing": 3.0}])
    index = InvertedIndex.open(tmp_path)
    ties = np.array([3, 2, 1, 0], np.int32)
    ranking = index.search(index.weighted_queries([{"cat": 2.0, "dog": 4.0}, {"##ing": 0.5, "dog": 6.0}]), 5, ties)
    # 2 * 1.5 + 4 * .25 = 4 and 2 * .5 = 1; then .5 * 3 = 1.5 in row 3 and 6 * .25 = 1.5 in row 0: row 3 has the smaller tie
    assert found(ranking) == [[(0, 4.0), (2, 1.0)], [(3, 1.5), (0, 1.5)]]


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf])
def test_impacts_that_are_not_positive_numbers_are_refused(tmp_path: Path, weight: float) -> None:
    with pytest.raises(DataError) as refused:
        build_impacts(tmp_path, [{"cat": 1.0}, {"dog": weight}])
    assert str(refused.value) == f"document 1: weight {weight} of term 'dog'; weights are finite and above 0"


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_two_builds_and_builds_in_blocks_write_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = zipfian_texts(400, 6)
    index_of(tmp_path / "one", texts)
    index_of(tmp_path / "two", texts)
    monkeypatch.setattr(indexing, "BLOCK", 500)
    index_of(tmp_path / "blocks", texts)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two") == files_of(tmp_path / "blocks")


def test_impacts_in_blocks_are_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [dict(Counter(text.split())) for text in zipfian_texts(100, 7)]
    for name, block in (("whole", 1 << 20), ("blocks", 100)):
        monkeypatch.setattr(indexing, "BLOCK", block)
        (tmp_path / name).mkdir()
        build_impacts(tmp_path / name, documents)
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "blocks")


def test_codes_of_four_bytes_are_read_like_those_of_two(tmp_path: Path) -> None:
    # More than 65,536 pairs of frequency and length take gigabytes of text; wide codes are made from narrow ones here.
    texts = zipfian_texts(200, 8)
    small = index_of(tmp_path / "two", texts)
    folder = tmp_path / "four"
    index_of(folder, texts)
    np.save(folder / "payload.npy", np.load(folder / "payload.npy").astype(np.uint32))
    wide = InvertedIndex.open(folder)
    assert search(wide, ["w1 w2 w8"], 50) == search(small, ["w1 w2 w8"], 50)


def test_a_corpus_of_no_documents_and_one_of_empty_documents_answer_with_nothing(tmp_path: Path) -> None:
    for name, texts in (("none", []), ("empty", ["", "the the"])):
        index = index_of(tmp_path / name, texts)
        assert search(index, ["cat", ""]) == [[], []]
        assert search(index, []) == []
        assert index.score(index.queries(["cat"], WORDS), np.array([0, 0]), np.empty(0, np.int32)).size == 0


def test_a_corpus_of_one_document_and_k_far_beyond_it(tmp_path: Path) -> None:
    index = index_of(tmp_path, ["cat"])
    # idf = ln(1 + .5 / 1.5) = .287682; 1 / (1 + .9) of it = .151412
    assert search(index, ["cat dog", "the", "fish"], 10**12) == [[(0, pytest.approx(0.151412, abs=1e-6))], [], []]


def test_a_query_of_a_hundred_thousand_words(tmp_path: Path) -> None:
    texts = zipfian_texts(30, 9)
    index = index_of(tmp_path, texts)
    long = " ".join(f"w{n % 6000}" for n in range(100_000))
    [answer] = search(index, [long], 5)
    assert [row for row, _ in answer] == [row for row, _ in plain_bm25(texts, long, 5, list(range(30)), 0.9, 0.4)]


def test_strange_characters_are_terms_like_others(tmp_path: Path) -> None:
    index = index_of(tmp_path, ["\0 \ud800 ü", "ü 漢字", "𝔘"])
    assert [[row for row, _ in answer] for answer in search(index, ["\0", "\ud800", "漢字", "𝔘", "\udfff"])] == [
        [0],
        [0],
        [1],
        [2],
        [],
    ]
    assert index.document_frequency("ü") == 2


@pytest.mark.parametrize("k", [0, -5])
def test_k_below_1_is_refused(tmp_path: Path, k: int) -> None:
    with pytest.raises(UsageError) as refused:
        search(index_of(tmp_path, ["cat"]), ["cat"], k)
    assert str(refused.value) == f"k is {k}; it must be 1 or more"


def test_another_analyzer_than_the_index_has_is_refused(tmp_path: Path) -> None:
    class Other(Words):
        fingerprint = "other"

    with pytest.raises(UsageError) as refused:
        index_of(tmp_path, ["cat"]).queries(["cat"], Other())
    assert str(refused.value) == "the index was built with analyzer 'words', not 'other'"


@pytest.mark.parametrize(
    ("ties", "message"),
    [
        ([0], "tie_order has 1 rows, the index 2"),
        ([0, 0], "tie_order must hold each of 0 to 1 once"),
        ([0, 7], "tie_order must hold each of 0 to 1 once"),
    ],
)
def test_a_tie_order_that_is_no_order_is_refused(tmp_path: Path, ties: list[int], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        search(index_of(tmp_path, ["cat", "dog"]), ["cat"], ties=np.array(ties, np.int32))
    assert str(refused.value) == message


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_weights_that_are_no_weights_are_refused(tmp_path: Path, weight: float) -> None:
    index = index_of(tmp_path, ["cat"])
    with pytest.raises(UsageError) as refused:
        index.search(index.weighted_queries([{"cat": weight}]), 1, np.zeros(1, np.int32))
    assert str(refused.value) == "weights of terms must lie between 0 and 1e30"


def test_terms_of_another_index_are_refused(tmp_path: Path) -> None:
    index = index_of(tmp_path, ["cat"])
    queries = TermQueries(np.array([0, 1]), np.array([5], np.int32), np.ones(1, np.float32))
    with pytest.raises(UsageError) as refused:
        index.search(queries, 1, np.zeros(1, np.int32))
    assert str(refused.value) == "offsets must rise, and terms be numbers of this index"


@pytest.mark.parametrize("offsets", [[0, 1], [0, 2, 1, 3], [0, 2, 4], [1, 2, 3]])
def test_offsets_that_do_not_divide_the_candidates_are_refused(tmp_path: Path, offsets: list[int]) -> None:
    index = index_of(tmp_path, ["cat", "dog"])
    with pytest.raises(UsageError) as refused:
        index.score(index.queries(["cat", "dog"], WORDS), np.array(offsets), np.zeros(3, np.int32))
    assert str(refused.value) == "offsets do not divide 3 documents among 2 queries"


@pytest.mark.parametrize("rows", [[0], [0, 1, 2], [1, 0], [-1, 0], [3, 3]])
def test_rows_that_do_not_fit_the_texts_are_refused(tmp_path: Path, rows: list[int]) -> None:
    with pytest.raises(UsageError, match="rows"):
        build(tmp_path, ["cat", "dog"], WORDS, rows=np.array(rows))


ARRAYS = ["letters", "letter_starts", "starts", "documents", "payload", "codebook", "lengths"]


@pytest.mark.parametrize("name", ARRAYS)
def test_a_missing_or_truncated_array_is_named(tmp_path: Path, name: str) -> None:
    index_of(tmp_path, zipfian_texts(50, 10))
    path = tmp_path / f"{name}.npy"
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(StoreError) as refused:
        InvertedIndex.open(tmp_path)
    assert str(refused.value).startswith(f"{path}: damaged index: it cannot be read (")
    assert "\n" not in str(refused.value)
    path.unlink()
    with pytest.raises(StoreError) as refused:
        InvertedIndex.open(tmp_path)
    assert str(refused.value) == f"{path}: damaged index: the file is missing; build it again"


@pytest.mark.parametrize("name", ARRAYS)
def test_no_flipped_bit_crashes_a_search(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the postings are too many to be checked on opening: then a search looks out for itself."""
    index = index_of(tmp_path, zipfian_texts(60, 11))
    texts = [f"w{n} w{n + 1}" for n in range(0, 60, 2)]
    right = search(index, texts)
    path = tmp_path / f"{name}.npy"
    content = path.read_bytes()
    generator = np.random.default_rng(12)
    for checked in (1 << 24, 0):
        monkeypatch.setattr("rankpipe.index.layout.CHECKED", checked)
        for _ in range(60):
            spoilt = bytearray(content)
            spoilt[generator.integers(len(content))] ^= 1 << generator.integers(8)
            path.write_bytes(spoilt)
            answers = []
            with contextlib.suppress(StoreError):
                answers = search(InvertedIndex.open(tmp_path), texts)
            assert len(answers) in (0, len(right))
            assert all(0 <= row < 60 and 0 < score < math.inf for answer in answers for row, score in answer)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, 0], "rows do not rise within 0 and 1 for each term"),
        ([0, 2], "rows do not rise within 0 and 1 for each term"),
        ([-1, 1], "rows do not rise within 0 and 1 for each term"),
        ([0, 0], "rows do not rise within 0 and 1 for each term"),
    ],
)
def test_postings_out_of_order_are_found_on_opening(tmp_path: Path, values: list[int], message: str) -> None:
    index_of(tmp_path, ["cat", "cat"])
    path = tmp_path / "documents.npy"
    np.save(path, np.array(values, np.int32))
    with pytest.raises(StoreError) as refused:
        InvertedIndex.open(tmp_path)
    assert str(refused.value) == f"{path}: damaged index: {message}; build it again"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "x"}, "damaged index: its header does not say 'rankpipe inverted index'; build it again"),
        ({"version": 9}, "index of format 9, this version reads 1; build it again"),
        ({"kind": "x"}, "damaged index: its kind is 'x'; build it again"),
        ({"rows": -1}, "damaged index: its rows is -1; build it again"),
        ({"terms": "1"}, "damaged index: its terms is '1'; build it again"),
    ],
)
def test_a_header_that_is_wrong_is_named(tmp_path: Path, change: dict, message: str) -> None:
    index_of(tmp_path, ["cat"])
    path = tmp_path / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(StoreError) as refused:
        InvertedIndex.open(tmp_path)
    assert str(refused.value) == f"{path}: {message}"


def test_a_folder_that_is_no_index_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as refused:
        InvertedIndex.open(tmp_path)
    assert str(refused.value) == f"{tmp_path / 'index.json'}: no such file; {tmp_path} is not an inverted index"


def test_a_full_disk_is_an_os_error() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    with pytest.raises(OSError, match="No space"), growing_array(Path("/dev/full"), np.int32, 1) as file:
        file.write(b"\0" * 4)
