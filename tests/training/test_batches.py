"""Batches: what is drawn, and which documents are negatives of which query."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rankpipe.data import Corpus
from rankpipe.errors import UsageError
from rankpipe.training.batches import Batch, Batches
from rankpipe.training.examples import Turns
from rankpipe.training.negatives import Judged
from rankpipe.training.recipe import Subset

IDS = [f"q{number}" for number in range(10)]
CORPUS = Corpus.from_texts([f"document {number}" for number in range(40)])


def judged(number: int, positives: list[int], negatives: list[int], masked: list[int] | None = None) -> Judged:
    rows = np.array(positives, np.int32)
    return Judged(
        f"q{number}",
        f"query {number}",
        rows,
        np.ones(len(rows), np.float32),
        np.zeros(len(rows), bool),
        np.unique(np.array(positives + (masked or []), np.int32)),
        np.array(negatives, np.int32),
    )


def batches(queries: list[Judged], **settings: Any) -> Batches:
    values: dict[str, Any] = {"batch": len(queries), "hard": 1, "random": 0, "in_batch": True, "seed": (0,), **settings}
    return Batches(queries, CORPUS, **values)


def rows_of(batch: Batch, mask: np.ndarray) -> list[int]:
    """Documents in the columns that a row of a mask names."""
    return batch.documents[batch.columns[mask]].tolist()


def test_own_hard_negatives_and_the_documents_of_the_others() -> None:
    batch = batches([judged(0, [0], [10]), judged(1, [1], [11]), judged(2, [2], [12])]).step(1)
    for row, query_id in enumerate(batch.query_ids):
        own = int(query_id[1:])
        assert batch.documents[batch.columns[batch.positive[row]]] == own
        assert rows_of(batch, batch.hard[row]) == [10 + own]
        assert sorted(rows_of(batch, batch.random[row])) == [other for other in range(3) if other != own]
        assert sorted(rows_of(batch, batch.other_hard[row])) == [10 + other for other in range(3) if other != own]


def test_no_document_that_a_query_masks_is_its_negative_whoevers_it_is() -> None:
    # document 1 is relevant to both; 11 is the second's hard negative, and relevant to the first
    queries = [judged(0, [0, 1], [10], masked=[11]), judged(1, [1], [11]), judged(2, [2], [12])]
    drawn = batches(queries, random=5)
    for step in range(1, 60):
        batch = drawn.step(step)
        for row, query_id in enumerate(batch.query_ids):
            own = queries[int(query_id[1:])]
            assert batch.documents[batch.columns[batch.positive[row]]] in own.positives
            for mask in (batch.hard, batch.random, batch.other_hard):
                assert not set(rows_of(batch, mask[row])) & set(own.masked.tolist())
            assert not (
                batch.hard & batch.random | batch.hard & batch.other_hard | batch.random & batch.other_hard
            ).any()


def test_without_the_batch_a_query_has_its_own_negatives_alone() -> None:
    batch = batches([judged(0, [0], [10]), judged(1, [1], [11])], random=3, in_batch=False).step(1)
    assert not batch.other_hard.any()
    assert batch.hard.sum(1).tolist() == [1, 1]
    assert batch.random.sum(1).tolist() == [3, 3]
    assert not (batch.random[0] & batch.random[1]).any()


def test_what_candidates_cannot_give_is_drawn_from_all_documents() -> None:
    batch = batches([judged(0, [0], []), judged(1, [1], [11, 12])], hard=2, in_batch=False).step(1)
    row = batch.query_ids.index("q0")
    assert batch.hard.sum(1)[row] == 0
    assert batch.random.sum(1)[row] == 2
    assert sorted(rows_of(batch, batch.hard[1 - row])) == [11, 12]


def test_a_step_depends_on_its_number_alone() -> None:
    queries = [judged(number, [number], [20 + number, 30]) for number in range(9)]
    one, two = (batches(queries, batch=4, random=2, seed=(3, 1)) for _ in range(2))
    for step in (1, 2, 5):
        one.step(step)
    for left, right in zip(one.step(7), two.step(7), strict=True):
        assert np.array_equal(np.asarray(left), np.asarray(right))
    ids = [query_id for step in range(1, 10) for query_id in two.step(step).query_ids]
    assert sorted(ids) == sorted([one.query_id for one in queries] * 4)  # 9 steps of 4, four rounds of 9


def test_a_batch_has_no_more_queries_than_there_are() -> None:
    batch = batches([judged(0, [0], [10]), judged(1, [1], [11])], batch=32).step(3)
    assert sorted(batch.query_ids) == ["q0", "q1"]


def test_a_single_query_without_negatives_is_refused() -> None:
    with pytest.raises(UsageError) as error:
        batches([judged(0, [0], [])], hard=0, batch=32)
    assert str(error.value) == "1 judged query gives no negatives; 'hard' or 'random' must be above 0"


def test_rs2_takes_turns_through_an_order_of_all() -> None:
    # n 10, r .3: three epochs of 3 have 9 different ones, the fourth begins with the one that is left
    turns = Turns(IDS, (0,), Subset(kind="rs2", ratio=0.3))
    order = [turns[turn] for turn in range(10)]
    assert len(set(order[:9])) == 9
    assert set(order) == set(range(10))


def test_rs2_with_replacement_draws_every_epoch_from_all() -> None:
    turns = Turns(IDS, (0,), Subset(kind="rs2", ratio=0.3, replacement=True))
    epochs = [[turns[3 * epoch + place] for place in range(3)] for epoch in range(60)]
    assert all(len(set(epoch)) == 3 for epoch in epochs)
    assert {one for epoch in epochs for one in epoch} == set(range(10))
    assert len({tuple(sorted(epoch)) for epoch in epochs}) > 20  # of 120 that there are


def test_a_fixed_part_is_drawn_once_for_all_phases() -> None:
    other = Turns(IDS, (0, 1), Subset(kind="fixed", ratio=0.3))  # of another phase
    turns = Turns(IDS, (0, 0), Subset(kind="fixed", ratio=0.3))
    assert {other[turn] for turn in range(3)} == {turns[turn] for turn in range(3)}
    epochs = [[turns[3 * epoch + place] for place in range(3)] for epoch in range(20)]
    assert len({tuple(sorted(epoch)) for epoch in epochs}) == 1
    assert len({tuple(epoch) for epoch in epochs}) > 1  # in another order


def test_a_fixed_part_is_of_the_same_queries_where_a_phase_has_fewer() -> None:
    def part(ids: list[str]) -> set[str]:
        turns = Turns(ids, (3, 0), Subset(kind="fixed", ratio=0.25))
        return {ids[turns[turn]] for turn in range(turns.batch(32))}

    every = [f"q{number}" for number in range(40)]
    whole = part(every)
    assert len(whole) == 10
    left = [one for one in reversed(every) if one not in sorted(whole)[:2]]
    assert whole & set(left) <= part(left)
    assert len(part(left)) == 10


def test_a_batch_is_no_larger_than_a_part() -> None:
    few = [judged(number, [number], [number + 20]) for number in range(8)]
    made = batches(few, hard=1, batch=8, subset=Subset(kind="fixed", ratio=0.5))
    assert sorted(made.step(1).query_ids) == sorted(made.step(2).query_ids)
    assert len(set(made.step(1).query_ids)) == len(made.step(1).query_ids) == 4
