"""Progress of long steps: a bar on standard error where that is a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

T = TypeVar("T", bound=Sized)


def tracked(blocks: Iterable[T], total: int, what: str, *, show: bool | None = None) -> Iterator[T]:
    """Pass blocks through, showing how many of `total` are done, how fast, and the time that is left.

    blocks  counted by their len()
    what    is counted, in the plural: "documents"
    show    by default, whether standard error is a terminal
    """
    if not (sys.stderr.isatty() if show is None else show):
        yield from blocks
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    speed = TextColumn("{task.fields[speed]}")
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), speed, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total, speed="")
        for block in blocks:
            yield block
            bar.advance(task, len(block))
            rate = bar.tasks[0].speed
            bar.update(task, speed=f"{rate:,.0f}/s" if rate else "")
