"""Progress of long steps: a bar on standard error where that is a terminal; else a line a minute, if it will take long."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from time import perf_counter
from typing import TypeVar

T = TypeVar("T", bound=Sized)

LONG = 30.0
"""Seconds that must be left of a step for a line to be written where there is no terminal."""
LOOK = 3.0
"""Seconds after which it is estimated for the first time."""
AGAIN = 60.0
"""Seconds after which another line is written."""


def tracked(blocks: Iterable[T], total: int, what: str, *, show: bool | None = None) -> Iterator[T]:
    """Pass blocks through, showing how many of `total` are done, how fast, and the time that is left.

    blocks  counted by their len()
    what    is counted, in the plural: "documents"
    show    a bar; by default, whether standard error is a terminal. False: nothing at all
    """
    with counted(total, what, show=show) as advance:
        for block in blocks:
            yield block
            advance(len(block))


@contextmanager
def counted(total: int, what: str, *, done: int = 0, show: bool | None = None) -> Iterator[Callable[[int], None]]:
    """Within the block, a function that is told how many more are done.

    done  of `total`, were done before; they count for the share, not for the rate
    """
    if show is False:
        yield lambda _: None
    elif show or sys.stderr.isatty():
        with _bar(total, what, done) as advance:
            yield advance
    else:
        yield _Line(total, what, done)


class _Line:
    """Writes a line once it is known that the step will take long, and others now and then."""

    def __init__(self, total: int, what: str, done: int) -> None:
        self._total, self._what, self._before = total, what, done
        self._done = done
        self._started = perf_counter()
        self._next = LOOK

    def __call__(self, more: int) -> None:
        self._done += more
        elapsed = perf_counter() - self._started
        if elapsed < self._next or self._done == self._before:
            return
        rate = (self._done - self._before) / elapsed
        left = (self._total - self._done) / rate
        if left >= LONG:
            self._next = elapsed + AGAIN
            print(
                f"{self._done:,} of {self._total:,} {self._what} done, {rate:,.3g}/s, about {spoken(left)} left",
                file=sys.stderr,
                flush=True,
            )


def spoken(seconds: float) -> str:
    """A duration in words: "40 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def _bar(total: int, what: str, done: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    speed = TextColumn("{task.fields[speed]}")
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), speed, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total, completed=done, speed="")

        def advance(more: int) -> None:
            bar.advance(task, more)
            rate = bar.tasks[0].speed
            bar.update(task, speed=f"{rate:,.0f}/s" if rate else "")

        yield advance
