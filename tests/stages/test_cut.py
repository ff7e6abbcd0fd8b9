import pytest
from pydantic import ValidationError

from rankpipe.data import Corpus, Queries
from rankpipe.run import Run
from rankpipe.stages.cut import Cut

QUERIES = Queries.of({"q1": "one", "q2": "two", "q3": "three"})
RANKED = {"q1": {"a": 3.0, "b": 2.0, "c": 1.0}, "q2": {}, "q3": {"c": -1.0}}


def test_the_first_k_of_every_query_are_kept_with_their_scores() -> None:
    run = Run.of(QUERIES, Corpus.of_ids("abc"), RANKED)
    assert Cut(k=2)(run).to_dict() == {"q1": {"a": 3, "b": 2}, "q2": {}, "q3": {"c": -1}}


def test_k_beyond_the_candidates_changes_nothing() -> None:
    run = Run.of(QUERIES, Corpus.of_ids("abc"), RANKED)
    assert Cut(k=100)(run).to_dict() == RANKED


def test_k_below_one_is_refused() -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        Cut(k=0)
