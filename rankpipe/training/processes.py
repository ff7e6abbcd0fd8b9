"""Several processes that train one network together, each on a device of its own, as accelerate or torchrun start them.

Every process has the whole network and draws the same step; it computes a share of the step's texts, and the gradients
of all are summed, so without dropout the weights are those of one process but for rounding.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from rankpipe.models.batching import in_order
from rankpipe.models.references import need_extra

WAIT = timedelta(days=2)
"""How long processes wait for each other: the first one may encode a whole corpus meanwhile."""

T = TypeVar("T")


class Processes:
    """The processes of this training, of which this is one.

    rank, count  its number, from 0, and how many there are
    device       the one that is its own; None for one process, which chooses itself
    """

    def __init__(self, rank: int = 0, count: int = 1, device: torch.device | None = None) -> None:
        self.rank, self.count, self.device = rank, count, device

    @property
    def first(self) -> bool:
        """Whether this is the one that speaks and writes."""
        return self.rank == 0

    def share(self, sizes: Sequence[int]) -> list[int]:
        """Rows that are this process's, out of all, so that each has about as much of every size."""
        order = sorted(range(len(sizes)), key=lambda row: sizes[row])
        return order[self.rank :: self.count]

    def joined(self, own: Tensor, rows: Sequence[int], count: int) -> Tensor:
        """All of `count` rows, of which this process computed `own`; gradients go to its own alone."""
        if self.count == 1:
            return in_order(own, rows)
        whole = own.new_zeros(count, own.shape[1])
        at = torch.tensor(rows, dtype=torch.int64, device=own.device)
        whole.index_copy_(0, at, own.detach())
        distributed.all_reduce(whole)
        return whole.index_copy(0, at, own)

    def total(self, value: float) -> float:
        """The sum of what the processes have."""
        if self.count == 1:
            return value
        return float(sum(self._all(value)))

    def same(self, value: T) -> T:
        """What the first process has."""
        return value if self.count == 1 else self._all(value)[0]

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give every parameter the sum of the processes' gradients; one that none has a gradient of keeps none."""
        if self.count == 1:
            return
        wanted = list(parameters)
        has = torch.tensor([float(one.grad is not None) for one in wanted], device=wanted[0].device)
        distributed.all_reduce(has)
        for one, some in zip(wanted, has.tolist(), strict=True):
            if some:
                if one.grad is None:
                    one.grad = torch.zeros_like(one)
                distributed.all_reduce(one.grad)

    @contextmanager
    def one_after_the_first(self) -> Iterator[None]:
        """The first process runs the block, then the others: what it left in the store, they find."""
        if not self.first:
            distributed.barrier()
        try:
            yield
        finally:
            if self.first and self.count > 1:
                distributed.barrier()

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            distributed.barrier()

    def quiet(self, notify: Callable[[str], None]) -> Callable[[str], None]:
        """`notify` in the first process, and nothing in the others."""
        return notify if self.first else _nothing

    def _all(self, value: T) -> list[T]:
        found: list[Any] = [None] * self.count
        distributed.all_gather_object(found, value)
        return found


def _nothing(line: str) -> None:
    pass


@cache
def processes() -> Processes:
    """The processes of this training, joined where a launcher says that there are several.

    Raises MissingExtraError where accelerate, which joins them, is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Processes()
    need_extra("training in several processes", ("accelerate",), "accelerate", "train")
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available(), timeout=WAIT)
    return Processes(state.process_index, state.num_processes, state.device)
