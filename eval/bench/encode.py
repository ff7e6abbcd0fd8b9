"""Documents a second of our encoder beside SentenceTransformer.encode at its defaults, in turn, in one process.

    RANKPIPE_DATA=folder python eval/bench/encode.py [--dataset scifact] [--documents 512] [--repeats 5] [--dtype int8]

Both get the same documents and the same number of threads. Also measures the GEMM rate of the machine in the encoder's
precision, by a product of the shape that the feed-forward layers have, and prints which share of it the encoder
reaches: the products of its linear layers and of its attention, over its seconds. `limit` is the ratio that could be had
with the linear layers' products at that rate and attention as torch computes it, were everything else to take no time.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from rankpipe import Dataset, Runtime
from rankpipe.machine import usable_cores
from rankpipe.models.batching import BATCH_TOKENS, batches
from rankpipe.models.bi_encoder import BiEncoder, EncoderSettings
from rankpipe.models.int8 import Quantised
from rankpipe.models.network import thread_limit
from rankpipe.models.recipe import network_config
from rankpipe.models.references import resolve


def gemm_rate(dtype: str, repeats: int = 5) -> float:
    """GFLOP/s of a product of 4,096 by 384 by 1,536, the best of some tries; of int8 the product of integers alone."""
    layer = torch.nn.Linear(384, 1536, bias=False)
    if dtype == "int8":
        states, product = torch.randint(0, 256, (4096, 384), dtype=torch.uint8), Quantised.of(layer).product
    else:
        layer = layer.to(getattr(torch, dtype))
        states, product = torch.randn(4096, 384, dtype=layer.weight.dtype), layer
    best = float("inf")
    with torch.inference_mode():
        for _ in range(repeats + 1):
            started = perf_counter()
            for _ in range(10):
                product(states)
            best = min(best, (perf_counter() - started) / 10)
    return 2 * 4096 * 384 * 1536 / best / 1e9


def work(config: dict[str, Any], lengths: NDArray[np.int64]) -> tuple[float, float]:
    """GFLOP of a BERT's products for texts of these lengths: the linear ones of every token, and attention's."""
    width, inner, layers = (config[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    linear, attention = 8 * width**2 + 4 * width * inner, 4 * lengths * width
    return float(layers * linear * lengths.sum()) / 1e9, float((layers * lengths * attention).sum()) / 1e9


def attention_seconds(config: dict[str, Any], lengths: NDArray[np.int64], cores: int, repeats: int = 3) -> float:
    """Seconds that torch's attention takes for texts of these lengths, batched as ours are, a batch a core; the best try."""
    width, heads, layers = (config[name] for name in ("hidden_size", "num_attention_heads", "num_hidden_layers"))
    texts = [np.zeros(length, np.int64) for length in lengths.tolist()]
    best = float("inf")
    with thread_limit(1), torch.inference_mode():
        for _ in range(repeats):
            spent = 0.0
            for rows in batches(texts, BATCH_TOKENS["cpu"]):
                states = torch.randn(3, len(rows), heads, int(lengths[rows].max()), width // heads)
                started = perf_counter()
                torch.nn.functional.scaled_dot_product_attention(states[0], states[1], states[2])
                spent += layers * (perf_counter() - started)
            best = min(best, spent)
    return best / cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="scifact")
    parser.add_argument("--documents", type=int, default=512, help="evenly spread over the corpus")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--dtype", default="auto", help="of our network")
    options = parser.parse_args()

    corpus = Dataset.load(options.dataset).corpus
    rows = np.linspace(0, len(corpus) - 1, min(options.documents, len(corpus))).astype(np.int32)
    texts = corpus.joined_texts(rows)
    torch.set_num_threads(usable_cores())
    ours = BiEncoder(options.model, EncoderSettings(), Runtime(dtype=options.dtype))
    theirs = SentenceTransformer(str(resolve(options.model)), device=str(ours.device))
    cosines = (ours.documents(texts).vectors * theirs.encode(texts)).sum(axis=1)  # warms both up

    seconds: dict[str, list[float]] = {"rankpipe": [], "sentence-transformers": []}
    for _ in range(options.repeats):
        started = perf_counter()
        ours.documents(texts)
        middle = perf_counter()
        theirs.encode(texts)
        seconds["rankpipe"].append(middle - started)
        seconds["sentence-transformers"].append(perf_counter() - middle)
    ratios = [b / a for a, b in zip(seconds["rankpipe"], seconds["sentence-transformers"], strict=True)]
    rates = {name: round(len(texts) / min(values), 2) for name, values in seconds.items()}
    result = {
        "documents": len(texts),
        "dtype": ours.dtype,
        "documents_per_second": rates,
        "ratio_of_best": round(min(seconds["sentence-transformers"]) / min(seconds["rankpipe"]), 3),
        "ratio_median": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "least_cosine": round(float(cosines.min()), 6),
    }
    if ours.device.type == "cpu":
        config, rate = network_config(ours.recipe.transformer), gemm_rate(ours.dtype)
        lengths = np.array([len(ids) for ids in theirs.tokenizer(texts, truncation=True)["input_ids"]])
        linear, attention = work(config, lengths)
        least = linear / rate + attention_seconds(config, lengths, usable_cores())
        result["gemm_gflops"] = round(rate, 1)
        result["share_of_gemm"] = round((linear + attention) / min(seconds["rankpipe"]) / rate, 3)
        result["limit"] = round(min(seconds["sentence-transformers"]) / least, 3)
    print(f"{options.dataset}, {len(texts)} documents, {usable_cores()} threads, best of {options.repeats}")
    for name, rate in rates.items():
        print(f"  {name:22} {rate:8.1f} documents/s")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
