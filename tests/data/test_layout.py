"""Data sets that are written are read again as they were."""

from __future__ import annotations

import json
import subprocess
import sys
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


CHANGED = """
import os, sys
from rankpipe import Dataset

path, opened = sys.argv[1], []

def other_content(event, arguments):
    if event == "open" and str(arguments[0]) == path:
        opened.append(path)
        if len(opened) == 2:  # once to be hashed, then to be read
            os.replace(path + ".new", path)

sys.addaudithook(other_content)
Dataset.load(os.path.dirname(path)).corpus
"""


def test_a_corpus_that_changes_before_it_is_read_is_not_kept_as_what_it_was(tmp_path: Path) -> None:
    file, new = tmp_path / "corpus.jsonl", tmp_path / "corpus.jsonl.new"
    whole = "".join(json.dumps({"_id": f"d{n}", "text": f"words {n}"}) + "\n" for n in range(5))
    file.write_text(whole)
    new.write_text(json.dumps({"_id": "other", "text": "words"}) + "\n")
    done = subprocess.run([sys.executable, "-c", CHANGED, str(file)], capture_output=True, text=True)
    assert f"DataError: {file}: changed while it was read; try again when it is whole" in done.stderr
    file.write_text(whole)
    assert len(Dataset.load(tmp_path).corpus) == 5


def test_judgements_of_queries_without_texts_are_not_left_out_silently(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "qrels").mkdir(parents=True)
    (source / "corpus.jsonl").write_text('{"_id": "d1", "text": "a"}\n')
    (source / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    with pytest.raises(DataError, match=r"no queries\.jsonl and no queries\.jsonl\.gz in this folder"):
        write_queries_and_qrels(tmp_path, Dataset.load(source))
