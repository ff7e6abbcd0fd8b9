"""Dense retrieval trained on nfcorpus and scifact: random negatives, STAR, ADORE after either.

    RANKPIPE_DATA=FOLDER python eval/star_adore.py --models FOLDER --output eval/results/star-adore

All begin with all-MiniLM-L6-v2, which reads 256 tokens (`zero-shot`) and here 128 (`zero-shot-short`), and take the same steps of the same size: `in-batch` learns from the other queries'
documents alone, `random` from a random document besides, `star` from a hard one that the model found itself. `adore-...`
goes on with what one of them left, and trains the encoder of queries alone. Everything is chosen on development
queries: dev, or where there is none a fifth of train that is held out. Test queries are for reporting.

With the first seed, the model as it is and what STAR and ADORE leave on nfcorpus are measured on scifact, cranfield and
vaswani, too.

Trained networks stand in --models and are used again; a finished cell (one method, seed and data set) is a small file
in --output and is not run again. Exit status: 0 all cells are there, 1 one or more failed, 2 a wrong command.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from cells import slug
from rich.console import Console
from trained import (
    RUNTIME,
    by_query,
    cell_done,
    cells_of,
    curve,
    digests,
    finished,
    mean,
    over_seeds,
    p_of,
    relevant,
    spread,
    train,
    weights_of,
    write,
    write_all,
    write_cell,
)

from rankpipe import Dataset, Dense, Pipeline
from rankpipe.evaluation.manifest import versions
from rankpipe.machine import machine
from rankpipe.store import key_digest

MEASURES = ("nDCG@10", "R@100")
ZERO, SHORT = "zero-shot", "zero-shot-short"
"""The model as it is, and as it is but for the length that trained ones read."""
FIRST = ("in-batch", "random", "star")
"""Methods that train both encoders, from the model as it is."""
METHODS = (ZERO, SHORT, *FIRST, "adore-random", "adore-star")
SEEDS = {"nfcorpus": 3, "scifact": 1}
ELSEWHERE = {"nfcorpus": ("scifact", "cranfield", "vaswani")}
"""Collections that a network which was trained on another one is measured on."""
MEASURED_ELSEWHERE = (ZERO, SHORT, "star", "adore-star")
NEGATIVES = {"in-batch": "hard: 0", "random": "hard: 0, random: 1", "star": "hard: 1"}
FIRST_RATE, ADORE_RATE = "1.0e-4", "1.0e-4"
"""Learning rates, chosen on nfcorpus' development queries, as were the loss and the number of steps."""
ORDER = (("random", "star"), ("star", "adore-star"), ("random", "adore-random"), (ZERO, "adore-star"))
"""Pairs of which the second should be better."""
SCORING = 1
"""Raised whenever the same cell may come out otherwise than before: then no finished one counts any more."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cells that are not there yet and write the table; give the exit status."""
    options = _parser().parse_args(arguments)
    say = Console(stderr=True, soft_wrap=True).print
    wanted = [
        (name, method, seed)
        for name in options.datasets
        for method in options.methods
        for seed in range(1 if method in (ZERO, SHORT) else options.seeds or SEEDS.get(name, 1))
    ]
    done = [
        cell_done(partial(_cell, name, method, seed, options, say), f"{name}, {method}, seed {seed}", say)
        for name, method, seed in wanted
    ]
    command = ["python", "eval/star_adore.py", *(sys.argv[1:] if arguments is None else arguments)]
    write_all(options.output, "STAR and ADORE", command, _table)
    return int(not all(done))


def _cell(name: str, method: str, seed: int, options: argparse.Namespace, say: Any) -> dict[str, Any]:
    """A cell from its file if that still holds, else run; that of the network it begins with comes before."""
    file = options.output / slug(name) / f"{method}-{seed}.json"
    before = method.removeprefix("adore-") if method.startswith("adore-") else None
    begun = _cell(name, before, seed, options, say) if before else None
    recipe = "" if method in (ZERO, SHORT) else _recipe(method, seed, options)
    elsewhere = ELSEWHERE.get(name, ()) if seed == 0 and method in MEASURED_ELSEWHERE and not options.steps else ()
    key = key_digest(
        {
            "scoring": SCORING,
            "recipe": recipe,
            "length": options.max_length if method == SHORT else None,
            "begins": begun["key"] if begun else weights_of(options.model),
            "data": [digests(one) for one in (name, *elsewhere)],
        }
    )
    if (found := finished(file, key)) is not None:
        say(f"{file}: finished before", markup=False)
        return found
    model = query_model = options.model
    manifest: dict[str, Any] = {"seconds": {"training": 0}, "curve": [], "most_memory": None}
    if recipe:
        if begun and before:
            model = str(_folder(options, name, before, seed, begun["key"]))
            if not Path(model).exists():  # the cell is finished, and its network is not there any more
                _train(name, before, seed, begun["key"], options, say)
        folder = _train(name, method, seed, key, options, say, model)
        query_model, manifest = str(folder), json.loads((folder / "manifest.json").read_text())
        model = model if begun else query_model
    say(f"{file}: measuring", markup=False)
    stage = Dense(
        model=model,
        query_model=None if query_model == model else query_model,
        max_length=options.max_length if method == SHORT else None,
        k=100,
    )
    content = {
        "key": key,
        "dataset": name,
        "method": method,
        "seed": seed,
        "recipe": recipe,
        "seconds": manifest["seconds"]["training"],
        "most_memory": manifest["most_memory"],
        "curve": manifest["curve"],
        "versions": versions(),
        "machine": machine(),
        "results": {one: _measured(stage, one) for one in (name, *elsewhere)},
    }
    write_cell(file, content)
    return content


def _train(
    name: str, method: str, seed: int, key: str, options: argparse.Namespace, say: Any, model: str | None = None
) -> Path:
    """The folder of a trained network, which is there afterwards."""
    folder = _folder(options, name, method, seed, key)
    written = folder.with_suffix(".yaml")
    recipe = _recipe(method, seed, options)
    write(written, recipe.replace(f"model: {BEGUN}", f"model: {model}"))
    train(written, name, folder, say)
    return folder


def _folder(options: argparse.Namespace, name: str, method: str, seed: int, key: str) -> Path:
    return (options.models / slug(name) / f"{method}-{seed}-{key[:8]}").resolve()


BEGUN = "what-was-begun-with"
"""Stands in a recipe for the folder that ADORE begins with: where it stands is of no interest to others."""


def _recipe(method: str, seed: int, options: argparse.Namespace) -> str:
    if method in FIRST:
        return (
            f"train: bi-encoder\nmodel: {options.model}\nmax_length: {options.max_length}\ncandidates: {{depth: 200}}\nphases:\n"
            f"  - contrastive: {{{NEGATIVES[method]}, loss: softmax, batch: 32, steps: {options.steps or 100}, "
            f"learning_rate: {FIRST_RATE}}}\n"
            f"development: {{queries: 60, depth: 20, every: {max((options.steps or 100) // 2, 1)}, patience: null}}\n"
            f"seed: {seed}\n"
        )
    return (
        f"train: query-encoder\nmodel: {BEGUN}\nmax_length: {options.max_length}\nphases:\n"
        f"  - adore: {{depth: 200, batch: 32, steps: {options.steps or 400}, learning_rate: {ADORE_RATE}}}\n"
        f"development: {{queries: 324, every: {max((options.steps or 400) // 8, 1)}, patience: null}}\n"
        f"seed: {seed}\n"
    )


def _measured(stage: Dense, name: str) -> dict[str, dict[str, float]]:
    """Every measure of every test query."""
    dataset = Dataset.load(name)
    run = Pipeline(stages=(stage,), corpus=dataset.corpus, runtime=RUNTIME).run(dataset.queries("test"))
    return {measure: by_query(run, dataset, "test", measure) for measure in MEASURES}


def _table(cells: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for name in dict.fromkeys(one["dataset"] for one in cells):
        of = {method: rows for method in METHODS if (rows := cells_of(cells, name, method))}
        yield f"## {name}\n"
        yield "| method | seeds | nDCG@10 | R@100 | minutes | MiB |"
        yield "|---|---:|---:|---:|---:|---:|"
        for method, rows in of.items():
            values = [spread([mean(one["results"][name][measure]) for one in rows]) for measure in MEASURES]
            minutes = fmean(one["seconds"] for one in rows) / 60
            memory = max(one["most_memory"] or 0 for one in rows) >> 20
            yield f"| {method} | {len(rows)} | {values[0]} | {values[1]} | {minutes:.0f} | {memory or ''} |"
        yield "\nDifference of means over seeds, p of the paired t-test over queries:\n"
        for first, second in ORDER:
            if first in of and second in of:
                yield f"- {first} → {second}: " + ", ".join(
                    _compared(of[first], of[second], name, measure) for measure in MEASURES
                )
        others = dict.fromkeys(other for rows in of.values() for other in rows[0]["results"] if other != name)
        if others:
            yield f"\nTrained on {name}, measured elsewhere (first seed), nDCG@10, and p against zero-shot:\n"
            yield "| method | " + " | ".join(others) + " |\n|---|" + "---:|" * len(others)
            for method, rows in of.items():
                if len(rows[0]["results"]) > 1:
                    yield f"| {method} | " + " | ".join(_elsewhere(of, rows[0], other) for other in others) + " |"
        yield from _apart(of, name)
        yield "\nWhat was measured on development queries, first seed:\n"
        for method, rows in of.items():
            if rows[0]["curve"]:
                yield f"- {method}: " + curve(rows[0]["curve"], MEASURES[0])
        yield ""


def _apart(of: Mapping[str, Sequence[Mapping[str, Any]]], name: str) -> Iterator[str]:
    """Test queries that ask for documents which no training query asks for, apart from the others."""
    dataset = Dataset.load(name)
    trained = {doc_id for ids in relevant(dataset, "train").values() for doc_id in ids}
    asked = relevant(dataset, "test")
    groups: dict[bool, list[str]] = {True: [], False: []}
    for query_id in next(iter(of.values()))[0]["results"][name][MEASURES[0]]:
        groups[trained.isdisjoint(asked[query_id])].append(query_id)
    if not all(groups.values()):
        return
    yield (
        f"\nOf {len(groups[True])} test queries no relevant document is one of a training query, "
        f"of {len(groups[False])} at least one is; {MEASURES[0]} of either:\n"
    )
    yield "| method | none is | one is |\n|---|---:|---:|"
    for method, rows in of.items():
        values = [
            spread([fmean(one["results"][name][MEASURES[0]][query_id] for query_id in ids) for one in rows])
            for ids in groups.values()
        ]
        yield f"| {method} | {' | '.join(values)} |"


def _compared(first: Sequence[Any], second: Sequence[Any], name: str, measure: str) -> str:
    before, after = (over_seeds([one["results"][name][measure] for one in rows]) for rows in (first, second))
    return f"{measure} {mean(after) - mean(before):+.4f} (p {p_of(before, after, measure)})"


def _elsewhere(of: Mapping[str, Sequence[Any]], one: Mapping[str, Any], other: str) -> str:
    values = one["results"][other][MEASURES[0]]
    if one["method"] == ZERO or ZERO not in of:
        return f"{mean(values):.4f}"
    before = of[ZERO][0]["results"][other][MEASURES[0]]
    return f"{mean(values):.4f} (p {p_of(before, values, MEASURES[0])})"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=list(SEEDS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, help="of a training; by default 3 on nfcorpus, 1 on scifact")
    parser.add_argument("--model", default="minilm", help="to begin with")
    parser.add_argument(
        "--steps", type=int, help="of every training, to see whether all works; measures nothing elsewhere"
    )
    parser.add_argument("--max-length", type=int, default=128, help="tokens of a text that trained networks read")
    parser.add_argument("--models", type=Path, required=True, help="folder for trained networks")
    parser.add_argument("--output", type=Path, required=True, help="folder of the cells and the table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
