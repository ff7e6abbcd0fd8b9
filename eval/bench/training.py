"""Training steps a second of a cross-encoder, whole and with LoRA, beside CrossEncoder of sentence-transformers.

    RANKPIPE_DATA=folder python eval/bench/training.py [--dataset scifact] [--repeats 3] [--dtype float32]

All take the same steps in turn, in one process: 4 queries of the training split, each with 12 of its BM25 candidates at
their real lengths, the listwise loss over them, gradients, AdamW. Beside the steps stands the rate of the machine's
matrix products, and which share of it a step reaches: the products that its scores depend on, forward and backward. The
last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from interleaved import interleaved
from sentence_transformers import CrossEncoder
from torch import nn

from rankpipe import Dataset, Pipeline, Runtime
from rankpipe.machine import usable_cores
from rankpipe.models.adapters.attached import attach
from rankpipe.models.adapters.settings import Lora
from rankpipe.models.network import device_of, dtype_of
from rankpipe.models.pairs import PairReader
from rankpipe.models.references import resolve
from rankpipe.training import losses
from rankpipe.training.candidates import candidates
from rankpipe.training.networks import open_cross_encoder
from rankpipe.training.pairs import PairTexts
from rankpipe.training.scoring import PairScorer

QUERIES, DOCUMENTS = 4, 12

Texts = Sequence[tuple[str, list[str]]]


class Ours:
    """A step of rankpipe."""

    def __init__(self, texts: PairTexts, adapter: Lora | None, dtype: torch.dtype, dropout: float = 0.0) -> None:
        cpu = torch.device("cpu")
        self.network, drawn = open_cross_encoder(resolve("minilm"), 0, dropout=dropout, device=cpu)
        self._texts, self._attached = texts, attach(self.network, adapter, drawn=drawn, seed=0)
        self._scores = PairScorer(self.network, device=cpu, dtype=dtype, batch_tokens=None)
        self._optimizer = torch.optim.AdamW(self._attached.parameter_groups(1e-5, 0.01), fused=True)
        self.network.train()

    def step(self, queries: Sequence[str], documents: Sequence[np.ndarray]) -> None:
        scores = self._scores(self._texts.pairs(queries, documents)).view(QUERIES, DOCUMENTS)
        there = torch.ones_like(scores, dtype=torch.bool)
        losses.kl(scores, torch.zeros_like(scores), there).mean().backward()
        finish(self._optimizer)


class Theirs:
    """A step as the trainer of sentence-transformers takes it: pairs in their order, padded to the longest."""

    def __init__(self, max_length: int, dtype: torch.dtype, *, dropout: bool) -> None:
        self._model = CrossEncoder(str(resolve("minilm")), num_labels=1, max_length=max_length, device="cpu")
        self._dtype = dtype
        if not dropout:
            for module in self._model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=1e-5, weight_decay=0.01, fused=True)
        self._model.train()

    def step(self, texts: Texts) -> None:
        pairs = [(query, document) for query, documents in texts for document in documents]
        with torch.autocast("cpu", self._dtype, enabled=self._dtype != torch.float32):
            scores = self._model(self._model.preprocess(pairs))["scores"].view(QUERIES, DOCUMENTS).float()
        wanted = torch.full_like(scores, 1 / DOCUMENTS)
        nn.functional.cross_entropy(scores, wanted).backward()
        finish(self._optimizer)


def finish(optimizer: torch.optim.Optimizer) -> None:
    nn.utils.clip_grad_norm_([one for group in optimizer.param_groups for one in group["params"]], 1.0)
    optimizer.step()
    optimizer.zero_grad()


def gflop(config: Any, lengths: np.ndarray) -> tuple[float, float]:
    """GFLOP of a forward's linear layers and of its attention; of the last layer what the first tokens need."""
    width, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    whole, keys_values = 8 * width**2 + 4 * width * inner, 4 * width**2
    linear = lengths * ((layers - 1) * whole + keys_values) + (whole - keys_values)
    attention = (layers - 1) * 4 * lengths**2 * width + 4 * lengths * width
    return float(linear.sum()) / 1e9, float(attention.sum()) / 1e9


def gemm_rate(repeats: int = 5) -> float:
    """GFLOP/s in float32 of a product of 4,096 by 384 by 1,536, the best of some tries."""
    left, right = torch.randn(4096, 384), torch.randn(384, 1536)
    seconds = interleaved({"product": lambda: [left @ right for _ in range(10)]}, repeats)["product"]
    return 10 * 2 * 4096 * 384 * 1536 / min(seconds) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="scifact")
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=2, help="different ones, in every turn")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    options = parser.parse_args()

    runtime = Runtime(device="cpu", dtype=options.dtype)
    dtype = dtype_of(runtime, device_of(runtime))
    torch.set_num_threads(usable_cores())
    dataset = Dataset.load(options.dataset)
    queries = dataset.queries("train").select(range(options.steps * QUERIES))
    pool = candidates(Pipeline.load("bm25", corpus=dataset.corpus), queries, DOCUMENTS)
    assert (np.diff(pool.offsets) == DOCUMENTS).all()
    texts = PairTexts(PairReader(resolve("minilm"), max_length=options.max_length), dataset.corpus, ("title", "text"))

    given, written, lengths = [], [], []
    for begin in range(0, len(queries), QUERIES):
        rows = range(begin, begin + QUERIES)
        of_step = [queries.texts[row] for row in rows], [pool.of(row)[0] for row in rows]
        given.append(of_step)
        written.append([(query, dataset.corpus.joined_texts(found)) for query, found in zip(*of_step, strict=True)])
        lengths += [len(ids) for ids, _ in texts.pairs(*of_step)]

    networks = {"full": Ours(texts, None, dtype), "lora": Ours(texts, Lora(r=16), dtype)}
    ours: dict[str, Callable[[], object]] = {
        f"rankpipe, {name}": lambda one=one: [one.step(*step) for step in given] for name, one in networks.items()
    }
    theirs: dict[str, Callable[[], object]] = {
        f"sentence-transformers, {name}": lambda one=one: [one.step(step) for step in written]
        for name, one in {
            "defaults": Theirs(options.max_length, dtype, dropout=True),
            "no dropout": Theirs(options.max_length, dtype, dropout=False),
        }.items()
    }
    seconds = interleaved({**ours, **theirs}, options.repeats)
    rate, (linear, attention) = gemm_rate(), gflop(networks["full"].network.config, np.array(lengths))
    work = {"rankpipe, full": 3 * (linear + attention), "rankpipe, lora": 2 * linear + 3 * attention}
    steps = len(given)
    first = seconds["rankpipe, full"]
    for name, values in seconds.items():
        ratio = statistics.median(b / a for a, b in zip(first, values, strict=True))
        reached = f", {work[name] / min(values):.0f} GFLOP/s" if name in work else ""
        print(f"{name:<36} {steps / min(values):.3f} steps/s, {ratio:.2f} times the time of the first{reached}")
    print(f"{'a product of the same kind':<36} {rate:.0f} GFLOP/s")
    result = {
        "dataset": options.dataset,
        "pairs_a_step": QUERIES * DOCUMENTS,
        "tokens_a_step": sum(lengths) / steps,
        "dtype": str(dtype).removeprefix("torch."),
        "steps_per_second": {name: round(steps / min(values), 4) for name, values in seconds.items()},
        "gflops": {name: round(done / min(seconds[name]), 1) for name, done in work.items()},
        "gemm_gflops": round(rate, 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
