"""MS MARCO passage ranking: the full collection, or runs that are given, re-ranked.

    python eval/msmarco.py search --pipelines bm25 --output eval/results/msmarco
    python eval/msmarco.py rerank --pipelines rescore.yaml --dataset msmarco-dl19 --runs FOLDER --output eval/results/dl19

`search` needs the collection of 8.8 million passages, which ir_datasets fetches (some GB), and measures dev/small by
RR@10 and R@1000, TREC DL 2019 and 2020 by nDCG@10, AP and R@1000, their binary measures from grade 2.
`rerank` measures every run file of a folder as it is, and as each pipeline ranks its candidates anew; such pipelines
begin with a re-ranker. A slice of the collection that holds the candidates is enough for it.

Cells are kept and skipped as in eval/beir.py. Exit status: 0 all cells are there, 1 one or more failed, 2 a wrong command.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from cells import DTYPE, Task, cell, check_names, given_cell, slug, tables
from rich.console import Console

from rankpipe.errors import RankpipeError, UsageError
from rankpipe.evaluation.measures import DEFAULT_MEASURES
from rankpipe.evaluation.tables import Cell

COLLECTIONS = {
    "msmarco-passage/dev/small": ("dev", ("RR@10", "R@1000")),
    "msmarco-passage/trec-dl-2019/judged": ("test", ("nDCG@10", "AP", "R@1000")),
    "msmarco-passage/trec-dl-2020/judged": ("test", ("nDCG@10", "AP", "R@1000")),
}
"""Split and measures by which each set of queries is reported: those of the MS MARCO and TREC DL leaderboards."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill the tables and show them; give the exit status."""
    options = _parser().parse_args(arguments)
    command = shlex.join(["python", "eval/msmarco.py", *(sys.argv[1:] if arguments is None else arguments)])
    heading = f"# MS MARCO passage ranking\n\n```sh\n{command}\n```\n\n"
    try:
        check_names([Path(pipeline).stem for pipeline in options.pipelines], "pipelines")
        options.output.mkdir(parents=True, exist_ok=True)
        parts = list(_reranked(options) if options.what == "rerank" else _searched(options))
    except (RankpipeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for folder, finished, measures in parts:
        tables(folder, heading, finished, measures)
    return int(any(one.result is None for _, finished, _ in parts for one in finished))


def _searched(options: argparse.Namespace) -> Iterator[tuple[Path, list[Cell], tuple[str, ...]]]:
    """A table for each set of queries, whose measures differ."""
    progress = Console(stderr=True)
    for dataset, (split, measures) in COLLECTIONS.items():
        folder = options.output / slug(dataset)
        folder.mkdir(exist_ok=True)
        tasks = [
            Task(
                pipeline=one,
                dataset=dataset,
                split=split,
                measures=measures,
                file=folder / f"{Path(one).stem}.json",
                dtype=options.dtype,
            )
            for one in options.pipelines
        ]
        yield folder, [cell(task, force=options.force, progress=progress) for task in tasks], measures


def _reranked(options: argparse.Namespace) -> Iterator[tuple[Path, list[Cell], tuple[str, ...]]]:
    """One table: every run as it is given, and below it every pipeline's ranking of its candidates."""
    progress = Console(stderr=True)
    runs = sorted([*options.runs.glob("*.trec"), *options.runs.glob("*.trec.gz")])
    if not runs:
        raise UsageError(f"{options.runs}: no run files (*.trec, *.trec.gz) in this folder")
    check_names([run.name.partition(".")[0] for run in runs], "runs, before the first dot,")
    finished = []
    for run in runs:
        name = run.name.partition(".")[0]
        as_given = Task(
            pipeline="as given",
            dataset=options.dataset,
            split="test",
            measures=DEFAULT_MEASURES,
            file=options.output,
            given=run,
        )
        finished.append(given_cell(as_given))
        for one in options.pipelines:
            task = Task(
                pipeline=one,
                dataset=options.dataset,
                split="test",
                measures=DEFAULT_MEASURES,
                file=options.output / slug(Path(one).stem) / f"{name}.json",
                given=run,
                dtype=options.dtype,
            )
            finished.append(cell(task, force=options.force, progress=progress))
    yield options.output, finished, DEFAULT_MEASURES


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure pipelines on MS MARCO passage ranking.")
    commands = parser.add_subparsers(dest="what", required=True)
    for name, text in (("search", "search the full collection"), ("rerank", "re-rank given runs")):
        command = commands.add_parser(name, help=text)
        command.add_argument("--pipelines", nargs="*" if name == "rerank" else "+", default=[])
        command.add_argument("--dtype", default=DTYPE, help="of networks: float32, bfloat16, int8")
        command.add_argument("--output", type=Path, required=True, help="folder of the cells and the tables")
        command.add_argument("--force", action="store_true", help="run finished cells again")
        if name == "rerank":
            command.add_argument("--dataset", default="msmarco-dl19", help="holds the candidates' texts and judgements")
            command.add_argument("--runs", type=Path, required=True, help="folder of run files")
    return parser


if __name__ == "__main__":
    sys.exit(main())
