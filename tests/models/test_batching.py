"""Batches that are computed beside each other."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from rankpipe.models.batching import each_on_a_core, padded_batches, rising_batches

PARTS = [np.array([number, number + 1], np.int64) for number in range(40)]


@pytest.mark.parametrize("threads", [1, 2, 3, 100])
def test_answers_come_in_the_order_of_the_parts(threads: int) -> None:
    found = list(each_on_a_core(lambda part: int(part.sum()), PARTS, threads))
    assert [part.tolist() for part, _ in found] == [part.tolist() for part in PARTS]
    assert [answer for _, answer in found] == [2 * number + 1 for number in range(40)]


def test_a_part_has_one_thread_where_there_are_parts_for_all() -> None:
    before = torch.get_num_threads()
    counts = {answer for _, answer in each_on_a_core(lambda _: torch.get_num_threads(), PARTS, 2)}
    assert counts == {1}
    assert torch.get_num_threads() == before


def test_few_parts_that_are_not_shared_are_worked_on_at_once_with_one_thread_each() -> None:
    both = threading.Barrier(2, timeout=60)  # broken where one part waits for the other

    def work(_: np.ndarray) -> int:
        both.wait()
        return torch.get_num_threads()

    assert [answer for _, answer in each_on_a_core(work, PARTS[:2], 8, shared=False)] == [1, 1]
    assert list(each_on_a_core(work, [], 8, shared=False)) == []


def test_an_error_comes_through_and_nothing_stays_changed() -> None:
    before = torch.get_num_threads()

    def fail(part: np.ndarray) -> int:
        if part[0] == 7:
            raise ValueError("part 7")
        return 0

    with pytest.raises(ValueError, match="part 7"):
        list(each_on_a_core(fail, PARTS, 2))
    assert torch.get_num_threads() == before


def test_no_gradients_are_kept_where_batches_are_computed() -> None:
    weight = torch.ones(2, requires_grad=True)
    with torch.inference_mode():
        kept = [answer for _, answer in each_on_a_core(lambda _: (weight * 2).requires_grad, PARTS, 2)]
    assert not any(kept)


def test_padded_batches_fall_within_their_tokens() -> None:
    sizes = np.array([5, 40, 33, 16, 100, 17, 1], np.int64)  # rounded up: 16, 48, 48, 16, 112, 32, 16
    alike = padded_batches(sizes, 100, alike=True)
    assert [rows.tolist() for rows in alike] == [[4], [1, 2], [5], [3, 0, 6]]
    mixed = padded_batches(sizes, 144, alike=False)
    assert [rows.tolist() for rows in mixed] == [[4], [1, 2, 5], [3, 0, 6]]
    assert list(padded_batches(np.empty(0, np.int64), 100, alike=True)) == []


def test_batches_rise_within_their_tokens_and_rows() -> None:
    lengths = [5, 1, 9, 2, 2, 30]
    assert rising_batches(lengths, 12) == [[1, 3, 4], [0], [2], [5]]  # 3 rows of 2; one of 5, as 2 of 9 are too many
    assert rising_batches(lengths, 100, 2) == [[1, 3], [4, 0], [2, 5]]
    assert rising_batches(lengths, 100, 1) == [[1], [3], [4], [0], [2], [5]]
    assert rising_batches([], 12) == []
