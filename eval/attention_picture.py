"""The picture of docs/stages/attention.md: what a claim of scifact attends to in its first documents.

RANKPIPE_DATA=FOLDER python eval/attention_picture.py --heads eval/results/icr/heads/qr/heads.json --output docs/stages/attention.svg
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from trained import write

from rankpipe import BM25, Attention, Dataset
from rankpipe.evaluation.explanation import picture


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--query", default="36", help="id of a test query of scifact")
    parser.add_argument("--heads", help="file of heads; without it, all are read")
    parser.add_argument("--documents", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    dataset = Dataset.load("scifact")
    queries = dataset.queries("test")
    query = queries.texts[queries.row(options.query)]
    stage = Attention(model="smollm2", depth=20, max_words=100, heads=options.heads or "all")
    found = (BM25(k=20) >> stage).on(dataset.corpus).search(query, options.documents, explain=True)
    judged = dataset.qrels("test")[options.query]
    documents = [
        (f"{one.rank}. {one.doc_id}{', relevant' if judged.get(one.doc_id) else ''}", one.explained["attention"])
        for one in found
    ]
    write(options.output, picture(query, documents))
    return 0


if __name__ == "__main__":
    sys.exit(main())
