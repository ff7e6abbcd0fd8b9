"""The stage cross-encoder by itself and among others: depth, windows, facts, settings, what it cannot open."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

pytest.importorskip("torch", reason="needs the extra 'dense'")
pytest.importorskip("transformers", reason="needs the extra 'dense'")

from rankpipe import BM25, Corpus, CrossEncoder, Interpolate, Queries, Run, Runtime
from rankpipe.errors import MissingExtraError, ModelError, PipelineError, StoreError, UsageError
from rankpipe.models import pair_scores
from rankpipe.models.cross_encoder import CrossEncoderScorer
from rankpipe.models.pair_recipe import PairSettings
from rankpipe.pipeline.checks import load_text

FLOAT32 = Runtime(dtype="float32")
DOCUMENTS = {
    "d1": ("Apples", "The apple is a sweet fruit"),
    "d2": ("", "sweet apple"),
    "d3": ("Roads", "a car on the road " * 20),
    "d4": ("", ""),
    "d5": ("Trees", "the road to the apple tree " * 20),
    "d6": ("", "sweet apple"),
}
CORPUS = Corpus.from_records([{"id": one, "title": title, "text": text} for one, (title, text) in DOCUMENTS.items()])
QUERIES = Queries.of({"q1": "sweet apple", "q2": "a road", "q3": "nothing"})
Write = Callable[..., Path]


def candidates() -> Run:
    ranked = {"q1": {one: 6 - rank for rank, one in enumerate(DOCUMENTS)}, "q2": {"d5": 2.0, "d3": 1.0}}
    return Run.of(QUERIES, CORPUS, ranked)


def run(stage: CrossEncoder, given: Run | None = None) -> Run:
    with FLOAT32.active():
        return stage(candidates() if given is None else given)


def alone(folder: Path, query: str, doc_ids: list[str], **settings: Any) -> dict[str, float]:
    """Scores of documents, from the scorer itself."""
    texts = [" ".join(filter(None, DOCUMENTS[one])) for one in doc_ids]
    scorer = CrossEncoderScorer(str(folder), PairSettings(**settings), FLOAT32)
    found = scorer.score([query], texts, np.array([(0, row) for row in range(len(texts))]))
    return dict(zip(doc_ids, found.scores.tolist(), strict=True))


def test_the_first_candidates_are_scored_and_the_rest_stays_below(tmp_path: Path, tiny_cross_encoder: Write) -> None:
    folder = tiny_cross_encoder(tmp_path)
    found = run(CrossEncoder(model=str(folder), depth=3)).to_dict()
    expected = alone(folder, "sweet apple", ["d1", "d2", "d3"])
    assert {one: found["q1"][one] for one in expected} == expected
    assert list(found["q1"])[3:] == ["d4", "d5", "d6"]
    assert list(found["q1"])[:3] == sorted(expected, key=lambda one: -expected[one])
    assert found["q2"] == dict(sorted(alone(folder, "a road", ["d5", "d3"]).items(), key=lambda pair: -pair[1]))
    assert found["q3"] == {}
    dropped = run(CrossEncoder(model=str(folder), depth=3, rest="drop")).to_dict()
    assert dropped == {**found, "q1": {one: found["q1"][one] for one in list(found["q1"])[:3]}}


def test_equal_documents_have_equal_scores_and_stand_in_falling_doc_id_order(
    tmp_path: Path, tiny_cross_encoder: Write
) -> None:
    found = list(run(CrossEncoder(model=str(tiny_cross_encoder(tmp_path)))).to_dict()["q1"].items())
    place = [one for one, _ in found].index("d6")
    assert found[place + 1] == ("d2", found[place][1])


def test_the_window_that_counted_is_told(tmp_path: Path, tiny_cross_encoder: Write) -> None:
    folder = tiny_cross_encoder(tmp_path)
    given = candidates()
    found = run(CrossEncoder(model=str(folder), windows="max", depth=5), given)
    assert found.passages is not None
    passages = dict(zip(CORPUS.ids(found.documents[:6]), found.passages[:6].tolist(), strict=True))
    assert {one for one, passage in passages.items() if passage > 0} <= {"d3", "d5"}
    assert passages["d6"] == -1  # below the depth
    scorer = CrossEncoderScorer(str(folder), PairSettings(windows="max"), FLOAT32)
    texts = [" ".join(filter(None, DOCUMENTS[one])) for one in ("d3", "d5")]
    windows = scorer.score(["sweet apple"], texts, np.array([[0, 0], [0, 1]])).windows
    assert [passages["d3"], passages["d5"]] == windows.tolist()
    assert given.passages is None
    assert run(CrossEncoder(model=str(folder))).passages is None


def test_only_the_fields_that_are_asked_for_are_read(tmp_path: Path, tiny_cross_encoder: Write) -> None:
    folder = tiny_cross_encoder(tmp_path)
    found = run(CrossEncoder(model=str(folder), fields=("title",))).to_dict()["q1"]
    assert found["d2"] == found["d4"] == found["d6"] != found["d1"]


def test_facts_tell_what_scores_mean_and_what_was_cut(tmp_path: Path, tiny_cross_encoder: Write) -> None:
    stage = CrossEncoder(model=str(tiny_cross_encoder(tmp_path)), scores="probability")
    with FLOAT32.active():
        assert "truncated_share" not in {**stage.facts(CORPUS), **stage.counted(CORPUS)}
        scores = stage(candidates()).scores
        facts = {**stage.facts(CORPUS), **stage.counted(CORPUS)}
    assert ((scores > 0) & (scores < 1)).all()
    # d3 and d5 are longer than 64 tokens, for both queries: 4 of 8 pairs
    assert (facts["scores"], facts["dtype"], facts["pairs"], facts["truncated_share"]) == (
        "probability",
        "float32",
        8,
        0.5,
    )
    assert json.loads(json.dumps(facts)) == facts


@pytest.mark.parametrize("settings", [{}, {"windows": "max"}, {"scores": "probability"}], ids=str)
def test_pairs_that_were_scored_are_not_scored_again(
    tmp_path: Path, store: Path, tiny_cross_encoder: Write, settings: dict[str, Any]
) -> None:
    model, texts = str(tiny_cross_encoder(tmp_path)), candidates()
    plain = CrossEncoder(model=model, **settings)
    first, second = (CrossEncoder(model=model, store=True, **settings) for _ in range(2))
    with FLOAT32.active():
        expected, head = plain(texts), first(texts.top(2))
        assert first.counted(CORPUS)["computed"] == len(head.documents)
        found = first(texts)
        again = second(texts.select([1, 0]))
        counted = [stage.counted(CORPUS) for stage in (plain, first, second)]
    assert {one: list(scores) for one, scores in found.to_dict().items()} == {
        one: list(scores) for one, scores in expected.to_dict().items()
    }
    assert np.abs(found.scores - expected.scores).max() < 1e-6
    assert again.to_dict() == {one: found.to_dict()[one] for one in ("q2", "q1")}
    if found.passages is not None and expected.passages is not None:
        assert found.passages.tolist() == expected.passages.tolist()
    computed = [one.get("computed") for one in counted]
    assert computed == [None, len(texts.documents) - 1, 0]  # d2 and d6 are of one text
    assert counted[2]["truncated_share"] == counted[0]["truncated_share"]
    assert (counted[0]["truncated_share"] > 0) == (plain.windows == "first")
    assert len(list((store / "pair-scores").iterdir())) == 1


def test_scores_of_another_network_or_way_of_reading_are_others(
    tmp_path: Path, store: Path, tiny_cross_encoder: Write
) -> None:
    models = [str(tiny_cross_encoder(tmp_path / str(seed), seed=seed)) for seed in (0, 1)]
    stages = [CrossEncoder(model=one, store=True) for one in models]
    stages += [
        CrossEncoder(model=models[0], store=True, max_length=20),
        CrossEncoder(model=models[0], store=True, fields=["title"]),
    ]
    with FLOAT32.active():
        for stage in stages:
            kept, fresh = stage(candidates()), replace(stage, store=False)(candidates())
            assert np.abs(kept.scores - fresh.scores).max() < 1e-6
    assert len(list((store / "pair-scores").iterdir())) == 3  # other fields are other texts


def test_what_was_scored_before_a_failure_is_kept(
    tmp_path: Path, store: Path, tiny_cross_encoder: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_scores, "KEPT", 4)
    stage = CrossEncoder(model=str(tiny_cross_encoder(tmp_path)), store=True)
    pairs, done = len(candidates().documents), []

    def fails(more: int) -> None:
        done.append(more)
        if sum(done) > 5:
            raise KeyboardInterrupt

    with FLOAT32.active():
        kept = stage._opened_once().kept
        assert kept is not None
        texts = CORPUS.joined_texts(candidates().documents)
        each = np.stack([candidates().query_rows, np.arange(pairs)], axis=1)
        with pytest.raises(KeyboardInterrupt):
            kept.score(candidates().queries.texts, texts, each, fails)
        stage(candidates())
        assert stage.counted(CORPUS)["computed"] == pairs - 1 - 4  # two pairs are of the same texts


def test_a_file_of_scores_that_is_damaged_is_named(tmp_path: Path, store: Path, tiny_cross_encoder: Write) -> None:
    stage = CrossEncoder(model=str(tiny_cross_encoder(tmp_path)), store=True)
    with FLOAT32.active():
        stage(candidates())
        [file] = (store / "pair-scores").iterdir()
        file.write_bytes(b"no database at all, and longer than a header of one would be" * 20)
        with pytest.raises(StoreError) as raised:
            stage(candidates())
    assert (
        str(raised.value)
        == f"{file}: scores cannot be kept there, or are damaged: file is not a database; remove the file"
    )


def test_probabilities_have_a_lowest_score_where_the_rest_is_dropped(tmp_path: Path, tiny_cross_encoder: Write) -> None:
    model = str(tiny_cross_encoder(tmp_path))
    keep, drop = (CrossEncoder(model=model, scores="probability", depth=1, rest=rest) for rest in ("keep", "drop"))
    assert run(keep).scores.min() < 0 < run(drop).scores.min()
    assert (keep.lowest_score, drop.lowest_score) == (None, 0.0)
    assert CrossEncoder(model=model, rest="drop").lowest_score is None


def test_its_scores_are_mixed_with_those_of_the_first_stage(tmp_path: Path, tiny_cross_encoder: Write) -> None:
    folder = tiny_cross_encoder(tmp_path)
    pipeline = BM25(k=3, name="first") >> CrossEncoder(model=str(folder)) >> Interpolate(with_="first", weight=0.25)
    found = pipeline.on(CORPUS).run({"q1": "sweet apple"}).to_dict()["q1"]
    first = (BM25(k=3)).on(CORPUS).run({"q1": "sweet apple"}).to_dict()["q1"]
    second = (BM25(k=3) >> CrossEncoder(model=str(folder))).on(CORPUS).run({"q1": "sweet apple"}).to_dict()["q1"]

    def scaled(scores: dict[str, float], one: str) -> float:
        low, high = min(scores.values()), max(scores.values())
        return (scores[one] - low) / (high - low)

    for one, score in found.items():
        assert abs(score - (0.25 * scaled(first, one) + 0.75 * scaled(second, one))) < 1e-6


def test_a_run_is_reranked_by_the_command_line(
    tmp_path: Path, tiny_cross_encoder: Write, rankpipe: Callable[..., Any], pets: Path
) -> None:
    tiny_cross_encoder(tmp_path / "model")
    (tmp_path / "p.yaml").write_text(
        "stages:\n  - cross-encoder: {model: model, depth: 2}\n  - interpolate: {with: run, weight: 0.5}\n"
    )
    done = rankpipe("run", "bm25", "-d", pets, "--output", tmp_path / "first")
    assert done.status == 0
    run = tmp_path / "first" / "run.trec"
    done = rankpipe("rerank", tmp_path / "p.yaml", "--run", run, "-d", pets, "--output", tmp_path / "out")
    assert (done.status, done.err.count("error")) == (0, 0)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    facts = manifest["opened"]["cross-encoder"]
    lines = Counter(line.split()[0] for line in run.read_text().splitlines())
    assert (facts["pairs"], facts["truncated_share"]) == (sum(min(2, found) for found in lines.values()), 0.0)
    assert facts["pairs"] > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stride": 3}, "'stride' needs 'windows: max' or 'windows: best'"),
        ({"prompt": "{query}"}, "'prompt' must hold {query}, and {document} once"),
        ({"prompt": "{document} {document} {query}"}, "'prompt' must hold {query}, and {document} once"),
        ({"answers": ()}, "at least 1 item"),
        ({"answers": ("a", "b", "c")}, "at most 2 items"),
        ({"label": -1}, "greater than or equal to 0"),
        ({"label": True}, "label"),
        ({"scores": "softmax"}, "'logit' or 'probability'"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        CrossEncoder(model="m", **settings)
    assert message in str(caught.value)


def test_mistakes_of_a_file_have_their_place() -> None:
    with pytest.raises(PipelineError) as caught:
        load_text("stages:\n  - bm25\n  - cross-encoder: {model: m, label: [1], windows: last, answers: yes}\n")
    assert [str(problem) for problem in caught.value.problems] == [
        "3:38: 'cross-encoder' setting 'label' is a list, must be text or a whole number",
        "3:52: 'cross-encoder' setting 'windows' is 'last', must be 'first', 'max' or 'best'",
        "3:67: 'cross-encoder' setting 'answers' is 'yes', must be a list",
    ]


def test_a_model_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no model folder"):
        run(CrossEncoder(model=str(tmp_path / "nowhere")))


def test_classes_are_asked_for_when_it_runs(tmp_path: Path, tiny_cross_encoder: Write) -> None:
    folder = tiny_cross_encoder(tmp_path, labels=("no", "yes"))
    with pytest.raises(UsageError, match="has 2 classes; choose the setting 'label'"):
        run(CrossEncoder(model=str(folder)))
    assert (
        run(CrossEncoder(model=str(folder), label="yes")).to_dict()
        == run(CrossEncoder(model=str(folder), label=1)).to_dict()
    )


def test_without_torch_it_asks_for_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError) as caught:
        run(CrossEncoder(model="m"))
    assert str(caught.value) == (
        "stage 'cross-encoder' needs transformers: install rankpipe with its extra 'dense', for example "
        "pip install '.[dense]'"
    )
