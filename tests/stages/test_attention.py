"""The stage `attention`: order, windows, shared prefixes, refusals, explanations."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'llm'")
pytest.importorskip("transformers", reason="needs the extra 'llm'")

from pydantic import ValidationError

from rankpipe import BM25, Attention, Corpus, Pipeline, Queries, Run, Runtime
from rankpipe.errors import UsageError
from rankpipe.models.attention import AttentionScorer, AttentionSettings
from rankpipe.stage import Trace, traced
from rankpipe.stages.attention import read_texts

RUNTIME = Runtime(dtype="float32", device="cpu")
TEXTS = [
    "the sweet apple is a fruit",
    "a car on the road",
    "fruit of the tree, sweet as an apple",
    "road",
    "",
    "the car and the apple",
    "tree",
]
CORPUS = Corpus.from_texts(TEXTS)
IDS = CORPUS.ids(np.arange(len(TEXTS)))


@pytest.fixture
def model(tmp_path: Path, tiny_causal_lm: Callable[..., Path]) -> str:
    return str(tiny_causal_lm(tmp_path / "model"))


def run_of(ranked: dict[str, list[int]], texts: dict[str, str] | None = None) -> Run:
    """Candidates by their rows, ranked."""
    queries = Queries.of(texts or dict.fromkeys(ranked, "sweet fruit"))
    lists = {name: {IDS[row]: -float(at) for at, row in enumerate(rows)} for name, rows in ranked.items()}
    return Run.of(queries, CORPUS, lists)


def reranked(run: Run, **settings: Any) -> dict[str, list[tuple[str, float]]]:
    found = Pipeline(stages=(Attention(**settings),), runtime=RUNTIME).rerank(run)
    return {name: list(ranking.items()) for name, ranking in found.to_dict().items()}


def counted_of(stage: Attention) -> Any:
    with RUNTIME.active():
        return stage.counted(CORPUS)


def scores_of(model: str, rows: list[int], query: str = "sweet fruit", **settings: Any) -> dict[str, float]:
    """Scores of documents that are read in the order of the rows."""
    scorer = AttentionScorer(model, AttentionSettings(**settings), RUNTIME)
    listed = scorer.listed([TEXTS[row] for row in rows])
    found = scorer.scores(listed, scorer.token_scores(scorer.read(listed), query))
    return dict(zip([IDS[row] for row in rows], found.astype(np.float32).tolist(), strict=True))


def test_the_best_candidate_stands_last_next_to_the_query(model: str) -> None:
    run = run_of({"q": [2, 0, 5, 1]})
    assert dict(reranked(run, model=model)["q"]) == scores_of(model, [1, 5, 0, 2])
    assert dict(reranked(run, model=model, order="forward")["q"]) == scores_of(model, [2, 0, 5, 1])
    assert dict(reranked(run, model=model)["q"]) != scores_of(model, [2, 0, 5, 1])


def test_the_random_order_is_of_the_seed_and_the_query(model: str) -> None:
    run = run_of({"a": [2, 0, 5, 1], "b": [2, 0, 5, 1]})
    first = reranked(run, model=model, order="random", seed=1)
    assert first == reranked(run, model=model, order="random", seed=1)
    assert first != reranked(run, model=model, order="random", seed=2)
    assert first["a"] != first["b"]
    assert dict(reranked(run_of({"b": [2, 0, 5, 1]}), model=model, order="random", seed=1)["b"]) == dict(first["b"])


def test_queries_over_the_same_candidates_share_what_was_read(model: str) -> None:
    texts = {"a": "sweet fruit", "b": "car", "c": "road"}
    run = run_of({"a": [2, 0, 5], "b": [2, 0, 5], "c": [5, 0, 2]}, texts)
    stage = Attention(model=model)
    found = Pipeline(stages=(stage,), runtime=RUNTIME).rerank(run).to_dict()
    assert counted_of(stage)["prompts"] == 2
    assert found["a"] == scores_of(model, [5, 0, 2])
    assert found["b"] == scores_of(model, [5, 0, 2], "car")
    assert found["c"] == scores_of(model, [2, 0, 5], "road")


def test_queries_that_are_read_at_once_score_as_they_do_alone(model: str) -> None:
    texts = {"a": "sweet fruit", "b": "car", "c": "road", "d": "tree", "e": "apple"}
    ranked = {"a": [2, 0, 5], "b": [5, 1, 3, 6], "c": [5, 0, 2], "d": [2, 0, 5], "e": [0, 6]}
    runtime = Runtime(dtype="float32", device="cpu", threads=2)
    variants: list[dict[str, Any]] = [{}, {"window": 3, "stride": 1}]
    for settings in variants:
        stage = Attention(model=model, **settings)
        pipeline = Pipeline(stages=(stage,), runtime=runtime)
        run = run_of(ranked, texts)
        with traced(pipeline, explain=True) as trace:
            found = pipeline.rerank(run).to_dict()
        assert {name: list(lists) for name, lists in trace_of(trace).items()} == {
            name: sorted(rows) for name, rows in ranked.items()
        }
        windowed = 1 if settings else 0
        with runtime.active():
            counted = stage.counted(CORPUS)
        assert (counted["queries"], counted["in_windows"], counted["prompts"]) == (5, windowed, 4 + windowed)
        for name in ranked:
            alone = reranked(run_of({name: ranked[name]}, texts), model=model, **settings)[name]
            assert list(found[name].items()) == alone


def trace_of(trace: Trace) -> dict[str, list[int]]:
    """Rows that were explained, by query."""
    rows: dict[str, list[int]] = {}
    for query_id, row in sorted(trace.explained["attention"]):
        rows.setdefault(query_id, []).append(row)
    return rows


def test_windows_move_from_the_tail_to_the_head_and_rank(model: str) -> None:
    run, rows = run_of({"q": [2, 0, 5, 1, 3]}), [2, 0, 5, 1, 3]
    for begin in (2, 1, 0):  # windows of three, one place apart
        scores = scores_of(model, rows[begin : begin + 3][::-1])
        rows[begin : begin + 3] = sorted(rows[begin : begin + 3], key=lambda row: -scores[IDS[row]])
    expected = [(IDS[row], -float(rank)) for rank, row in enumerate(rows, 1)]
    stage = {"model": model, "window": 3, "stride": 1}
    assert reranked(run, **stage)["q"] == expected


def test_half_a_window_is_the_stride_and_no_candidate_is_left_out(model: str) -> None:
    stage = Attention(model=model, window=4)
    found = Pipeline(stages=(stage,), runtime=RUNTIME).rerank(run_of({"q": [0, 1, 2, 3, 4, 5, 6]}))
    assert sorted(found.documents.tolist()) == list(range(7))
    assert found.scores.tolist() == [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0]
    counted = counted_of(stage)
    assert (counted["queries"], counted["in_windows"], counted["prompts"]) == (1, 1, 3)  # 3-6, 1-4, 0-2


def test_a_context_that_is_too_short_for_all_takes_windows(tmp_path: Path, tiny_causal_lm: Callable[..., Path]) -> None:
    model = str(tiny_causal_lm(tmp_path / "short", positions=200))
    stage = Attention(model=model)
    run = run_of({"long": [0, 1, 2, 3, 4, 5, 6], "short": [1, 3]})
    found = Pipeline(stages=(stage,), runtime=RUNTIME).rerank(run)
    assert counted_of(stage)["in_windows"] == 1
    assert [found.scores[0], found.scores[6]] == [-1.0, -7.0]
    assert found.to_dict()["short"] == scores_of(model, [3, 1])


def test_a_prompt_that_cannot_fit_is_refused_before_any_is_read(
    tmp_path: Path, tiny_causal_lm: Callable[..., Path]
) -> None:
    model = str(tiny_causal_lm(tmp_path / "short", positions=200))
    run = run_of({"a": [1, 3], "b": [0, 1, 2, 5]}, {"a": "car", "b": "fruit " * 200})
    stage = Attention(model=model)
    with pytest.raises(UsageError) as caught:
        Pipeline(stages=(stage,), runtime=RUNTIME).rerank(run)
    said = str(caught.value)
    assert said.startswith("query 'b': its 4 candidates make a prompt of ")
    assert said.endswith(
        "tokens, and the model reads 200; even 2 of its candidates do not fit; choose a smaller max_words (300)"
    )
    assert counted_of(stage)["prompts"] == 0
    run = run_of({"b": [0, 1, 2, 3, 4, 5, 6]})
    with pytest.raises(UsageError) as caught:
        reranked(run, model=model, window=7)
    assert str(caught.value).endswith(
        "tokens, and the model reads 200; 7 of them do not fit; choose a smaller window or max_words (300)"
    )


def test_a_stride_above_the_windows_that_fit_is_refused(tmp_path: Path, tiny_causal_lm: Callable[..., Path]) -> None:
    model = str(tiny_causal_lm(tmp_path / "short", positions=200))
    run = run_of({"q": [0, 1, 2, 3, 4, 5, 6]})
    stage = Attention(model=model, stride=6)
    with pytest.raises(UsageError) as caught:
        Pipeline(stages=(stage,), runtime=RUNTIME).rerank(run)
    assert str(caught.value).endswith(
        "tokens, and the model reads 200; 2 of them fit, and a stride of 6 would leave out candidates between windows; "
        "choose a smaller stride or max_words (300)"
    )
    assert counted_of(stage)["prompts"] == 0
    assert reranked(run_of({"q": [1, 3]}), model=model, stride=6)  # no windows, no stride


def test_heads_of_one_layer_are_those_of_a_list(model: str) -> None:
    run = run_of({"q": [2, 0, 5, 1]})
    assert reranked(run, model=model, layers=(1, 1)) == reranked(run, model=model, heads=["1-0", "1-1", "1-2", "1-3"])
    assert reranked(run, model=model, layers=(0, 2)) == reranked(run, model=model)
    assert reranked(run, model=model, layers=(1, 1)) != reranked(run, model=model)


def test_what_was_read_is_explained_on_request(model: str) -> None:
    pipeline = Pipeline(stages=(Attention(model=model),), runtime=RUNTIME)
    run = run_of({"q": [2, 0, 5]})
    with traced(pipeline, explain=True) as trace:
        found = pipeline.rerank(run)
    explained = trace.explained["attention"]
    assert sorted(explained) == [("q", 0), ("q", 2), ("q", 5)]
    for row, score in zip(found.documents.tolist(), found.scores.tolist(), strict=True):
        pieces = explained["q", row]
        assert "".join(piece for piece, _ in pieces).split("] ", 1)[1].strip() == TEXTS[row]
        assert sum(value for _, value in pieces) == pytest.approx(score, abs=1e-6)
    with traced(pipeline) as trace:
        pipeline.rerank(run)
    assert trace.explained == {}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"layers": (0, 1), "heads": ["1-1"]},
            "'layers' are those of 'heads: all'; a list or a file of heads says its own",
        ),
        ({"layers": (5, 2)}, r"'layers' is \[5, 2\]: the first of the two is above the last"),
        ({"seed": 7}, "'seed' is that of 'order: random'; the order is reverse, which draws nothing"),
        ({"window": 4, "stride": 5}, "'stride' is 5, and would leave out candidates between windows of 4"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Attention(model="m", **settings)


def test_check_says_what_is_wrong_without_a_model(rankpipe: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "pipeline.yaml"
    heads, prompt = tmp_path / "damaged.json", tmp_path / "early.txt"
    heads.write_text('{"format": 1, "model": {"weights": "x"}, "heads": [{"layer": 0, "head": 0, "weight": NaN}]}')
    prompt.write_text("--- user\nQuery: {query}\n\n{documents}\n")

    def says(setting: str) -> str:
        file.write_text(f"stages:\n  - bm25\n  - attention: {{model: no-model, {setting}}}\n")
        told = rankpipe("check", file)
        assert told.status == 2
        return told.err.strip().removeprefix(f"{file}:3:")

    choices = "choose all, a list such as [14-22], or a file"
    assert says("heads: nowhere.json") == (
        f"41: 'attention' setting 'heads' is 'nowhere.json', there is no file of heads 'nowhere.json'; {choices}"
    )
    assert says("heads: damaged.json") == (
        f"41: 'attention' setting 'heads' is 'damaged.json', {heads}: the weight of heads[0] is nan, must be a finite number"
    )
    assert says("heads: []") == f"41: 'attention' setting 'heads' is a list, no head is given; {choices}"
    assert says("layers: [5, 2]") == "5: 'attention': 'layers' is [5, 2]: the first of the two is above the last"
    assert says("layers: [-1, 2]") == "43: 'attention' setting 'layers[0]' is -1, must be at least 0"
    assert says("prompt: early.txt") == (
        f"42: 'attention' setting 'prompt' is 'early.txt', prompt {prompt}: the query must stand behind the documents, "
        "which are read once"
    )
    assert says("prompt: listwise").endswith(
        "listwise.txt: the query must stand behind the documents, which are read once"
    )


def test_the_word_all_is_no_path(model: str, tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    file = tmp_path / "pipeline.yaml"
    file.write_text(f"stages:\n  - bm25\n  - attention: {{model: {model}, heads: all}}\n")
    stage = Pipeline.load(file).stages[1]
    assert isinstance(stage, Attention)
    assert stage.heads == "all"


def test_texts_are_cut_at_a_word_and_keep_their_lines() -> None:
    corpus = Corpus.from_records(
        [{"id": "x", "title": "T", "text": "a  b c"}, {"id": "y", "title": "", "text": "alone"}]
    )
    assert read_texts(corpus, np.array([0, 1]), ("title", "text"), 3) == (["T\na  b", "alone"], 1)


def test_an_explanation_by_windows_says_that_it_makes_no_score(
    model: str, rankpipe: Callable[..., Any], pets: Path, tmp_path: Path
) -> None:
    file = tmp_path / "attention.yaml"
    file.write_text(f"stages:\n  - bm25: {{k: 3}}\n  - attention: {{model: {model}, window: 2}}\n")
    remark = "in the last window that read the document; the score is minus its rank"
    for query, remarked in (("cat", False), ("cat winter", True)):  # two candidates, three candidates
        told = rankpipe("search", file, query, "-d", pets, "--dtype", "float32", "--explain").out
        assert (f"   attention ({remark}): " in told) == remarked
        assert ("   attention: " in told) != remarked


def test_it_stands_in_a_pipeline_behind_a_first_stage(model: str) -> None:
    pipeline = (BM25(k=4) >> Attention(model=model, depth=2)).on(CORPUS)
    run = pipeline.run(["sweet apple"])
    first = (BM25(k=4)).on(CORPUS).run(["sweet apple"])
    assert set(run.documents[:2].tolist()) == set(first.documents[:2].tolist())
    assert run.documents[2:].tolist() == first.documents[2:].tolist()


def test_search_shows_the_words_that_made_a_score(
    model: str, rankpipe: Callable[..., Any], pets: Path, tmp_path: Path
) -> None:
    file = tmp_path / "attention.yaml"
    file.write_text(f"stages:\n  - bm25: {{k: 3}}\n  - attention: {{model: {model}}}\n")
    plain = rankpipe("search", file, "cat", "-d", pets, "--dtype", "float32")
    told = rankpipe("search", file, "cat", "-d", pets, "--dtype", "float32", "--explain")
    assert plain.status == told.status == 0
    lines = [line for line in told.out.splitlines() if line.startswith("   attention: ")]
    assert len(lines) == 2
    values = [float(part) for part in lines[0].split()[2::2]]
    assert values == sorted(values, reverse=True)
    assert "\n".join(line for line in told.out.splitlines() if line not in lines) + "\n" == plain.out
    said = rankpipe("search", "bm25", "cat", "-d", pets, "--explain").out
    assert said.startswith("no stage of this pipeline can say what made its scores\n\n1. d1 ")
