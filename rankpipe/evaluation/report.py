"""The folder of results that `rankpipe run` leaves: what was found, query by query, how it was made, and a page to read.

run.trec          the ranking
metrics.json      {measure: value}
per_query.jsonl   {"query_id": ..., measure: value, ...} a line, in the order of the judgements
manifest.json     see rankpipe.evaluation.manifest
report.md         the same for people
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankpipe.evaluation.manifest import manifest
from rankpipe.evaluation.tables import escaped
from rankpipe.writing import MANIFEST, replacing_folder

if TYPE_CHECKING:
    from rankpipe.evaluation.experiment import Experiment

SHOWN = 5
"""Queries shown from either end."""
WIDTH = 100
"""Characters of a query or document shown in a table."""


def write_results(experiment: Experiment, folder: Path, *, command: str, force: bool = False) -> None:
    """Write the folder of an experiment, whole or not at all.

    command  the command line that makes these results again

    Raises UsageError if the folder exists, unless `force` replaces it and it holds results of rankpipe.
    """
    described = manifest(experiment, command=command)
    with replacing_folder(folder, force=force) as aside:
        experiment.run.write_trec(aside / "run.trec")
        _write(aside / "metrics.json", _json(dict(experiment.result)))
        _write(aside / "per_query.jsonl", "".join(_lines(experiment)))
        _write(aside / MANIFEST, _json(described))
        _write(aside / "report.md", report(experiment, described))


def report(experiment: Experiment, described: dict[str, Any]) -> str:
    """The page to read, in Markdown; `described` is the experiment's manifest."""
    steps = " >> ".join(stage.type_name() for stage in experiment.pipeline.stages)
    sections = [
        [f"# {escaped(steps)} on {escaped(experiment.dataset.name)}, {escaped(experiment.split)}"],
        [escaped(experiment.pipeline.description)] if experiment.pipeline.description else [],
        _table(("measure", "mean"), [(name, f"{value:.4f}") for name, value in experiment.result.items()]),
        _fenced(described["command"], "sh"),
        ["## What was assumed"],
        _list(experiment.result.assumed) or ["Nothing."],
        *_cut_section(described),
        ["## Data set"],
        _list(_dataset_facts(experiment, described)),
        ["## Pipeline"],
        _fenced(described["pipeline"]["yaml"], "yaml"),
        ["All settings, defaults included:"],
        _fenced("\n".join(json.dumps(stage, ensure_ascii=False) for stage in described["pipeline"]["stages"]), "json"),
        ["## Seconds"],
        _table(("step", "seconds"), _seconds(described)),
        *_query_sections(experiment),
        ["## Made with"],
        _list(_circumstances(described)),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"


def _lines(experiment: Experiment) -> Iterator[str]:
    per_query = experiment.result.per_query
    for query_id in next(iter(per_query.values())):
        row = {"query_id": query_id, **{measure: values[query_id] for measure, values in per_query.items()}}
        yield json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def _dataset_facts(experiment: Experiment, described: dict[str, Any]) -> Iterator[str]:
    facts, card = described["dataset"], experiment.dataset.card
    yield f"{facts['documents']:,} documents, {facts['queries']:,} queries, {facts['judgements']:,} judgements"
    for label, value in (("source", card.source), ("licence", card.licence)):
        if value:
            yield f"{label}: {value}"
    if card.self_match:
        yield "queries are documents of the corpus: the one with the query's own id is removed before measuring"
    yield f"binary measures take relevance {card.relevance_cut} or more as relevant"
    yield from facts["quirks"]
    for name, digest in described["digests"].items():
        yield f"digest of the {name}: {digest}"


def _cut_section(described: dict[str, Any]) -> Iterator[list[str]]:
    """How much was longer than what a stage reads of a text; nothing where no stage has such a limit."""
    lines = []
    for label, told in described["opened"].items():
        documents = "pairs of query and document" if "pairs" in told else "documents"
        shares = [
            f"{100 * told[name]:.4g} % of the {what}"
            for name, what in (("truncated_share", documents), ("truncated_query_share", "queries"))
            if name in told
        ]
        if shares:
            lines.append(f"{label}: {' and '.join(shares)}")
    if lines:
        yield ["## What was too long, and cut"]
        yield _list(lines)


def _seconds(described: dict[str, Any]) -> list[tuple[str, str]]:
    seconds = described["seconds"]
    stages = [(label, f"{value:.2f}") for label, value in seconds["stages"].items()]
    return [("opening or building indexes and models", f"{seconds['prepare']:.2f}"), *stages]


def _circumstances(described: dict[str, Any]) -> Iterator[str]:
    machine, memory = described["machine"], described["machine"]["memory"]
    amount = f", {memory / 2**30:.1f} GiB of memory" if memory else ""
    yield f"{machine['processor']}, {machine['usable_cores']} of {machine['cores']} cores{amount}; {machine['system']}"
    yield ", ".join(f"{label}: {value}" for label, value in described["runtime"].items())
    if described["seeds"]:
        yield "seeds: " + ", ".join(f"{label} {seed}" for label, seed in described["seeds"].items())
    yield ", ".join(f"{package} {number}" for package, number in described["versions"].items())
    yield f"from {described['started']} to {described['finished']}"


def _query_sections(experiment: Experiment) -> Iterator[list[str]]:
    """The queries with the lowest and with the highest nDCG@10, or whatever is measured first."""
    per_query = experiment.result.per_query
    measure = "nDCG@10" if "nDCG@10" in per_query else next(iter(per_query))
    values = per_query[measure]
    measured = [query_id for query_id in values if query_id in experiment.run.queries]
    worst = sorted(measured, key=values.__getitem__)[: min(SHOWN, (len(measured) + 1) // 2)]
    best = sorted((one for one in measured if one not in worst), key=lambda query_id: -values[query_id])
    columns = ("query", "text", measure, "relevant", "first relevant at", "first document")
    for title, chosen in (("Worst", worst), ("Best", best[:SHOWN])):
        if chosen:
            yield [f"## {title} queries by {escaped(measure)}"]
            yield _table(columns, [_query_row(experiment, query_id, values[query_id]) for query_id in chosen])


def _query_row(experiment: Experiment, query_id: str, value: float) -> tuple[str, ...]:
    run, card = experiment.run, experiment.dataset.card
    judged = experiment.dataset.qrels(experiment.split)[query_id]
    relevant = {doc_id for doc_id, relevance in judged.items() if relevance >= card.relevance_cut}
    found = [one for one in run[query_id] if not (card.self_match and one.doc_id == query_id)]
    first = next((str(rank) for rank, one in enumerate(found, start=1) if one.doc_id in relevant), "not found")
    top = f"{found[0].doc_id}: {found[0].title or found[0].text}" if found else "none"
    text = run.queries.original[run.queries.row(query_id)]
    return query_id, _shortened(text), f"{value:.4f}", str(len(relevant)), first, _shortened(top)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    fields = [columns, ["---"] * len(columns), *rows]
    return [f"| {' | '.join(field if set(field) == {'-'} else escaped(field) for field in row)} |" for row in fields]


def _list(sentences: Sequence[str] | Iterator[str]) -> list[str]:
    return [f"- {escaped(sentence)}" for sentence in sentences]


def _fenced(text: str, language: str) -> list[str]:
    fence = "```"
    while fence in text:
        fence += "`"
    return [f"{fence}{language}", text.rstrip("\n"), fence]


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= WIDTH else line[: WIDTH - 1].rstrip() + "…"


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _write(path: Path, text: str) -> None:
    """Write text; the lone surrogates of a file name that is no UTF-8 become escapes, which JSON reads back."""
    path.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
