"""How many of the hard negatives that are mined are documents that nobody judged, but would be relevant.

    RANKPIPE_DATA=FOLDER python eval/hidden_positives.py --output eval/results/hidden-positives

Of every training query with two relevant documents or more, half of them, drawn by a seed, are hidden, as if they had
never been judged. Of the documents that the model ranks first, and that are not known to be relevant, a share turns out
to be hidden ones: so often at least a hard negative would teach the wrong thing. A random negative is one with the
probability that random documents have. Nothing is trained. Exit status: 0 done, 1 one failed, 2 a wrong
command.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from trained import RUNTIME, relevant, write, write_table

from rankpipe import Dataset, Dense, Pipeline
from rankpipe.errors import RankpipeError
from rankpipe.training.queries import judged_queries

DEPTHS = (10, 50, 200)
SEED = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every data set, write what was found and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=["nfcorpus", "scifact"])
    parser.add_argument("--model", default="minilm", help="that mines")
    parser.add_argument("--max-length", type=int, default=128, help="tokens of a text that are read")
    parser.add_argument("--output", type=Path, required=True, help="folder of the table")
    options = parser.parse_args(arguments)
    try:
        rows = [measured(name, options.model, options.max_length) for name in options.datasets]
    except RankpipeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    command = ["python", "eval/hidden_positives.py", *(sys.argv[1:] if arguments is None else arguments)]
    columns = [f"of the first {depth}" for depth in DEPTHS]
    lines = [
        f"Half of the relevant documents of each training query with two or more are hidden (seed {SEED}); shares of "
        "hidden ones among documents that are not known to be relevant, means over queries.\n",
        "| data set | queries | relevant, hidden ones included | " + " | ".join(columns) + " | of all documents |",
        "|---|---:|---:|" + "---:|" * (len(DEPTHS) + 1),
    ]
    for one in rows:
        shares = [f"{100 * one['shares'][str(depth)]:.1f} %" for depth in DEPTHS]
        lines.append(
            f"| {one['dataset']} | {one['queries']:,} | {one['relevant']:.1f} | {' | '.join(shares)} | "
            f"{100 * one['random']:.2f} % |"
        )
    write(options.output / "shares.json", json.dumps(rows, indent=1) + "\n")
    write_table(options.output, "Hard negatives that are relevant documents nobody judged", command, lines)
    return 0


def measured(name: str, model: str, max_length: int) -> dict[str, Any]:
    """Shares of hidden documents by depth, and among all documents."""
    dataset = Dataset.load(name)
    queries, _ = judged_queries(dataset, "train")
    judged = relevant(dataset, "train")
    asked = [judged[query_id] for query_id in queries.ids]
    rows = [row for row, ids in enumerate(asked) if len(ids) > 1]
    rng = np.random.default_rng(SEED)
    halves = []
    for row in rows:
        ids = [asked[row][place] for place in rng.permutation(len(asked[row]))]
        halves.append((set(ids[: len(ids) // 2]), set(ids[len(ids) // 2 :])))
    stage = Dense(model=model, max_length=max_length, k=max(DEPTHS) + max(map(len, asked)))
    run = Pipeline(stages=(stage,), corpus=dataset.corpus, runtime=RUNTIME).run(queries.select(rows))
    found = [list(ranked) for ranked in run.to_dict().values()]
    return {
        "dataset": name,
        "model": model,
        "queries": len(rows),
        "relevant": fmean(len(hidden) + len(known) for hidden, known in halves),
        "shares": {
            str(depth): fmean(
                share(ids, hidden, known, depth) for ids, (hidden, known) in zip(found, halves, strict=True)
            )
            for depth in DEPTHS
        },
        "random": fmean(len(hidden) / (len(dataset.corpus) - len(known)) for hidden, known in halves),
    }


def share(ranked: Sequence[str], hidden: set[str], known: set[str], depth: int) -> float:
    """Of the first `depth` documents that are not known to be relevant, the share of hidden ones."""
    negatives = [doc_id for doc_id in ranked if doc_id not in known][:depth]
    return sum(doc_id in hidden for doc_id in negatives) / len(negatives)


if __name__ == "__main__":
    sys.exit(main())
