"""Heap sort by comparisons of several things at once, many of them side by side, stopped when the first are in order.

A sort is a generator: it yields groups of items, is sent the place of the greatest item of each group, and returns the
order. So whoever compares can be asked about the groups of many sorts together.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TypeVar

T = TypeVar("T")

Comparing = Generator[list[list[int]], list[int], T]


def first_in_order(items: range, k: int, children: int) -> Comparing[list[int]]:
    """Items, the k greatest first, in falling order; the others behind them in the order that they were given in.

    A group is a parent and its children, at most `children` of them: Zhuang, Zhuang, Koopman and Zuccon, SIGIR 2024,
    arXiv 2310.09497, section 3.3. It is in the order that its items were given in, so that whoever finds the first of
    every group the greatest leaves all items as they were. Parents of one level of the heap are asked about side by side.
    """
    heap = list(items)
    for parents in reversed(_levels(len(heap), children)):
        yield from side_by_side([_sift(heap, parent, len(heap), children) for parent in parents])
    found: list[int] = []
    for size in range(len(heap), 0, -1):
        found.append(heap[0])
        if len(found) == k:
            break
        heap[0] = heap[size - 1]
        yield from _sift(heap, 0, size - 1, children)
    taken = set(found)
    return found + [item for item in items if item not in taken]


def side_by_side(sorts: Sequence[Comparing[T]]) -> Comparing[list[T]]:
    """Several generators at once, each round with the groups of all that are not done; what they return."""
    results: dict[int, T] = {}
    waiting: dict[int, list[list[int]]] = {}

    def go_on(number: int, answers: list[int] | None) -> None:
        waiting.pop(number, None)
        try:
            waiting[number] = next(sorts[number]) if answers is None else sorts[number].send(answers)
        except StopIteration as done:
            results[number] = done.value

    for number in range(len(sorts)):
        go_on(number, None)
    while waiting:
        asked = dict(sorted(waiting.items()))
        answers = yield [group for groups in asked.values() for group in groups]
        begin = 0
        for number, groups in asked.items():
            go_on(number, answers[begin : begin + len(groups)])
            begin += len(groups)
    return [results[number] for number in range(len(sorts))]


def most_groups(size: int, k: int, children: int) -> int:
    """How many groups first_in_order can yield for `size` items, at most."""
    levels = _levels(size, children)
    building = sum(len(parents) * (len(levels) - depth) for depth, parents in enumerate(levels))
    return building + sum(len(_levels(size - taken, children)) for taken in range(1, min(k, size)))


def _levels(size: int, children: int) -> list[range]:
    """Places of the parents in each level of a heap of `size` items, from its root."""
    parents = (size - 2) // children + 1 if size > 1 else 0
    levels, begin, width = [], 0, 1
    while begin < parents:
        levels.append(range(begin, min(begin + width, parents)))
        begin, width = begin + width, width * children
    return levels


def _sift(heap: list[int], place: int, size: int, children: int) -> Comparing[None]:
    """Move the item at a place down until none of its children is greater. Its subtrees are heaps already."""
    while (first := place * children + 1) < size:
        places = sorted([place, *range(first, min(first + children, size))], key=heap.__getitem__)
        (best,) = yield [[heap[one] for one in places]]
        if places[best] == place:
            return
        heap[place], heap[places[best]] = heap[places[best]], heap[place]
        place = places[best]
