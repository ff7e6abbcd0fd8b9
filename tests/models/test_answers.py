"""Answers that are kept: what is asked, what is not asked again, what survives a failure, what is said of a damaged file."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rankpipe.errors import RankpipeError, StoreError
from rankpipe.models.answers import Answers
from rankpipe.models.language_model import Answer, Answered, Chat, Writing

WRITING = Writing(longest=5, count=2, temperature=0.5, seed=3)
CHATS = [Chat("one"), Chat("two", "system"), Chat("one"), Chat("three", answer="I say")]


class Shouting:
    """A writer that says what it is asked in capitals, and breaks down at a chat that it is told to."""

    def __init__(self, model: str = "shouting", breaks_at: str | None = None) -> None:
        self.model, self.breaks_at = model, breaks_at
        self.asked: list[str] = []

    def key(self) -> dict[str, Any]:
        return {"model": self.model}

    def counts(self) -> dict[str, int]:
        return {}

    def write(
        self, chats: Sequence[Chat], writing: Writing, answered: Answered = lambda _, __: None
    ) -> list[list[Answer]]:
        found = []
        for place, chat in enumerate(chats):
            if chat.user == self.breaks_at:
                raise RankpipeError("it broke down")
            self.asked.append(chat.user)
            found.append([Answer(f"{chat.user.upper()} {number}", True, 4, 2) for number in range(writing.count)])
            answered(place, found[-1])
        return found


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RANKPIPE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "answers"


def texts(answers: list[list[Answer]]) -> list[list[str]]:
    return [[one.text for one in group] for group in answers]


def test_equal_chats_are_asked_once_and_nothing_is_asked_twice() -> None:
    writer = Shouting()
    done: list[int] = []
    answers = Answers(writer, WRITING)
    expected = [["ONE 0", "ONE 1"], ["TWO 0", "TWO 1"], ["ONE 0", "ONE 1"], ["THREE 0", "THREE 1"]]
    assert texts(answers.of(CHATS, done.append)) == expected
    assert writer.asked == ["one", "two", "three"]
    assert sum(done) == 4
    assert answers.counts == {"asked": 4, "written": 3, "prompt_tokens": 24, "tokens": 12}
    again = Answers(writer, WRITING)
    assert texts(again.of(CHATS[::-1])) == expected[::-1]
    assert writer.asked == ["one", "two", "three"]
    assert again.counts == {"asked": 4, "written": 0}


def test_what_was_answered_before_a_failure_is_kept() -> None:
    broken = Shouting(breaks_at="three")
    with pytest.raises(RankpipeError, match="it broke down"):
        Answers(broken, WRITING).of(CHATS)
    assert broken.asked == ["one", "two"]
    whole = Shouting()
    assert len(Answers(whole, WRITING).of(CHATS)) == 4
    assert whole.asked == ["three"]


@pytest.mark.parametrize(
    "changed",
    [{"longest": 6}, {"count": 1}, {"temperature": 0.6}, {"top_p": 0.9}, {"seed": 4}, {"stop": ("\n",)}],
)
def test_other_settings_are_other_answers(changed: dict[str, Any]) -> None:
    writer = Shouting()
    Answers(writer, WRITING).of(CHATS[:1])
    Answers(writer, replace(WRITING, **changed)).of(CHATS[:1])
    assert writer.asked == ["one", "one"]


def test_another_model_is_asked_anew_and_so_is_another_beginning() -> None:
    first, second = Shouting(), Shouting("other")
    Answers(first, WRITING).of([Chat("one")])
    Answers(second, WRITING).of([Chat("one")])
    Answers(first, WRITING).of([Chat("one", answer="I"), Chat("one", "system")])
    assert (first.asked, second.asked) == (["one", "one", "one"], ["one"])


def test_any_text_is_kept_as_it_came() -> None:
    odd = "a\ud800 \x00 \ufffd ∅ '\" \n"

    class Odd(Shouting):
        def write(self, chats: Sequence[Chat], writing: Writing, answered: Answered = lambda _, __: None) -> list:
            answered(0, [Answer(odd, ended=False)])
            return [[Answer(odd, ended=False)]]

    assert Answers(Odd(), WRITING).of([Chat(odd)]) == [[Answer(odd, ended=False)]]
    assert Answers(Shouting(breaks_at=odd), replace(WRITING)).of([]) == []
    kept = Answers(Odd(), WRITING)
    assert kept.of([Chat(odd)]) == [[Answer(odd, ended=False)]]
    assert kept.counts["written"] == 0


def test_a_damaged_file_is_named(store: Path) -> None:
    answers = Answers(Shouting(), WRITING)
    answers.of(CHATS)
    assert answers.file.parent == store
    with sqlite3.connect(answers.file) as connection:
        connection.execute("UPDATE answers SET content = '['")
    connection.close()
    with pytest.raises(StoreError) as caught:
        Answers(Shouting(), WRITING).of(CHATS)
    assert str(caught.value).startswith(f"{answers.file}: an answer in it is damaged: ")
    assert str(caught.value).endswith("; remove the file")
    answers.file.write_text("this is no database, however long it is" * 99)
    with pytest.raises(StoreError) as caught:
        Answers(Shouting(), WRITING).of(CHATS)
    assert str(caught.value) == (
        f"{answers.file}: answers cannot be kept there, or are damaged: file is not a database; remove the file"
    )


def test_a_store_that_cannot_be_written_is_an_error(store: Path) -> None:
    store.parent.mkdir()
    store.write_text("a file")
    with pytest.raises(StoreError, match="answers cannot be kept there"):
        Answers(Shouting(), WRITING).of(CHATS)


def test_what_is_known_does_not_wait_for_what_is_being_written() -> None:
    begun, over = threading.Event(), threading.Event()

    class Slow(Shouting):
        def write(self, chats: Sequence[Chat], writing: Writing, answered: Answered = lambda _, __: None) -> list:
            begun.set()
            assert over.wait(60)
            return super().write(chats, writing, answered)

    Answers(Shouting(), WRITING).of([Chat("one")])
    answers = Answers(Slow(), WRITING)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(answers.of, [Chat("two")])
        assert begun.wait(60)
        second = threads.submit(answers.of, [Chat("two"), Chat("one")])  # waits for the first, which asks for the same
        assert texts(answers.of([Chat("one")])) == [["ONE 0", "ONE 1"]]
        assert not first.done()
        over.set()
        assert texts(first.result(60)) == [["TWO 0", "TWO 1"]]
        assert texts(second.result(60)) == [["TWO 0", "TWO 1"], ["ONE 0", "ONE 1"]]
    assert answers.counts == {"asked": 4, "written": 1, "prompt_tokens": 8, "tokens": 4}
