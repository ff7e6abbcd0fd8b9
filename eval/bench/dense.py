"""Dense indexes beside faiss.IndexFlatIP and beside each other: speed, recall, memory; and what sq8 costs in nDCG@10.

    RANKPIPE_DATA=... python eval/bench/dense.py [--vectors 1000000] [--kinds hnsw ivf-pq sq8 binary] [--threads 2]

Documents are made, from a seed, around real ones, since no collection of a million is encoded in an afternoon: those of
scifact and nfcorpus are encoded by minilm (into the store, once); a made document lies at a random place, up to 70% of
the way, from a real one to one of its 16 nearest, with noise of length .3 added, and has length 1 again. So there are
dense and sparse regions as in real collections, but more near neighbours: read the figures as those of this mixture.
Queries are the real ones of both data sets, which no index has seen when its effort was tuned.

Search is timed in turns, all queries as one batch, top 100; shown is the median, and that of the paired ratios.
Recall is that of the real queries, beside the one that was measured on the sample when the index was built.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from interleaved import interleaved
from numpy.typing import NDArray

from rankpipe import Dataset, Pipeline, Queries, evaluate
from rankpipe.index.ann import build, open_folder, recall_of
from rankpipe.index.ann_kinds import Approximate, Binary, Hnsw, IvfPq, Sq8, faiss_threads
from rankpipe.index.dense import FlatIndex
from rankpipe.index.vectors import Block, Vectors
from rankpipe.models.runtime import Runtime
from rankpipe.stages.dense import Dense

DATASETS = ("nfcorpus", "scifact")
MODEL = "minilm"
K = 100
NEIGHBOURS, REACH, NOISE = 16, 0.7, 0.3
KINDS: dict[str, type[Approximate]] = {"hnsw": Hnsw, "ivf-pq": IvfPq, "sq8": Sq8, "binary": Binary}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=400)
    parser.add_argument("--kinds", nargs="*", choices=tuple(KINDS), default=tuple(KINDS))
    parser.add_argument("--target-recall", type=float, default=0.95)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with Runtime(threads=options.threads).active():
        real, queries = encoded(options.queries, options.seed)
        for name in DATASETS:
            print(effectiveness(name), flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            measure(Path(scratch), mixture(real, options.vectors, options.seed), queries, options)


def encoded(queries: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Vectors of all documents of the data sets, and of so many of their queries, chosen by the seed."""
    stage = Dense(model=MODEL)
    datasets = [Dataset.load(name) for name in DATASETS]
    parts = [stage.all_vectors(dataset.corpus).values.astype(np.float32) for dataset in datasets]
    texts = [text for dataset in datasets for text in dataset.queries("test").texts]
    chosen = np.random.default_rng(seed).choice(len(texts), min(queries, len(texts)), replace=False)
    return np.concatenate(parts), stage.encoders()[1].queries([texts[row] for row in chosen])


def effectiveness(name: str) -> str:
    """nDCG@10 and R@100 of every kind on a data set, with what its index measured."""
    dataset = Dataset.load(name)
    asked = dataset.queries("test")
    vectors = Dense(model=MODEL).encoders()[1].queries(asked.texts)
    queries = Queries(ids=asked.ids, texts=asked.texts, vectors=vectors)
    parts = [f"{name}, {dataset.corpus.size:,} documents, {len(queries)} queries: nDCG@10 / R@100"]
    for kind in ("flat", *KINDS):
        stage = Dense(model=MODEL, k=1000, index={"kind": kind})  # type: ignore[arg-type]
        run = Pipeline(stages=(stage,), corpus=dataset.corpus).run(queries)
        result = evaluate(run, dataset.qrels("test"), ["nDCG@10", "R@100"])
        parts.append(f"{kind} {result['nDCG@10']:.4f} / {result['R@100']:.4f}")
    return "   ".join(parts)


def mixture(real: NDArray[np.float32], count: int, seed: int) -> NDArray[np.float32]:
    """(count, D) vectors of length 1 around real ones."""
    random = np.random.default_rng(seed)
    nearest = faiss.IndexFlatIP(real.shape[1])
    nearest.add(real)
    neighbours = nearest.search(real, NEIGHBOURS + 1)[1][:, 1:]
    made = np.empty((count, real.shape[1]), np.float32)
    for begin in range(0, count, 1 << 16):
        size = min(1 << 16, count - begin)
        one = random.integers(0, len(real), size)
        other = neighbours[one, random.integers(0, NEIGHBOURS, size)]
        share = random.uniform(0, REACH, (size, 1)).astype(np.float32)
        noise = unit(random.standard_normal((size, real.shape[1]), np.float32))
        made[begin : begin + size] = unit(real[one] + share * (real[other] - real[one]) + np.float32(NOISE) * noise)
    return made


def unit(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def measure(scratch: Path, values: NDArray[np.float32], queries: NDArray[np.float32], options: Any) -> None:
    """Build all kinds over the same vectors, time them in turns, and print a table."""
    vectors = Vectors.of(
        np.arange(len(values), dtype=np.int32), Block(values, np.arange(len(values) + 1, dtype=np.int64), 0)
    )
    ties = np.arange(len(values), dtype=np.int32)
    by_hand = faiss.IndexFlatIP(values.shape[1])
    by_hand.add(values)
    flat = FlatIndex(vectors)

    def search_by_hand() -> None:
        with faiss_threads(options.threads):
            by_hand.search(queries, K)

    def searcher(index: Any) -> Callable[[], object]:
        return lambda: index.search(queries, K, ties, threads=options.threads)

    work: dict[str, Callable[[], object]] = {"IndexFlatIP": search_by_hand, "flat": searcher(flat)}
    notes: dict[str, str] = {}
    exact = flat.search(queries, K, ties, threads=options.threads)
    print(
        f"\n{len(values):,} vectors of {values.shape[1]}, {values.nbytes >> 20:,} MiB; {len(queries)} queries, top {K}"
    )
    for name in options.kinds:
        kind = KINDS[name](target_recall=options.target_recall)
        folder = scratch / name
        folder.mkdir()
        start = time.perf_counter()
        build(folder, kind, vectors)
        seconds = time.perf_counter() - start
        index = open_folder(folder, kind, vectors)
        header = index.header
        assert header is not None
        work[name] = searcher(index)
        recall = recall_of(index.search(queries, K, ties, threads=options.threads), exact)
        notes[name] = (
            f"recall@100 {recall:.3f} (sample {header.recall:.3f})   {header.bytes >> 20:,} MiB   built in {seconds:.0f} s"
            f"   oversample {header.effort.oversample}, probes {header.effort.probes}"
        )
        print(f"  {name}: {notes[name]}", flush=True)
    seconds = interleaved(work, options.repeats)
    for name, times in seconds.items():
        paired = [other / own for own, other in zip(times, seconds["flat"], strict=True)]
        rate = len(queries) / statistics.median(times)
        print(f"  {name:12} {rate:>8,.0f} queries/s   {statistics.median(paired):6.2f} x flat   {notes.get(name, '')}")
    print(f"  most memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10:,} MiB")


if __name__ == "__main__":
    main()
