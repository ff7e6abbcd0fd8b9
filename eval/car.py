"""CAR on nfcorpus and scifact: training queries that a language model has rewritten, and its controls.

    RANKPIPE_DATA=FOLDER python eval/car.py --models FOLDER --output eval/results/car

All train all-MiniLM-L6-v2 as STAR does, in the same steps, on the same training queries, a part of the split that is
drawn once (--queries): `original` on the queries as they are, `replace` on rewrites of the ambiguous ones, each written
with a relevant document in view, `augment` on both, `query-only` on rewrites of the query alone, `random-document` on
rewrites with a document in view that is not relevant. Rewrites do not depend on the seed of the training. Learning rate
and loss are those of eval/star_adore.py, which were chosen on nfcorpus' development queries. Test queries are for
reporting, and are never rewritten; those that rankpipe.training.ambiguity finds ambiguous, by the limit of clarity of the
training queries, are told apart from the others.

Trained networks stand in --models and are used again, as are the language model's answers, which are in the store; a
finished cell (one method, seed and data set) is a small file in --output and is not run again. Exit status: 0 all cells
are there, 1 one or more failed, 2 a wrong command.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
from cells import slug
from rich.console import Console
from trained import (
    RUNTIME,
    by_query,
    cell_done,
    cells_of,
    digests,
    finished,
    mean,
    over_seeds,
    p_of,
    spread,
    train,
    weights_of,
    write,
    write_all,
    write_cell,
)

from rankpipe import BM25, Dataset, Dense, Pipeline
from rankpipe.evaluation.manifest import versions
from rankpipe.machine import machine
from rankpipe.models.prompt import load_prompt
from rankpipe.store import key_digest
from rankpipe.training.ambiguity import clarities, clarity_limit, why_ambiguous
from rankpipe.training.rewrite import PROMPT, PROMPT_ALONE

MEASURES = ("nDCG@10", "R@100")
METHODS = {
    "original": None,
    "replace": "mode: replace, context: relevant",
    "augment": "mode: augment, context: relevant",
    "query-only": "mode: replace, context: none",
    "random-document": "mode: replace, context: random",
}
"""What each says of rewriting."""
SEEDS = {"nfcorpus": 3, "scifact": 1}
STEPS, QUERIES = 30, 320
"""Steps of 32 queries, and training queries."""
ORDER = (("original", "replace"), ("original", "augment"), ("query-only", "replace"), ("random-document", "replace"))
"""Pairs of which the second should be better."""
EXAMPLES = 10
"""Rewrites that a cell shows."""
SCORING = 1
"""Raised whenever the same cell may come out otherwise than before: then no finished one counts any more."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cells that are not there yet and write the table; give the exit status."""
    options = _parser().parse_args(arguments)
    say = Console(stderr=True, soft_wrap=True).print
    wanted = [
        (name, method, seed)
        for name in options.datasets
        for seed in range(options.seeds or SEEDS.get(name, 1))
        for method in options.methods
    ]
    done = [
        cell_done(partial(_cell, name, method, seed, options, say), f"{name}, {method}, seed {seed}", say)
        for name, method, seed in wanted
    ]
    command = ["python", "eval/car.py", *(sys.argv[1:] if arguments is None else arguments)]
    write_all(options.output, "CAR and its controls", command, _table)
    return int(not all(done))


def _cell(name: str, method: str, seed: int, options: argparse.Namespace, say: Any) -> None:
    file = options.output / slug(name) / f"{method}-{seed}.json"
    recipe = _recipe(method, seed, options)
    writes = METHODS[method] is not None
    key = key_digest(
        {
            "scoring": SCORING,
            "recipe": recipe,
            "queries": options.queries,
            "model": weights_of(options.model),
            "writer": weights_of(options.writer) if writes else None,
            "prompts": {one: load_prompt(one).digest() for one in (PROMPT, PROMPT_ALONE)} if writes else {},
            "data": digests(name),
        }
    )
    if finished(file, key) is not None:
        say(f"{file}: finished before", markup=False)
        return
    part = _part(name, options.queries, options.models)
    folder = (options.models / slug(name) / f"{method}-{seed}-{key[:8]}").resolve()
    write(folder.with_suffix(".yaml"), recipe)
    train(folder.with_suffix(".yaml"), str(part), folder, say)
    manifest = json.loads((folder / "manifest.json").read_text())
    say(f"{file}: measuring", markup=False)
    dataset = Dataset.load(name)
    stage = Dense(model=str(folder), k=100)
    run = Pipeline(stages=(stage,), corpus=dataset.corpus, runtime=RUNTIME).run(dataset.queries("test"))
    content = {
        "key": key,
        "dataset": name,
        "method": method,
        "seed": seed,
        "recipe": recipe,
        "seconds": manifest["seconds"],
        "curve": manifest["curve"],
        "judged": manifest["examples"]["judged"],
        "examples": _examples(folder / "rewrites.parquet"),
        "ambiguous": _ambiguous(name, part),
        "versions": versions(),
        "machine": machine(),
        "results": {measure: by_query(run, dataset, "test", measure) for measure in MEASURES},
    }
    write_cell(file, content)


def _recipe(method: str, seed: int, options: argparse.Namespace) -> str:
    how = METHODS[method]
    rewrite = f"rewrite: {{writer: {options.writer}, select: ambiguous, {how}}}\n" if how else ""
    return (
        f"train: bi-encoder\nmodel: {options.model}\nmax_length: {options.max_length}\ncandidates: {{depth: 200}}\n{rewrite}"
        f"phases:\n  - contrastive: {{hard: 1, loss: softmax, batch: 32, steps: {options.steps}, learning_rate: 1.0e-4}}\n"
        f"development: {{queries: 60, depth: 20, every: {max(options.steps // 2, 1)}, patience: null}}\nseed: {seed}\n"
    )


def _part(name: str, count: int, models: Path) -> Path:
    """A folder with a data set of which only so many training queries are judged, drawn by a seed of its own."""
    folder = (models / slug(name) / f"data-{count}-{key_digest(digests(name))[:8]}").resolve()
    if (folder / "qrels" / "train.tsv").exists():
        return folder
    dataset = Dataset.load(name)
    corpus, ids = dataset.corpus, dataset.queries("train").ids
    drawn = np.sort(np.random.default_rng(0).permutation(len(ids))[:count])
    rows = corpus.live_rows()
    texts = zip(corpus.ids(rows), corpus.texts(rows, "title"), corpus.texts(rows, "text"), strict=True)
    _write_lines(folder / "corpus.jsonl", ({"_id": one, "title": title, "text": text} for one, title, text in texts))
    queries = {one: text for split in dataset.splits for one, text in _pairs(dataset.queries(split))}
    _write_lines(folder / "queries.jsonl", ({"_id": one, "text": text} for one, text in queries.items()))
    kept = {ids[row] for row in drawn}
    for split in sorted(dataset.splits, key=lambda one: one == "train"):  # train comes last: then all is there
        judged = [
            f"{query_id}\t{doc_id}\t{grade}"
            for query_id, grades in dataset.qrels(split).items()
            if split != "train" or query_id in kept
            for doc_id, grade in grades.items()
        ]
        write(folder / "qrels" / f"{split}.tsv", "\n".join(["query-id\tcorpus-id\tscore", *judged]) + "\n")
    return folder


def _pairs(queries: Any) -> Iterator[tuple[str, str]]:
    return zip(queries.ids, queries.texts, strict=True)


def _write_lines(path: Path, records: Iterator[Mapping[str, str]]) -> None:
    write(path, "".join(json.dumps(record) + "\n" for record in records))


@cache
def _ambiguous(name: str, part: Path) -> list[str]:
    """Ids of the test queries that are ambiguous by the rules of the training queries."""
    dataset = Dataset.load(name)
    index, analyzer = BM25().index(dataset.corpus)
    limit = clarity_limit(clarities(index, analyzer, Dataset.load(part).queries("train").texts))
    queries = dataset.queries("test")
    values = clarities(index, analyzer, queries.texts).tolist()
    return [
        one for (one, text), value in zip(_pairs(queries), values, strict=True) if why_ambiguous(text, value, limit)
    ]


def _examples(table: Path) -> list[dict[str, Any]]:
    return parquet.read_table(table).slice(0, EXAMPLES).to_pylist() if table.exists() else []


def _table(cells: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for name in dict.fromkeys(one["dataset"] for one in cells):
        of = {method: rows for method in METHODS if (rows := cells_of(cells, name, method))}
        first = next(iter(of.values()))[0]
        groups = {"all": list(first["results"][MEASURES[0]])}
        groups["ambiguous"] = [one for one in groups["all"] if one in set(first["ambiguous"])]
        groups["others"] = [one for one in groups["all"] if one not in set(first["ambiguous"])]
        columns = [(group, measure) for group in groups for measure in MEASURES]
        yield f"## {name}\n"
        yield "Test queries: " + ", ".join(f"{len(ids)} {group}" for group, ids in groups.items()) + ".\n"
        headings = [f"{group} {measure}" for group, measure in columns]
        yield f"| method | seeds | {' | '.join(headings)} | steps | minutes |"
        yield "|---|---:|" + "---:|" * (len(columns) + 2)
        for method, rows in of.items():
            values = [spread([_mean(one, groups[group], measure) for one in rows]) for group, measure in columns]
            minutes = fmean(one["seconds"]["training"] for one in rows) / 60
            kept = ", ".join(str(_kept_step(one["curve"])) for one in rows)
            yield f"| {method} | {len(rows)} | {' | '.join(values)} | {kept} | {minutes:.0f} |"
        yield "\nSteps: after which the network of each seed was the best on development queries, and is measured; 0: as it was."
        yield "\nDifference of means over seeds, p of the paired t-test over queries:\n"
        for before, after in ORDER:
            if before in of and after in of:
                told = [
                    f"{group} {measure} {_compared(of[before], of[after], groups[group], measure)}"
                    for group, measure in columns
                    if len(groups[group]) > 1
                ]
                yield f"- {before} → {after}: " + ", ".join(told)
        yield from _rewrites(of)


def _kept_step(curve: Sequence[Mapping[str, Any]]) -> int:
    """The step of the best measurement, the first of equal ones."""
    return max(curve, key=lambda point: (point[MEASURES[0]], -point["step"]))["step"]


def _rewrites(of: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    """What became of the training queries, first seed."""
    yield "\nTraining queries, first seed:\n"
    for method, rows in of.items():
        if told := rows[0]["judged"].get("rewrites"):
            fates = ", ".join(f"{count} {fate}" for fate, count in told["fates"].items())
            yield f"- {method}: {told['chosen']} of {told['queries']} chosen; {fates}"
    for method, rows in of.items():
        if method != "augment" and rows[0]["examples"]:  # whose rewrites are those of replace
            yield f"\n{method}, the first ones:\n\n| query | rewritten | document | |\n|---|---|---|---|"
            for one in rows[0]["examples"]:
                words = [(one[key] or "").replace("|", "\\|") for key in ("original", "rewritten", "doc_id", "fate")]
                yield f"| {' | '.join(words)} |"
    yield ""


def _mean(cell: Mapping[str, Any], ids: Sequence[str], measure: str) -> float:
    return fmean(cell["results"][measure][one] for one in ids) if ids else float("nan")


def _compared(first: Sequence[Any], second: Sequence[Any], ids: Sequence[str], measure: str) -> str:
    before, after = (
        over_seeds([{one: cell["results"][measure][one] for one in ids} for cell in rows]) for rows in (first, second)
    )
    return f"{mean(after) - mean(before):+.4f} (p {p_of(before, after, measure)})"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=list(SEEDS))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", type=int, help="of a training; by default 3 on nfcorpus, 1 on scifact")
    parser.add_argument("--model", default="minilm", help="to begin with")
    parser.add_argument("--writer", default="smollm2", help="that rewrites")
    parser.add_argument("--steps", type=int, default=STEPS, help="of every training")
    parser.add_argument("--queries", type=int, default=QUERIES, help="of the training split that are used")
    parser.add_argument("--max-length", type=int, default=128, help="tokens of a text that are read")
    parser.add_argument("--models", type=Path, required=True, help="folder for trained networks")
    parser.add_argument("--output", type=Path, required=True, help="folder of the cells and the table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
