"""Data sets written as folders in BEIR's layout, as rankpipe.data.readers reads them.

corpus.jsonl       {"_id", "title", "text", further fields}, a document a line
queries.jsonl      {"_id", "text", further fields}, a query a line
qrels/SPLIT.tsv    query-id, corpus-id, score, parted by tabs, under a header of these words
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from rankpipe.data.corpus import Record
from rankpipe.data.dataset import Dataset
from rankpipe.data.qrels import Qrels
from rankpipe.data.queries import NoQueriesError, Queries
from rankpipe.data.readers import BEIR_HEADER
from rankpipe.errors import DataError


def write_documents(folder: Path, documents: Iterable[Record]) -> None:
    """Write records as corpus.jsonl."""
    _write_records(folder / "corpus.jsonl", documents)


def write_queries_and_qrels(folder: Path, dataset: Dataset) -> None:
    """Write all queries of a data set, and the judgements of every split; nothing for a data set of documents alone.

    Raises DataError for an id that cannot stand in a file of judgements, and for judgements of queries that have no text.
    """
    try:
        queries = dataset.queries(None)
    except NoQueriesError:
        if dataset.splits:
            raise
        return
    _write_records(folder / "queries.jsonl", _query_records(queries))
    for split in dataset.splits:
        path = folder / "qrels" / f"{split}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = "\n".join([BEIR_HEADER, *_judgements(dataset.qrels(split))])
        path.write_text(f"{lines}\n", encoding="utf-8", newline="\n")


def _write_records(path: Path, records: Iterable[Record]) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for record in records:
            fields = {"_id" if name == "id" else name: value for name, value in record.items()}
            file.write(json.dumps(fields, ensure_ascii=False) + "\n")


def _query_records(queries: Queries) -> Iterator[Mapping[str, str]]:
    for row, (query_id, text) in enumerate(zip(queries.ids, queries.texts, strict=True)):
        further = {name: values[row] for name, values in queries.fields.items() if values[row]}
        yield {"id": query_id, "text": text, **further}


def _judgements(qrels: Qrels) -> Iterator[str]:
    for query_id, judged in qrels.items():
        for doc_id, relevance in judged.items():
            for one in (query_id, doc_id):
                if one != one.strip() or any(sign in one for sign in "\t\n"):
                    raise DataError(f"id {one!r} cannot stand in a file of judgements, which tabs part")
            yield f"{query_id}\t{doc_id}\t{relevance}"
