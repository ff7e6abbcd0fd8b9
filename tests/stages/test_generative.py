"""What the stages that ask a language model have in common: depth, words, lengths, prompts, what is counted and refused."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

pytest.importorskip("torch", reason="needs the extra 'llm'")
pytest.importorskip("transformers", reason="needs the extra 'llm'")

from rankpipe import Corpus, Likelihood, Listwise, Pointwise, Queries, Run, Runtime, Setwise
from rankpipe.errors import MissingExtraError, ModelError, PipelineError, RankpipeError, UsageError
from rankpipe.models.language_model import Chat
from rankpipe.models.local_language_model import LocalLanguageModel
from rankpipe.models.prompt import load_prompt
from rankpipe.pipeline.checks import load_text
from rankpipe.stages.generative import Generative, asked, cut_to

FLOAT32 = Runtime(dtype="float32")
DOCUMENTS = {
    "d1": ("Apples", "The apple is a sweet fruit"),
    "d2": ("", "sweet apple"),
    "d3": ("Roads", "a car on the road " * 20),
    "d4": ("", ""),
    "d5": ("Trees", "the road to the apple tree"),
    "d6": ("", "sweet apple"),
}
CORPUS = Corpus.from_records([{"id": one, "title": title, "text": text} for one, (title, text) in DOCUMENTS.items()])
QUERIES = Queries.of({"q1": "sweet apple", "q2": "a road", "q3": "nothing"})
STAGES: list[Any] = [Likelihood, Listwise, Pointwise, Setwise]
Write = Callable[..., Path]
every_stage = pytest.mark.parametrize("kind", STAGES, ids=lambda kind: kind.type_name())


def candidates() -> Run:
    ranked = {"q1": {one: 6.0 - rank for rank, one in enumerate(DOCUMENTS)}, "q2": {"d5": 2.0, "d3": 1.0}}
    return Run.of(QUERIES, CORPUS, ranked)


def run(stage: Generative) -> Run:
    with FLOAT32.active():
        return stage(candidates())


def refused(stage: Generative, kind: type[RankpipeError] = UsageError) -> str:
    with pytest.raises(kind) as caught:
        run(stage)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@every_stage
def test_the_rest_stays_below_or_goes(tmp_path: Path, tiny_causal_lm: Write, kind: Any) -> None:
    folder = str(tiny_causal_lm(tmp_path))
    found = run(kind(model=folder, depth=3)).to_dict()
    assert sorted(list(found["q1"])[:3]) == ["d1", "d2", "d3"]
    assert list(found["q1"])[3:] == ["d4", "d5", "d6"]
    assert found["q3"] == {}
    dropped = run(kind(model=folder, depth=3, rest="drop")).to_dict()
    assert dropped == {**found, "q1": {one: found["q1"][one] for one in list(found["q1"])[:3]}}


@pytest.mark.parametrize(
    ("text", "words", "cut"),
    [
        ("one two  three", 3, ("one two  three", False)),
        ("one two  three four", 3, ("one two  three", True)),
        (" one\ttwo\n", 2, (" one\ttwo\n", False)),
        ("one two three ", 1, ("one", True)),
        ("", 1, ("", False)),
        ("  ", 1, ("  ", False)),
        ("\u8bcd" * 32, 2, ("\u8bcd" * 32, False)),  # of a script without blanks, 16 characters count for a word
        ("\u8bcd" * 33, 2, ("\u8bcd" * 32, True)),
    ],
)
def test_a_text_is_cut_behind_a_word(text: str, words: int, cut: tuple[str, bool]) -> None:
    assert cut_to(text, words) == cut


@every_stage
def test_what_is_cut_is_not_read_and_counted(tmp_path: Path, tiny_causal_lm: Write, kind: Any) -> None:
    folder = str(tiny_causal_lm(tmp_path))
    stage = kind(model=folder, max_words=7)
    with FLOAT32.active():
        assert stage.counted(CORPUS) == {}
        found = stage(candidates()).to_dict()
        counted = stage.counted(CORPUS)
        # of q1's six and q2's two candidates, d3 is longer than seven words, for both; d1 and d5 have seven
        assert (counted["candidates"], counted["cut"]) == (8, 2)
        stage(candidates())
        assert {name: 2 * count for name, count in counted.items()} == stage.counted(CORPUS)
        assert json.loads(json.dumps(counted)) == counted
        assert stage.counted(Corpus.from_texts(["another"])) == {}
    cut = {**DOCUMENTS, "d3": ("Roads", "a car on the road a")}
    corpus = Corpus.from_records([{"id": one, "title": title, "text": text} for one, (title, text) in cut.items()])
    with FLOAT32.active():
        short = kind(model=folder)(Run.of(QUERIES, corpus, candidates().to_dict()))
    assert short.to_dict() == found


@every_stage
def test_facts_tell_model_prompt_and_precision(tmp_path: Path, tiny_causal_lm: Write, kind: Any) -> None:
    stage = kind(model=str(tiny_causal_lm(tmp_path)))
    with FLOAT32.active():
        facts = stage.facts(CORPUS)
    assert sorted(facts) == ["dtype", "model", "prompt"]
    assert (facts["dtype"], facts["prompt"]) == ("float32", load_prompt(kind.type_name()).digest())


@every_stage
def test_only_the_fields_that_are_asked_for_are_read(tmp_path: Path, tiny_causal_lm: Write, kind: Any) -> None:
    folder = str(tiny_causal_lm(tmp_path))
    titles = Corpus.from_records([{"id": one, "title": title, "text": ""} for one, (title, _) in DOCUMENTS.items()])
    with FLOAT32.active():
        found = kind(model=folder, fields=("title",))(candidates()).to_dict()
        assert found == kind(model=folder)(Run.of(QUERIES, titles, candidates().to_dict())).to_dict()


@every_stage
def test_a_prompt_of_your_own_is_read(tmp_path: Path, tiny_causal_lm: Write, kind: Any) -> None:
    folder = str(tiny_causal_lm(tmp_path / "model"))
    shipped = Path(load_prompt(kind.type_name()).file).read_text(encoding="utf-8")
    (tmp_path / "mine.txt").write_text(f"--- system\nBe just.\n{shipped}", encoding="utf-8")
    mine, theirs = kind(model=folder, prompt=str(tmp_path / "mine.txt")), kind(model=folder)
    with FLOAT32.active():
        assert mine.facts(CORPUS)["prompt"] != theirs.facts(CORPUS)["prompt"]
    if kind in (Likelihood, Pointwise):
        assert run(mine).to_dict() != run(theirs).to_dict()


# -- what is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "positions", "query", "lower"),
    [
        (Likelihood, 128, "q1", "'max_words' (300)"),
        (Listwise, 300, "q1", "'max_words' (300) or 'window' (20)"),
        (Pointwise, 128, "q2", "'max_words' (300)"),
        (Setwise, 192, "q1", "'max_words' (300) or 'children' (3)"),
    ],
)
def test_a_prompt_that_is_too_long_is_refused_before_anything_is_asked(
    tmp_path: Path, tiny_causal_lm: Write, kind: Any, positions: int, query: str, lower: str
) -> None:
    folder = str(tiny_causal_lm(tmp_path, positions=positions))
    stage = kind(model=folder)
    message = refused(stage)
    tokens = int(message.partition(" has ")[2].partition(" ")[0])
    assert tokens > positions
    assert message == (
        f"'{kind.type_name()}': the prompt of query '{query}' has {tokens} tokens with its answer, and model {folder!r} "
        f"reads at most {positions}; lower {lower}"
    )
    with FLOAT32.active():
        assert "prompts" not in stage.counted(CORPUS)
    limited = kind(model=folder, max_length=positions - 1)
    limit = f"'max_length' is {positions - 1}"
    assert refused(limited) == message.replace(f"model {folder!r} reads at most {positions}", limit)
    roomy = str(tiny_causal_lm(tmp_path / "roomy", positions=tokens))
    assert len(run(kind(model=roomy)).documents) == 8
    assert refused(kind(model=roomy, max_length=tokens - 1)).startswith(f"'{kind.type_name()}': the prompt of")


@every_stage
def test_of_a_query_that_is_too_long_by_itself_no_setting_is_named(
    tmp_path: Path, tiny_causal_lm: Write, kind: Any
) -> None:
    folder = str(tiny_causal_lm(tmp_path, positions=512))
    queries = Queries.of({"q1": "sweet apple", "q2": "the apple " * 300})
    long = Run.of(queries, CORPUS, {"q1": {"d1": 2.0, "d2": 1.0}, "q2": {"d1": 2.0, "d2": 1.0}})
    with FLOAT32.active(), pytest.raises(UsageError) as caught:
        kind(model=folder, max_words=1)(long)
    alone = asked(load_prompt(kind.type_name()), queries.texts[1], [""])
    [tokens] = LocalLanguageModel(folder, FLOAT32).lengths([alone])
    assert str(caught.value) == (
        f"'{kind.type_name()}': the prompt of query 'q2' has {tokens} tokens without any document, and model {folder!r} "
        "reads at most 512; shorten the query, or the prompt"
    )


PAIRWISE = pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (Setwise, {"children": 1}),
        (Listwise, {"window": 2, "step": 1}),
        (Listwise, {"window": 2, "step": 1, "constrained": False}),
    ],
)


def ranked(texts: list[str]) -> Run:
    corpus = Corpus.from_texts(texts)
    return Run.of(Queries.of("car"), corpus, {"q1": {one: -at for at, one in enumerate(corpus.ids(range(len(texts))))}})


def pair_tokens(model: str, stage: Generative, texts: list[str]) -> int:
    """Tokens of a prompt with two texts and the longest answer to it."""
    chat = asked(load_prompt(stage.type_name()), "car", texts)
    ranking = "[1] > [2]" if isinstance(stage, Listwise) else ""
    [tokens] = LocalLanguageModel(model, FLOAT32).lengths([chat._replace(answer=chat.answer + ranking)])
    return int(tokens)


@PAIRWISE
def test_the_longest_prompt_is_known_by_how_documents_are_written_in_it(
    tmp_path: Path, tiny_causal_lm: Write, kind: Any, settings: dict[str, Any]
) -> None:
    # by itself "apple" has more tokens than "x", behind a blank it has fewer: " apple" is one that the tokenizer knows
    model = LocalLanguageModel(str(tiny_causal_lm(tmp_path / "any")), FLOAT32)
    apple, x, behind_apple, behind_x = model.lengths([Chat(text) for text in ("apple", "x", "the apple", "the x")])
    assert apple > x
    assert behind_apple < behind_x
    texts = ["apple", "apple", "x", "x"]
    tokens = pair_tokens(str(tmp_path / "any"), kind(model="m", **settings), texts[2:])
    short = kind(model=str(tiny_causal_lm(tmp_path / "short", positions=tokens - 1)), **settings)
    with FLOAT32.active():
        with pytest.raises(UsageError, match=f"the prompt of query 'q1' has {tokens} tokens with its answer"):
            short(ranked(texts))
        assert "prompts" not in short.counted(ranked(texts).corpus)
        fitting = kind(model=str(tiny_causal_lm(tmp_path / "fitting", positions=tokens)), **settings)
        assert len(fitting(ranked(texts)).documents) == 4


@PAIRWISE
def test_a_prompt_whose_length_could_not_be_foreseen_is_refused_when_it_comes(
    tmp_path: Path, tiny_causal_lm: Write, kind: Any, settings: dict[str, Any]
) -> None:
    import transformers

    texts = ["the car", "the car", "the tree is a sweet fruit"]
    # the third text is one token where it is the first of a prompt, so that it does not look long
    first = "Passage A: " if kind is Setwise else "[1] "
    folder = str(tiny_causal_lm(tmp_path))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([first + texts[2]])
    tokenizer.save_pretrained(folder)
    stage = kind(model=folder, **settings)
    tokens = pair_tokens(folder, stage, texts[1:])
    stage = kind(model=folder, max_length=tokens - 1, **settings)
    assert pair_tokens(folder, stage, texts[:2]) < tokens - 1
    with FLOAT32.active(), pytest.raises(UsageError, match=f"the prompt of query 'q1' has {tokens} tokens"):
        stage(ranked(texts))


def test_a_limit_above_the_positions_is_refused(tmp_path: Path, tiny_causal_lm: Write) -> None:
    folder = str(tiny_causal_lm(tmp_path))
    assert refused(Pointwise(model=folder, max_length=2049)) == (
        f"max_length is 2049; model {folder!r} has positions for 2048 tokens"
    )


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (Pointwise, "{document}", "its section 'user' has {query} 0 times, and needs it at least once"),
        (Pointwise, "{query} {documents}", "its section 'user' has {document} 0 times, and needs it once"),
        (Likelihood, "{document}", "its section 'answer' has {query} 0 times, and needs it at least once"),
        (Likelihood, "{document}\n--- answer\n{query}?", "its section 'answer' must have {query} once, at its end"),
        (Setwise, "{query} {documents}", "its section 'document' has {letter} 0 times, and needs it at least once"),
        (Listwise, "{query} {documents}", "its section 'document' has {number} 0 times, and needs it at least once"),
        (Listwise, "{query} {document}", "its section 'user' has {documents} 0 times, and needs it once"),
        (
            Pointwise,
            "{query} {document} {documents}",
            "there is no text here for {document} in its section 'user', only {query}, {count} and {documents}",
        ),
        (
            Listwise,
            "{query} {documents} {document}\n--- document\n{number} {document}",
            "there is no text here for {document} in its section 'user', only {query}, {count} and {documents}",
        ),
    ],
)
def test_a_prompt_without_its_places_is_refused_without_a_model(
    tmp_path: Path, rankpipe: Callable[..., Any], kind: Any, text: str, message: str
) -> None:
    path, name = tmp_path / "mine.txt", kind.type_name()
    path.write_text(f"--- user\n{text}\n", encoding="utf-8")
    with pytest.raises(ValidationError, match=re.escape(f"prompt {path}: {message}")):
        kind(model="m", prompt=str(path))
    (tmp_path / "p.yaml").write_text(f"stages:\n  - bm25\n  - {name}:\n      prompt: mine.txt\n      model: m\n")
    done = rankpipe("check", tmp_path / "p.yaml")
    assert done.status == 2
    assert f"p.yaml:4:15: '{name}' setting 'prompt' is 'mine.txt', prompt {path}: {message}\n" in done.err


def test_of_a_file_that_is_no_prompt_the_check_says_the_line(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("--- user\n{query} {documents}\n--- document\n{letter} {query}\n")
    with pytest.raises(PipelineError) as error:
        load_text("stages: [bm25, setwise: {model: m, prompt: mine.txt}]", folder=tmp_path)
    assert str(error.value) == (
        f"1:44: 'setwise' setting 'prompt' is 'mine.txt', {tmp_path / 'mine.txt'}:4: {{query}} has no meaning in "
        "'document', whose places are: {document}, {number}, {letter}"
    )


@every_stage
def test_a_shipped_prompt_is_checked_for_the_stage_that_takes_it(kind: Any) -> None:
    for prompt in ("pointwise", "likelihood", "setwise", "listwise", "query2doc"):
        if prompt == kind.type_name():
            assert kind(model="m", prompt=prompt).prompt == prompt
        else:
            with pytest.raises(ValidationError, match=r"its section '\w+' has \{\w+\} 0 times"):
                kind(model="m", prompt=prompt)


def test_a_prompt_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValidationError, match="there is no prompt file 'pointwize', and no shipped one of that name"):
        Pointwise(model="m", prompt="pointwize")
    with pytest.raises(ValidationError, match="there is no prompt file '~no-such-user/mine"):
        Pointwise(model="m", prompt="~no-such-user/mine.txt")
    with pytest.raises(PipelineError) as error:
        load_text("stages: [bm25, pointwise: {model: m, prompt: pointwize}]")
    assert str(error.value).startswith(
        "1:46: 'pointwise' setting 'prompt' is 'pointwize', there is no prompt file 'pointwize', and no shipped one of "
    )


def test_a_model_that_is_not_there_is_said(tmp_path: Path) -> None:
    message = refused(Listwise(model=str(tmp_path / "nowhere")), ModelError)
    assert message == f"there is no model folder '{tmp_path / 'nowhere'}'"


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (Listwise, {"window": 4, "step": 5}, "'step' is larger than 'window': it would leave candidates out"),
        (Listwise, {"window": 1}, "greater than or equal to 2"),
        (Listwise, {"constrained": 1}, "valid boolean"),
        (Setwise, {"children": 26}, "less than or equal to 25"),
        (Setwise, {"children": 0}, "greater than or equal to 1"),
        (Pointwise, {"answers": ("yes",)}, "at least 2 items"),
        (Pointwise, {"answers": ("yes", "yes")}, "both answers are 'yes', so that every score would be 0"),
        (
            Listwise,
            {"endpoint": {"url": "http://a/v1"}, "constrained": False, "max_length": 5},
            "'max_length' is of models in this process; a server says itself how much it reads",
        ),
        (Pointwise, {"scores": "softmax"}, "'logit' or 'probability'"),
        (Likelihood, {"max_words": 0}, "greater than 0"),
        (Likelihood, {"max_length": 0}, "greater than 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(kind: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        kind(model="m", **settings)
    assert message in str(caught.value)


def test_mistakes_of_a_file_have_their_place() -> None:
    text = "stages:\n  - bm25\n  - setwise: {model: m, children: 30}\n  - listwise: {model: m, window: 5, step: 6}\n"
    with pytest.raises(PipelineError) as caught:
        load_text(text)
    assert [str(problem) for problem in caught.value.problems] == [
        "3:35: 'setwise' setting 'children' is 30, must be at most 25",
        "4:5: 'listwise': 'step' is larger than 'window': it would leave candidates out",
    ]


@every_stage
def test_without_torch_it_asks_for_the_extra(monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError) as caught:
        run(kind(model="m"))
    assert str(caught.value) == (
        f"stage '{kind.type_name()}' needs transformers: install rankpipe with its extra 'llm', for example "
        "pip install '.[llm]'"
    )


def test_a_run_tells_in_its_manifest_what_was_counted(
    tmp_path: Path, tiny_causal_lm: Write, rankpipe: Callable[..., Any], pets: Path
) -> None:
    tiny_causal_lm(tmp_path / "model")
    (tmp_path / "p.yaml").write_text(
        "stages:\n  - bm25\n  - listwise: {model: model, constrained: false, depth: 5}\n", encoding="utf-8"
    )
    done = rankpipe("run", tmp_path / "p.yaml", "-d", pets, "--output", tmp_path / "out")
    assert (done.status, done.err.count("error")) == (0, 0)
    told = json.loads((tmp_path / "out" / "manifest.json").read_text())["opened"]["listwise"]
    assert told["candidates"] > 0
    assert {"prompts", "mended", "wordy", "repeated", "unknown", "missing", "unreadable"} <= set(told)
