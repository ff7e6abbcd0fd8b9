"""Sequences of tokens in batches: documents by length, within a budget; queries in batches of one shape.

The rounding of a matrix product depends on its shape, so queries, encoded in one shape, get the same vectors to the
last bit whatever else is asked with them; and equal documents, encoded once, equal ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

P = TypeVar("P")
T = TypeVar("T")

BATCH_TOKENS = {"cpu": 1024, "mps": 16_384, "cuda": 131_072}
"""Tokens of a batch, by the kind of device. On a CPU its hidden states are to stay in a core's cache."""
QUERY_ROWS = 8
"""Queries of a batch: fewer are filled up."""
QUERY_STEP = 16
"""A batch of queries is as long as a multiple of so many tokens."""


def batches(tokens: Sequence[NDArray[np.int64]], budget: int) -> Iterator[NDArray[np.int64]]:
    """Rows of sequences, the longest first, so many at once that rows times the longest is within the budget.

    Among equal lengths they stand in the order of their tokens. Sequences without tokens are in none: there is nothing to
    compute of them.
    """
    there = [row for row, one in enumerate(tokens) if len(one)]
    order = sorted(there, key=lambda row: (-len(tokens[row]), tokens[row].tobytes()))
    begin = 0
    while begin < len(order):
        size = max(1, budget // len(tokens[order[begin]]))
        yield np.array(order[begin : begin + size], np.int64)
        begin += size


def distinct(tokens: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the different ones among sequences, and for each sequence which of those it equals.

    Encoded once, equal texts have equal vectors: the rounding of a row depends on its place in the batch too.
    """
    numbers: dict[bytes, int] = {}
    which = np.array([numbers.setdefault(one.tobytes(), len(numbers)) for one in tokens], np.int64)
    return np.unique(which, return_index=True)[1], which


def padded_length(length: int, longest: int | None) -> int:
    """Tokens that a sequence is padded to: a multiple of QUERY_STEP, within what the network has positions for."""
    steps = -(-length // QUERY_STEP) * QUERY_STEP
    return max(length, min(steps, longest or steps))


def query_batches(
    tokens: Sequence[NDArray[np.int64]], longest: int | None
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], int]]:
    """Rows of queries; the QUERY_ROWS rows that are computed for them; tokens that these are padded to.

    Queries without tokens are in none.

    longest  tokens that the network has positions for, None for no limit
    """
    lengths = np.array([padded_length(len(one), longest) for one in tokens], np.int64)
    for length in np.unique(lengths[lengths > 0]).tolist():
        rows = np.flatnonzero(lengths == length)
        for begin in range(0, len(rows), QUERY_ROWS):
            part = rows[begin : begin + QUERY_ROWS]
            yield part, np.resize(part, QUERY_ROWS), length  # resize repeats them


def packed_batches(sizes: NDArray[np.int64], budget: int) -> Iterator[NDArray[np.int64]]:
    """Rows of sequences of these sizes, the longest first, so many at once that their sum is within the budget."""
    order = np.argsort(-sizes, kind="stable")
    begin, total = 0, 0
    for place, size in enumerate(sizes[order].tolist()):
        if total and total + size > budget:
            yield order[begin:place]
            begin, total = place, 0
        total += size
    if total:
        yield order[begin:]


def padded_batches(sizes: NDArray[np.int64], budget: int, *, alike: bool) -> Iterator[NDArray[np.int64]]:
    """Rows of sequences, the longest first, so many at once that rows times the longest is within the budget.

    Sizes count rounded up to QUERY_STEP.

    alike  whether those of a batch have the same rounded size, so that what each is padded to depends on it alone
    """
    order = np.argsort(-sizes, kind="stable")
    lengths = (-(-sizes[order] // QUERY_STEP) * QUERY_STEP).tolist()
    begin = 0
    for place, length in enumerate(lengths):
        full = (place - begin + 1) * lengths[begin] > budget
        if place > begin and (full or (alike and length != lengths[begin])):
            yield order[begin:place]
            begin = place
    if lengths:
        yield order[begin:]


def rising_batches(lengths: Sequence[int], budget: int, most: int | None = None) -> list[list[int]]:
    """Rows in rising order of their lengths, so many together that rows times the longest are within the budget.

    most  rows of a batch; None for no limit
    """
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        size = len(batches[-1]) if batches else 0
        if not size or size == most or (size + 1) * lengths[row] > budget:
            batches.append([])
        batches[-1].append(row)
    return batches


def in_order(found: Tensor, rows: Sequence[int]) -> Tensor:
    """What was found for rows, each of them once, in the order of the rows."""
    places = torch.empty(len(rows), dtype=torch.int64)
    places[torch.tensor(rows, dtype=torch.int64)] = torch.arange(len(rows))
    return found[places.to(found.device)]


def padded(tokens: Sequence[NDArray[np.int64]], padding: int, length: int = 0) -> tuple[Tensor, Tensor]:
    """(S, T) tokens of sequences, padded on the right to `length` or, if that is more, the longest; their lengths (S,)."""
    lengths = torch.tensor([len(one) for one in tokens])
    ids = torch.full((len(tokens), max(length, int(lengths.max()))), padding)
    for row, one in enumerate(tokens):
        ids[row, : len(one)] = torch.from_numpy(one)
    return ids, lengths


def each_on_a_core(
    work: Callable[[P], T], parts: Sequence[P], threads: int, *, shared: bool = True
) -> Iterator[tuple[P, T]]:
    """Pairs (part, work(part)) in order, `threads` parts at a time, torch computing each with one thread.

    A core that has a batch to itself never waits for the others at the end of every small operation.

    shared  whether fewer parts than threads are worked on one by one, each by all threads that torch has; if not, each
            has one thread all the same: what threads share, they round as they share it
    """
    if not shared:
        threads = min(threads, len(parts))
    if threads < 2 or len(parts) < threads:
        yield from ((part, work(part)) for part in parts)
        return

    def alone(part: P) -> T:
        with torch.inference_mode():  # it is a thread's own, as the number of threads is
            return work(part)

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    begun: deque[tuple[P, Future[T]]] = deque()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            try:
                for part in parts:
                    begun.append((part, pool.submit(alone, part)))
                    if len(begun) > 2 * threads:  # bounds the memory of answers that nobody has taken yet
                        first, answer = begun.popleft()
                        yield first, answer.result()
                while begun:
                    first, answer = begun.popleft()
                    yield first, answer.result()
            finally:
                for _, answer in begun:
                    answer.cancel()
    finally:
        torch.set_num_threads(before)
