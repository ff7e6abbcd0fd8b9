"""Pipelines x data sets -> one table.

    RANKPIPE_DATA=FOLDER python eval/beir.py --pipelines bm25 hybrid.yaml --datasets scifact nfcorpus --output eval/results/beir

A finished cell (one pipeline on one data set) is left in OUTPUT/PIPELINE/DATASET.json, small enough to commit: measures,
their values for every query, seconds, what was assumed, and what all of that depends on. A cell whose pipeline, data and
measures are still the same is not run again, so a stopped comparison goes on where it was. OUTPUT/table.md, .csv and
.json hold all cells of the command. Exit status: 0 all cells are there, 1 one or more failed, 2 a wrong command.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from cells import DTYPE, Task, cell, check_names, slug, tables
from rich.console import Console

from rankpipe.errors import RankpipeError
from rankpipe.evaluation.measures import DEFAULT_MEASURES, read_measures

DATASETS = ("scifact", "nfcorpus", "vaswani", "cranfield", "cisi")


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill the table and show it; give the exit status."""
    options = _parser().parse_args(arguments)
    measures = tuple(options.measures)
    progress = Console(stderr=True)
    try:
        read_measures(measures)
        check_names([Path(pipeline).stem for pipeline in options.pipelines], "pipelines")
        check_names(options.datasets, "data sets")
        options.output.mkdir(parents=True, exist_ok=True)
    except (RankpipeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finished = []
    cells = options.output if options.split == "test" else options.output / slug(options.split)
    for dataset in options.datasets:
        for pipeline in options.pipelines:
            file = cells / slug(Path(pipeline).stem) / f"{slug(dataset)}.json"
            task = Task(
                pipeline=pipeline,
                dataset=dataset,
                split=options.split,
                measures=measures,
                file=file,
                dtype=options.dtype,
            )
            finished.append(cell(task, force=options.force, progress=progress))
    command = shlex.join(["python", "eval/beir.py", *(sys.argv[1:] if arguments is None else arguments)])
    heading = f"# Pipelines by data sets, split {options.split}\n\n```sh\n{command}\n```\n\n"
    tables(cells, heading, finished, measures)
    return int(any(one.result is None for one in finished))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure pipelines on data sets and put them into one table.")
    parser.add_argument(
        "--pipelines", nargs="+", required=True, help="files, or names of shipped ones; the first is the baseline"
    )
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS), help="as rankpipe run --dataset takes them")
    parser.add_argument("--split", default="test")
    parser.add_argument("--measures", nargs="+", default=list(DEFAULT_MEASURES))
    parser.add_argument("--dtype", default=DTYPE, help="of networks: float32, bfloat16, int8")
    parser.add_argument("--output", type=Path, required=True, help="folder of the cells and the tables")
    parser.add_argument("--force", action="store_true", help="run finished cells again")
    return parser


if __name__ == "__main__":
    sys.exit(main())
