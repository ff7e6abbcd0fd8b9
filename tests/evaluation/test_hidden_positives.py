"""eval/hidden_positives.py: shares of hidden documents, by hand and where every document is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("torch", reason="needs the extra 'dense'")


@pytest.fixture
def script(eval_script: Callable[[str], ModuleType]) -> ModuleType:
    return eval_script("hidden_positives")


def test_documents_that_are_known_to_be_relevant_take_no_place(script: ModuleType) -> None:
    ranked, hidden, known = ["a", "b", "c", "d", "e"], {"b", "e"}, {"a", "d"}
    assert script.share(ranked, hidden, known, 1) == 1
    assert script.share(ranked, hidden, known, 2) == 1 / 2
    assert script.share(ranked, hidden, known, 3) == 2 / 3
    assert script.share(ranked, hidden, known, 9) == 2 / 3


def test_every_hidden_document_is_found_where_all_documents_are(
    script: ModuleType, tmp_path: Path, tiny_encoder: Callable[..., Path]
) -> None:
    folder = tmp_path / "data"
    (folder / "qrels").mkdir(parents=True)
    lines = [f'{{"_id": "d{number}", "text": "word {number}"}}' for number in range(10)]
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "word"}\n{"_id": "q2", "text": "other"}')
    judged = ["query-id\tcorpus-id\tscore", *(f"q1\td{number}\t1" for number in range(5)), "q2\td1\t1"]
    (folder / "qrels" / "train.tsv").write_text("\n".join(judged) + "\n")
    found = script.measured(str(folder), str(tiny_encoder(tmp_path / "encoder")), 32)
    # q2 has one relevant document; of the 5 of q1 2 are hidden, and 3 of the 10 are known
    assert (found["queries"], found["relevant"]) == (1, 5)
    assert found["shares"]["10"] == found["random"] == 2 / 7
