"""Dense indexes beside faiss.IndexFlatIP and beside each other: speed, recall, memory; and what sq8 costs in nDCG@10.

    RANKPIPE_DATA=... python eval/bench/dense.py --folder FOLDER --repeats 0    makes all there is to measure
    RANKPIPE_DATA=... python eval/bench/dense.py --folder FOLDER --output eval/results/dense-indexes.json
    [--vectors 1000000] [--kinds hnsw ivf-pq sq8 binary] [--threads 2]

The vectors and indexes of a million take an hour to make and 6 GB; they stay in the folder, so what is measured can
have the machine to itself for some minutes.

Documents are made, from a seed, around real ones, since no collection of a million is encoded in an afternoon: those of
scifact and nfcorpus are encoded by minilm (into the store, once); a made document lies at a random place, up to 70% of
the way, from a real one to one of its 16 nearest, with noise of length .3 added, and has length 1 again. So there are
dense and sparse regions as in real collections, but more near neighbours: read the figures as those of this mixture.
Queries are the real ones of both data sets, which no index has seen when its effort was tuned.

Search is timed in turns, top 100, with all queries in one batch, and with some in batches of 8 and of 1; shown is the
median, and that of the paired ratios. numpy and FAISS bring a BLAS each, which the result names: where the variable
OPENBLAS_CORETYPE is set, they may be held to other kernels than the machine's best.
Recall is that of the real queries, beside the one that was measured on the sample when the index was built.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from interleaved import interleaved
from numpy.typing import NDArray
from threadpoolctl import threadpool_info, threadpool_limits

from rankpipe import Dataset, Pipeline, Queries, evaluate
from rankpipe.evaluation.manifest import machine, versions
from rankpipe.index.ann import ApproximateIndex, build, open_folder, recall_of
from rankpipe.index.ann_kinds import Approximate, Binary, Hnsw, IvfPq, Sq8
from rankpipe.index.dense import DenseIndex, FlatIndex
from rankpipe.index.vectors import Block, Vectors
from rankpipe.index.vectors import build as write
from rankpipe.machine import most_memory
from rankpipe.models.runtime import Runtime
from rankpipe.stages.dense import Dense

DATASETS = ("nfcorpus", "scifact")
MODEL = "minilm"
K = 100
NEIGHBOURS, REACH, NOISE = 16, 0.7, 0.3
KINDS: dict[str, type[Approximate]] = {"hnsw": Hnsw, "ivf-pq": IvfPq, "sq8": Sq8, "binary": Binary}
BATCHES = {1: 8, 8: 32}
"""Queries of a batch, and how many of the queries are asked in such batches."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where vectors and indexes are kept")
    parser.add_argument("--output", type=Path, help="file for the figures, as JSON")
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=400)
    parser.add_argument("--kinds", nargs="*", choices=tuple(KINDS), default=tuple(KINDS))
    parser.add_argument("--target-recall", type=float, default=0.95)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = options.folder / f"{options.vectors}-{options.queries}-{options.target_recall}-{options.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    with Runtime(threads=options.threads).active(), threadpool_limits(options.threads):
        effectiveness = {name: kept(folder / f"{name}.json", partial(effective, name)) for name in DATASETS}
        vectors, queries = made(folder, options)
        kinds = {name: KINDS[name](target_recall=options.target_recall) for name in options.kinds}
        indexes = {name: opened(folder / name, kind, vectors, queries, options.threads) for name, kind in kinds.items()}
        searches = {"flat": FlatIndex(vectors), **{name: index for name, (index, _) in indexes.items()}}
        speed = timed(searches, vectors, queries, options) if options.repeats else {}
    figures = {
        "vectors": len(vectors.values),
        "dimensions": vectors.dimensions,
        "bytes": vectors.values.nbytes,
        "queries": len(queries),
        "k": K,
        "indexes": {name: facts for name, (_, facts) in indexes.items()},
        **speed,
        "effectiveness": effectiveness,
        "most_memory": most_memory(),
        "threads": options.threads,
        "blas": [
            {
                "file": Path(pool["filepath"]).name,
                **{name: pool[name] for name in ("version", "architecture", "num_threads")},
            }
            for pool in threadpool_info()
            if pool["user_api"] == "blas"
        ],
        "machine": machine(),
        "versions": versions(),
    }
    print(json.dumps(figures, indent=1))
    if options.output and options.repeats:
        options.output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What a JSON file says; it is made and written if it is not there."""
    if not path.exists():
        content = json.dumps(make(), indent=1)
        path.write_text(content, encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def made(folder: Path, options: Any) -> tuple[Vectors, NDArray[np.float32]]:
    """The vectors, memory-mapped as those of a pipeline are, and the queries; both are kept in the folder."""
    if not (folder / "queries.npy").exists():
        real, queries = encoded(options.queries, options.seed)
        values = mixture(real, options.vectors, options.seed)

        def taken(rows: NDArray[np.int32], advance: Callable[[int], None]) -> Block:
            advance(len(rows))
            return Block(values[rows], np.arange(len(rows) + 1), np.zeros(len(rows), bool))

        (folder / "vectors").mkdir(exist_ok=True)
        write(
            folder / "vectors",
            np.arange(len(values), dtype=np.int32),
            taken,
            dimensions=real.shape[1],
            precision="float32",
        )
        np.save(folder / "queries.npy", queries)
    return Vectors.open(folder / "vectors"), np.load(folder / "queries.npy")


def encoded(queries: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Vectors of all documents of the data sets, and of so many of their queries, chosen by the seed."""
    stage = Dense(model=MODEL)
    datasets = [Dataset.load(name) for name in DATASETS]
    parts = [stage.all_vectors(dataset.corpus).values.astype(np.float32) for dataset in datasets]
    texts = [text for dataset in datasets for text in dataset.queries("test").texts]
    chosen = np.random.default_rng(seed).choice(len(texts), min(queries, len(texts)), replace=False)
    return np.concatenate(parts), stage.encoders()[1].queries([texts[row] for row in chosen]).vectors


def effective(name: str) -> dict[str, dict[str, float]]:
    """nDCG@10 and R@100 of every kind on a data set."""
    dataset = Dataset.load(name)
    asked = dataset.queries("test")
    vectors = Dense(model=MODEL).encoders()[1].queries(asked.texts).vectors
    queries = Queries(ids=asked.ids, texts=asked.texts, vectors=vectors)
    found = {}
    for kind in ("flat", *KINDS):
        stage = Dense(model=MODEL, k=1000, index={"kind": kind})  # type: ignore[arg-type]
        run = Pipeline(stages=(stage,), corpus=dataset.corpus).run(queries)
        result = evaluate(run, dataset.qrels("test"), ["nDCG@10", "R@100"])
        found[kind] = {measure: round(result[measure], 4) for measure in ("nDCG@10", "R@100")}
    return found


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


def opened(
    folder: Path, kind: Approximate, vectors: Vectors, queries: NDArray[np.float32], threads: int
) -> tuple[ApproximateIndex, dict[str, Any]]:
    """The index of a kind over the vectors, and its facts; it is built in the folder if it is not there."""

    def make() -> float:
        folder.mkdir(exist_ok=True)
        start = time.perf_counter()
        build(folder, kind, vectors, threads=threads)
        return round(time.perf_counter() - start, 1)

    def recall() -> float:
        ties = np.zeros(len(vectors.values), np.int32)
        exact = FlatIndex(vectors).search(queries, K, ties, threads=threads)
        return round(recall_of(index.search(queries, K, ties, threads=threads), exact), 4)

    seconds = kept(folder.with_name(f"{folder.name}-seconds.json"), make)
    index = open_folder(folder, kind, vectors)
    assert index.header is not None
    return index, {
        "recall": kept(folder.with_name(f"{folder.name}-recall.json"), recall),
        "sample_recall": index.header.recall,
        "effort": index.header.effort._asdict(),
        "bytes": index.header.bytes,
        "seconds_built": seconds,
    }


def timed(
    indexes: Mapping[str, DenseIndex], vectors: Vectors, queries: NDArray[np.float32], options: Any
) -> dict[str, Any]:
    """Queries a second by hand and of every index, and how many times as fast as flat each is."""
    ties = np.arange(len(vectors.values), dtype=np.int32)
    by_hand = faiss.IndexFlatIP(vectors.dimensions)
    by_hand.add(vectors.values.astype(np.float32, copy=False))
    searches: dict[str, Callable[[NDArray[np.float32]], Any]] = {"IndexFlatIP": partial(by_hand.search, k=K)}
    for name, index in indexes.items():
        searches[name] = partial(index.search, k=K, tie_order=ties, threads=options.threads)

    def ask(search: Callable[[NDArray[np.float32]], object], size: int) -> None:
        for begin in range(0, BATCHES.get(size, len(queries)), size):
            search(queries[begin : begin + size])

    sizes = (*BATCHES, len(queries))
    work = {(name, size): partial(ask, search, size) for size in sizes for name, search in searches.items()}
    seconds = interleaved(work, options.repeats)
    rates, ratios = {}, {}
    for size in sizes:
        asked, flat = BATCHES.get(size, len(queries)), seconds["flat", size]
        of_size = {name: seconds[name, size] for name in searches}
        rates[size] = {name: round(asked / statistics.median(own), 1) for name, own in of_size.items()}
        ratios[size] = {
            name: round(statistics.median(one / other for one, other in zip(flat, own, strict=True)), 3)
            for name, own in of_size.items()
        }
    return {"queries_per_second": rates, "times_as_fast_as_flat": ratios, "repeats": options.repeats}


if __name__ == "__main__":
    main()
