"""Pairs a second of our cross-encoder beside CrossEncoder.predict of sentence-transformers at its defaults, in turns.

    RANKPIPE_DATA=folder python eval/bench/cross_encoder.py [--model FOLDER] [--queries 3] [--repeats 3]

Both score the same pairs with the same model and the same number of threads: the first hundred candidates of `hybrid`
for some queries of nfcorpus, drawn by a seed. Without --model it is the network of MiniLM with a head drawn by the
same seed: as fast as a trained one, and of no use. Prints the nDCG@10 of both orders, and their greatest difference;
--repeats 0 measures nothing else, for many queries. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from interleaved import interleaved
from sentence_transformers import CrossEncoder as Theirs
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rankpipe import Dataset, Pipeline, Run, Runtime, evaluate
from rankpipe.machine import usable_cores
from rankpipe.models.cross_encoder import CrossEncoderScorer
from rankpipe.models.pair_recipe import PairSettings
from rankpipe.models.references import resolve


def with_a_drawn_head(folder: Path, seed: int) -> Path:
    """Write the network of MiniLM with a head drawn by a seed."""
    torch.manual_seed(seed)
    base = resolve("minilm")
    AutoModelForSequenceClassification.from_pretrained(base, num_labels=1).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def candidates(dataset: Dataset, queries: int, seed: int) -> Run:
    """The first hundred candidates of `hybrid` for queries of the test split, drawn by a seed."""
    run = Pipeline.load("hybrid", corpus=dataset.corpus).run(dataset.queries("test"), progress=False).top(100)
    chosen = np.random.default_rng(seed).choice(len(run), min(queries, len(run)), replace=False)
    return run.select(np.sort(chosen))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="nfcorpus")
    parser.add_argument("--model", help="folder of a cross-encoder that sentence-transformers opens, too")
    parser.add_argument("--queries", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", default="auto", help="of our network")
    options = parser.parse_args()

    dataset = Dataset.load(options.dataset)
    run = candidates(dataset, options.queries, options.seed)
    rows, documents = np.unique(run.documents, return_inverse=True)
    texts = dataset.corpus.joined_texts(rows)
    pairs = np.stack([run.query_rows, documents], axis=1)
    torch.set_num_threads(usable_cores())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(options.model) if options.model else with_a_drawn_head(Path(name), options.seed)
        ours = CrossEncoderScorer(str(folder), PairSettings(), Runtime(dtype=options.dtype))
        theirs = Theirs(str(folder), device="cpu", local_files_only=True)
    given = [(run.queries.texts[query], texts[document]) for query, document in pairs.tolist()]
    found: dict[str, np.ndarray] = {}

    def score(name: str, call: Callable[[], np.ndarray]) -> Callable[[], None]:
        def work() -> None:
            found[name] = call()

        return work

    work = {
        "rankpipe": score("rankpipe", lambda: ours.score(run.queries.texts, texts, pairs).scores),
        "sentence-transformers": score(
            "sentence-transformers", lambda: theirs.predict(given, activation_fn=torch.nn.Identity())
        ),
    }
    seconds = interleaved(work, options.repeats)
    qrels = dataset.qrels("test")
    quality = {name: evaluate(run.rescored(scores), qrels, ["nDCG@10"])["nDCG@10"] for name, scores in found.items()}
    result = {
        "dataset": options.dataset,
        "queries": len(run),
        "pairs": len(pairs),
        "threads": usable_cores(),
        "dtype": ours.dtype,
        "greatest_difference": float(np.abs(np.subtract(*found.values())).max()),
        "deviation_of_scores": float(found["sentence-transformers"].std()),
        "nDCG@10": {name: round(value, 4) for name, value in quality.items()},
    }
    print(f"{options.dataset}, {len(run)} queries, {len(pairs)} pairs, {usable_cores()} threads, {ours.dtype}")
    for name, values in seconds.items():
        rate = f"{len(pairs) / min(values):8.1f} pairs/s" if values else ""
        print(f"  {name:22} {rate}  nDCG@10 {quality[name]:.4f}")
    if options.repeats:
        ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
        result["pairs_per_second"] = {name: round(len(pairs) / min(values), 2) for name, values in seconds.items()}
        result["ratio_of_best"] = round(min(seconds["sentence-transformers"]) / min(seconds["rankpipe"]), 3)
        result["ratio_median"] = round(statistics.median(ratios), 3)
        result["ratios"] = [round(ratio, 3) for ratio in ratios]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
