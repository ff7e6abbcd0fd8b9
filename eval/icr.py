"""Re-ranking by an LLM's attention, against the first stage and against generation by the same model.

    RANKPIPE_DATA=FOLDER python eval/icr.py --dl19-run RUN --output eval/results/icr

The first 20 candidates of BM25, 100 words of each, are re-ranked by SmolLM2-135M-Instruct: by attention, uncalibrated and
calibrated, of all heads and of heads that were found on 100 train claims of scifact, in the whole network or, to be fast,
in its first layers only (--early); and, on 50 of the same queries, by generation: pointwise, likelihood, setwise, listwise.
Another 100 train claims (`choice`) decide which heads are taken, in which order the candidates are read (the best one last
or first), whether a document's length counts, and how much the first stage counts beside the attention; that one setting
serves all data sets. `bias` reads the candidates in random orders, for how much the ranking depends on the order.

A finished cell (one kind of work on one data set) is a small file in --output and is not run again; --cells and
--datasets choose some. Exit status: 0 all cells are there, 1 one or more failed, 2 a wrong command.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from cells import slug
from numpy.typing import NDArray
from rich.console import Console
from trained import by_query, digests, finished, mean, p_of, weights_of, write, write_cell

from rankpipe import BM25, Dataset, Pipeline, Queries, Run, Runtime
from rankpipe.errors import RankpipeError
from rankpipe.evaluation.experiment import given_run
from rankpipe.evaluation.manifest import versions
from rankpipe.machine import machine
from rankpipe.models.attention import AttentionScorer, AttentionSettings, Listed
from rankpipe.models.attention_scores import Heads, document_scores, read_heads
from rankpipe.models.prompt import load_prompt
from rankpipe.stage import is_default
from rankpipe.stages.attention import read_texts
from rankpipe.stages.generative import Generative
from rankpipe.stages.interpolate import Interpolate
from rankpipe.stages.likelihood import Likelihood
from rankpipe.stages.listwise import Listwise
from rankpipe.stages.pointwise import Pointwise
from rankpipe.stages.setwise import Setwise
from rankpipe.store import file_digest, key_digest
from rankpipe.training.queries import judged_queries

Reading = tuple[str, str]
"""In which order candidates are read, and what becomes of a document's tokens: "sum" or "mean"."""

MEASURE = "nDCG@10"
DEPTH, WORDS = 20, 100
SHUFFLES = 4
"""Random orders of the candidates."""
NORMALISED = ("sum", "mean")
ORDERS: Mapping[str, Callable[[int, int], NDArray[np.int64]]] = {
    "reverse": lambda _, count: np.arange(count)[::-1],
    "forward": lambda _, count: np.arange(count),
}
"""Orders of the candidates, as the stage has them: of the row of a query and their number."""
READINGS: tuple[Reading, ...] = tuple((order, normalise) for order in ORDERS for normalise in NORMALISED)
SIGMA = 2.0
HEADS = {
    "qr": "method: qr\nheads: 16",
    "core": "method: core\nheads: 8\ntemperature: 0.001",
    "logistic": "method: logistic",
    "qr-early": "method: qr\nheads: 1\nlayers: [0, {early}]",
    "logistic-early": "method: logistic\nlayers: [0, {early}]",
}
"""How heads are found, and how many: 16 and 8 are those of the papers."""
EARLY = ("qr-early", "logistic-early")
"""Of HEADS, those that need the first layers only."""
VARIANTS = ("raw", "calibrated", *HEADS)
WEIGHTS = tuple(round(step / 20, 2) for step in range(20))
"""Of the first stage, tried on `choice`."""
GENERATIVE: Mapping[str, Callable[[str], Generative]] = {
    "pointwise": lambda model: Pointwise(model=model, depth=DEPTH, max_words=WORDS),
    "likelihood": lambda model: Likelihood(model=model, depth=DEPTH, max_words=WORDS),
    "setwise": lambda model: Setwise(model=model, depth=DEPTH, max_words=WORDS),
    "listwise": lambda model: Listwise(model=model, depth=DEPTH, max_words=WORDS, constrained=False),
    "listwise-constrained": lambda model: Listwise(model=model, depth=DEPTH, max_words=WORDS),
}
CELLS = ("attention", "bias", *GENERATIVE)
DATASETS = ("scifact", "msmarco-dl19", "hotpotqa-100", "musique-100")
DEV = ("hotpotqa-100", "musique-100")
"""Data sets of which dev is reported: they have no other split, and nothing is chosen on them."""
SCORING = {"setwise": 2, "choice": 2, "attention": 2}
"""By kind of cell, 1 where none is given; raised whenever it may come out otherwise than before: finished ones count no more."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cells that are not there yet and write the table; give the exit status."""
    options = _parser().parse_args(arguments)
    say = Console(stderr=True, soft_wrap=True).print
    failed = False
    try:
        found = {name: _heads(name, options, say) for name in HEADS}
        choice = _choice(found, options, say)
    except (RankpipeError, subprocess.SubprocessError) as error:
        say(f"no heads, so no cell: {error}", markup=False)
        return 1
    for kind in options.cells:
        for name in options.datasets:
            if name == "msmarco-dl19" and options.dl19_run is None:
                continue
            try:
                _cell(kind, name, found, choice, options, say)
            except RankpipeError as error:
                say(f"{kind} of {name}: failed: {error}", markup=False)
                failed = True
    cells = [
        json.loads(file.read_text()) for file in sorted(options.output.glob("*/*.json")) if file.parent.name != "heads"
    ]
    command = shlex.join(["python", "eval/icr.py", *(sys.argv[1:] if arguments is None else arguments)])
    text = f"# Re-ranking by attention\n\n```sh\n{command}\n```\n\n" + "\n".join(_tables(cells, choice)) + "\n"
    write(options.output / "table.md", text)
    print(text)
    return int(failed)


def _heads(method: str, options: Any, say: Any) -> Path:
    """The file of heads that a method finds on train claims, made if it is not there."""
    folder: Path = options.output / "heads" / method
    precision = "" if options.dtype == "float32" else f", in {options.dtype}"
    recipe = (
        f"# found on {options.choice}{precision}\ntrain: attention-heads\nmodel: {options.model}\n"
        f"candidates: {{pipeline: bm25, depth: {DEPTH}}}\nmax_words: {WORDS}\n"
        f"queries: {options.queries}\nheld_out: 0.0\n{HEADS[method].format(early=options.early)}\n"
    )
    path = folder.with_suffix(".yaml")
    if not (folder / "heads.json").exists() or not path.exists() or path.read_text() != recipe:
        say(f"{folder}: finding heads", markup=False)
        shutil.rmtree(folder, ignore_errors=True)  # what is there is of another recipe than the one that is written now
        write(path, recipe)
        words = ["-m", "rankpipe", "train", str(path), "--dataset", options.choice, "--output", str(folder), "--force"]
        subprocess.run([sys.executable, *words, "--dtype", options.dtype], check=True, timeout=3600)
    return folder / "heads.json"


class _Reader:
    """Reads candidates by attention, all variants at once."""

    def __init__(self, heads: Mapping[str, Path], options: Any) -> None:
        settings = AttentionSettings(filter_sigma=None)
        self.scorer = AttentionScorer(options.model, settings, Runtime(dtype=options.dtype))
        shape = self.scorer.shape
        self._heads = {
            "calibrated": Heads.all(*shape),
            **{name: Heads.of(read_heads(path)["chosen"], *shape) for name, path in heads.items()},
        }

    def scores(
        self, listed: Listed, query: str, order: NDArray[np.int64]
    ) -> dict[tuple[str, str], NDArray[np.float64]]:
        """(N,) scores of a query's candidates, listed in an order of them, by variant and whether normalised."""
        raw, calibrated = self.scorer.attention(self.scorer.read(listed), query)
        tokens: dict[str, tuple[NDArray[np.float64], float | None]] = {
            "raw": (Heads.all(*self.scorer.shape).summed(raw), None)
        }
        for name, heads in self._heads.items():
            tokens[name] = (heads.summed(calibrated[list(heads.layers)]), SIGMA)
        found = {}
        for name, (values, sigma) in tokens.items():
            for normalise in NORMALISED:
                scores = document_scores(values, listed.begins, listed.ends, sigma=sigma, mean=normalise == "mean")
                found[name, normalise] = np.empty(len(order))
                found[name, normalise][order] = scores
        return found

    def runs(self, first: Run, ordered: Callable[[int, int], NDArray[np.int64]]) -> dict[tuple[str, str], Run]:
        """The run by variant and whether normalised; the order of candidates is a function of their row and their number."""
        scores = {(name, normalise): np.zeros(len(first.documents)) for name in VARIANTS for normalise in NORMALISED}
        rows = np.flatnonzero(first.counts).tolist()
        orders = {row: ordered(row, int(first.counts[row])) for row in rows}
        listed = {row: self._listed(first, row, orders[row]) for row in rows}
        tokens = {row: self.scorer.tokens(listed[row], first.queries.texts[row]) for row in rows}
        largest = max(rows, key=tokens.__getitem__)
        at_once = self.scorer.at_once(tokens[largest], f"query {first.queries.ids[largest]!r}")

        def read(row: int) -> dict[tuple[str, str], NDArray[np.float64]]:
            return self.scores(listed[row], first.queries.texts[row], orders[row])

        for row, found in self.scorer.each(read, rows, at_once):
            for name, values in found.items():
                scores[name][first.span(row)] = values
        return {name: first.rescored(values) for name, values in scores.items()}

    def readings(self, first: Run) -> dict[str, Run]:
        """The run by every variant and reading; see _named."""
        return {
            _named(variant, (order, normalise)): run
            for order, ordered in ORDERS.items()
            for (variant, normalise), run in self.runs(first, ordered).items()
        }

    def _listed(self, run: Run, row: int, order: NDArray[np.int64]) -> Listed:
        documents = run.documents[run.span(row)]
        return self.scorer.listed(read_texts(run.corpus, documents[order], ("title", "text"), WORDS)[0])


def _named(variant: str, reading: Sequence[str]) -> str:
    return f"{variant}, {', '.join(reading)}"


def _first(name: str, dataset: Dataset, queries: Queries, options: Any) -> Run:
    """The first stage's candidates, its scores under the name "run"."""
    if name == "msmarco-dl19":
        given = given_run(options.dl19_run, dataset, ties="rank").top(DEPTH)
        run = given.select([given.queries.row(one) for one in queries.ids if one in given.queries])
    else:
        run = Pipeline(stages=(BM25(k=1000),), corpus=dataset.corpus).run(queries).top(DEPTH)
    return run.with_feature("run", run.scores)


def _some(queries: Queries, count: int) -> Queries:
    """At most so many queries, drawn by a seed; of fewer, they are among those of more."""
    return queries.select(np.sort(np.random.default_rng(0).permutation(len(queries))[:count]))


def _mixed(run: Run, weight: float) -> Run:
    return Interpolate(with_="run", weight=weight)(run)


def _choice(heads: Mapping[str, Path], options: Any, say: Any) -> dict[str, Any]:
    """Which heads are taken, how every variant reads with the first stage, and its weight: by other train claims."""
    file: Path = options.output / "choice" / f"{slug(options.choice)}.json"
    used = set(read_heads(heads["qr"])["data"]["chosen_on"])
    key = _key("choice", options.choice, heads, None, options)
    if (kept := finished(file, key)) is not None:
        return kept
    say(f"{file}: reading", markup=False)
    dataset, started = Dataset.load(options.choice), time.perf_counter()
    queries, _ = judged_queries(dataset, "train")
    queries = queries.select([row for row, one in enumerate(queries.ids) if one not in used])
    first = _first(options.choice, dataset, _some(queries, options.queries), options)
    runs = _Reader(heads, options).readings(first)
    value = {
        (name, weight): mean(by_query(_mixed(run, weight), dataset, "train", MEASURE))
        for name, run in runs.items()
        for weight in WEIGHTS
    }
    best = {
        variant: max(
            ((reading, weight) for reading in READINGS for weight in WEIGHTS),
            key=lambda one, variant=variant: value[_named(variant, one[0]), one[1]],
        )
        for variant in VARIANTS
    }
    chosen = {variant: value[_named(variant, reading), weight] for variant, (reading, weight) in best.items()}
    content = {
        "key": key,
        "kind": "choice",
        "dataset": options.choice,
        "queries": len(first),
        "first": mean(by_query(first, dataset, "train", MEASURE)),
        "by_weight": {name: {f"{weight:g}": value[name, weight] for weight in WEIGHTS} for name in runs},
        "reading": {variant: list(reading) for variant, (reading, _) in best.items()},
        "weight": {variant: weight for variant, (_, weight) in best.items()},
        "best": chosen,
        "heads": max(HEADS, key=chosen.__getitem__),
        "early": max(EARLY, key=chosen.__getitem__),
        "seconds": round(time.perf_counter() - started, 1),
        "versions": versions(),
        "machine": machine(),
    }
    write_cell(file, content)
    return content


def _count(kind: str, options: Any) -> int:
    """Queries of a data set, at most."""
    return {"choice": options.queries, "attention": options.queries, "bias": options.shuffled}.get(
        kind, options.generated
    )


def _key(kind: str, name: str, heads: Mapping[str, Path], choice: Mapping[str, Any] | None, options: Any) -> str:
    attends = kind in ("choice", "attention", "bias")
    stage = None if attends else GENERATIVE[kind](options.model)
    prompt = AttentionSettings().prompt if stage is None else stage.prompt
    return key_digest(
        {
            "scoring": SCORING.get(kind, 1),
            "kind": kind,
            "data": digests(name),
            "given": file_digest(options.dl19_run) if name == "msmarco-dl19" else None,
            "heads": {one: read_heads(path)["chosen"] for one, path in heads.items()} if attends else None,
            "weight": [choice["reading"], choice["weight"]] if choice is not None and kind == "attention" else None,
            "sizes": [DEPTH, WORDS, _count(kind, options), SHUFFLES],
            "stage": None if stage is None else _stated(stage),
            "prompt": load_prompt(prompt).digest(),
            "model": weights_of(options.model),
            "dtype": options.dtype,
        }
    )


def _stated(stage: Generative) -> dict[str, Any]:
    """Its type and the settings that are not their defaults: a setting that is new makes no other cell of an old one."""
    names = (one.name for one in fields(stage))
    return {
        "type": stage.type_name(),
        **{name: getattr(stage, name) for name in names if not is_default(stage, name)},
    }


def _cell(kind: str, name: str, heads: Mapping[str, Path], choice: Mapping[str, Any], options: Any, say: Any) -> None:
    file: Path = options.output / slug(name) / f"{kind}.json"
    key = _key(kind, name, heads, choice, options)
    if finished(file, key) is not None:
        say(f"{file}: finished before", markup=False)
        return
    say(f"{file}: reading", markup=False)
    dataset, split, started = Dataset.load(name), _split(name), time.process_time()
    queries = _some(dataset.queries(split), _count(kind, options))
    first = _first(name, dataset, queries, options)
    if kind == "attention":
        runs = _Reader(heads, options).readings(first)
        for one, weight in choice["weight"].items():
            runs[f"{one}, mixed"] = _mixed(runs[_named(one, choice["reading"][one])], weight)
        told = {one: by_query(run, dataset, split, MEASURE) for one, run in {"first": first, **runs}.items()}
        results: dict[str, Any] = {"by_query": told}
    elif kind == "bias":
        reader = _Reader(heads, options)
        results = {"by_order": {one: [] for one in VARIANTS}}
        for seed in range(SHUFFLES):
            runs = reader.runs(first, _shuffled(seed))
            for one, orders in results["by_order"].items():
                orders.append(by_query(runs[one, "sum"], dataset, split, MEASURE))
    else:
        stage = GENERATIVE[kind](options.model)
        pipeline = Pipeline(stages=(stage,), runtime=Runtime(dtype=options.dtype))
        run = pipeline.rerank(first)
        with pipeline.runtime.active():
            results = {"counted": dict(stage.counted(dataset.corpus))}
        results["by_query"] = {
            one: by_query(run, dataset, split, MEASURE) for one, run in (("first", first), (kind, run))
        }
    content = {
        "key": key,
        "kind": kind,
        "dataset": name,
        "split": split,
        "queries": len(first),
        **results,
        "core_seconds": round(time.process_time() - started, 1),
        "dtype": options.dtype,
        "versions": versions(),
        "machine": machine(),
    }
    write_cell(file, content)


def _split(name: str) -> str:
    return "dev" if name in DEV else "test"


def _shuffled(seed: int) -> Callable[[int, int], NDArray[np.int64]]:
    return lambda row, count: np.random.default_rng([seed, row]).permutation(count)


def _tables(cells: Sequence[Mapping[str, Any]], choice: Mapping[str, Any]) -> Iterator[str]:
    by = {(one["kind"], one["dataset"]): one for one in cells}
    names = [name for kind, name in by if kind == "attention"]
    yield from _chosen(choice)
    yield from _attention([by["attention", name] for name in names], choice)
    yield from _generation(by, names, choice)
    if any(kind == "bias" for kind, _ in by):
        yield from _bias(by)
    yield ""
    for (kind, name), one in by.items():
        if one.get("counted"):
            yield f"- {kind}, {name}: {json.dumps(one['counted'])}"


def _chosen(choice: Mapping[str, Any]) -> Iterator[str]:
    """What the claims that everything is chosen on say of every variant and reading."""
    yield (
        f"Chosen on {choice['queries']} other train claims of {choice['dataset']}, the first stage's {MEASURE} being "
        f"{choice['first']:.4f}: heads `{choice['heads']}`, and of the first layers `{choice['early']}`. Candidates are read "
        "with the best one last (reverse) or first (forward); what a document's tokens draw is added up (sum) or divided by "
        "their number (mean). The best of these readings is taken, alone and with the first stage.\n"
    )
    yield f"| {MEASURE} | {' | '.join(', '.join(one) for one in READINGS)} | best with the first stage |"
    yield f"|---|{'---:|' * (len(READINGS) + 1)}"
    for variant in VARIANTS:
        alone = [choice["by_weight"][_named(variant, reading)]["0"] for reading in READINGS]
        how = f"{', '.join(choice['reading'][variant])}, weight {choice['weight'][variant]:g}"
        yield f"| {variant} | {' | '.join(f'{one:.4f}' for one in alone)} | {how}: {choice['best'][variant]:.4f} |"
    yield ""


def _attention(cells: Sequence[Mapping[str, Any]], choice: Mapping[str, Any]) -> Iterator[str]:
    """Every variant, read as was best on the claims that everything is chosen on, alone and with the first stage."""
    yield f"| {MEASURE} | {' | '.join(cell['dataset'] for cell in cells)} |\n|---|{'---:|' * len(cells)}"
    rows = {"first": "first"}
    rows |= {row: row for row in (_alone(one, choice) for one in VARIANTS)}
    rows |= {f"{one}, mixed": _mixture(one, choice) for one in VARIANTS}
    for row, told in rows.items():
        shown = [
            f"{mean(values[row]):.4f}"
            + ("" if row == "first" else f" (p {p_of(values['first'], values[row], MEASURE)})")
            for values in (cell["by_query"] for cell in cells)
        ]
        yield f"| {told} | {' | '.join(shown)} |"
    yield "\np: paired t-test against the first stage.\n"


def _alone(variant: str, choice: Mapping[str, Any]) -> str:
    """Under which name a cell of attention has a variant as it is best without the first stage."""
    return max((_named(variant, reading) for reading in READINGS), key=lambda name: choice["by_weight"][name]["0"])


def _mixture(variant: str, choice: Mapping[str, Any]) -> str:
    """A variant as it is best with the first stage, for a table."""
    return f"{_named(variant, choice['reading'][variant])}, mixed, weight {choice['weight'][variant]:g}"


def _generation(
    by: Mapping[tuple[str, str], Mapping[str, Any]], names: Sequence[str], choice: Mapping[str, Any]
) -> Iterator[str]:
    """Attention and generation on the same queries."""
    yield "On the queries that generation was asked for too:\n"
    yield f"| {MEASURE} | {' | '.join(names)} | mean |\n|---|{'---:|' * (len(names) + 1)}"
    rows = {"first": "first", (everything := _alone("calibrated", choice)): everything}
    for one in dict.fromkeys((choice["heads"], choice["early"])):
        rows |= {_alone(one, choice): _alone(one, choice), f"{one}, mixed": _mixture(one, choice)}
    rows |= {kind: kind for kind in GENERATIVE if any((kind, name) in by for name in names)}
    for row, what in rows.items():
        shown, seconds = [], []
        for name in names:
            asked = [by[kind, name] for kind in GENERATIVE if (kind, name) in by]
            cell = by.get((row, name)) if row in GENERATIVE else by["attention", name]
            ids = set(asked[0]["by_query"]["first"]) if asked else set()
            values = {} if cell is None else cell["by_query"][row]
            shown.append(fmean(values[one] for one in ids) if ids and ids <= set(values) else None)
            if row in GENERATIVE and cell is not None and "core_seconds" in cell:
                seconds.append(cell["core_seconds"] / cell["queries"])
        whole = fmean(shown) if None not in shown and shown else None  # type: ignore[type-var]
        told = f", {fmean(seconds):.0f} s of a core a query" if seconds else ""
        yield f"| {what}{told} | {' | '.join('' if one is None else f'{one:.4f}' for one in (*shown, whole))} |"


def _bias(by: Mapping[tuple[str, str], Mapping[str, Any]]) -> Iterator[str]:
    """What becomes of the ranking where the candidates are read in another order."""
    cells = {name: one for (kind, name), one in by.items() if kind == "bias"}
    yield (
        f"\nCandidates read in {SHUFFLES} random orders, tokens added up: mean, and standard deviation of a query's {MEASURE} "
        "over the orders; in brackets, on the same queries, the first stage's best candidate last / first.\n"
    )
    yield f"| {MEASURE} | {' | '.join(cells)} |\n|---|{'---:|' * len(cells)}"
    for variant in ("first", *VARIANTS):
        shown = []
        for name, cell in cells.items():
            ids = cell["by_order"]["raw"][0].keys()
            read = by["attention", name]["by_query"] if ("attention", name) in by else {"first": {}}
            rows = ["first"] if variant == "first" else [_named(variant, (order, "sum")) for order in ORDERS]
            there = ids <= read["first"].keys()
            beside = " / ".join(f"{fmean(read[row][one] for one in ids):.4f}" for row in rows) if there else ""
            if variant != "first":
                orders = cell["by_order"][variant]
                spread = fmean(stdev(order[one] for order in orders) for one in ids)
                beside = f"{fmean(map(mean, orders)):.4f} ± {spread:.4f}" + (f" ({beside})" if beside else "")
            shown.append(beside)
        yield f"| {variant} | {' | '.join(shown)} |"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS))
    parser.add_argument("--choice", default="scifact", help="data set on whose train queries everything is chosen")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--queries", type=int, default=100, help="of a data set, at most, read by attention")
    parser.add_argument("--generated", type=int, default=50, help="of these, asked for by generation")
    parser.add_argument("--shuffled", type=int, default=20, help="read in random orders")
    parser.add_argument("--early", type=int, default=7, help="highest of the first layers that heads are found in")
    parser.add_argument("--dtype", default="float32", help="of the network")
    parser.add_argument("--dl19-run", type=Path, help="BM25's run file of TREC DL 2019; without it, that is left out")
    parser.add_argument("--output", type=Path, required=True, help="folder of the cells and the table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
