"""The setting `index` of the stage dense: in YAML, in its messages, and in what a search gives."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rankpipe import Pipeline
from rankpipe.data import Corpus
from rankpipe.errors import PipelineError
from rankpipe.pipeline.checks import load_text
from rankpipe.stages.dense import Dense
from rankpipe.stages.dense_index import Binary, Hnsw, IvfPq, Sq8

KINDS = "'flat', 'hnsw', 'ivf-pq', 'sq8', 'binary'"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{kind: hnw}", f"2:33: 'dense' setting 'index' is a map, whose 'kind' is 'hnw', must be one of {KINDS}"),
        ("{links: 3}", "2:33: 'dense' setting 'index' is a map, must have 'kind'"),
        ("hnsw", "2:33: 'dense' setting 'index' is 'hnsw', must be a map"),
        ("{kind: hnsw, links: 1}", "2:53: 'dense' setting 'index.links' is 1, must be at least 2"),
        (
            "{kind: sq8, links: 16}",
            "2:52: 'dense' setting 'index.links' is 16, which is no setting there; there are: kind, seed, target_recall",
        ),
        ("{kind: ivf-pq, lists: 2.5}", "2:55: 'dense' setting 'index.lists' is 2.5, must be a whole number"),
        (
            "{kind: flat, seed: 1}",
            "2:52: 'dense' setting 'index.seed' is 1, which is no setting there; there are: kind",
        ),
        (
            "{kind: binary, target_recall: 1.5}",
            "2:63: 'dense' setting 'index.target_recall' is 1.5, must be at most 1",
        ),
    ],
)
def test_a_wrong_index_is_pointed_at(written: str, message: str) -> None:
    with pytest.raises(PipelineError) as caught:
        load_text(f"stages:\n  - dense: {{model: mini, index: {written}}}\n", file="d.yaml")
    assert [str(problem).removeprefix("d.yaml:") for problem in caught.value.problems] == [message]


@pytest.mark.parametrize("index", [Hnsw(links=8), IvfPq(bytes=4, lists=2), Sq8(target_recall=0.9), Binary(seed=3)])
def test_an_index_survives_yaml_and_back(index: object) -> None:
    pipeline = Pipeline(stages=(Dense(model="mini", index=index),))  # type: ignore[arg-type]
    (stage,) = load_text(pipeline.to_yaml()).stages
    assert isinstance(stage, Dense)
    assert stage.index == index


@pytest.mark.parametrize("kind", ["hnsw", "ivf-pq", "sq8", "binary"])
@pytest.mark.parametrize("window", [None, 6])
def test_on_few_documents_every_kind_gives_the_run_of_flat(
    kind: str, window: int | None, tiny_encoder: Callable[..., Path], tmp_path: Path
) -> None:
    pytest.importorskip("faiss", reason="needs the extra 'dense'")
    model = str(tiny_encoder(tmp_path / "model"))
    words = ["the apple fruit", "road car", "sweet tree", "passage query the car"]
    corpus = Corpus.from_texts([f"{words[number % 4]} {words[number // 4 % 4]} {number}" for number in range(40)])
    runs = []
    for index in ({"kind": "flat"}, {"kind": kind}):
        stage = Dense(model=model, k=10, window=window, index=index)  # type: ignore[arg-type]
        runs.append(Pipeline(stages=(stage,), corpus=corpus).run(["apple tree", "", "the road"]))
        told = stage.facts(corpus).get("index")
    flat, run = runs
    assert run.documents.tolist() == flat.documents.tolist()
    assert run.scores.tolist() == flat.scores.tolist()
    assert (run.passages is None) == (flat.passages is None) == (window is None)
    assert told is not None
    assert (told["kind"], told["recall"]) == (kind, 1.0)
