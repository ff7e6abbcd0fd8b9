"""Finding data sets, and what a Dataset says of them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rankpipe.data import Corpus, Dataset
from rankpipe.errors import DataError, UsageError

DOCUMENTS = [
    {"_id": "d1", "title": "Ships", "text": "A ship sails."},
    {"_id": "d2", "title": "", "text": "A car drives."},
    {"_id": "d3", "title": "Empty", "text": ""},
]
QUERIES = [{"_id": "q2", "text": "car"}, {"_id": "q1", "text": "ship"}, {"_id": "q3", "text": "moon"}]
QRELS = {"test": "q1\td1\t2\nq2\td2\t1\nq1\td9\t0\n"}
HEADER = "query-id\tcorpus-id\tscore\n"


def write_folder(
    folder: Path,
    documents: list[dict] = DOCUMENTS,
    queries: list[dict] = QUERIES,
    qrels: dict[str, str] = QRELS,
    *,
    packed: bool = False,
) -> Path:
    files = {"corpus.jsonl": "".join(json.dumps(one) + "\n" for one in documents)}
    files["queries.jsonl"] = "".join(json.dumps(one) + "\n" for one in queries)
    files.update({f"qrels/{split}.tsv": HEADER + lines for split, lines in qrels.items()})
    for name, text in files.items():
        path = folder / (name + ".gz" * packed)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "own")


def test_a_folder_gives_documents_queries_and_judgements(folder: Path) -> None:
    dataset = Dataset.load(folder)
    assert dataset.corpus.ids([0, 1, 2]) == ["d1", "d2", "d3"]
    assert dataset.corpus.joined_texts([0, 1, 2]) == ["Ships A ship sails.", "A car drives.", "Empty"]
    assert dataset.splits == ("test",)
    assert dict(dataset.qrels("test")) == {"q1": {"d1": 2, "d9": 0}, "q2": {"d2": 1}}


def test_the_queries_of_a_split_are_those_it_judges_in_the_order_of_their_file(folder: Path) -> None:
    dataset = Dataset.load(folder)
    assert dataset.queries("test").ids == ("q2", "q1")
    assert dataset.queries(None).ids == ("q2", "q1", "q3")
    assert dataset.unjudged_queries() == ["q3"]


def test_judgements_of_unknown_documents_are_counted(folder: Path) -> None:
    assert Dataset.load(folder).unknown_judged("test") == 1  # d9


def test_plain_and_packed_folders_give_the_same_corpus(folder: Path, tmp_path: Path) -> None:
    plain, packed = Dataset.load(folder), Dataset.load(write_folder(tmp_path / "packed", packed=True))
    assert plain.corpus.digest == packed.corpus.digest
    assert plain.queries().texts == packed.queries().texts
    assert dict(plain.qrels()) == dict(packed.qrels())


def test_an_unknown_split_is_refused_with_those_there_are(folder: Path) -> None:
    with pytest.raises(UsageError) as caught:
        Dataset.load(folder).qrels("dev")
    assert str(caught.value) == f"data set '{folder}' has no split 'dev'; it has test"


def test_a_judged_query_without_a_text_is_an_error_that_names_the_judgement(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "own", queries=QUERIES[:1])
    with pytest.raises(DataError) as caught:
        Dataset.load(folder).queries("test")
    file = folder / "qrels" / "test.tsv"
    assert str(caught.value) == f"{file}:2: query 'q1' has no text: it is not in {folder / 'queries.jsonl'}"


def test_a_folder_of_rankpipe_data_is_found_by_its_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_folder(tmp_path / "second" / "own", documents=DOCUMENTS[:1])
    monkeypatch.setenv("RANKPIPE_DATA", f"{tmp_path / 'nowhere'}:{tmp_path}:{other.parent}")
    assert Dataset.load("own").corpus.size == 3  # the first folder wins
    monkeypatch.setenv("RANKPIPE_DATA", f"{other.parent}:{tmp_path}")
    assert Dataset.load("own").corpus.size == 1


def test_the_corpus_is_built_once_and_then_opened_from_the_store(folder: Path, store: Path) -> None:
    first = Dataset.load(folder).corpus
    [built] = (store / "corpora").iterdir()
    stamp = built.stat().st_mtime_ns
    again = Dataset.load(folder).corpus
    assert again.digest == first.digest
    assert [path.stat().st_mtime_ns for path in (store / "corpora").iterdir()] == [stamp]


def test_own_objects_make_a_dataset() -> None:
    dataset = Dataset.of(Corpus.from_texts(["a", "b"]), {"q1": "x", "q2": "y"}, {"q2": {"d1": 1}})
    assert dataset.queries("test").ids == ("q2",)
    assert dataset.splits == ("test",)


def test_the_bundled_collection_needs_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANKPIPE_DATA", raising=False)
    corpus = Dataset.load("python-docs").corpus
    [row] = corpus.rows(["os.path.split"])
    assert "Split a pathname" in corpus.texts([row])[0]


@pytest.mark.parametrize(
    ("name", "documents", "queries", "judgements"),
    [("scifact", 5183, 300, 339), ("nfcorpus", 3633, 323, 12334), ("vaswani", 11429, 93, 2083)],
)
def test_real_folders_are_read_whole(
    real_dataset: Callable[[str], Dataset], name: str, documents: int, queries: int, judgements: int
) -> None:
    dataset = real_dataset(name)
    assert dataset.corpus.size == documents
    assert len(dataset.queries("test")) == queries
    assert dataset.qrels("test").size == judgements
    assert dataset.unknown_judged("test") == 0
