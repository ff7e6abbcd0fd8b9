"""Re-ranking by attention: speed and memory against attention that transformers materialises, and against generation.

    RANKPIPE_DATA=FOLDER python eval/bench/attention.py

On SmolLM2-135M-Instruct and BM25's candidates of scifact queries. `eager` is how attention is read otherwise: one pass of
the whole prompt for the query and one for the query without content, eager attention, of which a hook on every layer
takes the rows it needs, so that one layer's attention stands in memory at a time. Both give the same scores, which is
checked. With heads that a file lists (--heads) our stage needs no layer above them. Listwise generation (RankGPT: windows
of 20, 10 apart) re-ranks the same candidates with the same model; its answers are kept in the store, so every turn asks
about queries that end in a number which no turn before had, of this depth or another, in this run of the script or another.

Everything is timed in turns, in one process; ratios of medians are printed. The memory of the attention of one layer is
what a fresh process grows by while it is computed, of random numbers of the model's shapes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from interleaved import interleaved
from transformers.models.llama.modeling_llama import eager_attention_forward

from rankpipe import BM25, Dataset, Pipeline, Run, Runtime
from rankpipe.models.attention import AttentionScorer, AttentionSettings, Listed
from rankpipe.models.attention_rows import attend, reading
from rankpipe.models.attention_scores import document_scores
from rankpipe.models.causal_lm import open_causal_lm
from rankpipe.models.references import resolve
from rankpipe.models.tokens import open_tokenizer
from rankpipe.stages.attention import Attention, read_texts
from rankpipe.stages.listwise import Listwise

MODEL = "smollm2"
WORDS = 100


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    options = _parser().parse_args(arguments)
    dataset = Dataset.load("scifact")
    queries = dataset.queries("test").select(slice(0, options.queries))
    first = Pipeline(stages=(BM25(k=100),), corpus=dataset.corpus).run(queries)
    runtime = Runtime(dtype="float32")
    ours = AttentionScorer(MODEL, AttentionSettings(), runtime)
    few = {name: AttentionScorer(MODEL, AttentionSettings(heads=file), runtime) for name, file in _named(options.heads)}
    eager = _Eager(ours)
    for tokens in options.tokens:
        listed, query = _of_length(ours, first, tokens)
        suffix = ours.suffix(query, len(listed.begins))
        works: dict[str, Callable[[], Any]] = {
            "eager": lambda listed=listed, query=query: eager.scores(listed, query),
            "ours": lambda listed=listed, query=query: _scores(ours, listed, query),
        }
        for name, scorer in few.items():
            works[name] = lambda scorer=scorer, listed=listed, query=query: _scores(scorer, listed, query)
        gap = np.abs(works["eager"]() - works["ours"]()).max()
        seconds = {name: median(values) for name, values in interleaved(works, options.repeats).items()}
        heads, groups, width = 9, 3, 64  # of SmolLM2-135M
        memory = {
            kind: _in_a_process(kind, len(listed.ids), len(suffix), heads, groups, width) for kind in ("eager", "ours")
        }
        print(f"{len(listed.ids) + len(suffix):,} tokens, {len(listed.begins)} documents; scores differ by {gap:.1e}")
        for name in works:
            print(f"  {name:24} {seconds[name]:7.2f} s, {seconds['eager'] / seconds[name]:5.2f} times as fast as eager")
        print(
            f"  attention of a layer takes {memory['eager'] / 2**20:.0f} MiB in eager, {memory['ours'] / 2**20:.0f} MiB in "
            f"ours: {memory['ours'] / memory['eager']:.3f}"
        )
    turns = count(int(time.time()))
    for depth in options.depths:
        _against_generation(first, depth, options, runtime, turns)
    return 0


def _scores(scorer: AttentionScorer, listed: Listed, query: str) -> np.ndarray:
    return scorer.scores(listed, scorer.token_scores(scorer.read(listed), query))


class _Eager:
    """The same scores from attention that transformers materialises."""

    def __init__(self, scorer: AttentionScorer) -> None:
        self._scorer = scorer
        folder, cpu = resolve(MODEL), torch.device("cpu")
        network = open_causal_lm(folder, cpu, torch.float32, open_tokenizer(folder), head=False, attention="eager")
        self._network, self._rows = network, 0
        self._read: list[torch.Tensor] = []
        for layer in network.layers:
            layer.self_attn.register_forward_hook(self._taken)

    def _taken(self, _: Any, __: Any, output: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, None]:
        self._read.append(output[1][0, :, -self._rows :].mean(1))
        return output[0], None

    def _tokens(self, listed: Listed, query: str) -> np.ndarray:
        suffix = self._scorer.suffix(query, len(listed.begins))
        self._rows, self._read = len(suffix), []
        ids = torch.from_numpy(np.concatenate([listed.ids, suffix]))[None]
        with torch.inference_mode():
            self._network(input_ids=ids, use_cache=False)
        return torch.stack(self._read).sum((0, 1)).numpy()[: len(listed.ids)].astype(np.float64)

    def scores(self, listed: Listed, query: str) -> np.ndarray:
        tokens = self._tokens(listed, query) - self._tokens(listed, "N/A")
        return document_scores(tokens, listed.begins, listed.ends, sigma=2.0)


def _of_length(scorer: AttentionScorer, first: Run, tokens: int) -> tuple[Listed, str]:
    """As many of the first query's candidates as make a prompt of so many tokens, and the query."""
    documents = first.documents[first.span(0)]
    texts, _ = read_texts(first.corpus, documents, ("title", "text"), WORDS)
    query = first.queries.texts[0]
    fitting = next(
        (n for n in range(2, len(texts)) if scorer.tokens(scorer.listed(texts[:n]), query) >= tokens), len(texts)
    )
    return scorer.listed(texts[:fitting]), query


def _against_generation(first: Run, depth: int, options: Any, runtime: Runtime, turns: Iterator[int]) -> None:
    common = {"model": MODEL, "depth": depth, "max_words": WORDS, "rest": "drop"}
    stages = {"listwise generation": Listwise(**common, constrained=False), "attention": Attention(**common)}
    stages |= {f"attention, {name}": Attention(**common, heads=file) for name, file in _named(options.heads)}
    pipelines = {name: Pipeline(stages=(stage,), runtime=runtime) for name, stage in stages.items()}
    works = {
        name: lambda one=one: one.rerank(_numbered(first, next(turns)), progress=False)
        for name, one in pipelines.items()
    }
    seconds = {name: median(values) / len(first) for name, values in interleaved(works, options.repeats).items()}
    print(f"{depth} candidates of {WORDS} words, seconds a query ({len(first)} queries)")
    for name, value in seconds.items():
        print(f"  {name:32} {value:7.2f} s, {seconds['listwise generation'] / value:5.2f} times as fast as generation")


def _named(files: Sequence[str]) -> list[tuple[str, str]]:
    """Files of heads, each under the name of the folder that it was written to."""
    return [(f"heads {Path(file).resolve().parent.name}", file) for file in files]


def _numbered(run: Run, number: int) -> Run:
    """The same candidates of queries that end in a number."""
    return run.with_queries(run.queries.rewritten([f"{text} {number}" for text in run.queries.texts]))


def _in_a_process(kind: str, prefix: int, suffix: int, heads: int, groups: int, width: int) -> int:
    """Bytes by which a fresh process grows while the attention of one layer is computed; Linux only."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_growth, (kind, prefix, suffix, heads, groups, width))


def _growth(kind: str, prefix: int, suffix: int, heads: int, groups: int, width: int) -> int:
    length = prefix + suffix
    query = torch.randn(1, heads, length, width)
    key, value = torch.randn(1, groups, length, width), torch.randn(1, groups, length, width)
    layer: Any = SimpleNamespace(layer_idx=0, num_key_value_groups=heads // groups, training=False)

    def eager(size: int) -> None:
        part, mask = query[:, :, :size], torch.full((1, 1, size, size), float("-inf")).triu(1)
        eager_attention_forward(layer, part, key[:, :, :size], value[:, :, :size], mask, scaling=width**-0.5)

    def ours(begin: int, end: int) -> None:
        with reading(prefix=None if not begin else {0: (key[0, :, :begin], value[0, :, :begin])}, top=1):
            part = slice(begin, end)
            attend(layer, query[:, :, part], key[:, :, part], value[:, :, part], None, scaling=width**-0.5)

    with torch.inference_mode():
        for small in (True, False):  # the first time, threads and kernels take memory of their own
            Path("/proc/self/clear_refs").write_text("5")  # forgets the highest so far
            before = _status("VmRSS")
            if kind == "eager":
                eager(64 if small else length)
            else:
                ours(0, 64 if small else prefix)
                ours(64 if small else prefix, 80 if small else length)
    return max(_status("VmHWM") - before, 1)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", nargs="*", type=int, default=[2000, 4000], help="of prompts, about")
    parser.add_argument("--depths", nargs="*", type=int, default=[20, 40], help="candidates, against generation")
    parser.add_argument("--queries", type=int, default=3, help="against generation")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--heads", nargs="*", default=[], help="files of heads of this model")
    return parser


if __name__ == "__main__":
    sys.exit(main())
