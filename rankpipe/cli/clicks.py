"""`rankpipe clicks`: what a click log says, and whether correcting for positions is likely to help."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rankpipe.errors import UsageError
from rankpipe.models.references import need_extra

if TYPE_CHECKING:
    from rankpipe.models.runtime import Runtime
    from rankpipe.training.click_diagnosis import Diagnosis


def diagnose_log(
    log: Path,
    dataset: str,
    output: Path | None,
    runtime: Runtime,
    *,
    pipeline: str,
    without: Sequence[str] | None,
    depth: int,
    positions: int,
    draws: int,
    truth: Sequence[float] | None,
    command: str,
    force: bool,
    say: Callable[[str], None],
) -> None:
    """Print the diagnosis, and write it where a folder is given: manifest.json, clicks.svg.

    without  columns that the ranker is not to see; None: reciprocal-rank, if there is one

    Raises UsageError for a truth of another number of positions, and whatever reading the log and its features raises.
    """
    need_extra("rankpipe clicks", ("torch",), "torch", "dense")
    from rankpipe.data import Dataset
    from rankpipe.evaluation.manifest import versions
    from rankpipe.progress import counted
    from rankpipe.stages.features import RECIPROCAL_RANK, feature_columns
    from rankpipe.training.click_diagnosis import diagnose, picture
    from rankpipe.training.click_log import read_click_log
    from rankpipe.training.ranker_material import FromPipeline, Gathered
    from rankpipe.training.ranker_recipe import Clicks, FeatureCandidates, RankerRecipe
    from rankpipe.writing import check_replaceable, replacing_folder

    if truth is not None and len(truth) != positions:
        raise UsageError(f"the truth has {len(truth)} propensities, and there are {positions} positions")
    if output is not None:
        check_replaceable(output, force=force)
    data = Dataset.load(dataset)
    queries = data.queries(None)
    phase = Clicks(log=log, bad="leave-out", positions=positions, steps=1, learning_rate=1.0)
    candidates = FeatureCandidates(pipeline=pipeline, depth=depth)
    read = read_click_log(log, queries, data.corpus)
    if read.problems.count:
        say(f"{read.problems}\n{read.problems.count:,} of {read.problems.sessions:,} sessions are wrong, and left out")
    found_by = FromPipeline(candidates, data.corpus, runtime)
    if without is None:
        without = (
            [RECIPROCAL_RANK]
            if RECIPROCAL_RANK in feature_columns(found_by.run(queries.select(range(min(1, len(queries))))))
            else []
        )
    candidates = replace(candidates, without=tuple(without))
    with runtime.active():
        gathered = Gathered(RankerRecipe(candidates=candidates, phases=(phase,)), data, found_by)
        lists, told = gathered.of_clicks(phase, read, queries)
    if lists.sessions is None:  # never: they are of clicks
        raise UsageError("the log has no sessions")
    with counted(draws + 2, "trainings") as advance:
        found = diagnose(
            gathered.features(),
            lists.rows,
            lists.sessions,
            whole=lists.whole,
            draws=draws,
            truth=truth,
            advance=advance,
        )
    print("\n".join(_lines(found, told)))
    if output is not None:
        with replacing_folder(output, force=force) as place:
            features = {"pipeline": pipeline, "columns": list(gathered.columns), "without": list(without)}
            content = {"command": command, "log": told, "features": features, **found.told(), "versions": versions()}
            (place / "manifest.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            (place / "clicks.svg").write_text(picture(found), encoding="utf-8")
        say(f"written: {output}")


def read_truth(text: str) -> list[float]:
    """Propensities, parted by commas. Raises UsageError for what is none."""
    try:
        found = [float(one) for one in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < one < float("inf") for one in found):
        raise UsageError(f"--truth is {text!r}; it must be numbers above 0, parted by commas, as 1,0.9,0.7")
    return found


def _lines(found: Diagnosis, told: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{found.sessions:,} sessions, {found.clicks:,} clicks; {found.lists:,} lists that were clicked, "
        f"{told['lists_without_a_click']:,} that were not"
    )
    known = found.truth is not None
    yield f"{'position':>8}  {'clicked':>24}  {'looked at, over the first':>26}{'  truth' if known else ''}"
    for at, (clicked, looked) in enumerate(zip(found.click_through.tolist(), found.propensities.tolist(), strict=True)):
        share, low, high = clicked
        truth = f"  {found.truth[at]:5.3f}" if found.truth is not None else ""
        yield f"{at + 1:>8}  {f'{share:.4f} ({low:.4f} to {high:.4f})':>24}  {f'{looked[0]:.3f} ({looked[1]:.3f} to {looked[2]:.3f})':>26}{truth}"
    if found.error is not None:
        yield f"largest difference to the truth: {found.error:.3f}"
    yield f"clicks, weighted, are worth {found.effective:,.0f} of {found.clicks:,}"
    yield f"ordered otherwise with correction: {100 * found.disagreement:.1f} % of the pairs shown"
    yield f"correlation of what was shown with the corrected ranking: {found.strength:.2f}"
    yield f"does correcting for positions help here? {found.verdict}"
