"""`rankpipe doc2query`: a data set anew, its documents with queries that a language model writes for them.

OUTPUT/
    corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv    BEIR's layout; only the documents are changed, by the new field
    manifest.json                                   what made the queries, what was left out
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankpipe.errors import UsageError

if TYPE_CHECKING:
    from rankpipe.data.catalogue import Card
    from rankpipe.models.endpoint import Endpoint
    from rankpipe.models.runtime import Runtime
    from rankpipe.training.doc2query import Doc2query, Expansion, Filter

FORMAT = 1
DEPTH = 10
"""Of the filter, where none is given."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What was asked for.

    limit    documents that are expanded; None: all
    command  as a person would give it
    """

    dataset: str
    output: Path
    settings: Doc2query
    keep: Filter | None
    limit: int | None
    runtime: Runtime
    command: str
    force: bool
    say: Callable[[str], None]


def open_settings(endpoint: str | None, **settings: Any) -> Doc2query:
    """The settings. Raises UsageError for the first that is wrong.

    endpoint  an address, or as pipelines have it: "{url: http://localhost:8000/v1, concurrency: 16}"
    """
    from pydantic import ValidationError

    from rankpipe.pipeline.settings import plain_words
    from rankpipe.training.doc2query import Doc2query

    server = None if endpoint is None else _open_endpoint(endpoint)
    try:
        return Doc2query(endpoint=server, **settings)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        option = f"--{str(first['loc'][0]).replace('_', '-')} is {first['input']!r}: " if first["loc"] else ""
        raise UsageError(f"{option}{plain_words(first)}") from None


def _open_endpoint(text: str) -> Endpoint:
    import yaml
    from pydantic import TypeAdapter, ValidationError

    from rankpipe.models.endpoint import Endpoint
    from rankpipe.pipeline.settings import plain_words

    mapping = text.lstrip().startswith("{")
    try:
        settings = yaml.safe_load(text) if mapping else {"url": text}
        return TypeAdapter(Endpoint).validate_python(settings)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = f" {'.'.join(map(str, first['loc']))}" if mapping else ""
        raise UsageError(f"--endpoint{name} is {first['input']!r}: {plain_words(first)}") from None
    except (yaml.YAMLError, ValueError):  # a date that is none, too
        raise UsageError(f"--endpoint is {text!r}: neither an address nor settings of one in YAML") from None


def open_filter(pipeline: str | None, depth: int | None, runtime: Runtime) -> Filter | None:
    """The filter by a pipeline. Raises UsageError for a depth without one, PipelineError for what is wrong in the file."""
    from rankpipe.cli.common import load_pipeline
    from rankpipe.training.doc2query import Filter

    if pipeline is None:
        if depth is not None:
            raise UsageError("--depth is of the filter; name its pipeline with --keep, for example --keep bm25")
        return None
    return Filter(load_pipeline(pipeline, runtime), depth or DEPTH)


def expand_dataset(asked: Asked) -> None:
    """Write the data set, and print how many queries it has.

    Raises whatever reading the data set, opening and asking the model raise; no folder is left, then.
    """
    from rankpipe.data import Dataset
    from rankpipe.data.layout import write_documents, write_queries_and_qrels
    from rankpipe.progress import counted
    from rankpipe.training.doc2query import Expansion
    from rankpipe.writing import check_replaceable, replacing_folder

    began = datetime.now(timezone.utc)
    check_replaceable(asked.output, force=asked.force)
    data = Dataset.load(asked.dataset)
    for note in (*data.notes, *told_of_card(data.card, asked.output)):
        asked.say(note)
    corpus = data.corpus
    count = corpus.size if asked.limit is None else min(asked.limit, corpus.size)
    with asked.runtime.active():
        expansion = Expansion(corpus, asked.settings, asked.keep)
        with replacing_folder(asked.output, force=asked.force) as folder:
            write_queries_and_qrels(folder, data)
            with counted(count, "documents") as advance:
                write_documents(folder, expansion.records(asked.limit, advance))
            source = {"name": data.name, "card": data.card.name, "documents": corpus.size, "digest": corpus.digest}
            manifest = json.dumps(_manifest(asked, expansion, source, began), indent=1)
            (folder / "manifest.json").write_text(manifest + "\n", encoding="utf-8")
    print(told_in_words(expansion.counts))
    asked.say(f"written: {asked.output}")


def told_in_words(counts: Mapping[str, int]) -> str:
    """How many queries there are, and what was left out, in two lines."""
    names = {
        "repeated": "repeated",
        "too_long": "too long",
        "refused_prompt_too_long": "of documents too long for the model",
        "refused_empty": "empty",
        "refused_runaway": "in circles",
        "refused_unreadable": "unreadable",
        "not_found": "not finding their document",
    }
    left_out = [f"{counts[name]:,} {said}" for name, said in names.items() if counts.get(name)]
    return (
        f"{counts['queries']:,} queries for {counts['expanded']:,} of {counts['documents']:,} documents\n"
        f"left out of {counts['answers']:,} answers: {', '.join(left_out) or 'none'}"
    )


def _manifest(asked: Asked, expansion: Expansion, source: Mapping[str, Any], began: datetime) -> dict[str, Any]:
    from rankpipe.evaluation.manifest import plain, versions
    from rankpipe.machine import machine
    from rankpipe.training.doc2query import FIELD

    return {
        "format": FORMAT,
        "command": asked.command,
        "dataset": source,
        "field": FIELD,
        "settings": {name: plain(value) for name, value in asdict(asked.settings).items()},
        "limit": asked.limit,
        **expansion.told(),
        "runtime": {**asdict(asked.runtime), "threads": asked.runtime.thread_count},
        "versions": versions(),
        "machine": machine(),
        "started": began.isoformat(timespec="seconds"),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def told_of_card(card: Card, output: Path) -> list[str]:
    """What to mind where a data set is measured in its own way, which a folder of another name is not."""
    parts = card.name.split("/")
    if (card.relevance_cut == 1 and not card.self_match) or output.resolve().name in parts:
        return []
    return [
        f"note: '{card.name}' has a card that says how to measure on it, and a folder has that card under its name only: "
        f"--output {output / parts[-1]}"
    ]
