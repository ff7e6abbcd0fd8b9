"""Data sets of ir_datasets, through its own classes over local files; nothing is downloaded."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import ir_datasets
import pytest
from ir_datasets.datasets.base import Dataset as IrDataset
from ir_datasets.formats import TrecDocs, TrecQrels, TrecQueries, TsvDocs, TsvQueries
from ir_datasets.util import LocalDownload

from rankpipe.data import Dataset
from rankpipe.errors import DataError

TREC_DOCUMENTS = """<DOC>
<DOCNO>AP-1</DOCNO>
<TITLE>Ships</TITLE>
<URL>http://a</URL>
<TEXT>
A ship sails.
</TEXT>
</DOC>
<DOC>
<DOCNO>AP-2</DOCNO>
<TEXT>
A car drives.
</TEXT>
</DOC>
"""
TREC_TOPICS = """<top>
<num> Number: 1
<title> ships
<desc> Description:
What sails?
<narr> Narrative:
Ships.
</top>
"""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path / "ir_datasets"))
    monkeypatch.delenv("RANKPIPE_DATA", raising=False)


@pytest.fixture
def register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Register parts of a data set under a new id, or an id below a given one, and give the id."""
    monkeypatch.setattr(ir_datasets.registry, "_registered", dict(ir_datasets.registry._registered))

    def add(*parts: Any, name: str = "") -> str:
        name = name or f"local-{uuid.uuid4().hex}"
        ir_datasets.registry.register(name, IrDataset(*parts))
        return name

    return add


def local(path: Path, text: str) -> LocalDownload:
    path.write_text(text, encoding="utf-8")
    return LocalDownload(path)


def parts(
    folder: Path, *, documents: str = "d1\tA ship sails.\nd2\tA car drives.\n", qrels: str = "q1 0 d1 2\n"
) -> list:
    return [
        TsvDocs(local(folder / "docs.tsv", documents)),
        TsvQueries(local(folder / "queries.tsv", "q1\tship\nq2\tcar\n")),
        TrecQrels(local(folder / "qrels.txt", qrels), {0: "no", 1: "somewhat", 2: "yes"}),
    ]


def test_documents_queries_and_judgements_come_from_ir_datasets(register: Callable[..., str], tmp_path: Path) -> None:
    dataset = Dataset.load(register(*parts(tmp_path)))
    assert dataset.corpus.ids([0, 1]) == ["d1", "d2"]
    assert dataset.corpus.texts([0, 1]) == ["A ship sails.", "A car drives."]
    assert dataset.splits == ("test",)
    assert dict(dataset.qrels()) == {"q1": {"d1": 2}}
    assert dataset.queries().ids == ("q1",)
    assert dataset.queries(None).texts == ("ship", "car")
    assert dataset.unjudged_queries() == ["q2"]


def test_trec_documents_and_topics_keep_their_further_fields(register: Callable[..., str], tmp_path: Path) -> None:
    topics = TrecQueries(local(tmp_path / "topics.txt", TREC_TOPICS))
    qrels = TrecQrels(local(tmp_path / "qrels.txt", "1 0 AP-1 1\n"), {})
    documents = TrecDocs(local(tmp_path / "docs.txt", TREC_DOCUMENTS), parser="tut")
    dataset = Dataset.load(register(documents, topics, qrels))
    assert dataset.corpus.ids([0, 1]) == ["AP-1", "AP-2"]
    assert dataset.corpus.texts([0, 1]) == ["A ship sails.", "A car drives."]
    assert dataset.corpus.texts([0, 1], "title") == ["Ships", ""]  # ir_datasets has None for the second
    assert dataset.corpus.texts([0, 1], "url") == ["http://a", ""]
    assert dataset.queries().texts == ("ships",)
    assert dataset.queries().fields == {"description": ("What sails?",), "narrative": ("Ships.",)}


def test_title_and_text_are_the_default_text_of_ir_datasets(register: Callable[..., str], tmp_path: Path) -> None:
    from ir_datasets.formats.trec import TitleUrlTextDoc

    line = "d1\tShips\thttp://a\tA ship sails.\n"
    documents: Any = TsvDocs(local(tmp_path / "docs.tsv", line), doc_cls=cast(Any, TitleUrlTextDoc))
    corpus = Dataset.load(register(documents)).corpus
    assert corpus.fields == ("title", "text", "url")
    assert corpus.joined_texts([0]) == ["Ships A ship sails."] == [next(documents.docs_iter()).default_text()]
    assert corpus.texts([0], "url") == ["http://a"]


def test_ids_below_an_id_are_its_splits(register: Callable[..., str], tmp_path: Path) -> None:
    documents, queries, qrels = parts(tmp_path)
    name = register(documents, queries)
    register(documents, queries, qrels, name=f"{name}/dev")
    assert Dataset.load(name).splits == ("dev",)
    assert dict(Dataset.load(name).qrels("dev")) == {"q1": {"d1": 2}}
    assert Dataset.load(f"{name}/dev").splits == ("dev",)  # a split is called what the id calls it


def test_queries_that_only_the_splits_have_are_those_of_the_whole(register: Callable[..., str], tmp_path: Path) -> None:
    documents, _, qrels = parts(tmp_path)
    name = register(documents)
    for split, lines in {"train": "q1\tship\n", "dev": "q1\tship\nq2\tcar\n"}.items():
        register(documents, TsvQueries(local(tmp_path / f"{split}.tsv", lines)), qrels, name=f"{name}/{split}")
    assert dict(zip(*(getattr(Dataset.load(name).queries(None), one) for one in ("ids", "texts")), strict=True)) == {
        "q1": "ship",
        "q2": "car",
    }
    local(tmp_path / "dev.tsv", "q1\tanother\n")
    with pytest.raises(DataError, match=r"query 'q1' of split '(dev|train)' is another in another split"):
        Dataset.load(name).queries(None)


def test_a_changed_local_file_is_read_anew(register: Callable[..., str], tmp_path: Path) -> None:
    name = register(*parts(tmp_path))
    assert Dataset.load(name).corpus.size == 2
    (tmp_path / "docs.tsv").write_text("d1\tone\n")
    assert Dataset.load(name).corpus.size == 1


def test_repeated_documents_are_refused_with_the_id_of_the_data_set(
    register: Callable[..., str], tmp_path: Path
) -> None:
    name = register(*parts(tmp_path, documents="d1\ta\nd1\tb\n"))
    with pytest.raises(DataError) as caught:
        _ = Dataset.load(name).corpus
    assert str(caught.value) == f"'{name}' of ir_datasets: document id 'd1' occurs twice"


def test_contradictory_judgements_are_refused_and_equal_ones_are_one(
    register: Callable[..., str], tmp_path: Path
) -> None:
    name = register(*parts(tmp_path, qrels="q1 0 d1 1\nq1 1 d1 1\n"))
    assert dict(Dataset.load(name).qrels()) == {"q1": {"d1": 1}}
    (tmp_path / "qrels.txt").write_text("q1 0 d1 1\nq1 1 d1 2\n")
    with pytest.raises(DataError) as caught:
        Dataset.load(name).qrels()
    assert str(caught.value) == f"'{name}' of ir_datasets judges document 'd1' for query 'q1' twice, as 1 and 2"


def test_what_ir_datasets_cannot_read_is_one_line(register: Callable[..., str], tmp_path: Path) -> None:
    name = register(*parts(tmp_path, qrels="q1 0 d1\n"))
    with pytest.raises(DataError) as caught:
        Dataset.load(name).qrels()
    assert str(caught.value).startswith(
        f"ir_datasets cannot provide '{name}': RuntimeError: expected 4 columns, got 3; "
    )


def test_a_judged_query_without_a_text_is_refused(register: Callable[..., str], tmp_path: Path) -> None:
    name = register(*parts(tmp_path, qrels="q9 0 d1 1\n"))
    with pytest.raises(DataError) as caught:
        Dataset.load(name).queries()
    assert str(caught.value) == f"query 'q9' is judged in '{name}' of ir_datasets and has no text"


def test_a_family_of_data_sets_is_no_data_set() -> None:
    from rankpipe.data import irds

    assert irds.find("beir") is None
    assert irds.find("no/such/id") is None


@pytest.mark.parametrize(
    ("name", "splits"),
    [
        ("beir/scifact", ("test", "train")),
        ("beir/arguana", ("test",)),
        ("beir/quora/dev", ("dev",)),
        ("msmarco-passage/dev/small", ("dev",)),
        ("msmarco-passage/trec-dl-2019/judged", ("test",)),
        ("vaswani", ("test",)),
    ],
)
def test_official_ids_have_their_splits_before_anything_is_downloaded(name: str, splits: tuple[str, ...]) -> None:
    assert Dataset.load(name).splits == splits


def test_an_id_below_a_card_has_its_quirks() -> None:
    assert Dataset.load("beir/quora/dev").card.self_match
    assert Dataset.load("msmarco-passage/trec-dl-2020/judged").card.relevance_cut == 2


class Unreachable(LocalDownload):
    """Stands for a download without a network: what requests raises then."""

    def path(self, force: bool = True) -> Path:
        raise OSError("HTTPSConnectionPool(host='example.org', port=443): Max retries exceeded with url: /docs.zip")


def test_a_failed_download_says_what_else_can_be_done(
    register: Callable[..., str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _, queries, qrels = parts(tmp_path)
    name = register(TsvDocs(Unreachable(tmp_path / "none")), queries, qrels)
    with pytest.raises(DataError) as caught:
        _ = Dataset.load(name).corpus
    assert str(caught.value) == (
        f"ir_datasets cannot provide '{name}': the download from example.org failed; bring it as a folder in BEIR "
        "layout, by its path or inside a folder that RANKPIPE_DATA names"
    )
    assert capfd.readouterr().err == ""
