"""Finding data sets, and what a Dataset says of them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rankpipe.data import Corpus, Dataset, catalogue
from rankpipe.data.catalogue import Card
from rankpipe.data.irds import IrDatasets
from rankpipe.data.sources import Archive, Files
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


def test_judgements_that_cannot_be_reached_are_not_taken_for_none(folder: Path) -> None:
    (folder / "qrels").rename(folder / "judgements")
    assert Dataset.load(folder).splits == ()
    (folder / "qrels").symlink_to(folder / "qrels")
    with pytest.raises(DataError) as caught:
        Dataset.load(folder)
    assert str(caught.value) == f"{folder}/qrels: cannot be read: Too many levels of symbolic links"


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


def like_msmarco_dl19(folder: Path, documents: int = 19_383) -> Path:
    """A folder with the counts of the card msmarco-dl19."""
    judged = [f"q{number % 43}\td{number}\t1\n" for number in range(9_260)]
    return write_folder(
        folder,
        [{"_id": f"d{number}", "text": "x"} for number in range(documents)],
        [{"_id": f"q{number}", "text": "y"} for number in range(43)],
        {"test": "".join(judged)},
    )


def test_a_name_of_the_catalogue_finds_a_folder_with_the_counts_of_its_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    like_msmarco_dl19(tmp_path / "msmarco-dl19")
    monkeypatch.setenv("RANKPIPE_DATA", str(tmp_path))
    dataset = Dataset.load("msmarco-dl19")
    assert dataset.card.relevance_cut == 2
    assert dataset.notes == ()
    assert dataset.corpus.size == 19_383


def test_an_id_of_a_split_finds_that_split_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    like_msmarco_dl19(tmp_path / "msmarco-dl19")
    monkeypatch.setenv("RANKPIPE_DATA", str(tmp_path))
    dataset = Dataset.load("msmarco-dl19/test")
    assert dataset.splits == ("test",)
    assert dataset.card.name == "msmarco-dl19"
    for name in ("msmarco-dl19/dev", "msmarco-dl19/test/more"):
        with pytest.raises(UsageError, match=rf"^there is no data set '{name}'; did you mean 'msmarco-dl19'\? "):
            Dataset.load(name)


def test_a_path_to_a_folder_gets_the_card_of_its_name_if_the_counts_agree(tmp_path: Path) -> None:
    whole, other = (
        like_msmarco_dl19(tmp_path / "msmarco-dl19"),
        like_msmarco_dl19(tmp_path / "a" / "msmarco-dl19", 9_260),
    )
    assert Dataset.load(whole).card.relevance_cut == 2
    assert Dataset.load(other).card == Card(name="msmarco-dl19")
    assert Dataset.load(whole.rename(tmp_path / "renamed")).card == Card(name="renamed")


def test_a_folder_with_other_counts_does_not_answer_to_a_name_of_the_catalogue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slice_of_it = like_msmarco_dl19(tmp_path / "trec-dl-2019")
    monkeypatch.setenv("RANKPIPE_DATA", str(tmp_path))
    for name in ("msmarco-passage/trec-dl-2019", "msmarco-passage/trec-dl-2019/judged"):
        dataset = Dataset.load(name)
        assert isinstance(dataset._source, IrDatasets)  # which downloads nothing before it is read
        assert dataset.notes == (
            f"{slice_of_it} is not the '{name}' of the catalogue: 19,383 documents, not 8,841,823",
        )
    assert Dataset.load("trec-dl-2019").card == Card(name="trec-dl-2019")


def test_a_folder_with_other_counts_is_told_when_there_is_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "msmarco-dl19")
    monkeypatch.setenv("RANKPIPE_DATA", str(tmp_path))
    with pytest.raises(UsageError) as caught:
        Dataset.load("msmarco-dl19")
    assert str(caught.value) == (
        f"data set 'msmarco-dl19' is not here; {folder} is not the 'msmarco-dl19' of the catalogue: "
        "3 documents, not 19,383, 2 queries and 3 judgements in 'test', not 43 and 9,260; bring it as a folder in BEIR "
        "layout (its source: https://github.com/castorini/rank_llm), by its path or inside a folder that RANKPIPE_DATA "
        "names"
    )


def test_counts_are_counted_once(folder: Path, store: Path) -> None:
    files = Files.in_folder(folder)
    assert files.counts().documents == 3
    [remembered] = (store / "counts").glob("*/counts.json")
    stamp = remembered.stat().st_mtime_ns
    assert files.counts().documents == 3
    assert remembered.stat().st_mtime_ns == stamp
    write_folder(folder, documents=DOCUMENTS[:2])
    assert files.counts().documents == 2


def test_a_name_that_nothing_knows_is_refused_with_the_nearest(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANKPIPE_DATA", str(tmp_path))
    places = f"the folders of RANKPIPE_DATA ({tmp_path}), the catalogue and ir_datasets do not have it"
    for name, nearest in (("owm", "own"), ("beir/SciFat", "beir/scifact"), ("pythondocs", "python-docs")):
        with pytest.raises(UsageError) as caught:
            Dataset.load(name)
        assert str(caught.value) == f"there is no data set '{name}'; did you mean '{nearest}'? {places}"
    monkeypatch.delenv("RANKPIPE_DATA")
    with pytest.raises(UsageError) as caught:
        Dataset.load("xyzzy")
    assert str(caught.value) == (
        "there is no data set 'xyzzy'; the folders of RANKPIPE_DATA (not set), the catalogue and ir_datasets do not "
        "have it"
    )


@pytest.mark.parametrize("name", ["", "x" * 5000, "a\0b", "~nobody/here", "../up", "/", "é" * 200])
def test_no_text_is_too_odd_a_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKPIPE_DATA", str(tmp_path))
    with pytest.raises(UsageError) as caught:
        Dataset.load(name)
    assert str(caught.value).startswith(f"there is no data set '{name}'; ")


def test_a_folder_without_documents_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        Dataset.load(tmp_path)
    assert str(caught.value).startswith(
        f"there is no data set '{tmp_path}'; {tmp_path} is a folder without corpus.jsonl or corpus.jsonl.gz; "
    )


def test_a_collection_that_cannot_be_fetched_says_where_it_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANKPIPE_DATA", raising=False)
    with pytest.raises(UsageError) as caught:
        Dataset.load("beir/bioasq")
    assert str(caught.value) == (
        "data set 'beir/bioasq' is not here; bring it as a folder in BEIR layout (its source: http://bioasq.org), by "
        "its path or inside a folder that RANKPIPE_DATA names"
    )


def test_zip_archives_are_fetched_by_us_and_what_is_packed_otherwise_by_ir_datasets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RANKPIPE_DATA", raising=False)
    cards = {name: catalogue.card(name) for name in catalogue.names()}
    sources = {name: type(Dataset.load(name)._source) for name, card in cards.items() if card.md5}
    dl = [f"msmarco-passage/trec-dl-{year}{part}" for year in (2019, 2020) for part in ("", "/judged")]
    tars = ["msmarco-passage/dev/small", *dl]
    assert {name for name, source in sources.items() if source is IrDatasets} == set(tars)
    zips = {name for name in sources if name.startswith("beir/")}
    assert {name for name, source in sources.items() if source is Archive} == zips
    assert len(zips) == 27


def test_both_a_plain_and_a_packed_file_are_refused(folder: Path) -> None:
    write_folder(folder, packed=True)
    with pytest.raises(UsageError) as caught:
        Dataset.load(folder)
    assert str(caught.value) == f"{folder}: both corpus.jsonl and corpus.jsonl.gz are there; keep one"


def test_a_file_of_documents_alone_can_be_searched(folder: Path) -> None:
    dataset = Dataset.load(folder / "corpus.jsonl")
    assert dataset.corpus.size == 3
    assert dataset.splits == ()
    with pytest.raises(UsageError) as caught:
        dataset.queries("test")
    assert str(caught.value) == f"data set '{folder / 'corpus.jsonl'}' has no split 'test'; it has no judgements at all"


def test_a_folder_without_queries_says_so(folder: Path) -> None:
    (folder / "queries.jsonl").unlink()
    with pytest.raises(DataError) as caught:
        Dataset.load(folder).queries("test")
    assert str(caught.value) == f"{folder}: no queries.jsonl and no queries.jsonl.gz in this folder"


def test_a_bad_document_is_named_and_leaves_the_store_usable(folder: Path, store: Path) -> None:
    path = folder / "corpus.jsonl"
    path.write_text('{"_id": "a", "text": "x"}\n{"_id": "a", "text": "y"}\n')
    with pytest.raises(DataError) as caught:
        _ = Dataset.load(folder).corpus
    assert str(caught.value) == f"{path}:2: document id 'a' occurs twice; the first time in line 1"
    assert list((store / "corpora").iterdir()) == []
    path.write_text('{"_id": "a", "text": "x"}\n')
    assert Dataset.load(folder).corpus.size == 1


def test_the_corpus_is_built_once_and_then_opened_from_the_store(folder: Path, store: Path) -> None:
    first = Dataset.load(folder).corpus
    [built] = (store / "corpora").iterdir()
    stamp = built.stat().st_mtime_ns
    again = Dataset.load(folder).corpus
    assert again.digest == first.digest
    assert [path.stat().st_mtime_ns for path in (store / "corpora").iterdir()] == [stamp]
    renamed = [{**one, "text": one["text"].upper()} for one in DOCUMENTS]
    assert Dataset.load(write_folder(folder, renamed)).corpus.texts([1]) == ["A CAR DRIVES."]  # other content, anew


def test_the_official_name_finds_the_official_folder(real_dataset: Callable[[str], Dataset]) -> None:
    by_folder = real_dataset("scifact")
    by_name = Dataset.load("beir/scifact")
    assert by_name.card == by_folder.card
    assert by_name.card.ir_datasets == "beir/scifact"
    assert by_name.corpus.digest == by_folder.corpus.digest
    assert Dataset.load("beir/scifact/train").splits == ("train",)
    with pytest.raises(UsageError, match=r"^data set 'beir/scifact' has no split 'dev'; it has test, train$"):
        by_name.qrels("dev")


def test_own_objects_make_a_dataset() -> None:
    dataset = Dataset.of(Corpus.from_texts(["a", "b"]), {"q1": "x", "q2": "y"}, {"q2": {"d1": 1}})
    assert dataset.queries("test").ids == ("q2",)
    assert dataset.splits == ("test",)


def test_the_bundled_collection_needs_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANKPIPE_DATA", raising=False)
    corpus = Dataset.load("python-docs").corpus
    [row] = corpus.rows(["os.path.split"])
    assert "Split a pathname" in corpus.texts([row])[0]


def test_the_bundled_judgements_are_those_of_the_card_and_know_every_document() -> None:
    dataset = Dataset.load("python-docs")
    assert dataset.splits == ("dev", "test", "train")
    for split, counts in dataset.card.splits.items():
        assert len(dataset.queries(split)) == counts.queries
        assert dataset.qrels(split).size == counts.judgements
        assert dataset.unknown_judged(split) == 0
    assert dataset.unjudged_queries() == []


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
