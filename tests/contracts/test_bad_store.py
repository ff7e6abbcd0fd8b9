"""Artefacts of the store that are damaged: said in a line, set aside, and built anew by the next run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]
PIPELINES = {
    "bm25": "stages: [bm25]",
    "dense": "stages: [dense: {model: ENCODER}]",
    "hnsw": "stages: [dense: {model: ENCODER, index: {kind: hnsw}}]",
    "rescore": "stages: [bm25, rescore: {model: ENCODER}]",
    "sparse": "stages: [sparse: {model: MASKED_LM}]",
}


@pytest.fixture
def search(rankpipe: Command, pets: Path, request: pytest.FixtureRequest) -> Callable[[str], Any]:
    """`search("dense")`: what the command line answers for that pipeline."""

    def call(name: str) -> Any:
        text = PIPELINES[name]
        for word, fixture in (("ENCODER", "tiny_encoder"), ("MASKED_LM", "tiny_masked_lm")):
            if word in text:
                folder = pets.parent / fixture
                text = text.replace(word, str(folder))
                if not folder.exists():
                    request.getfixturevalue(fixture)(folder)
        file = pets.parent / "p.yaml"
        file.write_text(text)
        return rankpipe("search", file, "cat", "--dataset", pets)

    return call


def flip_a_bit(content: bytes) -> bytes:
    """The same bytes, but for one bit in the middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def cut(content: bytes) -> bytes:
    return content[:-1]


CHANGED = "the content of {name} is not what was written"
SHORTER = "{name} has {now} bytes, not {before}"


@pytest.mark.parametrize(
    ("pipeline", "file", "damage", "reason"),
    [
        ("bm25", "inverted/*/documents.npy", flip_a_bit, CHANGED),
        ("bm25", "inverted/*/payload.npy", flip_a_bit, CHANGED),
        ("bm25", "inverted/*/starts.npy", cut, SHORTER),
        ("bm25", "corpora/*/segment-1-1.arrow", flip_a_bit, CHANGED),
        ("bm25", "corpora/*/tie_order.npy", lambda content: b"", SHORTER),
        ("bm25", "corpora/*/manifest.json", lambda content: b"{", CHANGED),
        ("dense", "vectors/*/vectors.npy", flip_a_bit, CHANGED),
        ("dense", "vectors/*/vectors.npy", cut, SHORTER),
        ("dense", "vectors/*/vectors.json", flip_a_bit, CHANGED),
        ("dense", "vectors/*/manifest.json", lambda content: b"[]", CHANGED),
        ("hnsw", "ann/*/index.faiss", flip_a_bit, CHANGED),
        ("rescore", "candidate-vectors/*/*/vectors.npy", flip_a_bit, CHANGED),
        ("rescore", "candidate-vectors/*/*/rows.npy", cut, SHORTER),
        ("sparse", "sparse/*/payload.npy", flip_a_bit, CHANGED),
        ("sparse", "sparse/*/sparse.json", cut, SHORTER),
    ],
)
def test_a_damaged_artefact_is_set_aside_and_built_anew(
    search: Callable[[str], Any],
    store: Path,
    pipeline: str,
    file: str,
    damage: Callable[[bytes], bytes],
    reason: str,
) -> None:
    before = search(pipeline)
    assert before.status == 0
    damaged = next(store.glob(file))
    whole, folder = damaged.read_bytes(), damaged.parent
    damaged.write_bytes(damage(whole))
    reason = reason.format(name=damaged.name, now=len(damage(whole)), before=len(whole))
    status, out, err = search(pipeline)
    assert (status, out) == (1, "")
    assert err.startswith(f"error: {folder} is damaged: {reason}; it is set aside as .damaged-{folder.name}-")
    assert err.endswith(", and the next run builds it anew\n")
    assert search(pipeline) == before


@pytest.mark.parametrize(
    ("pipeline", "kind", "reason"),
    [
        ("bm25", "inverted", "File exists"),
        ("dense", "vectors", "Not a directory"),
        ("sparse", "sparse", "Not a directory"),
        ("hnsw", "ann", "File exists"),
    ],
)
def test_a_store_that_takes_no_artefact_is_said(
    search: Callable[[str], Any], store: Path, pipeline: str, kind: str, reason: str
) -> None:
    store.mkdir()
    (store / kind).write_text("")
    message = f"error: cannot write {kind} to the store {store}: {reason}; set RANKPIPE_HOME to another folder\n"
    assert search(pipeline) == (1, "", message)
    (store / kind).unlink()
    assert search(pipeline).status == 0


def test_candidates_that_cannot_be_kept_are_said_and_scored(search: Callable[[str], Any], store: Path) -> None:
    kept = search("rescore")
    [folder] = (store / "candidate-vectors").iterdir()
    folder.rename(store / "before")
    folder.write_text("")
    status, out, err = search("rescore")
    assert (status, out) == (0, kept.out)
    assert err == (
        f"note: encoded candidates are not kept: cannot write candidate-vectors to the store {store}: File exists; "
        "set RANKPIPE_HOME to another folder\n"
    )
