"""TREC run files: `query_id Q0 doc_id rank score tag`, one candidate a line, plain or .gz."""

from __future__ import annotations

import gzip
import io
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Literal, cast, get_args

import numpy as np

from rankpipe.data import Corpus, Queries
from rankpipe.data.lines import Lines
from rankpipe.errors import DataError, UsageError
from rankpipe.run import Run
from rankpipe.writing import replacing

Ties = Literal["doc_id", "rank"]

LONGEST_RANK = 18
"""Digits of a rank that is read: more are no rank, and Python reads no number of thousands."""
DIGITS = 9
"""Significant digits of a written score: enough for every float32 to come back as it was."""
TRACE = 2.0**-25
"""By how much of the distance between neighbouring float32s a score is written below an equal one before it."""
TRACES = 2**22
"""So often that can be done, and the number still be read as the same float32."""


def write_run(run: Run, path: Path, *, tag: str = "rankpipe") -> None:
    """Write a run; the file is there whole or not at all. Scores never rise with rank.

    Equal scores are written a trace apart, so that every tool sees the run's order: one that compares float32s, as
    trec_eval does, finds them equal and orders them as we do; one that compares doubles and has its own way with ties
    finds none. Read into float32, they are what they were.

    Raises UsageError for an id or tag with white space in it, which the format cannot hold, RankpipeError as Run.check.
    """
    run.check()
    ids = run.corpus.ids(run.documents)
    for kind, names in (("query id", run.queries.ids), ("document id", ids), ("tag", (tag,))):
        _check_names(kind, names)
    scores, ends = _score_texts(run), run.offsets.tolist()
    with replacing(path, "wb") as raw, _packing(raw, path) as packed:
        file = io.TextIOWrapper(packed, encoding="utf-8", newline="\n", write_through=True)
        for query_id, start, end in zip(run.queries.ids, ends[:-1], ends[1:], strict=True):
            file.write(
                "".join(
                    f"{query_id} Q0 {ids[row]} {row - start + 1} {scores[row]} {tag}\n" for row in range(start, end)
                )
            )
        file.detach()


def check_ids(queries: Queries, corpus: Corpus) -> None:
    """Refuse what write_run would refuse of a run of these queries, whatever is found, so that no work is done in vain.

    Raises UsageError.
    """
    _check_names("query id", queries.ids)
    for rows in corpus.blocks():
        _check_names("document id", corpus.ids(rows))


def _check_names(kind: str, names: Sequence[str]) -> None:
    if "\n".join(names).split() == list(names):  # a hundred times faster than one by one
        return
    wrong = next(name for name in names if name.split() != [name])
    fault = "has white space in it" if wrong else "is empty"
    raise UsageError(f"{kind} {wrong!r} {fault}, which a TREC run file cannot hold")


def _packing(raw: IO[bytes], path: Path) -> AbstractContextManager[IO[bytes]]:
    """What the lines are written to: the open file, or a packer before it that is closed first, also by an error."""
    if path.suffix != ".gz":
        return nullcontext(raw)
    return cast("AbstractContextManager[IO[bytes]]", gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0))


def _score_texts(run: Run) -> list[str]:
    texts = [f"{score:.{DIGITS}g}" for score in run.scores.tolist()]
    equal = np.zeros(len(texts), bool)  # to the score one rank above
    equal[1:] = run.scores[1:] == run.scores[:-1]
    equal[run.offsets[:-1][run.counts > 0]] = False
    positions = np.arange(len(texts))
    first = np.maximum.accumulate(np.where(equal, 0, positions))  # of those that are equal
    size = np.abs(run.scores)
    gaps = np.maximum(size - np.nextafter(size, np.float32(0)), np.finfo(np.float32).smallest_subnormal)
    traces = np.minimum(positions - first, TRACES) * (gaps.astype(np.float64) * TRACE)
    places = np.flatnonzero(equal)
    highest = np.array([float(texts[place]) for place in first[places].tolist()])
    for place, score in zip(places.tolist(), (highest - traces[places]).tolist(), strict=True):
        texts[place] = repr(score)
    return texts


def read_run(path: Path, *, corpus: Corpus | None = None, queries: Queries | None = None, ties: Ties = "doc_id") -> Run:
    """Read a run. Its order is that of the scores, not of the rank column, as trec_eval has it.

    ties     what orders equal scores: "doc_id", falling, as everywhere; or "rank", for a file whose scores were rounded:
             they are then moved apart, downward, by single steps of float32. A rank that contradicts a score is refused
    corpus   where the documents are looked up; without one, the run gets a corpus that knows the ids only
    queries  the queries of the run; without them, the ids of the file, with empty texts

    Raises DataError with file:line for a line that is no run line, a document twice in one ranking, and ids that the
    given corpus or queries do not have.
    """
    if ties not in get_args(Ties):
        raise UsageError(f"ties is {ties!r}, must be 'doc_id' or 'rank'")
    ranked: dict[str, dict[str, float]] = {}
    ranks: dict[str, list[tuple[int, int]]] = {}
    lines: dict[str, int] = {}
    file = Lines(path)
    for line in file:
        parts = line.split()
        if len(parts) != 6:
            raise file.error(f"{len(parts)} columns, not the 6 of 'query_id Q0 doc_id rank score tag'")
        query_id, _, doc_id, rank, score_text, _ = parts
        try:
            with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
                score = float(np.float32(score_text))
        except ValueError:
            score = float("nan")
        if "_" in score_text or not score_text.isascii():  # numbers of Python's, and of no run file
            score = float("nan")
        if not np.isfinite(score):
            raise file.error(f"the score {score_text!r} is not a finite number")
        if queries is not None and query_id not in queries:
            raise file.error(f"query {query_id!r} is not among the queries")
        ranking = ranked.setdefault(query_id, {})
        if doc_id in ranking:
            raise file.error(f"document {doc_id!r} stands twice in the ranking of query {query_id!r}")
        ranking[doc_id] = score
        if ties == "rank":
            if not rank.removeprefix("-").isdecimal() or len(rank) > LONGEST_RANK:
                raise file.error(f"the rank {rank!r} is not a whole number")
            ranks.setdefault(query_id, []).append((int(rank), file.number))
        lines.setdefault(doc_id, file.number)
    if corpus is None:
        corpus = Corpus.of_ids(lines)
    else:
        ids = list(lines)
        rows = corpus.rows(ids)
        if (rows < 0).any():
            doc_id = ids[int(np.argmin(rows))]
            raise DataError.at(path, lines[doc_id], f"document {doc_id!r} is not in the corpus")
    if ties == "rank":
        ranked = {query_id: _by_rank(path, ranking, ranks[query_id]) for query_id, ranking in ranked.items()}
    return Run.of(Queries.of(dict.fromkeys(ranked, "")) if queries is None else queries, corpus, ranked)


def _by_rank(path: Path, ranking: dict[str, float], ranks: list[tuple[int, int]]) -> dict[str, float]:
    """One ranking in the order of its ranks (each with its line), equal scores moved apart."""
    ordered: dict[str, float] = {}
    above = written = np.float32(np.inf)
    for (_, line), (doc_id, score) in sorted(zip(ranks, ranking.items(), strict=True)):
        if score > written:
            raise DataError.at(path, line, f"the score {score:.9g} is higher than the one that is ranked above it")
        above = min(np.float32(score), np.nextafter(above, np.float32(-np.inf)))
        ordered[doc_id], written = float(above), np.float32(score)
    return ordered
