import numpy as np
import pytest

from rankpipe.data import Qrels
from rankpipe.errors import UsageError


def test_judgements_are_a_mapping_in_their_order() -> None:
    qrels = Qrels({"q2": {"b": 1, "a": -1}, "q1": {}})
    assert (list(qrels), len(qrels), qrels.size, dict(qrels["q2"])) == (["q2", "q1"], 2, 2, {"b": 1, "a": -1})
    assert ("q1" in qrels, "q3" in qrels, qrels.get("q3")) == (True, False, None)
    assert repr(qrels) == "Qrels(2 queries, 2 judgements)"


def test_judgements_are_not_changed_with_their_source() -> None:
    source = {"q1": {"a": 1}}
    qrels = Qrels(source)
    source["q1"]["a"] = 2
    source["q2"] = {}
    assert {query_id: dict(judged) for query_id, judged in qrels.items()} == {"q1": {"a": 1}}


def test_any_whole_number_is_a_relevance() -> None:
    relevance = Qrels({"q1": {"a": np.int64(2)}})["q1"]["a"]  # type: ignore[dict-item]
    assert (relevance, type(relevance)) == (2, int)


@pytest.mark.parametrize("relevance", [1.0, "1", True, None])
def test_anything_else_is_not(relevance: object) -> None:
    with pytest.raises(UsageError) as caught:
        Qrels.of({"q1": {"a": relevance}})  # type: ignore[dict-item]
    assert str(caught.value) == f"relevance of document 'a' for query 'q1' is {relevance!r}, not a whole number"


def test_judgements_stay_themselves() -> None:
    qrels = Qrels({"q1": {"a": 1}})
    assert Qrels.of(qrels) is qrels
