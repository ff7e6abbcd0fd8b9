"""What commands have in common: opening what they are given, saying what came out."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rankpipe.errors import UsageError

WORD = re.compile(r"\w+")
MOST = 500
"""Words of a query in a text, from the first on, among which an excerpt is looked for."""

if TYPE_CHECKING:
    from rankpipe.data import Dataset
    from rankpipe.evaluation.experiment import Experiment
    from rankpipe.evaluation.result import Result
    from rankpipe.models.runtime import Runtime
    from rankpipe.pipeline import Pipeline
    from rankpipe.pipeline.order import Given
    from rankpipe.run import Candidate, Run
    from rankpipe.trec import Ties


def common_dataset(folders: list[Path], dataset: str | None, split: str | None) -> tuple[str, str]:
    """Data set and split to measure runs by: what is asked for, or else what their folders say they were made on.

    Raises UsageError where neither says it: of run files, and of folders that were made on different ones.
    """
    told = [_made_on(folder) for folder in folders]
    named = list(dict.fromkeys((name, own) for name, own, _ in told if name is not None and dataset in (None, name)))
    if dataset is None and (not named or any(name is None for name, *_ in told)):
        raise UsageError("give the judgements by one of --qrels FILE and --dataset NAME")
    if len({name for name, _ in named}) > 1 or (len(named) > 1 and split is None):
        raise UsageError(
            f"the runs were made on {', '.join(f'{name} {own}' for name, own in named)}; say by which to measure them all: "
            "--dataset NAME --split NAME"
        )
    if not named:
        return dataset or "", split or "test"
    name, own = named[0]
    if len(named) == 1:
        _note_changes(str(name), str(own), [digests for one, _, digests in told if one == name])
    return str(name), split or str(own)


def json_line(candidate: Candidate) -> str:
    """What was found as an object of JSON on one line."""
    import json
    from math import isfinite

    from rankpipe.evaluation.explanation import words_of

    told = {
        "rank": candidate.rank,
        "id": candidate.doc_id,
        "score": candidate.score,
        "scores": {name: score if isfinite(score) else None for name, score in candidate.scores.items()},
        "document": candidate.document,
    }
    if candidate.explained:
        told["explained"] = {name: words_of(pieces) for name, pieces in candidate.explained.items()}
        told["remarks"] = dict(candidate.remarks)
    return json.dumps(told)  # in ASCII, which every terminal and every reader of lines takes as it is


def read_tries(texts: list[str]) -> dict[str, list[Any]]:
    """Values by "STAGE.SETTING", of texts "STAGE.SETTING=A,B". Raises UsageError for a text that is none, or a second one."""
    import yaml

    found: dict[str, list[Any]] = {}
    for text in texts:
        name, _, values = text.partition("=")
        try:
            read = yaml.safe_load(f"[{values}]")
        except (yaml.YAMLError, ValueError):
            read = []
        if "." not in name or not read:
            raise UsageError(
                f"--try is {text!r}; it must be a stage, a setting and values of it, as bm25.k1=0.6,0.9,1.2"
            )
        if name in found:
            raise UsageError(f"--try names {name!r} twice; give all values at once")
        found[name] = read
    return found


def _note_changes(name: str, split: str, made_on: list[dict[str, str]]) -> None:
    """Say where runs were made on another state of a data set than that which they are measured by."""
    from rankpipe.data import Dataset
    from rankpipe.evaluation.manifest import qrels_digest

    if any(digests != made_on[0] for digests in made_on):
        say(
            f"note: '{name}' had other documents, queries or judgements for some of these runs than for others; all are "
            "measured by what it has now"
        )
        return
    dataset = Dataset.load(name)
    if split not in dataset.splits:
        return
    # What measuring depends on. Queries may be fewer than the split has: those of a run that was re-ranked.
    now = {"documents": ("corpus", dataset.corpus.digest), "judgements": ("qrels", qrels_digest(dataset.qrels(split)))}
    if others := [words for words, (kind, digest) in now.items() if made_on[0].get(kind, digest) != digest]:
        say(
            f"note: '{name}' had other {' and '.join(others)} when these runs were made; they are measured by what it has "
            "now"
        )


def _made_on(folder: Path) -> tuple[str | None, str | None, dict[str, str]]:
    """Name, split and digests of the data set that a folder's results were made on."""
    import json

    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        described = manifest["dataset"]
        return str(described["name"]), str(described["split"]), dict(manifest.get("digests") or {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None, None, {}  # no folder of ours: then the judgements have to be named


def measured(
    ranked: Run, qrels: Path | None, dataset: str | None, split: str | None, measures: list[str] | None
) -> Result:
    """A run measured by a file of judgements, or by a data set with its quirks."""
    if (qrels is None) == (dataset is None):
        raise UsageError("give the judgements by one of --qrels FILE and --dataset NAME")
    if qrels is not None and split is not None:
        raise UsageError("--split is one of a data set; the judgements are those of --qrels")
    if qrels is not None:
        from rankpipe.data.readers import read_qrels
        from rankpipe.evaluation import DEFAULT_MEASURES, evaluate

        return evaluate(ranked, read_qrels(qrels), measures or DEFAULT_MEASURES)
    from rankpipe.evaluation.experiment import evaluate_on

    return evaluate_on(ranked, load_dataset(dataset or ""), split or "test", measures=measures)


def finish(experiment: Experiment, output: Path | None, *, force: bool, before: Result | None = None) -> None:
    """Show the measures of an experiment and write its results, if they have a place."""
    print_result(experiment.result, before)
    if output is None:
        say("nothing is written; --output FOLDER keeps the results")
        return
    from rankpipe.evaluation.report import write_results

    write_results(experiment, output, command=command_line(), force=force)
    say(f"results: {output}")


def print_result(result: Result, before: Result | None = None) -> None:
    """Measures on standard output, a line each; what was assumed on standard error."""
    width = max(map(len, result))
    for name, value in result.items():
        print(f"{name:<{width}}  {value:.4f}" + ("" if before is None else f"  (given: {before[name]:.4f})"))
    for sentence in result.assumed:
        say(f"note: {sentence}")


def command_line() -> str:
    """The command line that was given."""
    return shlex.join(["rankpipe", *sys.argv[1:]])


def load_both(
    pipeline: str, dataset: str, runtime: Runtime, output: Path | None, *, force: bool, given: Given | None = None
) -> tuple[Pipeline, Dataset]:
    """Pipeline and data set of an experiment, if its results can be written."""
    from rankpipe.writing import check_replaceable

    if output is not None:
        check_replaceable(output, force=force)
    return load_pipeline(pipeline, runtime, given), load_dataset(dataset)


def load_pipeline(path: str, runtime: Runtime | None, given: Given | None = None) -> Pipeline:
    """A pipeline file or a shipped one, opened. Raises UsageError for one that never finds anything."""
    from rankpipe.pipeline import Pipeline
    from rankpipe.pipeline.order import MAKERS, NOTHING, parts_after

    loaded = Pipeline.load(path, runtime=runtime, given=given or NOTHING)
    if "candidates" not in parts_after(loaded.stages, given or NOTHING):
        raise UsageError(f"{path}: no stage makes candidates; put {MAKERS['candidates']} behind the last one")
    return loaded


def load_dataset(name: str) -> Dataset:
    """A data set; what is to be known of it is said."""
    from rankpipe.data import Dataset

    dataset = Dataset.load(name)
    for note in dataset.notes:
        say(note)
    return dataset


def runtime_of(threads: int | None, device: str, dtype: str) -> Runtime:
    """How networks run, from what was given on the command line."""
    from rankpipe.models.runtime import Dtype, Runtime

    return Runtime(threads=threads, device=device, dtype=cast(Dtype, dtype))


def ties_of(name: str) -> Ties:
    """What orders equal scores, if it is one of both. Raises UsageError."""
    if name not in ("doc_id", "rank"):
        raise UsageError(f"--ties is {name!r}, must be doc_id or rank")
    return name  # type: ignore[return-value]


def run_file_in(path: Path) -> Path:
    """The run file that a path is, or that a folder holds which `run` wrote."""
    return path / "run.trec" if path.is_dir() else path


def say(text: str) -> None:
    """Tell the person at the terminal, apart from the results on standard output."""
    print(text, file=sys.stderr)


def shortened(text: str, width: int = 160) -> str:
    """Text on one line, with what is cut off shown as an ellipsis, and what a terminal would obey as a mark."""
    line = _on_one_line(text)
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"


def excerpt(text: str, query: str, width: int = 160) -> str:
    """The part of a text that has the most words of a query, the first such; the beginning where it has none.

    A word is one of the query's if it is the same, or begins with the first four letters of one; with three, of one of three.
    """
    line = _on_one_line(text)
    wanted = {word.casefold()[:4] for word in WORD.findall(query)}
    spans = [(found.start(), found.end(), found[0].casefold()) for found in WORD.finditer(line)]
    hits = [
        (begin, end, one)
        for begin, end, word in spans
        if (one := next((one for one in (word, word[:4], word[:3]) if one in wanted), None)) is not None
    ][:MOST]
    if len(line) <= width or not hits:
        return shortened(text, width)

    def within(first: int) -> list[tuple[int, int, str]]:
        return [hit for hit in hits[first:] if hit[1] - hits[first][0] <= width - 2]

    best = max(map(within, range(len(hits))), key=lambda group: len({word for *_, word in group}))
    if not best or best[-1][1] < width:
        return shortened(text, width)
    before = (width - 2 - (best[-1][1] - best[0][0])) // 3
    earliest = min(best[0][0] - before, len(line) - width + 1)
    begin = min(begin for begin, *_ in spans if begin >= earliest)
    return f"…{shortened(line[begin:], width - 1)}"


def _on_one_line(text: str) -> str:
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in " ".join(text.split()))
