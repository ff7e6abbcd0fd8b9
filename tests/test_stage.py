import pickle
import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
from pydantic import ValidationError
from pydantic.dataclasses import dataclass

from rankpipe.data import Corpus, Queries
from rankpipe.errors import RankpipeError
from rankpipe.run import Run
from rankpipe.stage import OPENED_AT_ONCE, SETTINGS, Chain, Part, Stage, apply, stage_labels, traced, walk
from rankpipe.stages.fuse import Fuse

CORPUS = Corpus.of_ids("abc")
EMPTY = Run.empty(Queries.of({"q1": "one"}), CORPUS)


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class AllOf(Stage):
    """Every document, with its row times `factor` as the score."""

    makes: ClassVar[frozenset[Part]] = frozenset({"candidates"})

    factor: float = 1.0

    def __call__(self, run: Run) -> Run:
        scores = {doc_id: row * self.factor for row, doc_id in enumerate(run.corpus.ids(range(len(run.corpus))))}
        return Run.of(run.queries, run.corpus, dict.fromkeys(run.queries.ids, scores))


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Times(Stage):
    """Multiply every score."""

    needs: ClassVar[frozenset[Part]] = frozenset({"candidates"})

    factor: float

    def __call__(self, run: Run) -> Run:
        return run.rescored(run.scores * self.factor)


# -- settings -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [{"factr": 2.0}, {"factor": "2"}, {"factor": float("nan")}, {"factor": float("inf")}, {"name": 3}]
)
def test_unknown_and_wrong_settings_are_refused(settings: dict) -> None:
    with pytest.raises(ValidationError):
        AllOf(**settings)


def test_settings_are_keyword_only_and_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        AllOf(2.0)  # type: ignore[misc]
    with pytest.raises(AttributeError):
        AllOf().factor = 2.0  # type: ignore[misc]


def test_equal_settings_make_equal_stages() -> None:
    assert AllOf(factor=2) == AllOf(factor=2.0) != AllOf(factor=3)
    assert len({AllOf(), AllOf(), AllOf(name="x")}) == 2


def test_the_type_is_the_class_name_in_lower_case_with_hyphens() -> None:
    assert (AllOf.type_name(), Fuse.type_name()) == ("all-of", "fuse")


# -- chains and the operator --------------------------------------------------------------------------------------------


def test_stages_joined_run_one_after_the_other() -> None:
    run = (AllOf() >> Times(factor=-1))(EMPTY)
    assert run.to_dict() == {"q1": {"a": 0, "b": -1, "c": -2}}


def test_chains_joined_make_one_chain() -> None:
    one, two, three = AllOf(), Times(factor=2), Times(factor=3)
    assert ((one >> two) >> three) == (one >> (two >> three)) == Chain(stages=(one, two, three))


def test_a_named_chain_stays_whole() -> None:
    named = Chain(stages=(AllOf(), Times(factor=2)), name="first")
    assert (named >> Times(factor=3)).stages == (named, Times(factor=3))
    assert (named >> Times(factor=3))(EMPTY).features["first"].tolist() == [4, 2, 0]


def test_a_stage_is_joined_with_stages_only() -> None:
    with pytest.raises(TypeError):
        AllOf() >> "bm25"  # type: ignore[operator]


def test_a_stage_does_not_write_to_its_run() -> None:
    run = AllOf()(EMPTY)
    (Times(factor=-1, name="x") >> Times(factor=2))(run)
    assert (run.to_dict(), dict(run.features)) == ({"q1": {"c": 2, "b": 1, "a": 0}}, {})


# -- names, labels, times -----------------------------------------------------------------------------------------------


def test_the_scores_of_a_named_stage_follow_their_documents() -> None:
    run = (AllOf(name="first") >> Times(factor=-1))(EMPTY)
    assert {one.doc_id: one.scores for one in run["q1"]} == {"a": {"first": 0}, "b": {"first": 1}, "c": {"first": 2}}


def labels(stage: Stage) -> list[str]:
    found = stage_labels(stage)
    return [found[id(inner)] for inner in walk(stage)]


def test_stages_are_labelled_by_name_or_type_and_numbered_where_types_repeat() -> None:
    pipeline = AllOf() >> Times(factor=1) >> Times(factor=2) >> Times(factor=3, name="last")
    assert labels(pipeline) == ["all-of", "times", "times-2", "last"]


def test_names_come_before_types_when_labels_are_given() -> None:
    assert labels(AllOf() >> Times(factor=1, name="all-of") >> AllOf()) == ["all-of-2", "all-of", "all-of-3"]


def test_a_stage_that_stands_in_two_places_has_one_label() -> None:
    same = AllOf()
    assert labels(Fuse([same, same >> Times(factor=2), AllOf()]) >> Times(factor=3)) == [
        "fuse",
        "all-of",
        "all-of",
        "times",
        "all-of-2",
        "times-2",
    ]


def test_a_trace_has_the_time_of_every_stage() -> None:
    pipeline = Fuse([AllOf() >> Times(factor=2), AllOf()]) >> Times(factor=3)
    with traced(pipeline) as trace:
        apply(pipeline, EMPTY)
    assert sorted(trace.seconds) == ["all-of", "all-of-2", "fuse", "times", "times-2"]
    assert all(seconds >= 0 for seconds in trace.seconds.values())
    assert trace.seconds["fuse"] >= trace.seconds["all-of"] + trace.seconds["times"] + trace.seconds["all-of-2"]


def test_without_a_trace_nothing_is_kept() -> None:
    with traced(AllOf()) as trace:
        pass
    run = (AllOf() >> Times(factor=3))(EMPTY)
    assert (trace.seconds, dict(run.features)) == ({}, {})


def test_on_request_a_trace_keeps_every_score() -> None:
    pipeline = Fuse([AllOf() >> Times(factor=2), AllOf(name="plain")], method="comb-sum") >> Times(factor=3)
    with traced(pipeline, keep_scores=True):
        best = pipeline(EMPTY)["q1"][0]
    assert (best.doc_id, best.scores) == ("c", {"all-of": 2, "times": 4, "plain": 2, "fuse": 2, "times-2": 6})


# -- what stages open ---------------------------------------------------------------------------------------------------


def test_threads_that_ask_at_once_open_once() -> None:
    stage, opened, answers = AllOf(), [], []
    gate = threading.Barrier(8)

    def make() -> object:
        time.sleep(0.05)  # long enough for the others to ask meanwhile
        opened.append(object())
        return opened[-1]

    def ask() -> None:
        gate.wait()
        answers.append(stage.open_once("model", make))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(opened), answers) == (1, opened * 8)


def test_only_the_last_few_stay_open() -> None:
    stage, made = AllOf(), []

    def opened(key: int) -> int:
        return stage.open_once(key, lambda: made.append(key) or key)

    for key in range(OPENED_AT_ONCE + 1):
        opened(key)
    opened(OPENED_AT_ONCE)
    assert made == list(range(OPENED_AT_ONCE + 1))
    opened(0)
    assert made[-1] == 0


def test_what_fails_to_open_is_tried_again() -> None:
    stage, tries = AllOf(), []

    def make() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise OSError("not yet")
        return "open"

    with pytest.raises(OSError, match="not yet"):
        stage.open_once("model", make)
    assert stage.open_once("model", make) == "open"


def test_opening_may_open_something_else_of_the_same_stage() -> None:
    stage = AllOf()
    assert stage.open_once("index", lambda: [stage.open_once("analyzer", lambda: "english")]) == ["english"]


def test_what_is_open_is_no_part_of_the_settings() -> None:
    stage = AllOf(factor=2)
    stage.open_once("lock", threading.Lock)  # which cannot be pickled
    again = pickle.loads(pickle.dumps(stage))
    assert (again, hash(again), repr(again)) == (stage, hash(stage), repr(stage))
    assert not re.search("open", repr(stage))
    assert again.open_once("lock", lambda: "anew") == "anew"


def test_two_equal_stages_open_apart() -> None:
    assert AllOf().open_once("x", object) is not AllOf().open_once("x", object)


def test_equal_runs_give_equal_answers() -> None:
    pipeline = AllOf() >> Times(factor=0.1)
    assert np.array_equal(pipeline(EMPTY).scores, pipeline(EMPTY).scores)


# -- what somebody's own stage may give -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Gives(Stage):
    """What a function makes of the run."""

    made: Callable[[Run], object]

    def __call__(self, run: Run) -> Run:
        return self.made(run)  # type: ignore[return-value]


def rising(run: Run) -> Run:
    return replace(run, scores=np.arange(len(run.documents), dtype=np.float32))


@pytest.mark.parametrize(
    ("made", "fault"),
    [
        (lambda run: None, "gave None and no Run"),
        (
            lambda run: run.select([0]),
            "was given 2 queries and gave 1, or in another order; one that finds nothing for a query leaves it without "
            "candidates",
        ),
        (
            lambda run: run.select([1, 0]),
            "was given 2 queries and gave 2, or in another order; one that finds nothing for a query leaves it without "
            "candidates",
        ),
        (lambda run: Run.empty(run.queries, Corpus.of_ids("xyz")), "gave candidates of another corpus"),
        (
            rising,
            "document 'b' in the ranking of query 'q1' has the score 1.0, and the one above it 0.0; give scores by "
            "run.rescored(scores)",
        ),
    ],
)
def test_what_no_stage_can_go_on_from_is_said_with_the_stage(made: Callable[[Run], object], fault: str) -> None:
    run = Run.empty(Queries.of({"q1": "one", "q2": "two"}), CORPUS)
    colon = ":" if fault.startswith("document") else ""
    with pytest.raises(RankpipeError) as raised:
        Chain(stages=(AllOf(), Gives(made=made)))(run)
    assert str(raised.value) == f"stage 'gives'{colon} {fault}"


def test_a_stage_may_rewrite_queries_and_leave_some_without_candidates() -> None:
    run = Run.empty(Queries.of({"q1": "one", "q2": "two"}), CORPUS)
    own = Gives(made=lambda run: run.keep(run.query_rows == 1).with_queries(run.queries.rewritten(["a", "b"])))
    found = Chain(stages=[AllOf(), own])(run)  # a list of stages is as good as a tuple
    assert found.counts.tolist() == [0, 3]
    assert found.queries.texts == ("a", "b")
