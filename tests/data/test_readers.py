"""Readers of JSONL and of judgements: what they read, and word for word what they refuse."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankpipe.data import Corpus
from rankpipe.data.readers import DocumentReader, read_qrels, read_queries
from rankpipe.errors import DataError, UsageError


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    return path


def corpus_of(path: Path) -> Corpus:
    return Corpus.from_records(DocumentReader(path))


def message(path: Path, content: str | bytes) -> str:
    """What is said of a file of documents."""
    with pytest.raises(DataError) as caught:
        corpus_of(write(path, content))
    return str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "corpus.jsonl"


# -- documents ----------------------------------------------------------------------------------------------------


def test_a_document_has_id_title_text_and_further_fields_as_text(file: Path) -> None:
    write(
        file,
        '{"_id": "d1", "title": "T", "text": "x", "url": "http://a", "metadata": {"year": 1999, "by": ["é", "b"]}}\n'
        '{"id": "d2", "text": "y", "year": 2001, "open": true, "metadata": {}, "tags": [], "note": null}\n',
    )
    corpus = corpus_of(file)
    assert corpus.fields == ("title", "text", "url", "metadata", "year", "open")
    assert corpus.texts([0, 1], "metadata") == ['{"year":1999,"by":["é","b"]}', ""]
    assert corpus.texts([0, 1], "year") == ["", "2001"]
    assert corpus.texts([0, 1], "open") == ["", "true"]
    assert corpus.texts([0, 1], "title") == ["T", ""]


def test_a_number_as_id_is_taken_as_its_digits(file: Path) -> None:
    assert corpus_of(write(file, '{"_id": 7, "text": "x"}\n')).ids([0]) == ["7"]


def test_blank_lines_a_byte_order_mark_and_dos_line_ends_are_no_content(file: Path) -> None:
    corpus = corpus_of(write(file, b'\xef\xbb\xbf{"_id": "a", "text": "x"}\r\n\r\n{"_id": "b", "text": "y"}'))
    assert corpus.ids([0, 1]) == ["a", "b"]


def test_only_line_feeds_end_lines(file: Path) -> None:
    text = "one\u2028two\x85three"
    assert corpus_of(write(file, f'{{"_id": "a", "text": "{text}"}}\n')).texts([0]) == [text]


def test_nul_is_text(file: Path) -> None:
    assert corpus_of(write(file, '{"_id": "a", "text": "x\\u0000y"}\n')).texts([0]) == ["x\0y"]


def test_an_empty_document_counts(file: Path) -> None:
    assert corpus_of(write(file, '{"_id": "a", "title": "", "text": ""}\n')).size == 1


def test_an_empty_file_is_a_corpus_of_no_documents(file: Path) -> None:
    assert corpus_of(write(file, "")).size == 0


def test_packed_and_plain_files_give_the_same_corpus(file: Path, tmp_path: Path) -> None:
    content = b'{"_id": "a", "text": "x"}\n{"_id": "b", "text": "y"}\n'
    packed = write(tmp_path / "corpus.jsonl.gz", gzip.compress(content))
    assert corpus_of(write(file, content)).digest == corpus_of(packed).digest


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"_id": "b"', "not JSON: Expecting ',' delimiter, at character 12"),
        ("b\ty", "not JSON: Expecting value, at character 1"),
        ("[" * 100_000, "not JSON that can be read: "),
        ('["b", "y"]', 'a list, not an object such as {"_id": "7", "text": "..."}'),
        ("null", 'null, not an object such as {"_id": "7", "text": "..."}'),
        ("3", 'a number, not an object such as {"_id": "7", "text": "..."}'),
        ('{"docid": "b", "text": "y"}', "no '_id'; the keys are 'docid', 'text'"),
        ("{}", "no '_id'; the keys are none"),
        ('{"_id": "b", "contents": "y"}', "no 'text'; the keys are '_id', 'contents'"),
        ('{"_id": null, "text": "y"}', "'_id' is null, not a text"),
        ('{"_id": 1.5, "text": "y"}', "'_id' is a number, not a text"),
        ('{"_id": true, "text": "y"}', "'_id' is true or false, not a text"),
        ('{"id": ["b"], "text": "y"}', "'id' is a list, not a text"),
        ('{"_id": "b", "id": "c", "text": "y"}', "'_id' is 'b' and 'id' is 'c': keep the one that names the document"),
        ('{"_id": "b", "text": null}', "'text' is null, not a text"),
        ('{"_id": "b", "text": ["y"]}', "'text' is a list, not a text"),
        ('{"_id": "b", "text": "y", "title": 3}', "'title' is a number, not a text"),
        ('{"_id": "b", "text": "y", "text": "z"}', "the key 'text' stands twice; keep one"),
        ('{"_id": "b", "text": "y", "more": {"_id": 1, "_id": 1}}', "the key '_id' stands twice; keep one"),
        ('{"_id": "", "text": "y"}', "id of document 2 is empty"),
        (
            '{"_id": "b", "text": "y\\ud800"}',
            "document 'b', field 'text': lone surrogate U+D800 at character 2, which no Unicode text holds",
        ),
        (
            '{"_id": "b", "text": "y", "\\ud800": "z"}',
            "document 'b', field '\\ud800': lone surrogate U+D800 at character 1, which no Unicode text holds",
        ),
        ('{"_id": "a", "text": "y"}', "document id 'a' occurs twice; the first time in line 2"),
    ],
)
def test_a_bad_line_is_named(file: Path, line: str, says: str) -> None:
    found = message(file, f'\n{{"_id": "a", "text": "x"}}\n\n{line}\n')
    assert found.startswith(f"{file}:4: {says}")
    assert found == f"{file}:4: {says}" or line.startswith("[[")  # Python's own words differ between versions


def test_text_that_is_not_utf8_is_named(file: Path) -> None:
    found = message(file, b'{"_id": "a", "text": "x"}\n{"_id": "b", "text": "caf\xe9"}\n')
    assert found == f"{file}:2: not UTF-8: invalid continuation byte at byte 26 of the line"


def test_a_repeated_id_is_found_across_record_batches(file: Path) -> None:
    lines = [f'{{"_id": "{number}", "text": "x"}}\n' for number in [*range(40_000), 3]]
    assert message(file, "".join(lines)) == f"{file}:40001: document id '3' occurs twice; the first time in line 4"


def test_a_truncated_gzip_file_is_named(tmp_path: Path) -> None:
    content = b"".join(b'{"_id": "%d", "text": "x"}\n' % number for number in range(1000))
    found = message(tmp_path / "c.jsonl.gz", gzip.compress(content)[:-20])
    assert found.startswith(f"{tmp_path / 'c.jsonl.gz'}: the gzip file ends after line ")
    assert found.endswith(", in the middle: fetch it again")


def test_a_gzip_file_of_another_kind_is_named(tmp_path: Path) -> None:
    found = message(tmp_path / "c.jsonl.gz", '{"_id": "a", "text": "x"}\n')
    assert found == f"{tmp_path / 'c.jsonl.gz'}: no whole gzip file, from line 1 on: Not a gzipped file (b'{{\"')"


def test_a_bit_flipped_gzip_file_is_named(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(b'{"_id": "a", "text": "x"}\n'))
    packed[-6] ^= 1  # in the checksum
    found = message(tmp_path / "c.jsonl.gz", bytes(packed))
    assert found.startswith(f"{tmp_path / 'c.jsonl.gz'}: no whole gzip file, from line ")


def test_a_packed_file_without_the_ending_is_named(file: Path) -> None:
    found = message(file, gzip.compress(b'{"_id": "a", "text": "x"}\n'))
    assert found == f"{file}: is compressed with gzip; its name should end in .gz"


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^there is no file .*/none.jsonl$"):
        corpus_of(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match=r": cannot be read: Is a directory$"):
        corpus_of(tmp_path)


@given(st.lists(st.tuples(st.text(min_size=1), st.text(), st.text()), unique_by=lambda one: one[0]), st.booleans())
def test_any_text_comes_back_as_it_was(documents: list[tuple[str, str, str]], escaped: bool) -> None:
    lines = [
        json.dumps({"_id": doc_id, "title": title, "text": text}, ensure_ascii=escaped) + "\n"
        for doc_id, title, text in documents
    ]
    with tempfile.TemporaryDirectory() as folder:
        corpus = corpus_of(write(Path(folder) / "corpus.jsonl", "".join(lines)))
    rows = list(range(len(documents)))
    assert list(zip(corpus.ids(rows), corpus.texts(rows, "title"), corpus.texts(rows), strict=True)) == documents


# -- queries ------------------------------------------------------------------------------------------------------


def test_queries_keep_their_order_and_fields(file: Path) -> None:
    queries = read_queries(
        write(file, '{"_id": "q2", "text": "b", "metadata": {"n": 1}}\n{"_id": "q1", "text": "", "url": "u"}\n')
    )
    assert queries.ids == ("q2", "q1")
    assert queries.texts == ("b", "")
    assert queries.fields == {"metadata": ('{"n":1}', ""), "url": ("", "u")}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"_id": "q1", "text": "y"}', "query id 'q1' occurs twice; the first time in line 1"),
        ('{"_id": "", "text": "y"}', "query id '': is empty"),
        (
            '{"_id": "q2", "text": "\\udfff"}',
            "query 'q2', field 'text': lone surrogate U+DFFF at character 1, which no Unicode text holds",
        ),
        ('{"text": "y"}', "no '_id'; the keys are 'text'"),
    ],
)
def test_a_bad_query_is_named(file: Path, line: str, says: str) -> None:
    with pytest.raises(DataError) as caught:
        read_queries(write(file, f'{{"_id": "q1", "text": "x"}}\n{line}\n'))
    assert str(caught.value) == f"{file}:2: {says}"


# -- judgements ---------------------------------------------------------------------------------------------------

HEADER = "query-id\tcorpus-id\tscore\n"


def test_judgements_of_beir_and_trec_are_known_by_their_first_line(tmp_path: Path) -> None:
    beir = read_qrels(write(tmp_path / "test.tsv", HEADER + "q 1\td 1\t2\nq2\td2\t-1\n"))
    assert dict(beir) == {"q 1": {"d 1": 2}, "q2": {"d2": -1}}
    trec = read_qrels(write(tmp_path / "qrels.txt", "q1 0 d1 2\nq2\tQ0\td2   0\n"))
    assert dict(trec) == {"q1": {"d1": 2}, "q2": {"d2": 0}}


@pytest.mark.parametrize(
    ("content", "line", "says"),
    [
        (HEADER + "q1\td1\n", 2, "2 columns, not the three of 'query-id<TAB>corpus-id<TAB>score'"),
        (HEADER + "q1 d1 1\n", 2, "1 column, not the three of 'query-id<TAB>corpus-id<TAB>score'"),
        (HEADER + "q1\td1\t1\tx\n", 2, "4 columns, not the three of 'query-id<TAB>corpus-id<TAB>score'"),
        (
            HEADER + "q1\td1\t1\t\n",
            2,
            "4 columns, one of them empty, not the three of 'query-id<TAB>corpus-id<TAB>score'",
        ),
        (HEADER + "q1\t\t1\n", 2, "3 columns, one of them empty, not the three of 'query-id<TAB>corpus-id<TAB>score'"),
        (HEADER + "q1\td1\t1.0\n", 2, "relevance '1.0' is not a whole number such as 0, 1 or 2"),
        (HEADER + "q1\td1\tyes\n", 2, "relevance 'yes' is not a whole number such as 0, 1 or 2"),
        (HEADER + "q1\td1\t1_0\n", 2, "relevance '1_0' is not a whole number such as 0, 1 or 2"),
        (HEADER + "q1\td1\t٣\n", 2, "relevance '٣' is not a whole number such as 0, 1 or 2"),
        (
            HEADER + "q1\td1\t1\nq1\td2\t1\n\nq1\td1\t1\n",
            5,
            "query 'q1' and document 'd1' are judged twice: 1 in line 2, 1 here; keep one",
        ),
        ("q1 0 d1 1\nq1 0 d1 2\n", 2, "query 'q1' and document 'd1' are judged twice: 1 in line 1, 2 here; keep one"),
        ("q1 0 d1 1\nq1 0 d2\n", 2, "3 columns, not the four of 'query_id 0 doc_id relevance'"),
        (
            "q1\td1\t1\n",
            1,
            "neither the header 'query-id<TAB>corpus-id<TAB>score' of a BEIR file nor the four columns "
            "'query_id 0 doc_id relevance' of a TREC file",
        ),
        (
            "q1\tcaffè latte\t1\n",
            1,
            "neither the header 'query-id<TAB>corpus-id<TAB>score' of a BEIR file nor the four columns "
            "'query_id 0 doc_id relevance' of a TREC file",
        ),
    ],
)
def test_a_bad_judgement_is_named(tmp_path: Path, content: str, line: int, says: str) -> None:
    path = write(tmp_path / "test.tsv", content)
    with pytest.raises(DataError) as caught:
        read_qrels(path)
    assert str(caught.value) == f"{path}:{line}: {says}"


@pytest.mark.parametrize("content", ["", "\n\n", HEADER])
def test_a_file_without_judgements_is_refused(tmp_path: Path, content: str) -> None:
    path = write(tmp_path / "test.tsv", content)
    with pytest.raises(DataError) as caught:
        read_qrels(path)
    assert str(caught.value) == f"{path}: holds no judgements"
