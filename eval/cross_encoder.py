"""Cross-encoders on scifact and nfcorpus: the hybrid's first hundred re-ranked, by method of tuning.

    RANKPIPE_DATA=FOLDER python eval/cross_encoder.py --methods full lora --models FOLDER --output eval/results/cross-encoder

For each data set, one network is warmed up: the hybrid's scores are distilled into all-MiniLM-L6-v2 over titles and
sentences (eval/recipes/cross-encoder-warm.yaml), by an adapter, which is kept in --output and merged where the network
is not in --models. Each method then tunes that network on the judgements of the train split; `none`
leaves it as it is. Every choice is made on development queries: dev, or where there is none a fifth of train that is
held out; the weight of the first stage is chosen there too. Test queries are for reporting.

`--protocol full`: three seeds, a hundred candidates of every test query, and what was not trained on: cranfield and
vaswani behind the hybrid, TREC DL 2019 behind BM25. `--protocol reduced`: one seed, fewer steps, 100 test queries.
`--dtype int8` measures with networks in 8-bit integers, which takes a CPU half the time; they are trained in float32.

Trained networks stand in --models and are used again; a finished cell (one method, seed and data set) is a small file
in --output and is not run again. Exit status: 0 all cells are there, 1 one or more failed, 2 a wrong command.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from cells import DTYPE
from rich.console import Console
from trained import (
    RUNTIME,
    by_query,
    curve,
    digests,
    finished,
    mean,
    over_seeds,
    p_of,
    train,
    write,
    write_all,
    write_cell,
)

from rankpipe import Dataset, Pipeline, Queries, Run, Runtime
from rankpipe.errors import RankpipeError
from rankpipe.evaluation.experiment import given_run
from rankpipe.evaluation.manifest import described, versions
from rankpipe.machine import machine
from rankpipe.models.adapter_folder import merged
from rankpipe.models.adapters.diagnose import intruder_dimensions
from rankpipe.models.references import resolve
from rankpipe.stages.cross_encoder import CrossEncoder
from rankpipe.stages.interpolate import Interpolate
from rankpipe.store import file_digest, key_digest
from rankpipe.training.networks import open_cross_encoder, write_cross_encoder
from rankpipe.training.queries import held_out, judged_queries
from rankpipe.writing import replacing_folder

MEASURE = "nDCG@10"
WARM = Path(__file__).parent / "recipes" / "cross-encoder-warm.yaml"
ADAPTERS = ("lora", "dora", "pissa", "olora", "eva", "adalora", "randlora", "dylora", "sora")
METHODS = ("none", "full", *ADAPTERS)
LEARNING_RATE = {"full": 5e-5, "sora": 8e-4, "adalora": 2e-3}
"""By method; a gate of SoRA has to move faster than its threshold, and AdaLoRA's three factors begin so small that at
ADAPTER_RATE nothing comes of 60 steps. That of `full` was chosen on development queries."""
ADAPTER_RATE = 2e-4
"""Of all others."""
SCORING = 1
"""Raised whenever the same cell may come out otherwise than before: then no finished one counts any more."""
MAX_LENGTH = 128
"""Tokens of a pair that are read, by the warmed network and by those that are tuned."""
KEPT = (
    *("recipe", "digests", "examples", "trained_parameters", "best", "curve", "intruder_dimensions"),
    *("versions", "machine", "most_memory", "seconds"),
)
"""Of a warmed network's manifest: all but where it was made."""
WEIGHTS = tuple(round(step / 20, 2) for step in range(21))
"""Of the first stage, tried on development queries."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How much is done.

    steps      of tuning on judgements, at most
    every      steps from one measurement on development queries to the next, of which the best is kept
    depth      candidates that are re-ranked
    chosen     development queries that the weight of the first stage is chosen on
    test       test queries, drawn by a seed; None: all
    seeds      of the training
    elsewhere  test queries of each collection that was not trained on, measured with the first seed; 0: none
    """

    steps: int
    every: int
    depth: int
    chosen: int
    test: int | None
    seeds: int
    elsewhere: int


PROTOCOLS = {
    "full": Protocol(steps=300, every=100, depth=100, chosen=80, test=None, seeds=3, elsewhere=100),
    "reduced": Protocol(steps=60, every=30, depth=50, chosen=60, test=100, seeds=1, elsewhere=0),
}
ELSEWHERE_DEPTH = 50
"""Candidates that are re-ranked of collections that were not trained on."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cells that are not there yet and write the table; give the exit status."""
    options = _parser().parse_args(arguments)
    protocol, say = PROTOCOLS[options.protocol], Console(stderr=True).print
    failed = False
    for name in options.datasets:
        for method in options.methods:
            for seed in range(1 if method == "none" else options.seeds or protocol.seeds):
                file = options.output / options.protocol / name / f"{method}-{seed}.json"
                try:
                    _cell(file, name, method, seed, options, say)
                except (RankpipeError, subprocess.SubprocessError) as error:
                    say(f"{file}: failed: {error}", markup=False)
                    failed = True
    command = ["python", "eval/cross_encoder.py", *(sys.argv[1:] if arguments is None else arguments)]
    write_all(options.output / options.protocol, f"Cross-encoders, protocol {options.protocol}", command, _table)
    return int(failed)


def _cell(file: Path, name: str, method: str, seed: int, options: Any, say: Any) -> dict[str, Any]:
    protocol, dataset = PROTOCOLS[options.protocol], Dataset.load(name)
    warmed = _Warmed(name, options)
    recipe = "" if method == "none" else _recipe(method, seed, protocol, warmed.folder)
    told = recipe.replace(str(warmed.folder), "warm")  # where the folder stands is of no interest to others
    elsewhere = _elsewhere_of(protocol, seed, options.dl19_run)
    key = key_digest(
        {
            "scoring": SCORING,
            "warm": warmed.digest,
            "recipe": told,
            "protocol": {
                name: value for name, value in vars(protocol).items() if name != "every"
            },  # the recipe says it
            "first": [described(stage) for stage in Pipeline.load("hybrid").stages],
            "dtype": options.dtype,
            "data": [digests(one) for one in (name, *elsewhere)],
            "given": file_digest(options.dl19_run) if "msmarco-dl19" in elsewhere else None,
        }
    )
    if (found := finished(file, key)) is not None:
        say(f"{file}: finished before", markup=False)
        return found
    warm = folder = warmed.network(say)
    if method != "none":
        folder = options.models / name / f"{options.protocol}-{method}-{seed}-{key[:8]}"
        write(written := folder.with_suffix(".yaml"), recipe)
        train(written, name, folder, say)
    manifests = {one: json.loads((one / "manifest.json").read_text()) for one in (warm, folder)}
    tuned = (
        manifests[folder] if method != "none" else {"trained_parameters": 0, "seconds": {"training": 0}, "curve": []}
    )
    say(f"{file}: measuring", markup=False)
    content = {
        "key": key,
        "dataset": name,
        "method": method,
        "seed": seed,
        "protocol": vars(protocol),
        "recipe": told,
        "trained_parameters": tuned["trained_parameters"],
        "seconds": {"warm": manifests[warm]["seconds"]["training"], "tuning": tuned["seconds"]["training"]},
        "most_memory": manifests[folder]["most_memory"],
        "intruder_dimensions": _intruders(folder),
        "curve": {"warm": manifests[warm]["curve"], "tuning": tuned["curve"]},
        "versions": versions(),
        "machine": machine(),
        "dtype": options.dtype,
        **_Measuring(folder, Runtime(dtype=options.dtype), protocol).all(dataset, seed, elsewhere, options.dl19_run),
    }
    write_cell(file, content)
    return content


def _intruders(folder: Path) -> int:
    """Intruder dimensions of all layers, beside minilm."""
    before, after = (_layers(one) for one in (resolve("minilm"), folder))
    return sum(intruder_dimensions(before, after).values())


def _layers(folder: Path) -> dict[str, torch.Tensor]:
    network, _ = open_cross_encoder(folder, 0, dropout=0.0, device=torch.device("cpu"))
    return {
        name: module.weight.detach()
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith("bert.encoder.")
    }


def _recipe(method: str, seed: int, protocol: Protocol, warm: Path) -> str:
    adapter = "" if method == "full" else f"adapter: {{method: {method}}}\n"
    rate = LEARNING_RATE.get(method, ADAPTER_RATE)
    return (
        f"train: cross-encoder\nmodel: {warm}\n{adapter}max_length: {MAX_LENGTH}\n"
        "candidates: {pipeline: hybrid, depth: 100}\n"
        "phases:\n"
        f"  - labels: {{loss: softmax, relevant: candidates, batch: 4, group: 8, steps: {protocol.steps}, learning_rate: {rate}}}\n"
        f"development: {{queries: 40, depth: 25, every: {protocol.every}, patience: null}}\n"
        f"seed: {seed}\n"
    )


class _Warmed:
    """The warmed network of a data set: in --models, trained or made of minilm and the adapter that --output keeps."""

    def __init__(self, name: str, options: Any) -> None:
        self.name = name
        self.digest = key_digest({"recipe": WARM.read_text(), **digests(name)})
        self.folder = (options.models / name / f"warm-{self.digest[:8]}").resolve()
        self._kept: Path = options.output / "warm" / f"{name}-{self.digest[:8]}"

    def network(self, say: Any) -> Path:
        """Its folder, which is there afterwards, and so is the adapter that is kept."""
        there, kept = ((one / "manifest.json").exists() for one in (self.folder, self._kept))
        if kept and not there:
            self._merge(say)
        elif not there:
            train(WARM, self.name, self.folder, say)
        if not kept:
            with replacing_folder(self._kept) as place:
                shutil.copytree(self.folder / "adapter", place / "adapter")
                told = json.loads((self.folder / "manifest.json").read_text())
                write(place / "manifest.json", json.dumps({name: told[name] for name in KEPT}, indent=1) + "\n")
        return self.folder

    def _merge(self, say: Any) -> None:
        say(f"{self.folder}: minilm with the adapter {self._kept / 'adapter'}", markup=False)
        base = resolve("minilm")
        network, drawn = open_cross_encoder(base, 0, dropout=0.0, device=torch.device("cpu"))
        whole = merged(network, self._kept / "adapter", base, drawn)
        with replacing_folder(self.folder) as place:
            write_cross_encoder(whole, base, place, max_length=MAX_LENGTH)
            shutil.copy(self._kept / "manifest.json", place / "manifest.json")


@dataclass(frozen=True)
class _Measuring:
    """nDCG@10 of the first stage, of a network alone and of both.

    runtime  of the network
    """

    folder: Path
    runtime: Runtime
    protocol: Protocol

    def all(self, dataset: Dataset, seed: int, elsewhere: Sequence[str], bm25: Path | None) -> dict[str, Any]:
        """On test and on what was not trained on, with the weight that is best on development queries."""
        protocol = self.protocol
        first, alone = self._reranked(dataset, _development(dataset, seed, protocol.chosen), protocol.depth)
        split = "dev" if "dev" in dataset.splits else "train"
        chosen = {weight: _value(_mixed(alone, weight), dataset, split) for weight in WEIGHTS}
        weight = max(WEIGHTS, key=lambda one: chosen[one])
        queries = _some(dataset.queries("test"), protocol.test)
        parts = [("test", dataset, *self._reranked(dataset, queries, protocol.depth))]
        parts += self._elsewhere(elsewhere, bm25)
        return {
            "weight": weight,
            "development": {"first": _value(first, dataset, split), "by_weight": chosen},
            "results": {
                name: {
                    kind: by_query(run, one, "test", MEASURE)
                    for kind, run in (("first", before), ("alone", after), ("mixed", _mixed(after, weight)))
                }
                for name, one, before, after in parts
            },
        }

    def _elsewhere(self, names: Sequence[str], bm25: Path | None) -> Iterator[tuple[str, Dataset, Run, Run]]:
        for name in names:
            dataset = Dataset.load(name)
            if name == "msmarco-dl19" and bm25 is not None:
                first = given_run(bm25, dataset, ties="rank").top(ELSEWHERE_DEPTH)
                yield name, dataset, first, self._scored(first)
            else:
                queries = _some(dataset.queries("test"), self.protocol.elsewhere)
                yield (name, dataset, *self._reranked(dataset, queries, ELSEWHERE_DEPTH))

    def _reranked(self, dataset: Dataset, queries: Queries, depth: int) -> tuple[Run, Run]:
        """The hybrid's first candidates, and the network's order of them."""
        first = Pipeline.load("hybrid", corpus=dataset.corpus, runtime=RUNTIME).run(queries).top(depth)
        return first, self._scored(first)

    def _scored(self, first: Run) -> Run:
        stage = CrossEncoder(model=str(self.folder), depth=self.protocol.depth, rest="drop")
        return Pipeline(stages=(stage,), runtime=self.runtime).rerank(first)


def _some(queries: Queries, count: int | None) -> Queries:
    """At most so many queries, drawn by a seed; None: all."""
    return queries.select(np.sort(np.random.default_rng(0).permutation(len(queries))[:count]))


def _development(dataset: Dataset, seed: int, count: int) -> Queries:
    """Development queries, of which training has some."""
    if "dev" in dataset.splits:
        queries = judged_queries(dataset, "dev", beside="train")[0]
    else:  # those that training held out
        queries = held_out(judged_queries(dataset, "train")[0], 0.2, seed)[1]
    return _some(queries, count)


def _elsewhere_of(protocol: Protocol, seed: int, bm25: Path | None) -> list[str]:
    """Collections that were not trained on, as far as they are measured."""
    if not (protocol.elsewhere and seed == 0):
        return []
    return ["cranfield", "vaswani", *(["msmarco-dl19"] if bm25 else [])]


def _mixed(alone: Run, weight: float) -> Run:
    return Interpolate(with_="run", weight=weight)(alone)


def _value(run: Run, dataset: Dataset, split: str) -> float:
    return fmean(by_query(run, dataset, split, MEASURE).values())


def _table(cells: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """One row per data set and method: means over the seeds; p of the paired t-test of mixed against first stage."""
    heads = ("data set", "method", "seeds", "dev, hybrid", "dev, mixed", "hybrid", "alone", "mixed", "p")
    heads += ("trained weights", "minutes", "MiB", "intruders", "elsewhere")
    yield f"| {' | '.join(heads)} |"
    yield f"|---|---|{'---:|' * (len(heads) - 3)}---|"
    for name, method in dict.fromkeys((one["dataset"], one["method"]) for one in cells):
        rows = [one for one in cells if (one["dataset"], one["method"]) == (name, method)]
        test = [one["results"]["test"] for one in rows]
        first, alone, mixed = (over_seeds([one[kind] for one in test]) for kind in ("first", "alone", "mixed"))
        elsewhere = [
            f"{other} {mean(values['first']):.4f} → {mean(values['mixed']):.4f} "
            f"(p {p_of(values['first'], values['mixed'], MEASURE)})"
            for other, values in rows[0]["results"].items()
            if other != "test"
        ]
        developed = [(one["development"]["first"], max(one["development"]["by_weight"].values())) for one in rows]
        development = [fmean(values) for values in zip(*developed, strict=True)]
        minutes = fmean(one["seconds"]["warm"] + one["seconds"]["tuning"] for one in rows) / 60
        memory = max(one["most_memory"] or 0 for one in rows) >> 20
        intruders = fmean(one["intruder_dimensions"] for one in rows)
        yield (
            f"| {name} | {method} | {len(rows)} | {development[0]:.4f} | {development[1]:.4f} "
            f"| {mean(first):.4f} | {mean(alone):.4f} | {mean(mixed):.4f} | {p_of(first, mixed, MEASURE)} "
            f"| {rows[0]['trained_parameters']:,} | {minutes:.0f} | {memory or ''} "
            f"| {intruders:.0f} | {'; '.join(elsewhere)} |"
        )
    yield "\nWhat more minutes buy: nDCG@10 on development queries, the network alone.\n"
    for name in dict.fromkeys(one["dataset"] for one in cells):
        one = next(one for one in cells if one["dataset"] == name)
        yield f"- {name}, warming up: " + curve(one["curve"]["warm"], MEASURE)
        for method in dict.fromkeys(one["method"] for one in cells if one["dataset"] == name):
            tuned = next(one for one in cells if (one["dataset"], one["method"]) == (name, method))
            yield f"- {name}, then {method}: " + curve(tuned["curve"]["tuning"], MEASURE)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=["scifact", "nfcorpus"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["none", "full", "lora"])
    parser.add_argument("--protocol", choices=tuple(PROTOCOLS), default="full")
    parser.add_argument("--dtype", default=DTYPE, help="of networks as they are measured, such as int8")
    parser.add_argument("--seeds", type=int, help="of a training; by default as many as the protocol has")
    parser.add_argument("--models", type=Path, required=True, help="folder for trained networks")
    parser.add_argument("--dl19-run", type=Path, help="BM25's run file of TREC DL 2019; without it, that is left out")
    parser.add_argument("--output", type=Path, required=True, help="folder of the cells and the table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
