"""The cards: right in themselves, and in agreement with what ir_datasets knows of the same data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ir_datasets
import pytest

from rankpipe.data import catalogue
from rankpipe.data.catalogue import Card, Counts, SplitCounts, read_card
from rankpipe.errors import DataError, UsageError

ETC = Path(ir_datasets.__file__).parent / "etc"


@pytest.fixture(scope="module")
def official() -> dict[str, Any]:
    return json.loads((ETC / "metadata.json").read_text())


@pytest.fixture(scope="module")
def md5s() -> set[str]:
    downloads = json.loads((ETC / "downloads.json").read_text())
    return {one["expected_md5"] for family in ("beir", "msmarco-passage") for one in downloads[family].values()}


def count(official: dict[str, Any], name: str, kind: str) -> int:
    found = official[name][kind]
    return count(official, found["_ref"], kind) if "_ref" in found else found["count"]


@pytest.mark.parametrize("name", catalogue.names())
def test_every_card_agrees_with_ir_datasets(name: str, official: dict[str, Any], md5s: set[str]) -> None:
    card = catalogue.card(name)
    assert card.title
    assert card.md5 is None or card.md5 in md5s
    if card.ir_datasets is None:
        return
    assert card.documents == count(official, card.ir_datasets, "docs")
    for split, counts in card.splits.items():
        inner = f"{card.ir_datasets}/{split}"
        source = inner if inner in official else card.ir_datasets
        assert counts.judgements == count(official, source, "qrels")
        if f"{source}/judged" not in official:  # that has all queries, also those without judgements
            assert counts.queries == count(official, source, "queries")


def test_the_catalogue_holds_all_of_beir_and_the_deep_learning_tracks() -> None:
    names = catalogue.names()
    single = "arguana climate-fever dbpedia-entity fever fiqa hotpotqa msmarco nfcorpus nq quora scidocs scifact"
    single += " trec-covid webis-touche2020 webis-touche2020/v2 bioasq signal1m trec-news robust04"
    assert {f"beir/{one}" for one in single.split()} <= set(names)
    assert sum(name.startswith("beir/cqadupstack/") for name in names) == 12
    assert {"python-docs", "msmarco-passage/dev/small", "msmarco-passage/trec-dl-2019/judged"} <= set(names)


def test_quirks_are_on_the_cards() -> None:
    assert [name for name in catalogue.names() if catalogue.card(name).self_match] == ["beir/arguana", "beir/quora"]
    graded = [name for name in catalogue.names() if catalogue.card(name).relevance_cut == 2]
    assert graded == [
        "msmarco-dl19",
        "msmarco-passage/trec-dl-2019",
        "msmarco-passage/trec-dl-2019/judged",
        "msmarco-passage/trec-dl-2020",
        "msmarco-passage/trec-dl-2020/judged",
    ]


def test_a_folder_without_a_card_is_measured_by_default() -> None:
    card = Card(name="own")
    assert card.measures == ("nDCG@10", "R@100", "RR@10", "AP", "Judged@10")
    assert card.relevance_cut == 1
    assert not card.self_match


def test_an_unknown_card_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^there is no card 'beir/scifat'$"):
        catalogue.card("beir/scifat")


def test_a_card_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        "name: own\ntitle: Own\ndocuments: 3\nsplits:\n  test: {queries: 2, judgements: 5}\n"
        "titles: none\nmeasures: [nDCG@5]\nrelevance_cut: 2\nself_match: true\nnotes: [a, b]\n"
    )
    assert read_card(path, "own") == Card(
        name="own",
        title="Own",
        documents=3,
        splits={"test": SplitCounts(queries=2, judgements=5)},
        titles="none",
        measures=("nDCG@5",),
        relevance_cut=2,
        self_match=True,
        notes=("a", "b"),
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[a]", ": a card is a mapping of keys to values"),
        ("name: [", ":1: not YAML: expected the node content, but found '<stream end>'"),
        ("name: own\nname: own", ":1: key 'name' occurs twice"),
        ("name: other", ": 'name' is 'other'; by the file's place it should be 'own'"),
        ("title: x", ": 'name' is None; by the file's place it should be 'own'"),
        ("name: own\ndocuments: many", ": 'documents' is 'many', not a whole number"),
        ("name: own\nrelevance_cut: true", ": 'relevance_cut' is True, not a whole number"),
        ("name: own\nself_match: 1", ": 'self_match' is 1, not true or false"),
        ("name: own\nmeasures: nDCG@10", ": 'measures' is 'nDCG@10', not a list of texts"),
        ("name: own\nlanguage: no", ": 'language' is False, not a text"),
        ("name: own\ntitles: both", ": 'titles' is 'both', not 'joined' or 'none'"),
        ("name: own\nsplits: [test]", ": 'splits' is ['test'], not a mapping of splits to their counts"),
        (
            "name: own\nsplits:\n  test: {queries: 3}",
            ": split 'test' is {'queries': 3}, not like {queries: 300, judgements: 339}",
        ),
    ],
)
def test_a_bad_card_is_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_card(path, "own")
    assert str(caught.value) == f"{path}{says}"


def test_an_unknown_key_is_named_with_those_there_are(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("name: own\nlicense: MIT")
    with pytest.raises(DataError) as caught:
        read_card(path, "own")
    assert str(caught.value) == (
        f"{path}: a card has no key 'license'; its keys are documents, ir_datasets, language, licence, md5, measures, "
        "name, notes, relevance_cut, self_match, source, splits, title, titles"
    )


def test_counts_that_differ_are_told_one_by_one() -> None:
    card = Card(name="own", documents=5183, splits={"test": SplitCounts(queries=300, judgements=339)})
    same = Counts(documents=5183, splits={"test": SplitCounts(queries=300, judgements=339)})
    other = Counts(
        documents=5000,
        splits={"test": SplitCounts(queries=300, judgements=340), "dev": SplitCounts(queries=1, judgements=1)},
    )
    assert card.differences(same) == []
    assert card.differences(Counts(documents=5183, splits={})) == []
    assert card.differences(other) == [
        "5,000 documents, not 5,183",
        "300 queries and 340 judgements in 'test', not 300 and 339",
        "a split 'dev', which the card does not know",
    ]
    assert Card(name="own").differences(same) == ["the card states no counts to check it by"]
