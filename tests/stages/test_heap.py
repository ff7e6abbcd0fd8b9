"""Heap sort by groups: worked by hand, against sorting with an oracle, many sorts side by side."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import pytest

from rankpipe.stages.heap import Comparing, first_in_order, most_groups, side_by_side

T = TypeVar("T")


def compared(sort: Comparing[T], greatness: Sequence[float]) -> tuple[T, list[list[list[int]]]]:
    """What a sort returns when an oracle compares, and the groups of every round."""
    rounds: list[list[list[int]]] = []
    try:
        groups = next(sort)
        while True:
            rounds.append(groups)
            groups = sort.send([int(np.argmax([greatness[item] for item in group])) for group in groups])
    except StopIteration as done:
        return done.value, rounds


def test_a_small_sort_worked_by_hand() -> None:
    # a heap of three children: 0 over 1, 2, 3; 1 over 4
    order, rounds = compared(first_in_order(range(5), k=2, children=3), [3, 1, 4, 1.5, 9])
    assert rounds == [
        [[1, 4]],  # 4 is greater and takes the place of 1
        [[0, 2, 3, 4]],  # 4 goes to the root, and 0 where it was, over 1
        [[0, 1]],  # where it stays; 4 is the first
        [[0, 1, 2, 3]],  # 1, the last of the heap, goes to the root; 2 is greater, and the second
    ]
    assert order == [4, 2, 0, 1, 3]  # the others as they were given


def test_parents_of_one_level_are_asked_about_side_by_side() -> None:
    order, rounds = compared(first_in_order(range(7), k=1, children=2), [1, 2, 3, 4, 5, 6, 7])
    assert rounds == [[[1, 3, 4], [2, 5, 6]], [[0, 4, 6]], [[0, 2, 5]]]
    assert order == [6, 0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("children", [1, 2, 3, 25])
def test_the_first_are_those_that_an_oracle_prefers(children: int) -> None:
    rng = np.random.default_rng(children)
    for size in (*range(9), 40, 100):
        for k in (1, 3, 10, 1000):
            greatness = rng.permutation(size).tolist()
            order, rounds = compared(first_in_order(range(size), k, children), greatness)
            best = sorted(range(size), key=lambda item: -greatness[item])[:k]
            assert order == best + [item for item in range(size) if item not in best]
            groups = [group for asked in rounds for group in asked]
            assert all(2 <= len(group) <= children + 1 for group in groups)
            assert len(groups) <= most_groups(size, k, children)


@pytest.mark.parametrize("children", [1, 2, 3, 25])
def test_equal_items_stay_where_they_are(children: int) -> None:
    for size in (0, 1, 2, 5, 20, 100):
        for k in (1, 3, 10, 1000):
            order, _ = compared(first_in_order(range(7, 7 + size), k, children), [0] * (7 + size))
            assert order == list(range(7, 7 + size))


def test_a_group_is_in_the_order_that_its_items_were_given_in() -> None:
    greatness = np.random.default_rng(0).permutation(100).tolist()
    _, rounds = compared(first_in_order(range(100), 10, 3), greatness)
    assert all(group == sorted(group) for asked in rounds for group in asked)


def test_sorts_side_by_side_are_those_by_themselves() -> None:
    rng = np.random.default_rng(1)
    greatness = rng.permutation(60).tolist()
    parts = [range(25), range(25, 25), range(25, 26), range(26, 60)]
    together, rounds = compared(side_by_side([first_in_order(part, 5, 3) for part in parts]), greatness)
    alone = [compared(first_in_order(part, 5, 3), greatness) for part in parts]
    assert together == [order for order, _ in alone]
    assert len(rounds) == max(len(own) for _, own in alone)
    assert sum(map(len, rounds)) == sum(len(groups) for _, own in alone for groups in own)


def test_nothing_to_compare_is_nothing_asked() -> None:
    assert compared(side_by_side([]), []) == ([], [])
    assert [most_groups(size, 10, 3) for size in (0, 1, 2)] == [0, 0, 1]
