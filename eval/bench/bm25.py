"""Speed of our inverted index beside bm25s (numba) and rank_bm25, interleaved in one run.

    RANKPIPE_DATA=... python eval/bench/bm25.py [DATA SET ...] [--k 100] [--threads 2] [--repeats 7]

What is timed, for all queries of a data set as one batch, k1 0.9 and b 0.4; medians, and the median of paired ratios:
  search      from each engine's own form of tokenised queries (made before the clock starts) to its arrays
  end to end  from query texts; both engines keep the words they have met, and have met these in a first, untimed round
  index       from texts in memory to an index that answers: ours analyses as Lucene does (UAX #29, Porter), writes
              files and opens them; bm25s tokenises by its own regular expression with PyStemmer, and stays in memory;
              rank_bm25 gets our terms ready made
bm25s raises an error for queries without a known word, so it gets the others only; queries/s counts what each got.
rank_bm25 answers a sample of the queries, one after another, in one thread, with its scores sorted by numpy.
First query: a fresh process opens the index and answers one query, after its imports; with compiled code from the cache,
and once with an empty cache, as on the first use on a machine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import rank_bm25
import Stemmer
from interleaved import interleaved

from rankpipe.data.dataset import Dataset
from rankpipe.index import analysis
from rankpipe.index.inverted import InvertedIndex, build

K1, B = 0.9, 0.4
SAMPLE = 20  # queries that rank_bm25 answers

FIRST_QUERY = """
import sys, time
from pathlib import Path
import numpy as np
from rankpipe.index.analysis import open_analyzer
from rankpipe.index.inverted import InvertedIndex
start = time.perf_counter()
analyzer = open_analyzer("english")
index = InvertedIndex.open(Path(sys.argv[1]))
ties = np.arange(index.header.rows, dtype=np.int32)
index.search(index.queries([sys.argv[2]], analyzer), 100, ties)
print(time.perf_counter() - start)
"""


class Ours:
    """The inverted index of this package."""

    def __init__(self, folder: Path, texts: list[str], k: int, threads: int) -> None:
        self.analyzer = analysis.open_analyzer("english")
        build(folder, texts, self.analyzer)
        self.index = InvertedIndex.open(folder)
        self.ties = np.arange(len(texts), dtype=np.int32)
        self.k, self.threads = k, threads

    def search(self, queries) -> None:
        self.index.search(queries, self.k, self.ties, k1=K1, b=B, threads=self.threads)

    def end_to_end(self, texts: list[str]) -> None:
        self.search(self.index.queries(texts, self.analyzer))


class BM25S:
    """bm25s with its numba backend and a Snowball stemmer."""

    def __init__(self, texts: list[str], k: int, threads: int) -> None:
        self.tokenizer = bm25s.tokenization.Tokenizer(stopwords="english", stemmer=Stemmer.Stemmer("english"))
        tokens = self.tokenizer.tokenize(texts, return_as="tuple", show_progress=False)
        self.model = bm25s.BM25(method="lucene", k1=K1, b=B, backend="numba")
        self.model.index(tokens, show_progress=False)
        self.k, self.threads = min(k, len(texts)), threads

    def tokens(self, texts: list[str]) -> list[Any]:
        known: Any = self.tokenizer.tokenize(texts, update_vocab=False, return_as="ids", show_progress=False)
        return [query for query in known if query]

    def search(self, queries: list[Any]) -> None:
        self.model.retrieve(queries, k=self.k, n_threads=self.threads, show_progress=False)

    def end_to_end(self, texts: list[str]) -> None:
        self.search(self.tokens(texts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="*", default=["scifact", "nfcorpus"])
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    for name in options.datasets:
        dataset = Dataset.load(name)
        texts = dataset.corpus.joined_texts(dataset.corpus.live_rows())
        queries = list(dataset.queries(None).texts)
        print(
            f"\n{name}: {len(texts):,} documents, {len(queries):,} queries in one batch, top {options.k}, "
            f"{options.threads} threads (rank_bm25: the first {SAMPLE} queries, one by one, 1 thread)"
        )
        with tempfile.TemporaryDirectory() as scratch:
            measure(Path(scratch), texts, queries, options)


def measure(scratch: Path, texts: list[str], queries: list[str], options: argparse.Namespace) -> None:
    """Time all engines on one data set and print a table."""
    k, threads = options.k, options.threads
    ours, theirs = Ours(made(scratch / "index"), texts, k, threads), BM25S(texts, k, threads)
    our_queries, their_queries = ours.index.queries(queries, ours.analyzer), theirs.tokens(queries)
    terms = [analysis.terms(ours.analyzer, text) for text in texts]
    okapi = rank_bm25.BM25Okapi(terms, k1=K1, b=B)
    sample = [analysis.terms(ours.analyzer, text) for text in queries[:SAMPLE]]
    few = min(k, len(texts))

    def okapi_search() -> None:
        for query in sample:
            scores = okapi.get_scores(query)
            best = np.argpartition(-scores, few - 1)[:few]
            best[np.argsort(-scores[best])]

    table: dict[str, dict[str, tuple[int, Callable[[], object]]]] = {
        "search, queries/s": {
            "rankpipe": (len(queries), lambda: ours.search(our_queries)),
            "bm25s": (len(their_queries), lambda: theirs.search(their_queries)),
            "rank_bm25": (len(sample), okapi_search),
        },
        "end to end, queries/s": {
            "rankpipe": (len(queries), lambda: ours.end_to_end(queries)),
            "bm25s": (len(their_queries), lambda: theirs.end_to_end(queries)),
        },
        "index, documents/s": {
            "rankpipe": (len(texts), lambda: Ours(made(scratch / "again"), texts, k, threads)),
            "bm25s": (len(texts), lambda: BM25S(texts, k, threads)),
            "rank_bm25": (len(texts), lambda: rank_bm25.BM25Okapi(terms, k1=K1, b=B)),
        },
    }
    for what, engines in table.items():
        seconds = interleaved({name: work for name, (_, work) in engines.items()}, options.repeats)
        rates = {name: engines[name][0] / statistics.median(times) for name, times in seconds.items()}
        shown = "   ".join(f"{name} {rate:>9,.0f}" for name, rate in rates.items())
        paired = [theirs / ours for ours, theirs in zip(seconds["rankpipe"], seconds["bm25s"], strict=True)]
        shares = engines["rankpipe"][0] / engines["bm25s"][0]
        print(f"  {what:22} {shown}   rankpipe / bm25s {statistics.median(paired) * shares:.2f}")
    warm = statistics.median(first_query(scratch / "index", queries[0], None) for _ in range(3))
    with tempfile.TemporaryDirectory() as empty:
        cold = first_query(scratch / "index", queries[0], empty)
    print(f"  first query of a fresh process, after imports: {warm:.2f} s; with nothing compiled yet {cold:.2f} s")


def first_query(folder: Path, query: str, cache: str | None) -> float:
    """Seconds from the imports to the first answer, in a process of its own; cache: where compiled code is kept."""
    environment = os.environ | ({"NUMBA_CACHE_DIR": cache} if cache else {})
    command = [sys.executable, "-c", FIRST_QUERY, str(folder), query]
    return float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def made(folder: Path) -> Path:
    """The folder, new and empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


if __name__ == "__main__":
    main()
