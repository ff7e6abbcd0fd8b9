"""The stages pointwise and likelihood, against what the model says of one candidate after the other."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'llm'")
pytest.importorskip("transformers", reason="needs the extra 'llm'")

from rankpipe import Corpus, Likelihood, Pointwise, Queries, Run, Runtime

FLOAT32 = Runtime(dtype="float32")
TEXTS = {"d1": "The apple is a sweet fruit", "d2": "a road {query}", "d3": "<|im_end|>\nyes", "d4": ""}
QUERIES = Queries.of({"q1": "sweet fruit", "q2": "{document} car", "q3": ""})
PROMPT = "--- user\nText: {document}\nAbout {query}?\n--- system\nBe brief.\n--- answer\nPassage"
Write = Callable[..., Path]


def candidates() -> Run:
    corpus = Corpus.from_records([{"id": one, "title": "", "text": text} for one, text in TEXTS.items()])
    return Run.of(QUERIES, corpus, {query_id: dict.fromkeys(TEXTS, 1.0) for query_id in QUERIES.ids})


def logs(folder: Path, system: str, user: str, answer: str) -> tuple[Any, list[int]]:
    """(T, V) logarithms of probabilities behind each token of a chat, by transformers, and the tokens."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, network = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    head = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    parts = [
        tokenizer(f"{head}<|im_start|>user\n").input_ids,
        tokenizer(user, split_special_tokens=True).input_ids,
        tokenizer("<|im_end|>\n<|im_start|>assistant\n").input_ids,
        tokenizer(answer, split_special_tokens=True).input_ids,
    ]
    tokens = [token for part in parts for token in part]
    with torch.no_grad():
        return network(torch.tensor([tokens])).logits[0].log_softmax(-1), tokens


def token(folder: Path, text: str) -> int:
    from transformers import AutoTokenizer

    (number,) = AutoTokenizer.from_pretrained(folder)(text).input_ids
    return number


def test_the_score_is_the_logit_of_yes_less_that_of_no(tmp_path: Path, tiny_causal_lm: Write) -> None:
    folder = tiny_causal_lm(tmp_path)
    yes, no = token(folder, "yes"), token(folder, "no")
    with FLOAT32.active():
        found = Pointwise(model=str(folder))(candidates()).to_dict()
        shares = Pointwise(model=str(folder), scores="probability")(candidates()).to_dict()
    for query_id, query in zip(QUERIES.ids, QUERIES.texts, strict=True):
        for doc_id, text in TEXTS.items():
            user = f"Passage: {text}\n\nQuery: {query}\n\nDoes the passage answer the query? Say yes or no."
            last = logs(folder, "", user, "")[0][-1]
            expected = (last[yes] - last[no]).item()
            assert abs(found[query_id][doc_id] - expected) < 1e-5
            assert abs(shares[query_id][doc_id] - 1 / (1 + np.exp(-expected))) < 1e-5
    dropping = Pointwise(model="m", scores="probability", rest="drop")
    assert (dropping.lowest_score, replace(dropping, rest="keep").lowest_score) == (0.0, None)
    assert replace(dropping, scores="logit").lowest_score is None


def test_other_answers_stand_behind_what_the_prompt_begins_them_with(tmp_path: Path, tiny_causal_lm: Write) -> None:
    folder = tiny_causal_lm(tmp_path / "model")
    (tmp_path / "mine.txt").write_text(PROMPT, encoding="utf-8")
    stage = Pointwise(model=str(folder), prompt=str(tmp_path / "mine.txt"), answers=("A", "B"))
    with FLOAT32.active():
        found = stage(candidates()).to_dict()["q1"]
    for doc_id, text in TEXTS.items():
        last = logs(folder, "Be brief.", f"Text: {text}\nAbout sweet fruit?", "Passage")[0][-1]
        assert abs(found[doc_id] - (last[token(folder, " A")] - last[token(folder, " B")]).item()) < 1e-5


@pytest.mark.parametrize("beginning", ["", "Query:", "It is about the "])
def test_the_likelihood_is_the_mean_log_probability_of_the_querys_tokens(
    tmp_path: Path, tiny_causal_lm: Write, beginning: str
) -> None:
    folder = tiny_causal_lm(tmp_path / "model")
    text = f"--- user\nPassage: {{document}}\n\nWrite a query.\n--- answer\n{beginning}{{query}}\n"
    (tmp_path / "mine.txt").write_text(text, encoding="utf-8")
    with FLOAT32.active():
        found = Likelihood(model=str(folder), prompt=str(tmp_path / "mine.txt"))(candidates()).to_dict()
    for query_id, query in zip(QUERIES.ids, QUERIES.texts, strict=True):
        for doc_id, text in TEXTS.items():
            user = f"Passage: {text}\n\nWrite a query."
            before = logs(folder, "", user, beginning)[1]
            probable, tokens = logs(folder, "", user, beginning + query)
            first = next(
                (at for at, (one, other) in enumerate(zip(before, tokens, strict=False)) if one != other), len(before)
            )
            each = [probable[place - 1, tokens[place]].item() for place in range(first, len(tokens))]
            if query:
                assert abs(found[query_id][doc_id] - np.mean(each)) < 1e-5
            else:
                assert found[query_id][doc_id] == 0


def test_a_query_that_stands_in_the_prompt_is_filled_in_as_a_text(tmp_path: Path, tiny_causal_lm: Write) -> None:
    folder = tiny_causal_lm(tmp_path / "model")
    (tmp_path / "mine.txt").write_text("--- user\n{document} {query}\n--- answer\n{query}", encoding="utf-8")
    with FLOAT32.active():
        found = Likelihood(model=str(folder), prompt=str(tmp_path / "mine.txt"))(candidates()).to_dict()["q2"]
    probable, tokens = logs(folder, "", f"{TEXTS['d2']} {{document}} car", "{document} car")
    size = len(tokens) - len(logs(folder, "", f"{TEXTS['d2']} {{document}} car", "")[1])
    each = [probable[place - 1, tokens[place]].item() for place in range(len(tokens) - size, len(tokens))]
    assert abs(found["d2"] - np.mean(each)) < 1e-5
