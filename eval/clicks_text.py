"""A search over texts that learns from clicks: hybrid, features, learned, on nfcorpus, with 100,000 simulated clicks.

    RANKPIPE_DATA=FOLDER python eval/clicks_text.py --work FOLDER --output eval/results/clicks-text

A system shows its first ten documents to people who look at positions as eye tracking found (PBM, eta 1) and click what
is judged relevant, and one in ten of the rest: the shipped pipeline `hybrid` itself (--logs hybrid), or an older system,
which orders the same candidates by BM25, nine parts, and by the hybrid's scores, one (--logs words). The log goes on
over the training queries in two parts: what was clicked for the first 70 % of them becomes what is known of documents
(how often each was clicked, and over what its positions would bring; the words of the queries that led to it), and a
ranker learns from the sessions of the other 30 %, whose queries nothing known of documents comes from. Rankers, each
trained on the same queries:

    labels, lambdamart     on the judgements of their candidates: a linear ranker, trees
    known                  on clicks, weighted by the propensities that they were drawn with
    dla                    on clicks, which propensities are learnt from as well
    naive                  on clicks, taken for relevance
    lambdamart-unbiased    on clicks: Unbiased LambdaMART; lambdamart-naive: clicks taken for relevance
    ...-plain              as without it, from what is known without clicks: the shipped pipeline's features alone

All numbers below were chosen on development queries, which also decide at which step each training ends. Test queries
are for reporting. What is made on the way stands in --work and is used again; a finished cell (method, seed) is a small
file in --output and is not run again. Exit status: 0 all cells are there, 1 one or more failed, 2 a wrong command.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from cells import DTYPE
from numpy.typing import NDArray
from rich.console import Console
from trained import (
    RUNTIME,
    by_query,
    comparison,
    digests,
    finished,
    mean,
    over_seeds,
    spread,
    write,
    write_cell,
    write_table,
)

from rankpipe import Dataset, Pipeline, Run, Runtime
from rankpipe.cli.train import train_recipe
from rankpipe.data.dataset import found_folders
from rankpipe.errors import RankpipeError, UsageError
from rankpipe.evaluation.manifest import versions
from rankpipe.machine import machine
from rankpipe.store import key_digest
from rankpipe.training.click_log import write_click_log
from rankpipe.training.click_models import PositionBased, perceived_relevance
from rankpipe.training.queries import judged_queries

FEATURES = Path(__file__).parent.parent / "pipelines" / "features.yaml"
DATASET, MEASURE = "nfcorpus", "nDCG@10"
CLICKS, POSITIONS, ETA, NOISE = 100_000, 10, 1.0, 0.1
EARLIER = 0.7
"""Share of the training queries whose clicks tell of documents; the others train the ranker."""
SMOOTHING = 3.0
"""Clicks that a document is given beside its own, and that are expected beside its own."""
PROPENSITIES = PositionBased(eta=ETA).propensities(POSITIONS)
NETWORK = "steps: 300, learning_rate: 0.05, weight_decay: 0.001"
TREES = "steps: 240, learning_rate: 0.05, num_leaves: 4"
LOG = f"log: log.jsonl, positions: {POSITIONS}"
PHASES = {
    "labels": f"grades: {{{NETWORK}}}",
    "known": f"clicks: {{{LOG}, method: known, propensities: {np.round(PROPENSITIES, 6).tolist()}, {NETWORK}}}",
    "dla": f"clicks: {{{LOG}, method: dla, {NETWORK}}}",
    "naive": f"clicks: {{{LOG}, method: naive, {NETWORK}}}",
    "lambdamart": f"lambdamart: {{{TREES}, min_data_in_leaf: 200}}",
    "lambdamart-unbiased": f"lambdamart-clicks: {{{LOG}, {TREES}, min_data_in_leaf: 25, norm: 0}}",
    "lambdamart-naive": f"lambdamart-clicks: {{{LOG}, {TREES}, min_data_in_leaf: 25, method: naive}}",
}
WITHOUT = "[reciprocal-rank]"
"""Columns that no ranker sees: with the rank that a document was shown at, relevance cannot be told from position."""
LOGS = {"words": "  - interpolate: {with: bm25, weight: 0.9}\n", "hybrid": ""}
"""What is shown, by the last stage behind the candidates of `hybrid`."""
PLAIN = "-plain"
HYBRID = "hybrid"
METHODS = (HYBRID, *PHASES, f"labels{PLAIN}", f"dla{PLAIN}", f"naive{PLAIN}")
LABELS = {method: "lambdamart" if method.startswith("lambdamart") else "labels" for method in METHODS}
"""Of each method the one that learns the same ranker from judgements."""
ORDER = (("naive", "dla"), ("known", "dla"), ("labels", "dla"), ("lambdamart-naive", "lambdamart-unbiased"))
"""Pairs of methods that are compared."""
SCORING = 1
"""Raised whenever the same cell may come out otherwise than before: then no finished one counts any more."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cells that are not there yet and write the table; give the exit status."""
    options = _parser().parse_args(arguments)
    say = Console(stderr=True, soft_wrap=True).print
    wanted = [
        (log, method, seed)
        for log in options.logs
        for seed in range(options.seeds)
        for method in options.methods
        if method != HYBRID or seed == 0
    ]
    done = [_done(*one, options, say) for one in wanted]
    cells = [json.loads(file.read_text()) for file in sorted(options.output.glob("*/*.json"))]
    if cells := [one for one in cells if one["clicks"] == options.clicks]:
        command = ["python", "eval/clicks_text.py", *(sys.argv[1:] if arguments is None else arguments)]
        write_table(options.output, "Text search that learns from clicks", command, _table(cells))
    return int(not all(done))


def _done(log: str, method: str, seed: int, options: argparse.Namespace, say: Any) -> bool:
    """Whether a cell is there, after it was run if need be."""
    try:
        _cell(log, method, seed, options, say)
    except RankpipeError as error:
        say(f"{log}, {method}, seed {seed}: failed: {error}", markup=False)
        return False
    return True


def _cell(log: str, method: str, seed: int, options: argparse.Namespace, say: Any) -> None:
    file: Path = options.output / log / f"{method}-{seed}.json"
    phase = PHASES.get(method.removesuffix(PLAIN), "")
    settings = [LOGS[log], options.clicks, POSITIONS, ETA, NOISE, EARLIER, SMOOTHING]
    key = key_digest(
        {
            "scoring": SCORING,
            "data": digests(DATASET),
            "settings": [*settings, WITHOUT],
            "phase": phase,
            "method": method,
            "seed": seed,
        }
    )
    if finished(file, key) is not None:
        say(f"{file}: finished before", markup=False)
        return
    told: Mapping[str, Any] = {}
    pipeline: Path | str = HYBRID
    if method != HYBRID:
        work = (
            options.work / f"{log}-{seed}-{key_digest({'settings': settings, 'data': digests(DATASET)})[:8]}"
        ).resolve()
        _prepare(work, log, seed, options.clicks, say)
        pipeline, told = _trained(method, phase, seed, work, say)
    say(f"{file}: measuring", markup=False)
    dataset = _dataset()
    run = Pipeline.load(pipeline, corpus=dataset.corpus, runtime=RUNTIME).run(dataset.queries("test"))
    content = {
        "key": key,
        "log": log,
        "method": method,
        "seed": seed,
        "clicks": options.clicks,
        **told,
        "versions": versions(),
        "machine": machine(),
        "test": by_query(run, dataset, "test", MEASURE),
    }
    write_cell(file, content)


@cache
def _dataset() -> Dataset:
    return Dataset.load(DATASET)


def _trained(method: str, phase: str, seed: int, work: Path, say: Any) -> tuple[Path, Mapping[str, Any]]:
    """The pipeline of a ranker, which is trained if it is not there, and what its manifest says of it."""
    features = "plain.yaml" if method.endswith(PLAIN) else "features.yaml"
    name = f"{method}-{key_digest({'phase': phase})[:8]}"  # another phase trains another ranker
    folder, recipe, pipeline = (work / f"{name}{end}" for end in ("", ".yaml", "-pipeline.yaml"))
    write(
        recipe,
        f"train: ranker\ncandidates: {{pipeline: {features}, depth: 100, without: {WITHOUT}}}\n"
        f"phases:\n  - {phase}\n"
        f"development: {{queries: 400, every: 20, patience: null}}\nseed: {seed}\n",
    )
    write(pipeline, (work / features).read_text() + f"  - learned: {{model: {folder}}}\n")
    if not folder.exists():
        train_recipe(
            str(recipe),
            str(work / "data"),
            folder,
            Runtime(threads=1, dtype=DTYPE),
            model=None,
            recompute=False,
            command=f"rankpipe train {recipe.name}",
            force=False,
            say=lambda line: say(line, markup=False),
        )
    manifest = json.loads((folder / "manifest.json").read_text())
    learnt = manifest["positions"][0] or {}
    return pipeline, {
        "phase": phase,
        "development": {"value": round(manifest["best"]["value"], 6), "step": manifest["best"]["step"]},
        "drawn": {key: one for key, one in manifest["examples"]["phases"][0].items() if isinstance(one, int)},
        "propensities": learnt.get("propensities"),
    }


# -- the log -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Shown:
    """What was shown for Q queries, and S sessions of it.

    run      the queries, and what was shown for each
    queries  (S,) rows of the queries that were asked
    clicks   (S, n) whether a position was clicked
    """

    run: Run
    queries: NDArray[np.int64]
    clicks: NDArray[np.bool_]

    def of(self, rows: NDArray[np.int64]) -> Shown:
        """The sessions of some queries."""
        kept = np.isin(self.queries, rows)
        return Shown(self.run, self.queries[kept], self.clicks[kept])

    def lines(self) -> Iterator[Mapping[str, Any]]:
        """As a log has them."""
        ids = self.run.corpus.ids(self.run.documents)
        for query, clicked in zip(self.queries.tolist(), self.clicks, strict=True):
            shown = ids[self.run.span(query)]
            yield {
                "query": self.run.queries.ids[query],
                "shown": shown,
                "clicks": (np.flatnonzero(clicked) + 1).tolist(),
            }


def _prepare(work: Path, log: str, seed: int, clicks: int, say: Any) -> None:
    """Write the log of a seed, what its first part tells of documents, and the data set of its second part."""
    if (work / "features.yaml").exists():
        return
    say(f"{work}: people click", markup=False)
    work.mkdir(parents=True, exist_ok=True)
    dataset = _dataset()
    source = FEATURES.read_text()
    run = _shown(log)
    rng = np.random.default_rng([seed, 11])
    shown = _sessions(run, dataset, clicks, rng)
    order = rng.permutation(len(run))
    cut = round(EARLIER * len(run))
    earlier, later = np.sort(order[:cut]), np.sort(order[cut:])
    write_click_log(iter(shown.of(later).lines()), work / "log.jsonl")
    _write_known(shown.of(earlier), work)
    _write_data(dataset, [run.queries.ids[row] for row in later.tolist()], work / "data")
    write(work / "plain.yaml", source)
    known = "scores: [bm25, dense], columns: columns.jsonl, texts: texts.jsonl"
    write(work / "features.yaml", source.replace("scores: [bm25, dense]", known))


@cache
def _shown(log: str) -> Run:
    """What is shown for every training query."""
    candidates, _, _ = FEATURES.read_text().rpartition("  - features:")
    shown = Pipeline.from_yaml(candidates + LOGS[log])
    queries, _ = judged_queries(_dataset(), "train")
    return shown.on(_dataset().corpus).run(queries).top(POSITIONS)


def _sessions(run: Run, dataset: Dataset, clicks: int, rng: np.random.Generator) -> Shown:
    """Sessions of queries drawn at random, up to the one that brings the last click."""
    qrels = dataset.qrels("train")
    relevance = np.zeros((len(run), POSITIONS))  # of what is not shown: never clicked
    for query, query_id in enumerate(run.queries.ids):
        grades = [float(qrels[query_id].get(one.doc_id, 0) > 0) for one in run[query_id]]
        relevance[query, : len(grades)] = perceived_relevance(np.array(grades), noise=NOISE, highest=1)
    asked = rng.integers(len(run), size=2 * clicks)
    clicked = PositionBased(eta=ETA).draw(relevance[asked], rng)
    enough = int(np.searchsorted(np.cumsum(clicked.sum(1)), clicks)) + 1
    return Shown(run, asked[:enough], clicked[:enough])


def _write_known(shown: Shown, work: Path) -> None:
    """What sessions tell of documents: columns.jsonl and texts.jsonl.

    Clicks over expected clicks, those that its positions would bring: Zhang and Jones, workshop on query log analysis, WWW 2007.
    """
    run, sessions = shown.run, np.bincount(shown.queries, minlength=len(shown.run))
    through = shown.clicks.mean(0)
    clicks = np.zeros((len(run), POSITIONS))
    np.add.at(clicks, shown.queries, shown.clicks)
    owners, places = run.query_rows, run.ranks - 1
    clicked, expected = clicks[owners, places], sessions[owners] * through[places]
    totals = [np.bincount(run.documents, one, len(run.corpus)) for one in (clicked, expected, sessions[owners])]
    ids = run.corpus.ids(run.corpus.live_rows())
    words: dict[int, list[str]] = {}
    for row in np.flatnonzero((sessions[owners] > 0) & (clicked >= expected)).tolist():
        words.setdefault(int(run.documents[row]), []).append(run.queries.texts[int(owners[row])])
    columns, texts = [], []
    for row, doc_id in zip(run.corpus.live_rows().tolist(), ids, strict=True):
        count, wanted, seen = (float(total[row]) for total in totals)
        columns.append(
            {
                "_id": doc_id,
                "clicks": np.log1p(count),
                "over-expected": (count + SMOOTHING) / (wanted + SMOOTHING),
                "shown": np.log1p(seen),
            }
        )
        if row in words:
            texts.append({"_id": doc_id, "clicked": " ".join(words[row])})
    for name, records in (("columns", columns), ("texts", texts)):
        write(work / f"{name}.jsonl", "".join(json.dumps(one) + "\n" for one in records))


def _write_data(dataset: Dataset, later: Sequence[str], folder: Path) -> None:
    """The data set, with judgements of but these training queries."""
    source = found_folders().get(DATASET)
    if source is None:
        raise UsageError(f"no folder of RANKPIPE_DATA has {DATASET}")
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in ("corpus.jsonl*", "queries.jsonl*"):
        for file in source.glob(pattern):
            shutil.copyfile(file, folder / file.name)
    for split in dataset.splits:
        wanted = set(later) if split == "train" else set(dataset.queries(split).ids)
        lines = [
            f"{query_id}\t{doc_id}\t{grade}\n"
            for query_id, judged in dataset.qrels(split).items()
            if query_id in wanted
            for doc_id, grade in judged.items()
        ]
        write(folder / "qrels" / f"{split}.tsv", "query-id\tcorpus-id\tscore\n" + "".join(lines))


# -- the table -----------------------------------------------------------------------------------------------------


def _table(cells: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for log in LOGS:
        if own := [one for one in cells if one["log"] == log]:
            yield f"## What `{log}` showed\n"
            yield from _of_log(own)


def _of_log(cells: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    of = {method: [one for one in cells if one["method"] == method] for method in METHODS}
    of = {method: rows for method, rows in of.items() if rows}
    values = {method: over_seeds([one["test"] for one in rows]) for method, rows in of.items()}
    yield f"{MEASURE} of {len(next(iter(values.values())))} test queries, mean and deviation over seeds; p of the paired t-test"
    yield "over queries, of their means over seeds.\n"
    yield "| | seeds | dev | test | over hybrid | p | of its labels | error of propensities |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|"
    for method, rows in of.items():
        found = mean(values[method])
        over, p = _apart(values, HYBRID, method) if method != HYBRID else ("", "")
        labels = LABELS[method] + (PLAIN if method.endswith(PLAIN) else "")
        share = (
            f"{100 * found / mean(values[labels]):.1f} %" if labels in values and method not in (HYBRID, labels) else ""
        )
        dev = spread([one["development"]["value"] for one in rows]) if method != HYBRID else ""
        test = spread([mean(one["test"]) for one in rows])
        yield f"| {method} | {len(rows)} | {dev} | {test} | {over} | {p} | {share} | {_error(rows)} |"
    yield "\nDifferences, and p:\n"
    for first, second in ORDER:
        if first in values and second in values:
            over, p = _apart(values, first, second)
            yield f"- {second} less {first}: {over} (p {p})"
    yield ""


def _apart(values: Mapping[str, Mapping[str, float]], first: str, second: str) -> tuple[str, str]:
    """By how much the second is better, and p."""
    found = comparison(values[first], values[second], MEASURE)
    return f"{found.difference:+.4f}", f"{found.t_p:.4f}" if found.t_p is not None else ""


def _error(rows: Sequence[Mapping[str, Any]]) -> str:
    """Largest difference of propensities to those that clicks were drawn with, over the first; mean over seeds."""
    if any(one.get("propensities") is None for one in rows):
        return ""
    truth = PROPENSITIES / PROPENSITIES[0]
    return f"{fmean(float(np.abs(np.array(one['propensities']) - truth).max()) for one in rows):.3f}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--logs", nargs="+", choices=tuple(LOGS), default=list(LOGS), help="what people saw")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--clicks", type=int, default=CLICKS, help="of the whole log")
    parser.add_argument("--work", type=Path, required=True, help="folder for logs and rankers")
    parser.add_argument("--output", type=Path, required=True, help="folder of the cells and the table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
