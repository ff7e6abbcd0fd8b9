import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean, pstdev
from typing import Any, ClassVar, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic.dataclasses import dataclass

from rankpipe.data import Corpus, Queries
from rankpipe.errors import RankpipeError, UsageError
from rankpipe.run import Run
from rankpipe.stage import SETTINGS, Chain, Part, Stage
from rankpipe.stages.bm25 import BM25
from rankpipe.stages.cut import Cut
from rankpipe.stages.dense import Dense
from rankpipe.stages.fuse import BY_SCORES, Fuse, Method, weighted_sum
from rankpipe.stages.normalise import Normalisation

Ranking = Mapping[str, float]
Ranked = Mapping[str, Ranking]

CORPUS = Corpus.of_ids("abcdef")
METHODS: tuple[Method, ...] = get_args(Method)
NORMALISATIONS: tuple[Normalisation, ...] = get_args(Normalisation)
EMPTY = Run.empty(Queries.of({"q1": "one", "q2": "two"}), CORPUS)


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Given(Stage):
    """Rank as told."""

    makes: ClassVar[frozenset[Part]] = frozenset({"candidates"})

    ranked: dict[str, dict[str, float]]

    def __call__(self, run: Run) -> Run:
        known = {query_id: ranking for query_id, ranking in self.ranked.items() if query_id in run.queries}
        return Run.of(run.queries, run.corpus, known)


def fused(*rankings: Ranking, **settings: Any) -> dict[str, float]:
    """Scores of the first query, in ranked order, rounded to 6 digits."""
    branches = [Given(ranked={"q1": dict(ranking)}) for ranking in rankings]
    run = Fuse(branches, **settings)(EMPTY)
    return {doc_id: round(score, 6) for doc_id, score in run.to_dict()["q1"].items()}


# -- worked by hand -----------------------------------------------------------------------------------------------------


def test_reciprocal_rank_adds_one_over_sixty_plus_rank() -> None:
    # a: 1/61 + 1/62; b: 1/62; c: 1/61
    scores = fused({"a": 9, "b": 8}, {"c": -1, "a": -2})
    assert scores == {"a": round(1 / 61 + 1 / 62, 6), "c": round(1 / 61, 6), "b": round(1 / 62, 6)}


def test_smoothing_is_a_setting() -> None:
    assert fused({"a": 9, "b": 8}, smoothing=1) == {"a": 0.5, "b": round(1 / 3, 6)}


def test_inverse_square_rank_counts_the_branches() -> None:
    # a: 2 (1/1 + 1/4) = 2.5; c: 1 · 1; b: 1 · 1/4
    assert fused({"a": 9, "b": 8}, {"c": -1, "a": -2}, method="inverse-square-rank") == {"a": 2.5, "c": 1, "b": 0.25}


def test_borda_shares_the_points_left_over_among_the_documents_not_found() -> None:
    # Four documents. First branch: a 4, b 3, c and d share 2 + 1, so 1.5 each. Second: c 4, and 2 for a, b and d.
    assert fused({"a": 9, "b": 8}, {"c": 1}, {"d": 1}, method="borda", weights=[1, 1, 0]) == {
        "a": 6,
        "c": 5.5,
        "b": 5,
        "d": 3.5,
    }


def test_convex_of_min_max_gives_a_missing_document_what_the_lowest_gets() -> None:
    # First branch: a 1, b (-3 + 5) / 4 = .5, c 0, d missing 0. Second: d 1, a 0. Weights .75 and .25.
    scores = fused({"a": -1, "b": -3, "c": -5}, {"d": 20, "a": 10}, method="convex", weights=[3, 1])
    assert scores == {"a": 0.75, "b": 0.375, "d": 0.25, "c": 0}


def test_convex_of_z_scores_gives_a_missing_document_the_lowest_z_score() -> None:
    # a, b, c: mean -3, deviation sqrt(8/3); d in the second branch: 1, a -1.
    z = 2 / math.sqrt(8 / 3)
    scores = fused({"a": -1, "b": -3, "c": -5}, {"d": 20, "a": 10}, method="convex", normalise="z-score")
    expected = {"a": (z - 1) / 2, "d": (-z + 1) / 2, "b": (0 - 1) / 2, "c": (-z - 1) / 2}
    assert scores == {doc_id: round(score, 6) for doc_id, score in expected.items()}


def test_convex_of_theoretical_minimum_measures_from_the_stated_minimum() -> None:
    # BM25 from 0: a 8/8, b 2/8. Cosine from -1: b (.6 + 1) / 1.6, c (-.2 + 1) / 1.6 = .5, a missing 0.
    scores = fused(
        {"a": 8, "b": 2}, {"b": 0.6, "c": -0.2}, method="convex", normalise="theoretical-minimum", minimum=[0, -1]
    )
    assert scores == {"b": 0.625, "a": 0.5, "c": 0.25}


def test_comb_sum_of_raw_scores_adds_nothing_for_a_missing_document() -> None:
    assert fused({"a": 3, "b": 2}, {"b": 2, "c": 5}, method="comb-sum", normalise="none") == {"c": 5, "b": 4, "a": 3}


def test_comb_sum_of_negative_raw_scores_gives_a_missing_document_the_lowest() -> None:
    # Second branch: b -7, c -2, and a, which it did not find, -7 too: were it 0, a would come first for being missing.
    scores = fused({"a": 3, "b": 2}, {"b": -7, "c": -2}, method="comb-sum", normalise="none")
    assert scores == {"c": -2, "a": -4, "b": -5}


def test_comb_mnz_multiplies_the_sum_by_the_branches_that_found_the_document() -> None:
    assert fused({"a": 3, "b": 2}, {"b": 2, "c": 5}, method="comb-mnz", normalise="none") == {"b": 8, "c": 5, "a": 3}


def test_comb_mnz_of_negative_scores_does_not_sink_what_more_branches_found() -> None:
    # Above the lowest of their branches (-4, -6): a 3, b 0; a 5, c 0.
    assert fused({"a": -1, "b": -4}, {"a": -1, "c": -6}, method="comb-mnz", normalise="none") == {
        "a": 16,
        "c": 0,
        "b": 0,
    }


@pytest.mark.parametrize("method", ["inverse-square-rank", "comb-mnz"])
def test_a_branch_of_weight_zero_is_not_counted_among_the_finders(method: Method) -> None:
    assert fused({"a": 9, "b": 8}, {"b": 1}, method=method, weights=[1, 0])["a"] == 1


@pytest.mark.parametrize(
    ("normalise", "expected"),
    [
        ("min-max", {"b": 1, "a": 1, "c": 0}),
        ("z-score", {"c": 0, "b": 0, "a": 0}),
        ("theoretical-minimum", {"b": 1, "a": 1, "c": 0}),
        ("none", {"b": 0.1, "a": 0.1, "c": 0}),
    ],
)
def test_equal_scores_of_a_branch(normalise: Normalisation, expected: dict[str, float]) -> None:
    minimum = [0, 0] if normalise == "theoretical-minimum" else None
    scores = fused(
        {"a": 0.1, "b": 0.1}, {"c": 1}, method="comb-sum", weights=[1, 0], normalise=normalise, minimum=minimum
    )
    assert list(scores.items()) == list(expected.items())


def test_scores_at_the_theoretical_minimum_are_nothing() -> None:
    assert fused({"a": 0, "b": 0}, method="convex", normalise="theoretical-minimum", minimum=[0]) == {"b": 0, "a": 0}


@pytest.mark.parametrize(
    ("method", "normalise"),
    [
        (method, normalise)
        for method in METHODS
        for normalise in (NORMALISATIONS if method in BY_SCORES else ("min-max",))
    ],
)
def test_branches_without_candidates_have_no_say(method: Method, normalise: Normalisation) -> None:
    minimum = [0, 0] if normalise == "theoretical-minimum" else None
    scores = fused({"a": 3, "b": 2, "c": 1}, {}, method=method, normalise=normalise, minimum=minimum)
    assert list(scores) == ["a", "b", "c"]
    assert fused({}, {}, method=method, normalise=normalise, minimum=minimum) == {}


def test_equal_fused_scores_stand_in_falling_doc_id_order() -> None:
    assert list(fused({"a": 2, "b": 1}, {"b": 2, "a": 1}, {"c": 5}, weights=[1, 1, 0])) == ["b", "a", "c"]


def test_k_keeps_the_first_candidates_of_every_query() -> None:
    branch = Given(ranked={"q1": {"a": 3, "b": 2, "c": 1}, "q2": {"d": 1}})
    assert {query_id: list(ranking) for query_id, ranking in Fuse([branch], k=2)(EMPTY).to_dict().items()} == {
        "q1": ["a", "b"],
        "q2": ["d"],
    }


def test_no_queries_give_no_candidates() -> None:
    run = Fuse([Given(ranked={"q1": {"a": 1}})])(Run.empty(Queries.of({}), CORPUS))
    assert (len(run), len(run.documents)) == (0, 0)


def test_an_empty_corpus_gives_no_candidates() -> None:
    run = Fuse([Given(ranked={})], method="convex")(Run.empty(Queries.of("one"), Corpus.of_ids([])))
    assert run.to_dict() == {"q1": {}}


# -- what flows ---------------------------------------------------------------------------------------------------------


def test_scores_of_named_branches_are_kept_and_nan_where_a_branch_did_not_find_the_document() -> None:
    first = Given(name="lexical", ranked={"q1": {"a": 2, "b": 1}})
    second = Given(ranked={"q1": {"b": 0.5, "c": 0.25}}) >> Given(name="dense", ranked={"q1": {"b": 7, "c": 6}})
    candidates = Fuse([first, second])(EMPTY)["q1"]
    assert {one.doc_id: str(one.scores) for one in candidates} == {
        "b": "{'lexical': 1.0, 'dense': 7.0}",
        "a": "{'lexical': 2.0, 'dense': nan}",
        "c": "{'lexical': nan, 'dense': 6.0}",
    }


def test_where_branches_share_a_name_the_first_that_scored_the_document_wins() -> None:
    branches = [Given(name="x", ranked={"q1": {"a": 2, "b": 1}}), Given(name="x", ranked={"q1": {"b": 8, "c": 9}})]
    assert {one.doc_id: one.scores["x"] for one in Fuse(branches)(EMPTY)["q1"]} == {"a": 2, "b": 1, "c": 9}


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Windowed(Given):
    """Rank as told, and choose passage `passage` of every document."""

    passage: int

    def __call__(self, run: Run) -> Run:
        ranked = Given(ranked=self.ranked)(run)
        passages = np.full(len(ranked.documents), self.passage, np.int32)
        return Run(ranked.queries, ranked.corpus, ranked.offsets, ranked.documents, ranked.scores, {}, passages)


def test_the_passage_is_that_of_the_first_branch_that_chose_one() -> None:
    branches = [
        Given(ranked={"q1": {"a": 3, "b": 2}}),
        Windowed(ranked={"q1": {"b": 3}}, passage=4),
        Windowed(ranked={"q1": {"b": 3, "c": 1}}, passage=5),
    ]
    run = Fuse(branches, method="convex")(EMPTY)
    assert run.passages is not None
    assert dict(zip(CORPUS.ids(run.documents), run.passages.tolist(), strict=True)) == {"a": -1, "b": 4, "c": 5}


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Shout(Stage):
    """Rewrite every query in capitals."""

    def __call__(self, run: Run) -> Run:
        return run.with_queries(run.queries.rewritten([text.upper() for text in run.queries.texts]))


def test_queries_rewritten_in_a_branch_stay_in_it() -> None:
    run = Fuse([Shout() >> Given(ranked={"q1": {"a": 1}}), Given(ranked={})])(EMPTY)
    assert run.queries.texts == ("one", "two")


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Piece(Stage):
    """The first query, as one of the several that it was made into."""

    def __call__(self, run: Run) -> Run:
        first = run.select([0])
        return first.with_queries(replace(first.queries, parent=np.zeros(1, np.int64)))


def test_a_branch_that_loses_queries_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"^branch 2 of fuse gave other queries, or another corpus, than it was given$"
    ):
        Fuse([Given(ranked={}), Piece()])(EMPTY)


# -- settings -----------------------------------------------------------------------------------------------------------


def test_branches_are_the_parts() -> None:
    first, second = Given(ranked={}), Given(ranked={})
    assert Fuse([first, second]).parts == (first, second)
    assert Fuse(branches=(first, second)).parts == (first, second)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": [1]}, "'weights' has 1 value for 2 branches"),
        ({"weights": [0, 0]}, "'weights' are all 0; at least one must be above 0"),
        ({"weights": [1, -1]}, "greater than or equal to 0"),
        ({"weights": [1, math.nan]}, "finite number"),
        (
            {"minimum": [0], "method": "convex", "normalise": "theoretical-minimum"},
            "'minimum' has 1 value for 2 branches",
        ),
        (
            {"method": "convex", "normalise": "theoretical-minimum"},
            "'normalise: theoretical-minimum' needs 'minimum': branch 1 knows no lowest score",
        ),
        ({"minimum": [0, 0]}, "'minimum' is for 'normalise: theoretical-minimum' only"),
        (
            {"normalise": "z-score"},
            "'normalise: z-score' is of the methods that go by scores (convex, comb-sum, comb-mnz), and 'method' is "
            "'reciprocal-rank'",
        ),
        (
            {"method": "convex", "smoothing": 10},
            "'smoothing' is of 'method: reciprocal-rank', and 'method' is 'convex'",
        ),
        ({"k": 0}, "greater than or equal to 1"),
        ({"smoothing": -1}, "greater than or equal to 0"),
        ({"method": "rrf"}, "Input should be 'reciprocal-rank'"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Fuse([Given(ranked={}), Given(ranked={})], **settings)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("dense", "remedy"),
    [
        (Dense(model="any"), "; state 'similarity: cosine' in it, if that is its model's"),
        (Chain(stages=(Dense(model="any"), Cut(k=5))), "; state 'similarity: cosine' in it, if that is its model's"),
        (Dense(model="any", similarity="dot"), ""),
        (Chain(stages=(Dense(model="any"), Given(ranked={}))), ""),
    ],
    ids=["unstated", "before a cut", "dot", "before other scores"],
)
def test_a_branch_without_lowest_score_is_named_with_what_could_be_stated(dense: Stage, remedy: str) -> None:
    branches = [BM25(), dense]
    with pytest.raises(ValidationError) as caught:
        Fuse(branches, method="convex", normalise="theoretical-minimum")
    assert f"needs 'minimum': branch 2 knows no lowest score{remedy} [" in str(caught.value)
    assert Fuse(branches, method="convex", normalise="theoretical-minimum", minimum=[0, -2]).unknown_minimum is None


def test_weights_beyond_float_are_shares_or_refused() -> None:
    one, two = {"a": 2.0, "b": 1.0}, {"b": 2.0, "a": 1.0}
    assert fused(one, two, method="convex", weights=[1e308, 1e308]) == {"b": 0.5, "a": 0.5}
    message = r"^the score of document 'a' for query 'q1' is inf, not a finite float32 number$"
    with pytest.raises(RankpipeError, match=message):
        fused(one, two, method="comb-sum", normalise="none", weights=[1e308, 1e308])


def test_no_branches_are_refused() -> None:
    with pytest.raises(ValidationError, match="at least 1 item"):
        Fuse([])


def test_a_score_under_the_stated_minimum_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        fused({"a": -0.5}, method="convex", normalise="theoretical-minimum", minimum=[0])
    assert str(caught.value) == "a score is -0.5, under the theoretical minimum of 0 that was stated"


def test_a_cosine_that_rounding_has_put_under_minus_one_counts_as_minus_one() -> None:
    # (1 + 1) / 2 is 1, and (0 + 1) / 2 is 1/2
    def shares(lowest: float) -> dict[str, float]:
        scores = {"a": 1, "b": 0, "c": lowest}
        return fused(scores, method="convex", normalise="theoretical-minimum", minimum=[-1])

    assert shares(-1.00000024) == shares(-1.0004) == {"a": 1, "b": 0.5, "c": 0}
    with pytest.raises(UsageError, match=r"^a score is -1\.25, under the theoretical minimum of -1 that was stated$"):
        shares(-1.25)


# -- against dictionaries -----------------------------------------------------------------------------------------------

# Whole numbers, so that sums are exact and ties stay ties.
rankings = st.dictionaries(st.sampled_from("abcdef"), st.integers(-5, 5).map(float), max_size=6)
unstated = st.sampled_from([how for how in NORMALISATIONS if how != "theoretical-minimum"])
some_branches = st.lists(st.fixed_dictionaries({"q1": rankings, "q2": rankings}), min_size=1, max_size=4)


def normal(ranking: Ranking, how: Normalisation, minimum: float) -> dict[str, float]:
    if not ranking:
        return {}
    low, high = min(ranking.values()), max(ranking.values())
    if how == "min-max":
        return {d: (s - low) / (high - low) if high > low else 1 for d, s in ranking.items()}
    if how == "z-score":
        mean, deviation = fmean(ranking.values()), pstdev(ranking.values())
        return {d: (s - mean) / deviation if high > low else 0 for d, s in ranking.items()}
    if how == "theoretical-minimum":
        return {d: (s - minimum) / (high - minimum) if high > minimum else 0 for d, s in ranking.items()}
    return dict(ranking)


def by_dictionaries(
    rankings: Sequence[Ranking], weights: Sequence[float], method: Method, how: Normalisation
) -> dict[str, float]:
    """Fuse the rankings of one query, document by document."""
    every = {doc_id for ranking in rankings for doc_id in ranking}
    fused: dict[str, float] = {}
    for doc_id in every:
        total, finders = 0.0, 0
        for ranking, weight in zip(rankings, weights, strict=True):
            order = sorted(ranking, key=lambda d, r=ranking: (r[d], d), reverse=True)
            rank = order.index(doc_id) + 1 if doc_id in ranking else None
            finders += rank is not None and weight > 0
            values = normal(ranking, how, -5)
            missing = min([0, *values.values()])
            value = values.get(doc_id, missing)
            if method == "reciprocal-rank":
                total += weight / (60 + rank) if rank else 0
            elif method == "inverse-square-rank":
                total += weight / rank**2 if rank else 0
            elif method == "borda":
                left = range(1, len(every) - len(ranking) + 1)
                total += weight * (len(every) - rank + 1 if rank else fmean(left))
            elif method == "convex":
                total += weight / sum(weights) * value
            elif method == "comb-sum":
                total += weight * value
            else:
                total += weight * (value - missing)
        fused[doc_id] = total * finders if method in ("inverse-square-rank", "comb-mnz") else total
    return fused


@given(some_branches, st.lists(st.integers(0, 3), min_size=4, max_size=4), st.sampled_from(METHODS), st.data())
def test_scores_are_those_of_a_plain_implementation(
    branches: list[Ranked], weights: list[int], method: Method, data: st.DataObject
) -> None:
    how = data.draw(st.sampled_from(NORMALISATIONS if method in BY_SCORES else ("min-max",)))
    weights = weights[: len(branches)] if any(weights[: len(branches)]) else [1] * len(branches)
    minimum = [-5] * len(branches) if how == "theoretical-minimum" else None
    stages = [Given(ranked={q: dict(r) for q, r in one.items()}) for one in branches]
    run = Fuse(stages, method=method, weights=weights, normalise=how, minimum=minimum)(EMPTY)
    for query_id, ranking in run.to_dict().items():
        expected = by_dictionaries([one[query_id] for one in branches], weights, method, how)
        assert ranking == pytest.approx(expected, rel=1e-5, abs=1e-5)
        keys = [(score, doc_id) for doc_id, score in ranking.items()]
        assert keys == sorted(keys, reverse=True)


def order(run: Run) -> list[list[str]]:
    return [list(ranking) for ranking in run.to_dict().values()]


@given(some_branches, st.permutations(range(4)), st.sampled_from(METHODS), unstated)
def test_branches_may_stand_in_any_order_with_their_weights(
    branches: list[Ranked], places: list[int], method: Method, how: Normalisation
) -> None:
    weights, how = [0.5, 0.3, 0.15, 0.05], how if method in BY_SCORES else "min-max"
    stages = [Given(ranked={q: dict(r) for q, r in one.items()}) for one in branches]
    places = [place for place in places if place < len(stages)]
    one = Fuse(stages, method=method, weights=weights[: len(stages)], normalise=how)(EMPTY)
    other = Fuse(
        [stages[place] for place in places], method=method, weights=[weights[place] for place in places], normalise=how
    )(EMPTY)
    assert one.documents.tolist() == other.documents.tolist()
    assert one.scores.tolist() == pytest.approx(other.scores.tolist(), rel=1e-6)


@given(some_branches, st.sampled_from(METHODS), unstated)
def test_only_the_proportion_of_the_weights_decides_the_order(
    branches: list[Ranked], method: Method, how: Normalisation
) -> None:
    stages = [Given(ranked={q: dict(r) for q, r in one.items()}) for one in branches]
    weights, how = [3, 2, 5, 1][: len(stages)], how if method in BY_SCORES else "min-max"
    once = Fuse(stages, method=method, weights=weights, normalise=how)(EMPTY)
    eightfold = Fuse(stages, method=method, weights=[8 * weight for weight in weights], normalise=how)(EMPTY)
    assert order(once) == order(eightfold)


@given(st.fixed_dictionaries({"q1": rankings, "q2": rankings}), unstated)
def test_the_convex_fusion_of_one_branch_keeps_its_order(
    ranked: dict[str, dict[str, float]], how: Normalisation
) -> None:
    branch = Given(ranked=ranked)
    assert order(Fuse([branch], method="convex", normalise=how)(EMPTY)) == order(branch(EMPTY))


def test_equal_parts_give_equal_sums_in_any_order_of_branches() -> None:
    parts = np.array([[0.1, 0.3], [0.2, 0.2], [0.3, 0.1]])  # 0.1 + 0.2 + 0.3 is not 0.3 + 0.2 + 0.1 in floats
    first, second = weighted_sum(parts, np.ones(3))
    assert first == second
