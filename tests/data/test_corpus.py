import json
import pickle
from datetime import date
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankpipe.data import Corpus
from rankpipe.data.corpus import BATCH
from rankpipe.data.readers import DocumentReader
from rankpipe.errors import DataError, StoreError, UsageError

RECORDS = [
    {"id": "b", "title": "B", "text": "second letter"},
    {"id": "a", "text": "first letter"},
    {"id": "ä", "title": "", "text": "umlaut", "language": "de"},
]


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def contents(corpus: Corpus) -> list[tuple[str, ...]]:
    """Id and fields of every living document, sorted."""
    rows = corpus.live_rows()
    columns = [corpus.ids(rows), *(corpus.texts(rows, name) for name in ("title", "text", *sorted(corpus.fields)))]
    return sorted(zip(*columns, strict=True))


# -- making and reading -------------------------------------------------------------------------------------------------


def test_texts_get_ids_by_their_number() -> None:
    corpus = Corpus.from_texts(["one", "", "three"])
    assert (len(corpus), corpus.size, corpus.ids([0, 1, 2])) == (3, 3, ["d1", "d2", "d3"])
    assert corpus.texts([2, 0, 2, 1]) == ["three", "one", "three", ""]
    assert repr(corpus) == f"Corpus(3 documents, digest {corpus.digest[:12]})"


def test_a_field_that_a_document_lacks_is_empty() -> None:
    corpus = Corpus.from_records(RECORDS)
    assert corpus.fields == ("title", "text", "language")
    assert corpus.texts([0, 1, 2], "language") == ["", "", "de"]
    assert corpus.texts([0, 1, 2], "title") == ["B", "", ""]


@pytest.mark.parametrize("field", ["text", "title"])
def test_a_corpus_of_ids_has_no_texts_to_give(field: str) -> None:
    corpus = Corpus.of_ids(["x", "y"])
    with pytest.raises(UsageError) as raised:
        corpus.texts([0, 1], field)
    assert str(raised.value) == "this corpus knows document ids only, no texts; a run read with corpus= has them"


def test_records_are_those_that_the_corpus_was_made_of() -> None:
    records = [{"id": "a", "text": "x", "title": ""}, {"id": "b", "text": "", "author": "Ω"}]
    corpus = Corpus.from_records(records)
    assert corpus.records([1, 0, 1]) == [records[1], records[0], records[1]]
    assert corpus.records([]) == []


def test_joined_fields_are_stripped() -> None:
    corpus = Corpus.from_records([*RECORDS, {"id": "c", "title": " C ", "text": " \n"}])
    assert corpus.joined_texts([0, 1, 3]) == ["B second letter", "first letter", "C"]
    assert corpus.joined_texts([3], ["title"]) == ["C"]
    assert corpus.joined_texts([2], ["language", "text"]) == ["de umlaut"]


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^the corpus has no field 'titel'; it has title, text, language$"):
        Corpus.from_records(RECORDS).texts([0], "titel")


@pytest.mark.parametrize(
    ("texts", "rows", "message"),
    [
        (["x", "y"], [0, 2], "a corpus of 2 rows has no row 2; they count from 0"),
        (["x", "y"], [1, -1], "a corpus of 2 rows has no row -1; they count from 0"),
        ([], [0], "a corpus of 0 rows has no row 0; they count from 0"),
    ],
)
def test_rows_beyond_the_corpus_are_refused(texts: list[str], rows: list[int], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Corpus.from_texts(texts).ids(rows)
    assert str(caught.value) == message


def test_ids_lead_to_rows_and_unknown_ones_to_minus_one() -> None:
    corpus = Corpus.from_records(RECORDS)
    rows = corpus.rows(["ä", "a", "zz", "", "b", "a", "\ud800"])
    assert (rows.tolist(), rows.dtype) == ([2, 1, -1, -1, 0, 1, -1], np.int32)
    assert corpus.rows([]).tolist() == Corpus.of_ids([]).rows([]).tolist() == []
    assert Corpus.of_ids([]).rows(["a"]).tolist() == [-1]


def test_ids_that_share_a_hash_are_told_apart(tmp_path: Path) -> None:
    saved = folder(tmp_path / "corpus")
    corpus = Corpus.of_ids(["a", "b", "c"]).save(saved)
    # As if all three ids had the hash of "c".
    key = np.load(saved / "lookup_keys.npy")[np.load(saved / "lookup_rows.npy").tolist().index(2)]
    np.save(saved / "lookup_keys.npy", np.full(3, key))
    np.save(saved / "lookup_rows.npy", np.array([0, 1, 2], np.int32))
    assert Corpus.open(saved).rows(["c", "c", "x"]).tolist() == [2, 2, -1]
    assert corpus.rows(["c"]).tolist() == [2]


def test_tie_order_has_the_largest_id_first_by_code_points() -> None:
    corpus = Corpus.of_ids(["b", "a", "ä", "B", "10", "9", "\U0001f600", "\uffee"])
    order = np.argsort(corpus.tie_order)
    assert corpus.ids(order) == ["\U0001f600", "\uffee", "ä", "b", "a", "B", "9", "10"]
    assert corpus.tie_order.dtype == np.int32


def test_blocks_are_the_living_rows() -> None:
    corpus = Corpus.of_ids("abcdef").without(["b", "f"])
    assert [block.tolist() for block in corpus.blocks(3)] == [[0, 2, 3], [4]]
    assert list(Corpus.of_ids("").blocks()) == []


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([{"id": "a", "text": "x"}, {"id": "b", "text": "x"}, {"id": "a", "text": ""}], "document id 'a' occurs twice"),
        ([{"id": "7", "text": "x"}, {"_id": 7, "text": ""}], "document id '7' occurs twice"),
        ([{"id": "a", "text": ""}, {"id": "", "text": ""}], "id of document 2 is empty"),
        (
            [{"id": "a", "text": ""}, {"id": "b", "contents": "x"}],
            "document 2: no 'text'; the keys are 'id', 'contents'",
        ),
        ([{"text": "x"}], "document 1: no 'id'; the keys are 'text'"),
        ([{"id": 7.5, "text": "x"}], "document 1: 'id' is a number, not a text"),
        ([{"id": True, "text": "x"}], "document 1: 'id' is true or false, not a text"),
        ([{"id": "a", "text": None}], "document 1: 'text' is null, not a text"),
        ([{"id": "a", "text": "x", "title": 7}], "document 1: 'title' is a number, not a text"),
        (
            [{"id": "a", "text": "x", "day": date(2026, 1, 1)}],
            "document 1: 'day' is of type date, neither a text nor what JSON can hold",
        ),
        (
            [{"id": "a", "_id": "b", "text": "x"}],
            "document 1: '_id' is 'b' and 'id' is 'a': keep the one that names the document",
        ),
        (
            [{"id": "a", "text": "x\ud800"}],
            "document 'a', field 'text': lone surrogate U+D800 at character 2, which no Unicode text holds",
        ),
    ],
)
def test_documents_that_cannot_be_are_refused(records: list[dict], message: str) -> None:
    with pytest.raises(DataError) as caught:
        Corpus.from_records(records)
    assert str(caught.value) == message


def test_what_is_no_text_becomes_one_as_in_a_file(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        {"_id": 7, "text": "x", "title": None, "year": 2020, "tags": ["a", "é"], "no": [], "none": None, "open": False},
        {"id": np.int64(8), "text": np.str_("y"), "size": 1.5, "of": {"a": 1}},
    ]
    corpus = Corpus.from_records(records)
    assert corpus.records([0, 1]) == [
        {"id": "7", "text": "x", "year": "2020", "tags": '["a","é"]', "open": "false"},
        {"id": "8", "text": "y", "size": "1.5", "of": '{"a":1}'},
    ]
    (tmp_path / "corpus.jsonl").write_text("".join(f"{json.dumps(one, default=_plain)}\n" for one in records))
    assert Corpus.from_records(DocumentReader(tmp_path / "corpus.jsonl")).digest == corpus.digest
    assert corpus.extended([{"_id": 9, "text": "z"}]).rows(["9"]).tolist() == [2]


class Named(str, Enum):
    A = "d1"


def test_texts_of_other_types_are_read_as_what_they_hold() -> None:
    corpus = Corpus.from_records(
        [{"id": Named.A, "text": "x", "of": Named.A, "note": float("nan"), "n": np.int64(3), "t": ()}]
    )
    assert corpus.records([0]) == [{"id": "d1", "text": "x", "of": "d1", "n": "3"}]


def _plain(value: Any) -> Any:
    return value.item()


def test_one_text_is_not_a_list_of_texts() -> None:
    with pytest.raises(UsageError, match=r"^Corpus.from_texts takes a list of texts, not one text$"):
        Corpus.from_texts("hello")
    documents: Any = {"d1": "hello"}
    with pytest.raises(
        UsageError, match=r"^Corpus.from_texts takes a list of texts, not a mapping; from_records takes"
    ):
        Corpus.from_texts(documents)
    with pytest.raises(DataError) as caught:
        Corpus.from_records(documents)
    assert str(caught.value) == "document 1 is 'd1', not a mapping such as {'id': '7', 'text': 'words'}"


def test_what_is_deleted_is_a_list_of_ids() -> None:
    corpus = Corpus.from_records([{"id": one, "text": "x"} for one in ("1", "2", "12")])
    numbers: Any = [12]
    for ids, said in (
        ("12", "Corpus.without takes a list of document ids, not one id"),
        (numbers, "a document id 12 is not text"),
    ):
        with pytest.raises(UsageError) as caught:
            corpus.without(ids)
        assert str(caught.value) == said


def test_fields_that_no_document_has_are_refused() -> None:
    corpus = Corpus.from_records([{"id": "a", "text": "words"}])
    assert corpus.joined_texts([0]) == ["words"]
    with pytest.raises(UsageError) as caught:
        corpus.joined_texts([0], ("title",))
    assert str(caught.value) == "no document has a field 'title'; there is text"
    assert Corpus.from_records([]).joined_texts([], ("title",)) == []


# -- on disk ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("records", [[], RECORDS[:1], RECORDS], ids=["none", "one", "three"])
def test_built_saved_and_opened_corpora_are_the_same(tmp_path: Path, records: list[dict]) -> None:
    made = Corpus.from_records(records)
    built = Corpus.build(folder(tmp_path / "built"), iter(records))
    saved = made.save(folder(tmp_path / "saved"))
    again = built.save(folder(tmp_path / "again"))
    for corpus in (built, saved, again, Corpus.open(tmp_path / "saved"), pickle.loads(pickle.dumps(saved))):
        assert (contents(corpus), corpus.digest) == (contents(made), made.digest)
        assert corpus.tie_order.tolist() == made.tie_order.tolist()
        assert corpus.rows(["b", "zz"]).tolist() == made.rows(["b", "zz"]).tolist()


def test_a_field_that_comes_late_and_many_batches(tmp_path: Path) -> None:
    count = 2 * BATCH + 5
    records = [{"id": str(number), "text": f"text {number}"} for number in range(count)]
    records[BATCH + 3]["title"] = "late"
    records[-1]["language"] = "de"
    made, built = Corpus.from_records(records), Corpus.build(folder(tmp_path / "built"), records)
    rows = [0, BATCH - 1, BATCH, BATCH + 3, 2 * BATCH, count - 1]
    for corpus in (made, built, made.save(folder(tmp_path / "saved"))):
        assert corpus.ids(rows) == [str(row) for row in rows]
        assert corpus.texts(rows[::-1]) == [f"text {row}" for row in rows[::-1]]
        assert corpus.texts(rows, "title") == ["", "", "", "late", "", ""]
        assert corpus.texts(rows, "language") == ["", "", "", "", "", "de"]
        assert corpus.rows(["0", str(count - 1), str(count)]).tolist() == [0, count - 1, -1]
        assert corpus.digest == made.digest


def test_equal_documents_have_equal_digests_and_others_have_not() -> None:
    digest = Corpus.from_records(RECORDS).digest
    assert Corpus.from_records([dict(reversed(record.items())) for record in RECORDS]).digest == digest
    others = [
        RECORDS[::-1],
        RECORDS[:2],
        [*RECORDS[:2], {"id": "ä", "text": "umlaut", "title": "", "language": "d"}],
        [{"id": "b", "title": "", "text": "Bsecond letter"}, *RECORDS[1:]],
    ]
    digests = {Corpus.from_records(other).digest for other in others}
    assert digest not in digests
    assert len(digests) == len(others)


@pytest.mark.parametrize(
    "name", ["corpus.json", "segment-1-1.arrow", "tie_order.npy", "lookup_keys.npy", "deleted.npy"]
)
@pytest.mark.parametrize("damage", ["gone", "empty", "half"])
def test_a_folder_that_is_not_whole_is_refused(tmp_path: Path, name: str, damage: str) -> None:
    Corpus.from_records(RECORDS).save(folder(tmp_path / "corpus"))
    path = tmp_path / "corpus" / name
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(b"" if damage == "empty" else content[: len(content) // 2])
    with pytest.raises(StoreError, match=f"^{tmp_path}/corpus is not a whole corpus: "):
        Corpus.open(tmp_path / "corpus")


@pytest.mark.parametrize(
    "described", ["[]", "3", "{}", '{"format": 1, "segments": 5}', '{"format": 1, "segments": [{}]}']
)
def test_a_description_that_is_none_is_refused(tmp_path: Path, described: str) -> None:
    Corpus.from_records(RECORDS).save(folder(tmp_path / "corpus"))
    (tmp_path / "corpus" / "corpus.json").write_text(described)
    with pytest.raises(StoreError, match=f"^{tmp_path}/corpus is not a whole corpus: "):
        Corpus.open(tmp_path / "corpus")


def test_another_format_is_named(tmp_path: Path) -> None:
    Corpus.from_records(RECORDS).save(folder(tmp_path / "corpus"))
    (tmp_path / "corpus" / "corpus.json").write_text(json.dumps({"format": 99, "segments": []}))
    with pytest.raises(StoreError, match=r"/corpus has corpus format 99; this version reads 1$"):
        Corpus.open(tmp_path / "corpus")


# -- growing and shrinking ----------------------------------------------------------------------------------------------


def test_deleted_documents_leave_their_rows() -> None:
    corpus = Corpus.from_records(RECORDS)
    less = corpus.without(["b", "b"])
    assert (len(less), less.size, less.live_rows().tolist()) == (3, 2, [1, 2])
    assert less.rows(["b", "a", "ä"]).tolist() == [-1, 1, 2]
    assert less.digest != corpus.digest
    assert (corpus.size, corpus.rows(["b"]).tolist()) == (3, [0])


def test_what_is_not_there_cannot_be_deleted() -> None:
    less = Corpus.from_records(RECORDS).without(["b"])
    for doc_id in ("zz", "b"):
        with pytest.raises(UsageError, match=f"^document id '{doc_id}' is not in the corpus$"):
            less.without(["a", doc_id])


def test_new_documents_get_new_rows() -> None:
    corpus = Corpus.from_records(RECORDS)
    more = corpus.extended([{"id": "z", "text": "last letter", "source": "s"}])
    assert (len(more), more.rows(["z", "a"]).tolist(), more.texts([3, 0], "source")) == (4, [3, 1], ["s", ""])
    assert more.ids(np.argsort(more.tie_order)) == ["ä", "z", "b", "a"]
    assert len(corpus) == 3


def test_segments_stay_what_they_are_when_a_corpus_grows_and_shrinks(tmp_path: Path) -> None:
    corpus = Corpus.from_records(RECORDS)
    more = corpus.without(["a"]).extended([{"id": "z", "text": "last letter"}])
    assert [rows for _, rows in more.segments] == [3, 1]
    assert more.segments[:1] == corpus.segments == Corpus.from_records(RECORDS).segments
    assert more.segments[1:] == Corpus.from_records([{"id": "z", "text": "last letter"}]).segments
    assert more.save(folder(tmp_path / "saved")).segments == more.segments
    assert Corpus.from_records(RECORDS[::-1]).segments != corpus.segments


def test_an_id_that_is_there_cannot_be_added_until_it_is_deleted() -> None:
    corpus = Corpus.from_records(RECORDS)
    with pytest.raises(DataError, match=r"^document id 'a' is in the corpus already$"):
        corpus.extended([{"id": "a", "text": "new"}])
    changed = corpus.without(["a"]).extended([{"id": "a", "text": "new"}])
    assert (changed.rows(["a"]).tolist(), changed.texts([3]), changed.size, len(changed)) == ([3], ["new"], 3, 4)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.dictionaries(st.sampled_from("abcdefgh"), st.text(max_size=3), max_size=4)),
        st.tuples(st.just("delete"), st.sets(st.sampled_from("abcdefgh"), max_size=3)),
        st.tuples(st.just("save"), st.none()),
    ),
    max_size=6,
)


@given(steps)
def test_any_sequence_of_changes_gives_what_a_dictionary_gives(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple]
) -> None:
    corpus, expected = Corpus.from_records([]), {}
    for step, change in steps:
        if step == "add":
            new = {doc_id: text for doc_id, text in change.items() if doc_id not in expected}
            corpus = corpus.extended({"id": doc_id, "text": text} for doc_id, text in new.items())
            expected |= new
        elif step == "delete":
            gone = sorted(change & expected.keys())
            corpus = corpus.without(gone)
            expected = {doc_id: text for doc_id, text in expected.items() if doc_id not in gone}
        else:
            before = corpus
            corpus = corpus.save(tmp_path_factory.mktemp("corpus"))
            assert corpus.digest == before.digest
        rows = corpus.live_rows()
        assert dict(zip(corpus.ids(rows), corpus.texts(rows), strict=True)) == expected
        assert corpus.size == len(rows) == len(expected)
        assert corpus.rows(list(expected)).tolist() == [int(row) for row in corpus.rows(list(expected))]
        assert corpus.ids(corpus.rows(list(expected))) == list(expected)
        falling = corpus.ids(rows[np.argsort(corpus.tie_order[rows])])
        assert all(first > second for first, second in pairwise(falling))
