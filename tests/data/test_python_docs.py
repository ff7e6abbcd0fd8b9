"""The bundled collection: its records, and the queries and judgements that go with it."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from rankpipe.data import python_docs
from rankpipe.data.python_docs import Record
from rankpipe.errors import DataError

COLLECTION = Path(__file__).parents[2] / "datasets" / "python-docs"
SPLITS = ("train", "dev", "test")


@pytest.fixture(scope="module")
def collection() -> dict[str, Record]:
    return {record.doc_id: record for record in python_docs.fresh_records()}


def test_ids_rise_so_none_is_repeated() -> None:
    ids = [record.doc_id for record in python_docs.records()]
    assert all(a < b for a, b in itertools.pairwise(ids))
    assert 3000 < len(ids) < 5000


def test_two_readings_give_the_same_records() -> None:
    assert list(python_docs.records()) == list(python_docs.records())


def test_records_do_not_depend_on_the_process() -> None:
    # Another hash seed, other addresses: a signature may show neither.
    program = textwrap.dedent(
        """
        import hashlib
        from rankpipe.data.python_docs import records
        print(hashlib.sha256(repr(list(records())).encode()).hexdigest())
        """
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(python_docs.__file__).parents[2])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1] != ""


def test_what_packages_change_in_the_standard_library_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    before = python_docs.fresh_records()
    monkeypatch.setattr("textwrap.dedent", lambda text: text)
    assert "textwrap.dedent" not in {record.doc_id for record in python_docs.records()}
    assert python_docs.fresh_records() == before
    assert "textwrap.dedent" in {record.doc_id for record in before}


def test_a_process_that_cannot_read_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python_docs, "__file__", "/no/such/file.py")
    with pytest.raises(DataError, match=r"^python-docs cannot be read by .*No such file or directory$"):
        python_docs.fresh_records()


@pytest.mark.parametrize(
    "doc_id",
    [
        "OSError",
        "argparse.ArgumentParser.add_argument",
        "collections.Counter.most_common",
        "concurrent.futures.ThreadPoolExecutor",
        "open",
        "os.path.split",
        "pathlib.Path.glob",
        "pathlib.PurePath.suffix",
        "re.Pattern.match",
        "sorted",
        "str.split",
        "subprocess.run",
    ],
)
def test_a_name_that_people_write_is_a_document(collection: dict[str, Record], doc_id: str) -> None:
    assert collection[doc_id].text.strip()


@pytest.mark.parametrize(
    ("duplicate", "kept"),
    [
        ("IOError", "OSError"),  # the same class; an alias never wins
        pytest.param(
            "asyncio.TimeoutError",
            "TimeoutError",
            marks=pytest.mark.skipif(sys.version_info < (3, 11), reason="two classes before Python 3.11"),
        ),
        ("frozenset.union", "set.union"),
        ("io.open", "open"),
        ("random.Random.randint", "random.randint"),
        ("ipaddress.IPv6Network.subnets", "ipaddress.IPv4Network.subnets"),  # from a private base class of both
        ("collections.Counter.keys", "dict.keys"),  # inherited
    ],
)
def test_a_docstring_under_several_names_is_one_document(
    collection: dict[str, Record], duplicate: str, kept: str
) -> None:
    assert kept in collection
    assert duplicate not in collection


def test_no_document_is_empty_or_says_the_same_as_another(collection: dict[str, Record]) -> None:
    assert all(record.title and record.text for record in collection.values())
    assert len({(record.title, record.text) for record in collection.values()}) == len(collection)


def test_underscored_names_are_left_out(collection: dict[str, Record]) -> None:
    assert not [doc_id for doc_id in collection if any(part.startswith("_") for part in doc_id.split("."))]


@pytest.mark.parametrize(
    ("doc_id", "title"),
    [
        ("sorted", "sorted"),
        ("OSError", "OSError (OS Error)"),
        ("os.path.split", "os.path.split (os path split)"),
        (
            "collections.Counter.most_common",
            "collections.Counter.most_common (collections Counter most_common most common)",
        ),
        ("ipaddress.IPv4Network.subnets", "ipaddress.IPv4Network.subnets (ipaddress IPv4Network subnets)"),
    ],
)
def test_a_title_spells_the_parts_of_the_name_apart(collection: dict[str, Record], doc_id: str, title: str) -> None:
    assert collection[doc_id].title == title


def test_a_text_opens_with_the_signature_without_self(collection: dict[str, Record]) -> None:
    assert collection["functools.total_ordering"].text.startswith("total_ordering(cls)\n\nClass decorator")
    assert collection["str.split"].text.startswith("split(sep=None, maxsplit=-1)\n\nReturn a list of the substrings")
    assert collection["dict"].text.startswith("dict() -> new empty dictionary")  # has its own forms of call


def test_defaults_that_differ_between_machines_are_not_written(collection: dict[str, Record]) -> None:
    assert collection["platform.architecture"].text.startswith("architecture(executable=..., bits='', linkage='')")
    assert not [doc_id for doc_id, record in collection.items() if " at 0x" in record.text.partition("\n")[0]]


def test_the_fingerprint_names_format_python_and_platform() -> None:
    prefix, number, _, implementation, version, platform = python_docs.fingerprint().rsplit("-", 5)
    assert (prefix, number) == ("python-docs", str(python_docs.FORMAT))
    assert (implementation, platform) == (sys.implementation.name, sys.platform)
    assert version == ".".join(map(str, sys.version_info[:3]))


def test_a_python_without_docstrings_is_refused() -> None:
    program = textwrap.dedent(
        """
        from rankpipe.data.python_docs import records
        from rankpipe.errors import DataError
        try:
            next(records())
        except DataError as error:
            print(error)
        """
    )
    environment = {"PYTHONPATH": str(Path(python_docs.__file__).parents[2])}
    run = [sys.executable, "-OO", "-c", program]
    answer = subprocess.run(run, env=environment, capture_output=True, text=True, check=True).stdout
    assert answer == ("python-docs reads docstrings, and this Python was told to drop them (-OO): run it without\n")


def test_a_python_without_one_of_the_modules_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wave", None)  # the import system's own way to say: not there
    with pytest.raises(DataError, match="python-docs reads the standard module 'wave', which this Python lacks"):
        list(python_docs.records())


def test_what_another_package_hangs_into_a_standard_class_is_no_document(monkeypatch: pytest.MonkeyPatch) -> None:
    def quiet(logger: object) -> None:
        """Say nothing."""

    monkeypatch.setattr("logging.Logger.quiet", quiet, raising=False)
    monkeypatch.setattr("logging.Logger.is_quiet", property(quiet), raising=False)
    assert not [record for record in python_docs.records() if record.text.endswith("Say nothing.")]


def test_a_replaced_hook_is_described_by_its_original(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [record for record in python_docs.records() if record.doc_id == "sys.excepthook"]
    monkeypatch.setattr("sys.excepthook", print)
    assert before == [record for record in python_docs.records() if record.doc_id == "sys.excepthook"] != []


def judgements(split: str) -> list[tuple[str, str, int]]:
    header, *lines = (COLLECTION / "qrels" / f"{split}.tsv").read_text(encoding="utf-8").splitlines()
    assert header == "query-id\tcorpus-id\tscore"
    rows = [line.split("\t") for line in lines]
    return [(query_id, doc_id, int(relevance)) for query_id, doc_id, relevance in rows]


@pytest.fixture(scope="module")
def queries() -> dict[str, str]:
    lines = (COLLECTION / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    return {query["_id"]: query["text"] for query in map(json.loads, lines)}


def test_no_query_is_asked_twice(queries: dict[str, str]) -> None:
    assert len(queries) == 120
    assert len({" ".join(text.lower().split()) for text in queries.values()}) == 120


@pytest.mark.parametrize(("split", "size"), [("train", 40), ("dev", 20), ("test", 60)])
def test_a_split_has_its_size(queries: dict[str, str], split: str, size: int) -> None:
    query_ids = {query_id for query_id, _, _ in judgements(split)}
    assert len(query_ids) == size
    assert query_ids <= set(queries)


def test_no_query_is_in_two_splits() -> None:
    splits = [{query_id for query_id, _, _ in judgements(split)} for split in SPLITS]
    assert len(set().union(*splits)) == sum(map(len, splits))


@pytest.mark.parametrize("split", SPLITS)
def test_every_judged_document_exists_in_this_python(collection: dict[str, Record], split: str) -> None:
    assert sorted({doc_id for _, doc_id, _ in judgements(split)} - set(collection)) == []


@pytest.mark.parametrize("split", SPLITS)
def test_every_query_has_an_answer_and_no_document_two_grades(split: str) -> None:
    rows = judgements(split)
    assert {relevance for _, _, relevance in rows} == {0, 1, 2}
    assert {query_id for query_id, _, relevance in rows if relevance == 2} == {query_id for query_id, _, _ in rows}
    assert len({(query_id, doc_id) for query_id, doc_id, _ in rows}) == len(rows)


def test_a_third_of_the_queries_has_several_right_answers() -> None:
    answers = [query_id for split in SPLITS for query_id, _, relevance in judgements(split) if relevance == 2]
    assert sum(count > 1 for count in Counter(answers).values()) >= 40
