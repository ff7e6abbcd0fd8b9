"""Data sets that are written are read again as they were."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rankpipe import Corpus, Dataset, Queries
from rankpipe.data.layout import write_documents, write_queries_and_qrels
from rankpipe.errors import DataError

RECORDS = [
    {"id": "d 1", "title": "", "text": 'a\u2028b\n"c"'},
    {"id": "d2", "text": "", "author": "Ω", "metadata": '{"url":1}'},
]


def test_a_data_set_that_is_written_is_read_as_it_was(tmp_path: Path) -> None:
    corpus = Corpus.from_records(RECORDS)
    queries = Queries(("q1", "q2"), ("one", "two\ttabs"), fields={"narrative": ("long", "")})
    dataset = Dataset.of(corpus, queries, {"q2": {"d2": 0, "d 1": 2}}, split="dev")
    write_documents(tmp_path, RECORDS)
    write_queries_and_qrels(tmp_path, dataset)
    read = Dataset.load(tmp_path)
    assert read.corpus.digest == corpus.digest
    assert read.splits == ("dev",)
    assert dict(read.qrels("dev")) == {"q2": {"d2": 0, "d 1": 2}}
    every = read.queries(None)
    assert (every.ids, every.texts, every.fields) == (queries.ids, queries.texts, queries.fields)
    assert json.loads((tmp_path / "queries.jsonl").read_text().splitlines()[1]) == {"_id": "q2", "text": "two\ttabs"}


@pytest.mark.parametrize("doc_id", ["a\tb", "a\nb", " a"])
def test_an_id_that_tabs_would_part_is_refused(tmp_path: Path, doc_id: str) -> None:
    dataset = Dataset.of(Corpus.from_records([{"id": doc_id, "text": "x"}]), {"q": "x"}, {"q": {doc_id: 1}})
    with pytest.raises(DataError) as raised:
        write_queries_and_qrels(tmp_path, dataset)
    assert str(raised.value) == f"id {doc_id!r} cannot stand in a file of judgements, which tabs part"
