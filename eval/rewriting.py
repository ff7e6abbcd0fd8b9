"""Rewriters that ask a language model, on a few queries of each collection: what they bring, with examples.

    RANKPIPE_DATA=FOLDER python eval/rewriting.py --output eval/results/rewriting

A hundred test queries of each, drawn by a seed, as such models are slow. bm25 alone, and behind query2doc, keywords and in
multi-query; dense alone, and behind hyde. A finished cell (method, data set) is a small file in --output and is not run
again; answers are kept in the store, so a stopped one goes on where it was. Exit status: 0 all cells are there, 1 one failed, 2 a
wrong command.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cells import slug
from rich.console import Console
from trained import RUNTIME, by_query, comparison, digests, finished, mean, write_cell, write_table

from rankpipe import Dataset, Pipeline
from rankpipe.data import Queries
from rankpipe.errors import RankpipeError
from rankpipe.evaluation.manifest import described, facts, versions
from rankpipe.machine import machine
from rankpipe.run import Run
from rankpipe.stages.rewriting import Rewriting
from rankpipe.store import key_digest

DATASETS = ("scifact", "nfcorpus")
MEASURES = ("nDCG@10", "R@100", "R@1000")
QUERIES, SEED = 100, 0
SCORING = 1
"""Raised whenever the same cell may come out otherwise than before: then no finished one counts any more."""
SHOWN = 3
"""Examples of each method that the table shows."""
LONGEST = 128
"""Tokens of an answer."""
METHODS = {
    "bm25": ("bm25", "bm25: {k: 1000}"),
    "query2doc": ("bm25", "query2doc: {writer: WRITER, max_tokens: LONGEST}", "bm25: {k: 1000}"),
    "keywords": ("bm25", "keywords: {writer: WRITER}", "bm25: {k: 1000}"),
    "multi-query": ("bm25", "multi-query: {writer: WRITER, max_tokens: LONGEST, stages: [bm25: {k: 1000}]}"),
    "dense": ("dense", "dense: {model: MODEL, k: 1000}"),
    "hyde": (
        "dense",
        "hyde: {writer: WRITER, model: MODEL, passages: PASSAGES, max_tokens: LONGEST}",
        "dense: {model: MODEL, k: 1000}",
    ),
}
"""By name, the method that it is compared with, and its stages."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cells that are not there yet and write the table; give the exit status."""
    options = _parser().parse_args(arguments)
    say = Console(stderr=True, soft_wrap=True).print
    try:
        cells = [_cell(name, method, options, say) for name in options.datasets for method in options.methods]
    except RankpipeError as error:
        print(f"error: {error}", file=sys.stderr)  # cells before it are kept
        return error.exit_status
    command = ["python", "eval/rewriting.py", *(sys.argv[1:] if arguments is None else arguments)]
    write_table(options.output, "Rewriters that ask a language model", command, _table(cells, options))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure rewriters that ask a language model.")
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--queries", type=int, default=QUERIES, help="of each data set")
    parser.add_argument("--passages", type=int, default=8, help="that hyde asks for")
    parser.add_argument("--writer", default="smollm2", help="reference of the language model")
    parser.add_argument("--model", default="minilm", help="reference of the encoder")
    parser.add_argument("--output", type=Path, required=True, help="folder of the cells and the table")
    return parser


def _drawn(queries: Queries, count: int) -> Queries:
    rows = np.random.default_rng(SEED).permutation(len(queries))[:count]
    return queries.select(np.sort(rows))


def _cell(name: str, method: str, options: argparse.Namespace, say: Any) -> dict[str, Any]:
    dataset = Dataset.load(name)
    stages = METHODS[method][1:]
    values = {
        "WRITER": options.writer,
        "MODEL": options.model,
        "LONGEST": str(LONGEST),
        "PASSAGES": str(options.passages),
    }
    for place, value in values.items():
        stages = [stage.replace(place, value) for stage in stages]
    text = "stages:\n" + "".join(f"  - {stage}\n" for stage in stages)
    pipeline = Pipeline.from_yaml(text, corpus=dataset.corpus, runtime=RUNTIME)
    queries = _drawn(dataset.queries("test"), options.queries)
    key = key_digest(
        {
            "scoring": SCORING,
            "stages": [described(stage) for stage in pipeline.stages],
            "opened": facts(pipeline, counted=False),
            "queries": queries.ids,
            "data": digests(name),
        }
    )
    file = options.output / slug(name) / f"{method}.json"
    if (found := finished(file, key)) is not None:
        return found
    say(f"{file}: running", markup=False)
    run = pipeline.run(queries)
    values = {measure: by_query(run, dataset, "test", measure) for measure in MEASURES}
    asked = [stage for stage in pipeline.stages if isinstance(stage, Rewriting)]
    with RUNTIME.active():  # else models would be opened once more
        counted = {
            name: value
            for stage in asked
            for name, value in stage.counted(dataset.corpus).items()
            if isinstance(value, int)  # shares are of the encoder
        }
        examples = _examples(asked[0], dataset, queries) if asked else []
    content = {
        "key": key,
        "dataset": name,
        "method": method,
        "counted": counted,
        "examples": examples,
        "measures": {measure: mean(of_queries) for measure, of_queries in values.items()},
        "per_query": values,
        "versions": versions(),
        "machine": machine(),
    }
    write_cell(file, content)
    return content


def _examples(stage: Rewriting, dataset: Dataset, queries: Queries) -> list[list[Any]]:
    """The first queries and what the model answered to them."""
    first = queries.select(list(range(min(SHOWN, len(queries)))))
    answers = stage.answered(Run.empty(first, dataset.corpus))
    return [[text, group[:2]] for text, group in zip(first.texts, answers, strict=True)]


def _table(cells: Sequence[Mapping[str, Any]], options: argparse.Namespace) -> list[str]:
    by_name = {(cell["dataset"], cell["method"]): cell for cell in cells}
    lines = [
        f"{options.queries} test queries of each data set, drawn by seed {SEED}; the model is {options.writer}. "
        "In brackets the difference from the method without rewriting, and p of the randomisation test over queries.\n",
        "| data set | method | " + " | ".join(MEASURES) + " | queries unchanged | answers refused |",
        "|---|---|" + "---|" * (len(MEASURES) + 2),
    ]
    for (name, method), cell in by_name.items():
        base = by_name.get((name, METHODS[method][0]))
        entries = [_entry(cell, base if base is not cell else None, measure) for measure in MEASURES]
        counted = cell["counted"]
        refused = [
            f"{count} {key.removeprefix('refused_')}" for key, count in counted.items() if key.startswith("refused_")
        ]
        more = [f"{counted['unchanged']} of {counted['queries']}", ", ".join(refused)] if counted else ["", ""]
        lines.append(f"| {name} | {method} | {' | '.join([*entries, *more])} |")
    for (name, method), cell in by_name.items():
        for query, answers in cell["examples"]:
            lines += [f"\n**{name}, {method}**: {query}\n"]
            lines += [f"> {' '.join(answer.split())}\n" for answer in answers] or ["(refused)\n"]
    return lines


def _entry(cell: Mapping[str, Any], base: Mapping[str, Any] | None, measure: str) -> str:
    value = cell["measures"][measure]
    if base is None:
        return f"{value:.4f}"
    found = comparison(base["per_query"][measure], cell["per_query"][measure], measure)
    return f"{value:.4f} ({value - base['measures'][measure]:+.4f}, p {found.randomisation_p:.2f})"


if __name__ == "__main__":
    sys.exit(main())
