"""Tables: many results side by side, for the terminal, for Markdown, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rankpipe.evaluation.comparison import Comparison, compare
from rankpipe.evaluation.result import Result

if TYPE_CHECKING:
    import rich.table

LEVEL = 0.05
"""Differences with a p below this are marked."""
MARK = "†"
NOT_THERE = "n/a"
NARROWEST = 20
"""Columns of text below which no field is folded."""
PAGE = 200
"""Columns of text where the output is no terminal."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What one pipeline gave on one data set: a result, or the error it failed with.

    seconds  of each stage, by its label
    """

    pipeline: str
    dataset: str
    result: Result | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class Entry:
    """One field of a table."""

    text: str
    best: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under named columns, with remarks below.

    labels  how many columns, from the left, hold words; the others hold numbers and stand to the right
    notes   sentences for below the table
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    labels: int
    notes: tuple[str, ...] = ()

    def terminal(self) -> rich.table.Table:
        """The table for rich to print, notes as its caption; where room is short, the widest column is folded."""
        import rich.box
        import rich.table
        from rich.cells import cell_len
        from rich.text import Text

        table = rich.table.Table(box=rich.box.SIMPLE_HEAD, caption_justify="left", caption_style="")
        fields = [self.columns, *(tuple(entry.text for entry in row) for row in self.rows)]
        widths = [max(map(cell_len, column)) for column in zip(*fields, strict=True)]
        widest = widths.index(max(widths))
        for place, column in enumerate(self.columns):
            table.add_column(
                Text(column),
                justify="left" if place < self.labels else "right",
                overflow="fold",
                min_width=min(widths[place], NARROWEST) if place == widest else widths[place],
            )
        for row in self.rows:
            table.add_row(*(Text(entry.text, style="bold" if entry.best else "") for entry in row))
        table.caption = Text("\n".join(self.notes)) if self.notes else None
        return table

    def show(self) -> None:
        """Print the table as wide as the terminal, or wider if else it lost a number; elsewhere as wide as it is."""
        from rich.console import Console

        table, console = self.terminal(), Console()
        needed = Console(width=10 * PAGE).measure(table).minimum
        width = max(console.width if console.is_terminal else PAGE, needed)
        Console(width=width).print(table)

    def markdown(self) -> str:
        """The table in Markdown, the best in bold, notes as a list below it."""
        rule = ["---" if place < self.labels else "---:" for place in range(len(self.columns))]
        fields = [map(escaped, self.columns), rule, *(map(_markdown_entry, row) for row in self.rows)]
        lines = [f"| {' | '.join(row)} |" for row in fields]
        if self.notes:
            lines += ["", *(f"- {escaped(note)}" for note in self.notes)]
        return "\n".join(lines) + "\n"


def measures_table(result: Result) -> Table:
    """One row for each measure of one result, what was assumed in the notes."""
    rows = tuple((Entry(measure), Entry(f"{value:.4f}")) for measure, value in result.items())
    return Table(columns=("measure", "mean"), rows=rows, labels=1, notes=result.assumed)


def results_table(cells: Sequence[Cell], measures: Sequence[str]) -> Table:
    """One row for each pipeline on each data set, data sets together, in the order of `cells`.

    The best of a data set are marked as such; a dagger marks what differs from the first pipeline on the same data set
    (randomisation test, Holm-corrected over the pipelines). A failed cell is n/a, its error in the notes.
    """
    rows, notes, marked = [], [], False
    for dataset, of_dataset in _by_dataset(cells).items():
        differing = _differing(of_dataset, cells[0].pipeline)
        best = _best(of_dataset, measures)
        for cell in of_dataset:
            entries = [Entry(dataset), Entry(cell.pipeline)]
            for measure in measures:
                text = _number(cell, measure)
                differs = (cell.pipeline, measure) in differing
                marked |= differs
                entries.append(Entry(text + MARK * differs, best.get(measure) == text))
            entries.append(Entry(_stage_seconds(cell)))
            rows.append(tuple(entries))
    if marked:
        notes.append(
            f"{MARK} differs from {cells[0].pipeline} on the same data set, p < {LEVEL}: "
            "two-sided randomisation test, Holm's correction over the pipelines"
        )
    notes += [f"{cell.dataset}, {cell.pipeline}: failed: {cell.error}" for cell in cells if cell.result is None]
    if any(len(cell.seconds) > 1 for cell in cells):
        notes.append("the seconds of a stage that holds others include theirs")
    notes += _assumptions(cells)
    columns = ("data set", "pipeline", *measures, "seconds of each stage")
    return Table(columns=columns, rows=tuple(rows), labels=2, notes=tuple(notes))


def comparison_table(comparisons: Sequence[Comparison], notes: Sequence[str] = ()) -> Table:
    """One row for each measure and system: difference with its interval, both p-values, wins, ties and losses.

    notes  that stand below it beside its own, such as notes_of the results
    """
    columns = (
        "measure",
        "system",
        "mean",
        "baseline",
        "difference",
        "95 % interval",
        "t-test p",
        "random p",
    )
    rows = [
        tuple(
            map(
                Entry,
                (
                    one.measure,
                    one.system,
                    f"{one.system_mean:.4f}",
                    f"{one.baseline_mean:.4f}",
                    f"{one.difference:+.4f}",
                    NOT_THERE if one.interval is None else f"{one.interval[0]:+.4f} to {one.interval[1]:+.4f}",
                    NOT_THERE if one.t_p_holm is None else p_text(one.t_p_holm),
                    p_text(one.randomisation_p_holm),
                    f"{one.wins}/{one.ties}/{one.losses}",
                ),
            )
        )
        for one in comparisons
    ]
    return Table(
        columns=(*columns, "won/tied/lost"), rows=tuple(rows), labels=2, notes=(*_comparison_notes(comparisons), *notes)
    )


def results_csv(cells: Sequence[Cell], measures: Sequence[str]) -> str:
    """The results as CSV, four decimals; measures that differ from the first pipeline's stand in one column."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["dataset", "pipeline", *measures, "seconds", "differs", "error"])
    for dataset, of_dataset in _by_dataset(cells).items():
        differing = _differing(of_dataset, cells[0].pipeline)
        for cell in of_dataset:
            differs = " ".join(measure for measure in measures if (cell.pipeline, measure) in differing)
            numbers = [_number(cell, measure) for measure in measures]
            writer.writerow([dataset, cell.pipeline, *numbers, _stage_seconds(cell), differs, cell.error or ""])
    return buffer.getvalue()


def results_json(cells: Sequence[Cell]) -> str:
    """The results as a JSON list of objects, values in full, without the values of single queries."""
    rows: list[dict[str, Any]] = []
    for dataset, of_dataset in _by_dataset(cells).items():
        differing = _differing(of_dataset, cells[0].pipeline)
        for cell in of_dataset:
            row: dict[str, Any] = {"dataset": dataset, "pipeline": cell.pipeline}
            if cell.result is None:
                row["error"] = cell.error
            else:
                row["measures"] = dict(cell.result)
                row["differs"] = [measure for measure in cell.result if (cell.pipeline, measure) in differing]
                row["seconds"] = dict(cell.seconds)
                row["assumed"] = list(cell.result.assumed)
            rows.append(row)
    return json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def p_text(p: float) -> str:
    """A p-value in four decimals, or how small it is."""
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


_MARKS = re.compile(r"[\\`*|~\[\]]|(?<![^\W_])_|_(?![^\W_])")
"""Characters that mean something to Markdown; an underscore inside a word does not."""


def escaped(text: str) -> str:
    """Text that stands in one field of a Markdown table as it is: nothing in it becomes a link, a picture or emphasis."""
    return _MARKS.sub(r"\\\g<0>", " ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;")


def _markdown_entry(entry: Entry) -> str:
    text = escaped(entry.text)
    if not entry.best:
        return text
    mark = MARK if text.endswith(MARK) else ""
    return f"**{text.removesuffix(MARK)}**{mark}"


def _by_dataset(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    grouped: dict[str, list[Cell]] = {}
    for cell in cells:
        grouped.setdefault(cell.dataset, []).append(cell)
    return grouped


def _is_quality(measure: str) -> bool:
    """Whether more of it is better: not so of the share of judged documents."""
    return not measure.startswith("Judged")


def _differing(cells: Sequence[Cell], baseline: str) -> set[tuple[str, str]]:
    """(pipeline, measure) of what differs from the baseline on one data set; nothing where the baseline failed."""
    results = {cell.pipeline: cell.result for cell in cells if cell.result is not None}
    if baseline not in results or len(results) < 2:
        return set()
    shared = [name for name in results[baseline] if _is_quality(name) and all(name in one for one in results.values())]
    if not shared:
        return set()
    ordered = {baseline: results[baseline], **results}
    return {(one.system, one.measure) for one in compare(ordered, measures=shared) if one.randomisation_p_holm < LEVEL}


def _best(cells: Sequence[Cell], measures: Sequence[str]) -> dict[str, str]:
    """The highest value of each measure as it is written, where there is more than one to choose from."""
    best: dict[str, str] = {}
    for measure in filter(_is_quality, measures):
        values = [cell.result[measure] for cell in cells if cell.result is not None and measure in cell.result]
        if len(values) > 1:
            best[measure] = f"{max(values):.4f}"
    return best


def _number(cell: Cell, measure: str) -> str:
    return NOT_THERE if cell.result is None or measure not in cell.result else f"{cell.result[measure]:.4f}"


def _stage_seconds(cell: Cell) -> str:
    return ", ".join(f"{label} {seconds:.2f}" for label, seconds in cell.seconds.items()) or NOT_THERE


def _assumptions(cells: Sequence[Cell]) -> list[str]:
    """What was assumed, once for a data set where all its pipelines share it."""
    return [
        note
        for dataset, of_dataset in _by_dataset(cells).items()
        for note in notes_of({one.pipeline: one.result for one in of_dataset if one.result is not None}, dataset)
    ]


def notes_of(results: Mapping[str, Result], dataset: str = "") -> list[str]:
    """What was assumed of results, each sentence once, with the names of those that it holds for.

    dataset  that all are of, if it is to be told
    """
    notes: list[str] = []
    for sentence in dict.fromkeys(sentence for result in results.values() for sentence in result.assumed):
        having = [name for name, result in results.items() if sentence in result.assumed]
        shared = len(having) == len(results)
        who = [dataset] * bool(dataset) + ([] if shared else [" and ".join(having)])
        notes.append(f"{', '.join(who) or 'all'}: {sentence}")
    return notes


def _comparison_notes(comparisons: Sequence[Comparison]) -> list[str]:
    notes = [f"baseline: {one.baseline}; difference: system less baseline, over the queries" for one in comparisons[:1]]
    sampled = next((one.flips for one in comparisons if not one.exact), None)
    flips = "all sign flips" if sampled is None else f"{sampled:,} sign flips drawn, or all where they are fewer"
    notes.append(f"t-test p: paired, two-sided; random p: randomisation test, two-sided, {flips}")
    if len({one.system for one in comparisons}) > 1:
        notes.append("p-values after Holm's correction over the systems, for each measure")
    for one in (other for other in comparisons if other.measure == comparisons[0].measure):
        for kind, queries in (("gains", one.largest_gains), ("losses", one.largest_losses)):
            if queries:
                listed = ", ".join(f"{query_id} {value:+.4f}" for query_id, value in queries.items())
                notes.append(f"{one.measure}, {one.system}: largest {kind}: {listed}")
    return notes
