"""The bundled collection: its records, and the queries and judgements that go with it."""

from __future__ import annotations

import itertools
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from rankpipe.data import python_docs
from rankpipe.data.python_docs import Record
from rankpipe.errors import DataError


@pytest.fixture(scope="module")
def collection() -> dict[str, Record]:
    return {record.doc_id: record for record in python_docs.records()}


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
        ("asyncio.TimeoutError", "TimeoutError"),
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
