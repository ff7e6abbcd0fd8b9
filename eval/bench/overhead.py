"""What the pipeline costs over calling the index by hand: the same queries, the same index, in one process, in turn.

    RANKPIPE_DATA=folder python eval/bench/overhead.py [--dataset scifact] [--repeats 15]

By hand: queries to terms, search, a Run of the answer. The pipeline does that through Pipeline.run: checks, batches,
stages, trace. Both end with the same Run. Prints the medians, and the ratio of each pair of neighbouring runs.
"""

from __future__ import annotations

import argparse
import statistics
from time import perf_counter

import numpy as np

from rankpipe import BM25, Dataset, Pipeline, Queries, Run
from rankpipe.data import Corpus
from rankpipe.errors import RankpipeError
from rankpipe.machine import usable_cores


def by_hand(stage: BM25, corpus: Corpus, queries: Queries) -> Run:
    """Search as somebody would without pipelines."""
    index, analyzer = stage.index(corpus)
    terms = index.queries(queries.texts, analyzer)
    found = index.search(terms, stage.k, corpus.tie_order, k1=stage.k1, b=stage.b, threads=usable_cores())
    return Run(queries, corpus, found.offsets, found.documents, found.scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="scifact")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--queries", type=int, default=5000, help="how many to ask, the data set's over and over")
    options = parser.parse_args()

    try:
        dataset = Dataset.load(options.dataset)
    except RankpipeError as error:
        raise SystemExit(f"error: {error}") from None
    texts = dataset.queries(None).texts
    queries = Queries.of([texts[number % len(texts)] for number in range(options.queries)])
    print(f"{options.dataset}: {dataset.corpus.size} documents, {len(queries)} queries, {usable_cores()} threads")
    for k in (100, 1000):
        stage = BM25(k=k)
        pipeline: Pipeline = stage.on(dataset.corpus)
        ours, hand = pipeline.run(queries, progress=False), by_hand(stage, dataset.corpus, queries)
        if not (np.array_equal(ours.documents, hand.documents) and np.array_equal(ours.scores, hand.scores)):
            raise SystemExit("the two do not give the same run")
        ways = {
            "pipeline": lambda pipeline=pipeline: pipeline.run(queries, progress=False),
            "by hand": lambda stage=stage: by_hand(stage, dataset.corpus, queries),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for repeat in range(options.repeats):
            for name in sorted(ways, reverse=bool(repeat % 2)):  # each goes first as often as the other
                started = perf_counter()
                ways[name]()
                seconds[name].append(perf_counter() - started)
        ratios = [a / b for a, b in zip(seconds["pipeline"], seconds["by hand"], strict=True)]
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        print(
            f"k={k}: pipeline {medians['pipeline']:.4f} s, by hand {medians['by hand']:.4f} s, "
            f"overhead {100 * (statistics.median(ratios) - 1):+.1f} % (median of {options.repeats} pairs, "
            f"{100 * (min(ratios) - 1):+.1f} to {100 * (max(ratios) - 1):+.1f} %)"
        )


if __name__ == "__main__":
    main()
