"""The stage listwise: windows, answers that are no rankings, and the order against one window after the other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

pytest.importorskip("torch", reason="needs the extra 'llm'")
pytest.importorskip("transformers", reason="needs the extra 'llm'")

from rankpipe import Corpus, Listwise, Queries, Run, Runtime
from rankpipe.errors import UsageError
from rankpipe.models.language_model import Chat, Writing
from rankpipe.models.local_language_model import LocalLanguageModel
from rankpipe.models.prompt import load_prompt
from rankpipe.stages.listwise import read_ranking, windows

FLOAT32 = Runtime(dtype="float32")
WORDS = ("apple", "fruit", "road", "car", "sweet", "tree")
TEXTS = [f"{WORDS[at % 6]} the {WORDS[at * 5 % 7 % 6]} {at}" for at in range(11)]
QUERIES = Queries.of({"q1": "sweet apple", "q2": "a road", "q3": "nothing", "q4": "one"})
COUNTS = {"q1": 11, "q2": 3, "q3": 0, "q4": 1}
FAULTS = ("wordy", "repeated", "unknown", "missing", "unreadable")
Write = Callable[..., Path]


def candidates() -> Run:
    corpus = Corpus.from_records([{"id": f"d{at:02}", "title": "", "text": text} for at, text in enumerate(TEXTS)])
    return Run.of(QUERIES, corpus, {one: {f"d{at:02}": -at for at in range(count)} for one, count in COUNTS.items()})


def prompt(query: str, texts: list[str]) -> Chat:
    passages = "\n\n".join(f"[{number}] {text}" for number, text in enumerate(texts, 1))
    return Chat(
        f"Below are {len(texts)} passages, each of which begins with its number in brackets. Rank them by how relevant "
        f"they are to the query: {query}\n\n{passages}\n\nQuery: {query}\n\nRank the {len(texts)} passages above by how "
        "relevant they are to the query, the most relevant first, as in [2] > [1]. Write nothing but the ranking."
    )


@pytest.mark.parametrize(
    ("size", "window", "step", "expected"),
    [
        (0, 4, 2, []),
        (1, 4, 2, []),
        (2, 4, 2, [(0, 2)]),
        (4, 4, 2, [(0, 4)]),
        (5, 4, 2, [(1, 5), (0, 3)]),
        (8, 4, 2, [(4, 8), (2, 6), (0, 4)]),
        (9, 4, 4, [(5, 9), (1, 5)]),
        (100, 20, 10, [(begin, begin + 20) for begin in range(80, -1, -10)]),
    ],
)
def test_windows_go_from_the_tail_to_the_head(
    size: int, window: int, step: int, expected: list[tuple[int, int]]
) -> None:
    assert windows(size, window, step) == expected


@pytest.mark.parametrize(
    ("answer", "order", "faults"),
    [
        ("[2] > [4] > [1] > [3]", "2413", {}),
        ("\n[2] > [4] > [1] > [3] ", "2413", {}),
        ("[2]>[4]>[1]>[3]", "2413", {"wordy": 1}),
        ("2 > 4 > 1 > 3", "1234", {"unreadable": 1}),
        ("[2] > [4] > [1] > [3].", "2413", {"wordy": 1}),
        ("The ranking is: [2] > [4]\n\n[1], then [3]", "2413", {"wordy": 1}),
        ("[3] > [3] > [1] > [3]", "3124", {"repeated": 2, "missing": 2}),
        ("[4] > [5] > [0] > [2]", "4213", {"unknown": 2, "missing": 2}),
        ("[04] > [2] > [1] > [3] > [4]", "2134", {"unknown": 1}),
        ("[9] > [8]", "1234", {"unknown": 2, "missing": 4}),
        ("[3]", "3124", {"missing": 3}),
        ("[3] > [", "3124", {"wordy": 1, "missing": 3}),
        ("[3 > 1] [2]", "2134", {"wordy": 1, "missing": 3}),
        ("[-1] > [1.5] > [two]", "1234", {"unreadable": 1}),
        ("[³] > [2]", "2134", {"wordy": 1, "missing": 3}),
        ("[" + "9" * 5000 + "] > [2]", "2134", {"unknown": 1, "missing": 3}),
        ("", "1234", {"unreadable": 1}),
        ("None of them.", "1234", {"unreadable": 1}),
        ("[2] > [2] [7] ok", "2134", {"wordy": 1, "repeated": 1, "unknown": 1, "missing": 3}),
    ],
)
def test_answers_that_are_no_rankings_are_mended_by_a_rule(answer: str, order: str, faults: dict[str, int]) -> None:
    assert read_ranking(answer, 4) == ([int(one) - 1 for one in order], {**dict.fromkeys(FAULTS, 0), **faults})


@pytest.mark.parametrize("constrained", [True, False])
@pytest.mark.parametrize(("window", "step"), [(20, None), (4, None), (4, 3), (2, 1)])
def test_candidates_are_ranked_as_by_one_window_after_the_other(
    tmp_path: Path, tiny_causal_lm: Write, window: int, step: int | None, constrained: bool
) -> None:
    folder = str(tiny_causal_lm(tmp_path))
    stage = Listwise(model=folder, window=window, step=step, constrained=constrained)
    with FLOAT32.active():
        found = stage(candidates()).to_dict()
        counted = stage.counted(candidates().corpus)
    model, asked, faulty = LocalLanguageModel(folder, FLOAT32), 0, 0
    for query_id, query in zip(QUERIES.ids, QUERIES.texts, strict=True):
        order = list(range(COUNTS[query_id]))
        for begin, end in windows(len(order), window, step or window // 2):
            chat = prompt(query, [TEXTS[one] for one in order[begin:end]])
            names = [f"[{number}]" for number in range(1, end - begin + 1)]
            if constrained:
                (ranking,) = model.arrange([chat], [names], " > ")
                assert sorted(ranking) == list(range(end - begin))
            else:
                whole = " > ".join(f"[{number}]" for number in range(1, window + 1))
                bare, longest = model.lengths([Chat(""), Chat("", answer=whole)]).tolist()
                [[answer]] = model.write([chat], Writing(longest=longest - bare))
                ranking, faults = read_ranking(answer.text, end - begin)
                faulty += any(faults.values())
            order[begin:end] = [order[begin + place] for place in ranking]
            asked += 1
        # the first of n candidates scores n, the last 1
        assert found[query_id] == {f"d{one:02}": len(order) - place for place, one in enumerate(order)}
    if constrained:
        assert counted == {"candidates": 15, "cut": 0, "prompts": asked}
        assert window == 2 or list(found["q1"]) != sorted(found["q1"])
    else:
        assert (counted["prompts"], counted["mended"]) == (asked, faulty)
        named = {"asked", "written", "prompt_tokens", "tokens"}
        assert set(counted) == {"candidates", "cut", "prompts", "mended", *FAULTS, *named}


def test_room_is_kept_for_an_answer_about_a_whole_window(tmp_path: Path, tiny_causal_lm: Write) -> None:
    model = LocalLanguageModel(str(tiny_causal_lm(tmp_path / "any")), FLOAT32)
    whole = " > ".join(f"[{number}]" for number in range(1, 21))
    bare, longest = model.lengths([Chat(""), Chat("", answer=whole)]).tolist()
    [prompted] = model.lengths([prompt("a road", TEXTS[:3])]).tolist()
    tokens = prompted + longest - bare  # three candidates, and an answer may be as long as one about twenty
    corpus = candidates().corpus
    run = Run.of(Queries.of({"q2": "a road"}), corpus, {"q2": {"d00": 3.0, "d01": 2.0, "d02": 1.0}})
    short = str(tiny_causal_lm(tmp_path / "short", positions=tokens - 1))
    with FLOAT32.active(), pytest.raises(UsageError) as caught:
        Listwise(model=short, constrained=False)(run)
    assert str(caught.value) == (
        f"'listwise': the prompt of query 'q2' has {tokens} tokens with its answer, and model {short!r} reads at most "
        f"{tokens - 1}; lower 'max_words' (300) or 'window' (20)"
    )
    fitting = Listwise(model=str(tiny_causal_lm(tmp_path / "fitting", positions=tokens)), constrained=False)
    with FLOAT32.active():
        fitting(run)
        counted = fitting.counted(corpus)
    assert (counted["written"], counted["prompt_tokens"]) == (1, prompted)
    assert counted["tokens"] > 0


def test_a_model_behind_a_server_ranks_windows(model: Any) -> None:
    model.answer = lambda _: "[3] > [1]"
    stage = Listwise(model="any", endpoint=model.endpoint, window=3, step=2, constrained=False)
    corpus = Corpus.from_texts(["one", "two", "three", "four", "five"])
    ids = corpus.ids(np.arange(5))
    run = Run.of(Queries.of("query"), corpus, {"q1": {one: -place for place, one in enumerate(ids)}})
    # three, four, five: five, three, four; then one, two, five: five, one, two
    assert list(stage(run).to_dict()["q1"]) == [ids[4], ids[0], ids[1], ids[2], ids[3]]
    counted = stage.counted(corpus)
    assert (counted["prompts"], counted["missing"], counted["requests"]) == (2, 2, 2)
    assert stage.facts(corpus)["model"] == "any"
    with pytest.raises(ValidationError, match="'endpoint' needs 'constrained: false'"):
        Listwise(model="any", endpoint=model.endpoint)


def test_an_answer_may_have_more_tokens_than_a_ranking(model: Any, tmp_path: Path, tiny_causal_lm: Write) -> None:
    model.answer = lambda _: "<think>The [1]st is fresh, the [2]nd is not.</think>[3] > [2] > [1]"
    run = candidates().select([QUERIES.row("q2")])
    stage = Listwise(model="any", endpoint=model.endpoint, window=3, constrained=False, max_tokens=4000)
    assert list(stage(run).to_dict()["q2"]) == ["d02", "d01", "d00"]
    assert model.asked[-1]["max_tokens"] == 4000
    assert stage.counted(run.corpus)["mended"] == 0
    with pytest.raises(ValidationError, match="'max_tokens' is of 'constrained: false'"):
        Listwise(model="any", max_tokens=4000)
    here = Listwise(model=str(tiny_causal_lm(tmp_path)), window=3, constrained=False, max_tokens=2)
    with FLOAT32.active():
        here(run)
        assert here.counted(run.corpus)["tokens"] == 2


@pytest.mark.parametrize(
    ("begun", "answer"),
    [
        ("Ranking:", "[3] > [1] > [2]"),
        ("Better than [2] > [1], I rank: [", "3] > [1] > [2]"),
        ("I rank: [", " [3] > [1] > [2]"),  # a server that begins anew
    ],
)
def test_what_an_answer_begins_with_is_no_ranking_but_for_a_bracket(
    tmp_path: Path, model: Any, begun: str, answer: str
) -> None:
    shipped = Path(load_prompt("listwise").file).read_text(encoding="utf-8")
    (tmp_path / "mine.txt").write_text(f"{shipped}--- answer\n{begun}\n", encoding="utf-8")
    model.answer = lambda _: answer
    stage = Listwise(
        model="any", endpoint=model.endpoint, prompt=str(tmp_path / "mine.txt"), window=3, step=2, constrained=False
    )
    run = candidates().select([QUERIES.row("q2")])
    assert list(stage(run).to_dict()["q2"]) == ["d02", "d00", "d01"]
    counted = stage.counted(run.corpus)
    assert {name: counted[name] for name in ("prompts", "mended", *FAULTS)} == {
        "prompts": 1,
        "mended": 0,
        **dict.fromkeys(FAULTS, 0),
    }
