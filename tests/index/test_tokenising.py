"""Tokenising in two processes: the same index as in one, whatever becomes of the other process."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from rankpipe.index import tokenising
from rankpipe.index.analysis import English, Whitespace, open_analyzer
from rankpipe.index.inverted import build
from rankpipe.index.tokenising import Tokeniser
from rankpipe.machine import usable_cores


def texts_of(documents: int) -> list[str]:
    generator = np.random.default_rng(1)
    words = [" ".join(f"w{n}" for n in generator.zipf(1.3, size)) for size in generator.integers(0, 40, documents)]
    return ["the \ud800 \0 café", *words]


def decoded(tokeniser: Tokeniser, texts: list[str]) -> list[list[str | None]]:
    """The terms of each text, None for dropped words."""
    found = []
    for tokens, sizes in tokeniser.parts(texts):
        names = [*tokeniser.terms, None]
        ends = np.cumsum(sizes)
        found += [[names[n] for n in tokens[end - size : end]] for size, end in zip(sizes, ends, strict=True)]
    return found


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    if usable_cores() < 2:
        pytest.skip("needs two cores")
    monkeypatch.setattr(tokenising, "PART", 300)
    monkeypatch.setattr(tokenising, "LARGE", 1000)


@pytest.mark.usefixtures("two_processes")
@pytest.mark.parametrize("name", ["english", "whitespace", "snowball:german"])
def test_two_processes_find_the_terms_of_each_text(name: str) -> None:
    analyzer = open_analyzer(name)
    texts = texts_of(300)
    expected = [[analyzer.term(word) for word in analyzer.words(text)] for text in texts]
    assert decoded(Tokeniser(analyzer), texts) == expected


@pytest.mark.usefixtures("two_processes")
def test_the_other_process_takes_no_modules_of_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("rankpipe/index/tokenising.py", "json.py", "signal.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("raise SystemExit('of the working folder')")
    monkeypatch.chdir(tmp_path)
    helper = tokenising._Helper.start(Whitespace())
    assert helper is not None
    assert helper.take(["a b"])
    answer = helper.answer()
    helper.close()
    assert answer is not None
    assert (answer[0], answer[1].tolist(), answer[2].tolist()) == (["a", "b"], [0, 1], [2])


def test_two_processes_write_the_same_bytes_as_one(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    for name in ("one", "two"):
        if name == "two":
            request.getfixturevalue("two_processes")
        (tmp_path / name).mkdir()
        build(tmp_path / name, texts_of(500), English())
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two


class OnlyHere(Whitespace):
    """An analyzer that the other process cannot find."""


@pytest.mark.usefixtures("two_processes")
def test_an_analyzer_that_the_other_process_cannot_load_is_used_here() -> None:
    texts = texts_of(200)
    assert decoded(Tokeniser(OnlyHere()), texts) == [text.split() for text in texts]


@pytest.mark.usefixtures("two_processes")
def test_the_work_goes_on_when_the_other_process_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    start = tokenising._Helper.start
    monkeypatch.setattr(tokenising._Helper, "start", lambda analyzer: started.append(start(analyzer)) or started[-1])
    texts = texts_of(400)
    tokeniser, found = Tokeniser(Whitespace()), 0
    for _, sizes in tokeniser.parts(texts):
        found += sizes.size
        if started:
            os.kill(started[0]._process.pid, signal.SIGKILL)
    assert found == len(texts)
    assert set(tokeniser.terms) == {word for text in texts for word in text.split()}
    assert started[0]._process.returncode == -signal.SIGKILL


@pytest.mark.usefixtures("two_processes")
def test_an_error_of_the_texts_ends_the_other_process() -> None:
    def texts():
        yield from texts_of(100)
        raise OSError("unreadable")

    with pytest.raises(OSError, match="unreadable"):
        list(Tokeniser(Whitespace()).parts(texts()))
