"""The stage setwise, against the same sort with one comparison after the other."""

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs the extra 'llm'")
pytest.importorskip("transformers", reason="needs the extra 'llm'")

from safetensors.torch import load_file, save_file

from rankpipe import Corpus, Queries, Run, Runtime, Setwise
from rankpipe.models.language_model import Chat
from rankpipe.models.local_language_model import LocalLanguageModel
from rankpipe.stages.heap import first_in_order

FLOAT32 = Runtime(dtype="float32")
WORDS = ("apple", "fruit", "road", "car", "sweet", "tree")
TEXTS = [f"{WORDS[at % 6]} the {WORDS[at * 5 % 7 % 6]} {at}" for at in range(30)]
QUERIES = Queries.of({"q1": "sweet apple", "q2": "a road", "q3": "nothing", "q4": "one"})
COUNTS = {"q1": 13, "q2": 30, "q3": 0, "q4": 1}
Write = Callable[..., Path]


def candidates() -> Run:
    corpus = Corpus.from_records([{"id": f"d{at:02}", "title": "", "text": text} for at, text in enumerate(TEXTS)])
    return Run.of(QUERIES, corpus, {one: {f"d{at:02}": -at for at in range(count)} for one, count in COUNTS.items()})


def prompt(query: str, texts: list[str]) -> Chat:
    passages = "\n\n".join(f"Passage {letter}: {text}" for letter, text in zip("ABCDEFGH", texts, strict=False))
    return Chat(
        f"Query: {query}\n\nWhich one of the following {len(texts)} passages is the most relevant to the query?\n\n"
        f"{passages}\n\nSay only the letter of the most relevant passage.",
        answer="Passage",
    )


@pytest.mark.parametrize(("k", "children"), [(10, 3), (2, 1), (100, 5)])
def test_candidates_are_sorted_as_by_one_comparison_after_the_other(
    tmp_path: Path, tiny_causal_lm: Write, k: int, children: int
) -> None:
    folder = str(tiny_causal_lm(tmp_path))
    stage = Setwise(model=folder, k=k, children=children)
    with FLOAT32.active():
        found = stage(candidates()).to_dict()
        counted = stage.counted(candidates().corpus)
    model, asked = LocalLanguageModel(folder, FLOAT32), 0
    for query_id, query in zip(QUERIES.ids, QUERIES.texts, strict=True):
        sort, winners = first_in_order(range(COUNTS[query_id]), k, children), None
        try:
            while True:
                groups = next(sort) if winners is None else sort.send(winners)
                asked, winners = asked + len(groups), []
                for group in groups:
                    letters = [f" {letter}" for letter in "ABCDEFGH"[: len(group)]]
                    logits = model.next_logits([prompt(query, [TEXTS[one] for one in group])], letters)
                    winners.append(int(logits[0].argmax()))
        except StopIteration as done:
            order = [f"d{one:02}" for one in done.value]
        # the first of n candidates scores n, the last 1
        assert found[query_id] == {one: len(order) - place for place, one in enumerate(order)}
    assert counted == {"candidates": 44, "cut": 0, "prompts": asked}
    assert list(found["q1"]) != sorted(found["q1"])


@pytest.mark.parametrize(("k", "children"), [(1, 1), (10, 3), (100, 5)])
def test_a_model_that_prefers_no_letter_leaves_the_order_as_it_is(
    tmp_path: Path, tiny_causal_lm: Write, k: int, children: int
) -> None:
    folder = tiny_causal_lm(tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"].zero_()  # then every logit is 0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with FLOAT32.active():
        found = Setwise(model=str(folder), k=k, children=children)(candidates())
    assert {one: list(scores) for one, scores in found.to_dict().items()} == {
        one: [f"d{at:02}" for at in range(count)] for one, count in COUNTS.items()
    }
