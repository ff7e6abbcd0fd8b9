"""Turn texts into numbers of terms, for a large corpus in two processes.

The second process is this module, started as a program of its own and spoken to through pipes: nothing is forked, so
threads, notebooks and scripts without a main guard are safe. It gets every second part of the texts. Terms are numbered
as they are met, so the numbers differ with two processes; the index does not, for it sorts its terms.
"""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rankpipe.machine import usable_cores

if TYPE_CHECKING:
    from rankpipe.index.analysis import Analyzer

PART = 1 << 20  # characters in the texts that are tokenised at once
LARGE = 1 << 24  # characters, a second or two of work, after which a second process is started

Tokens = tuple[NDArray[np.int32], NDArray[np.int64]]
"""Numbers of the terms of several texts, one after another, -1 for dropped words; how many words each text has."""


class Tokeniser:
    """An analyzer that remembers what it did to every word."""

    def __init__(self, analyzer: Analyzer) -> None:
        self._analyzer = analyzer
        self._numbers = _Numbers(analyzer.term)

    @property
    def terms(self) -> dict[str, int]:
        """The terms met so far and their numbers, which count from 0."""
        return self._numbers.terms

    def parts(self, texts: Iterable[str]) -> Iterator[Tokens]:
        """Tokens of all texts, in order, in parts."""
        helper: _Helper | None = None
        parts = _parts(texts)
        seen = 0
        try:
            for part in parts:
                if helper is None and seen < LARGE:
                    seen += sum(map(len, part))
                    helper = _Helper.start(self._analyzer) if seen >= LARGE else None
                    yield self.tokens(part)
                elif helper is None or not helper.take(part):
                    yield self.tokens(part)
                else:
                    mine = next(parts, None)
                    own = None if mine is None else self.tokens(mine)
                    yield self._received(helper) or self.tokens(part)
                    if own is not None:
                        yield own
        finally:
            if helper is not None:
                helper.close()

    def tokens(self, texts: list[str]) -> Tokens:
        """Tokens of texts."""
        tokens, sizes = array("i"), array("q")
        for words in map(self._analyzer.words, texts):
            tokens.fromlist(list(map(self._numbers.__getitem__, words)))  # a third faster than extend
            sizes.append(len(words))
        return as_array(tokens, np.int32), as_array(sizes, np.int64)

    def _received(self, helper: _Helper) -> Tokens | None:
        answer = helper.answer()
        if answer is None:
            return None
        new_terms, tokens, sizes = answer
        numbers = [self.terms.setdefault(term, len(self.terms)) for term in new_terms]
        helper.numbers = np.concatenate([helper.numbers, np.array(numbers, np.int32)])
        return np.append(helper.numbers, np.int32(-1))[tokens], sizes  # -1 takes the last


class _Numbers(dict[str, int]):
    """Surface word -> number of its term, -1 for a dropped one; asks the analyzer once for each word."""

    def __init__(self, term: Callable[[str], str | None]) -> None:
        super().__init__()
        self.term = term
        self.terms: dict[str, int] = {}

    def __missing__(self, word: str) -> int:
        term = self.term(word)
        number = -1 if term is None else self.terms.setdefault(term, len(self.terms))
        self[word] = number
        return number


class _Helper:
    """The other process. Whatever goes wrong with it, its work is done here instead, and errors arise here."""

    def __init__(self, process: subprocess.Popen[bytes], requests: IO[bytes], answers: IO[bytes]) -> None:
        self._process, self._requests, self._answers = process, requests, answers
        self._alive = True
        self.numbers = np.empty(0, np.int32)  # of its terms, by the numbers it gave them

    @classmethod
    def start(cls, analyzer: Analyzer) -> _Helper | None:
        """Start it, unless there is one core only, or the analyzer or the platform does not lend itself to it."""
        if usable_cores() < 2 or not sys.executable:
            return None
        try:
            message = pickle.dumps(analyzer)
        except (pickle.PicklingError, TypeError, AttributeError):
            return None
        # Not "-m", which takes modules from the working folder first: another version of this one may lie there.
        program = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import main; main()"
        command = [sys.executable, "-c", program]
        pipe = subprocess.PIPE
        try:
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)  # noqa: S603
        except OSError:
            return None
        if process.stdin is None or process.stdout is None:
            return None
        helper = cls(process, process.stdin, process.stdout)
        helper._send(message)
        return helper

    def take(self, texts: list[str]) -> bool:
        """Give it texts; its answer must be fetched before the next. False if it is gone."""
        return self._send(pickle.dumps(texts, pickle.HIGHEST_PROTOCOL))

    def answer(self) -> tuple[list[str], NDArray[np.int32], NDArray[np.int64]] | None:
        """Terms it met for the first time, tokens and sizes; None if it is gone."""
        try:
            return pickle.load(self._answers)  # noqa: S301
        except (EOFError, OSError, pickle.UnpicklingError):
            self._alive = False
            return None

    def close(self) -> None:
        """End it."""
        try:
            self._requests.close()
        except OSError:  # what it did not take any more
            self._alive = False
        self._answers.close()
        self._process.wait()

    def _send(self, message: bytes) -> bool:
        try:
            self._requests.write(message)
            self._requests.flush()
        except OSError:
            self._alive = False
        return self._alive


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """The other process: answer until there are no more requests."""
    tokeniser = Tokeniser(pickle.load(requests))  # noqa: S301
    told = 0
    while True:
        try:
            texts = pickle.load(requests)  # noqa: S301
        except EOFError:
            return
        tokens, sizes = tokeniser.tokens(texts)
        new = list(tokeniser.terms)[told:]
        told += len(new)
        pickle.dump((new, tokens, sizes), answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()


def _parts(texts: Iterable[str]) -> Iterator[list[str]]:
    part, size = [], 0
    for text in texts:
        part.append(text)
        size += len(text)
        if size >= PART:
            yield part
            part, size = [], 0
    if part:
        yield part


def as_array(items: array, dtype: type) -> NDArray:
    """The items of an array.array as numpy's, sharing their memory."""
    return np.frombuffer(items, dtype) if items else np.empty(0, dtype)


def main() -> None:
    """What the other process runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process by closing the pipe
    serve(sys.stdin.buffer, sys.stdout.buffer)
