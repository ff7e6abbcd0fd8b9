"""RM3 and Rocchio beside Pyserini's, on the same documents, queries and settings.

    RANKPIPE_DATA=FOLDER python eval/lucene_feedback.py --output eval/results/feedback/pyserini.md

Needs the extra `lucene`: Anserini indexes title and text with document vectors, and its SimpleSearcher runs BM25 (k1 .9,
b .4), RM3 and Rocchio with the settings of the pipelines rm3 and rocchio, which are Pyserini's defaults; but `least: 1`,
since Pyserini expands a query from a single document, too. Exit status: 0 all differences of nDCG@10, AP and R@1000 are
within .005, 1 one is not.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rankpipe import Dataset, Pipeline, Run
from rankpipe.evaluation.experiment import evaluate_on
from rankpipe.index.lucene_server import start_java
from rankpipe.stages.feedback import Feedback
from rankpipe.writing import replacing

DATASETS = ("scifact", "nfcorpus", "vaswani", "cranfield", "cisi")
MEASURES = ("nDCG@10", "AP", "R@1000")
METHODS = ("bm25", "rm3", "rocchio")
WITHIN = 0.005


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare; give the exit status."""
    options = _parser().parse_args(arguments)
    java = start_java()
    given = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", "eval/lucene_feedback.py", *given])
    lines = [
        "# RM3 and Rocchio beside Pyserini's",
        f"\n```sh\n{command}\n```\n",
        f"Ours less theirs in brackets; anserini-{_version()}, split test.\n",
        "| data set | method | " + " | ".join(MEASURES) + " | the same first document |",
        "|---|---|" + "---|" * (len(MEASURES) + 1),
    ]
    worst = 0.0
    for name in options.datasets:
        dataset = Dataset.load(name)
        with tempfile.TemporaryDirectory() as folder:
            _index(java, dataset, folder)
            for method in METHODS:
                ours = _ours(dataset, method)
                theirs = _theirs(java, dataset, folder, method)
                values = [
                    (evaluate_on(one, dataset, "test", measures=MEASURES)[measure])
                    for measure in MEASURES
                    for one in (ours, theirs)
                ]
                pairs = list(zip(values[::2], values[1::2], strict=True))
                worst = max(worst, *(abs(mine - other) for mine, other in pairs))
                cells = [f"{mine:.4f} ({mine - other:+.4f})" for mine, other in pairs]
                lines.append(f"| {name} | {method} | {' | '.join(cells)} | {_agreeing(ours, theirs):.3f} |")
                print(lines[-1], flush=True)
    lines.append(f"\nThe largest difference is {worst:.4f}.")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(options.output) as file:
        file.write("\n".join(lines) + "\n")
    return int(worst > WITHIN)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Compare RM3 and Rocchio with Pyserini's.")
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS))
    parser.add_argument("--output", type=Path, required=True, help="file of the table")
    return parser


def _version() -> str:
    from rankpipe.index.lucene_server import anserini_jar

    return anserini_jar().name.removeprefix("anserini-").removesuffix("-fatjar.jar")


def _index(java: Callable[[str], Any], dataset: Dataset, folder: str) -> None:
    """Index title and text, joined by a blank, with the documents' terms."""
    options = ["-input", "", "-collection", "JsonCollection", "-index", folder, "-threads", "1"]
    writer = java("io.anserini.index.SimpleIndexer")([*options, "-memoryBuffer", "128", "-storeDocvectors"])
    corpus = dataset.corpus
    rows = corpus.live_rows()
    for doc_id, text in zip(corpus.ids(rows), corpus.joined_texts(rows), strict=True):
        if text.strip():
            writer.addRawDocument(json.dumps({"id": doc_id, "contents": text}))
    writer.close(True)


def _ours(dataset: Dataset, method: str) -> Run:
    stages = Pipeline.load(method).stages
    stages = tuple(replace(stage, least=1) if isinstance(stage, Feedback) else stage for stage in stages)
    return Pipeline(stages=stages, corpus=dataset.corpus).run(dataset.queries("test"), progress=False)


def _theirs(java: Callable[[str], Any], dataset: Dataset, folder: str, method: str) -> Run:
    searcher = java("io.anserini.search.SimpleSearcher")(folder)
    searcher.set_bm25(0.9, 0.4)
    if method == "rm3":
        searcher.set_rm3()
    elif method == "rocchio":
        searcher.set_rocchio()
    queries = dataset.queries("test")
    ranked: dict[str, dict[str, float]] = {}
    for query_id, text in zip(queries.ids, queries.texts, strict=True):
        found = searcher.search(text, 1000)
        ranked[query_id] = {
            one.docid: -float(rank) for rank, one in enumerate(found)
        }  # theirs is the order that counts
    searcher.close()
    return Run.of(queries, dataset.corpus, ranked)


def _agreeing(ours: Run, theirs: Run) -> float:
    """Share of queries whose first document is the same."""
    both = [run.to_dict() for run in (ours, theirs)]
    same = [next(iter(both[0][one]), None) == next(iter(both[1][one]), None) for one in ours]
    return sum(same) / len(same)


if __name__ == "__main__":
    sys.exit(main())
