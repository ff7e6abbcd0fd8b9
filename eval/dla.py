"""Learning to rank from simulated clicks: DLA beside what knows, measures or ignores which positions people look at.

    RANKPIPE_DATA=FOLDER python eval/dla.py --output eval/results/dla

LETOR's MQ2008 (Fold 1: a fifth of the training queries is held out to choose on, reported on vali) and LightGBM's example
(likewise; reported on test). A ranker that was trained on 1 % of the training queries, at least 3, shows its first ten
documents; clicks of --sessions sessions are drawn by a click model. Every method then trains the same linear ranker on
them, and is measured by the true grades: `naive` takes clicks for relevance; `oracle` knows the propensities, over all
lists; `randomised` measures them on as many sessions of shuffled lists; `regression-em`, `pair-debias` and `dla` learn
them; `labels` learns from the grades. The learning rate of each, of a few, and the step to end at are chosen by nDCG@10
of the held-out queries' grades.

A finished cell (data set, click model, seed) is a small file in --output and is not run again. Exit status: 0 all cells
are there, 1 one or more failed, 2 a wrong command.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from trained import finished, write_cell, write_table

from rankpipe.data.dataset import data_folders
from rankpipe.data.svmlight import FeatureLists, read_svmlight
from rankpipe.errors import RankpipeError, UsageError
from rankpipe.evaluation.list_measures import CUTOFFS, list_measures
from rankpipe.evaluation.manifest import versions
from rankpipe.machine import machine
from rankpipe.models.feature_ranker import FeatureRanker
from rankpipe.store import file_digest, key_digest
from rankpipe.training import losses
from rankpipe.training.click_losses import ClickLoss, Dual, PairDebias, RegressionEM, Weighted, propensities_of
from rankpipe.training.click_models import (
    Cascade,
    ClickModel,
    DependentClick,
    PositionBased,
    UserBrowsing,
)
from rankpipe.training.feature_ranking import (
    RankerSteps,
    measured,
    train_on_clicks,
    train_on_grades,
)
from rankpipe.training.loop import Progress
from rankpipe.training.sessions import Sessions, randomised_propensities, ranked, shown_relevance, shuffled, simulate

DATASETS = {
    "letor-mq2008": ("Fold1/train.txt.gz", "Fold1/vali.txt.gz"),
    "ltr-lightgbm": ("train.txt.gz", "test.txt.gz"),
}
"""Files to train on and to report on."""
MODELS: Mapping[str, ClickModel] = {
    "pbm-0": PositionBased(eta=0.0),
    "pbm-0.5": PositionBased(eta=0.5),
    "pbm-1": PositionBased(eta=1.0),
    "pbm-2": PositionBased(eta=2.0),
    "ubm-1": UserBrowsing(eta=1.0),
    "dcm-1": DependentClick(eta=1.0),
    "cascade": Cascade(),
}
METHODS = ("naive", "oracle", "oracle-unlimited", "randomised", "regression-em", "pair-debias", "dla", "labels")
RATES = (0.05, 0.2)
"""Learning rates that are tried."""
POSITIONS, SHARE, FEWEST = 10, 0.01, 3
"""Documents shown; training queries that the logging ranker saw, as a share, and at least."""
HELD_OUT = 0.2
LIMIT = 100.0
"""Weight of a click, at most; `oracle-unlimited` has no such limit."""
ORDERS = 100
"""Random orders of each list, which `randomised` measures propensities on."""
CHOSEN = "nDCG@10"
MEASURES = tuple(f"{name}@{cutoff}" for name in ("nDCG", "ERR") for cutoff in CUTOFFS)
NOISE = 0.1
SCORING = 1
"""Raised whenever the same cell may come out otherwise than before: then no finished one counts any more."""
STUDENT = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5 % of Student's t with 1 to 9 degrees of freedom."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cells that are not there yet and write the table; give the exit status."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)  # steps are small: more threads would only wait for each other
    say = Console(stderr=True, soft_wrap=True).print
    failed = False
    for name in options.datasets:
        for model in options.models:
            for seed in range(options.seeds):
                failed |= not _done(name, model, seed, options, say)
    cells = [json.loads(file.read_text()) for file in sorted(options.output.glob("*/*.json"))]
    if cells := [one for one in cells if (one["sessions"], one["steps"]) == (options.sessions, options.steps)]:
        command = ["python", "eval/dla.py", *(sys.argv[1:] if arguments is None else arguments)]
        write_table(options.output, "Learning from clicks", command, _tables(cells))
    return int(failed)


def _done(name: str, model: str, seed: int, options: Any, say: Any) -> bool:
    """Whether a cell is there, after it was run if need be."""
    try:
        _cell(name, model, seed, options, say)
    except RankpipeError as error:
        say(f"{name}, {model}, seed {seed}: failed: {error}", markup=False)
        return False
    return True


def _cell(name: str, model: str, seed: int, options: Any, say: Any) -> None:
    file: Path = options.output / name / f"{model}-{seed}.json"
    files = [_file(name, one) for one in DATASETS[name]]
    key = key_digest(
        {
            "scoring": SCORING,
            "data": [file_digest(one) for one in files],
            "model": repr(MODELS[model]),
            "seed": seed,
            "sessions": options.sessions,
            "steps": options.steps,
            "settings": [RATES, POSITIONS, SHARE, FEWEST, HELD_OUT, NOISE],
        }
    )
    if finished(file, key) is not None:
        say(f"{file}: finished before", markup=False)
        return
    say(f"{file}: training", markup=False)
    started = time.perf_counter()
    experiment = _Experiment(name, MODELS[model], seed, options.sessions, options.steps)
    write_cell(
        file,
        {
            "key": key,
            "dataset": name,
            "clicks": model,
            "seed": seed,
            "sessions": options.sessions,
            "steps": options.steps,
            "logging": experiment.logging,
            "click_through": [round(float(one), 6) for one in experiment.log.click_through()],
            "examination": [round(float(one), 6) for one in experiment.examination],
            "methods": {method: experiment.result(method) for method in METHODS},
            "seconds": round(time.perf_counter() - started, 1),
            "versions": versions(),
            "machine": machine(),
        },
    )


def _file(name: str, file: str) -> Path:
    """A file of a data set. Raises UsageError where RANKPIPE_DATA has none."""
    for folder in data_folders():
        if (path := folder / name / file).exists():
            return path
    raise UsageError(f"no folder of RANKPIPE_DATA has {name}/{file}")


class _Experiment:
    """A data set, a log of clicks, and what every method makes of it."""

    def __init__(self, name: str, model: ClickModel, seed: int, sessions: int, steps: int) -> None:
        first, last = (read_svmlight(_file(name, one)) for one in DATASETS[name])
        width = max(first.features.shape[1], last.features.shape[1])
        first, self._test = first.widened(width), last.widened(width)
        self._highest = int(first.grades.max())
        order = np.random.default_rng(0).permutation(len(first))
        cut = round(HELD_OUT * len(first))
        self._dev, self._train = (first.select(np.sort(one)) for one in (order[:cut], order[cut:]))
        self._seed, self._steps = seed, steps
        rng = np.random.default_rng([seed, 3])
        ranker, _ = self._on_grades(self._few(rng), 0.05, choose=False)
        self.logging = self._measures(ranker)
        with torch.inference_mode():
            scores = ranker(torch.from_numpy(self._train.features)).numpy()
        shown = ranked(self._train, scores, POSITIONS)
        self.log = self._simulate(shown, model, sessions, rng)
        self._shuffled = self._simulate(shuffled(self._train, POSITIONS, rng, orders=ORDERS), model, sessions, rng)
        self.examination = self._examination(shown, model)

    def result(self, method: str) -> dict[str, Any]:
        """The better of the learning rates: measures, and what was learnt of positions."""
        made = [self._made(method, rate) for rate in RATES]
        best = max(made, key=lambda one: one["dev"])
        return {**best, "dev_by_rate": {f"{rate:g}": one["dev"] for rate, one in zip(RATES, made, strict=True)}}

    def _made(self, method: str, rate: float) -> dict[str, Any]:
        if method == "labels":
            ranker, progress = self._on_grades(self._train, rate)
            learnt: Mapping[str, Any] = {}
        else:
            loss, ranker = self._loss(method), self._ranker()
            progress = self._run(
                lambda steps, folder, measure: train_on_clicks(
                    ranker, self._train, self.log, loss, steps, folder, measure=measure
                ),
                ranker,
                rate,
            )
            learnt = propensities_of(loss)
        assert progress.best is not None
        assert progress.best_at is not None
        return {
            "dev": round(progress.best, 6),
            "rate": rate,
            "step": progress.best_at[1],
            **learnt,
            "test": self._measures(ranker),
        }

    def _loss(self, method: str) -> ClickLoss:
        if method.startswith("oracle"):
            limit = math.inf if method == "oracle-unlimited" else LIMIT
            return Weighted(torch.from_numpy(self.examination).float(), limit=limit)
        if method == "randomised":
            return Weighted(torch.from_numpy(randomised_propensities(self._shuffled)).float())
        made: Mapping[str, Callable[[], ClickLoss]] = {
            "naive": Weighted,
            "regression-em": lambda: RegressionEM(POSITIONS),
            "pair-debias": lambda: PairDebias(POSITIONS),
            "dla": lambda: Dual(POSITIONS),
        }
        return made[method]()

    def _few(self, rng: np.random.Generator) -> FeatureLists:
        """The queries that the logging ranker was trained on."""
        count = max(FEWEST, round(SHARE * len(self._train)))
        return self._train.select(np.sort(rng.permutation(len(self._train))[:count]))

    def _ranker(self) -> FeatureRanker:
        torch.manual_seed(self._seed)
        ranker = FeatureRanker(self._train.features.shape[1])
        ranker.fit_scale(self._train.features)
        return ranker

    def _on_grades(self, lists: FeatureLists, rate: float, *, choose: bool = True) -> tuple[FeatureRanker, Progress]:
        ranker = self._ranker()
        progress = self._run(
            lambda steps, folder, measure: train_on_grades(
                ranker, lists, losses.softmax, steps, folder, measure=measure if choose else None
            ),
            ranker,
            rate,
        )
        return ranker, progress

    def _run(
        self,
        run: Callable[[RankerSteps, Path, Callable[[], float]], Progress],
        ranker: FeatureRanker,
        rate: float,
    ) -> Progress:
        steps = RankerSteps(
            steps=self._steps,
            batch=128,
            learning_rate=rate,
            weight_decay=0.01,
            every=max(self._steps // 20, 1),
            seed=self._seed,
        )
        with tempfile.TemporaryDirectory() as folder:
            return run(steps, Path(folder), measured(ranker, self._dev, CHOSEN))

    def _simulate(
        self, shown: NDArray[np.int64], model: ClickModel, sessions: int, rng: np.random.Generator
    ) -> Sessions:
        return simulate(self._train, shown, model, sessions, rng, noise=NOISE, highest=self._highest)

    def _examination(self, shown: NDArray[np.int64], model: ClickModel) -> NDArray[np.float64]:
        """(n,) how likely a position is looked at, over all lists that have it, relative to the first."""
        there = shown >= 0
        looked = model.examination(shown_relevance(self._train, shown, noise=NOISE, highest=self._highest))
        mean = (looked * there).sum(0) / np.maximum(there.sum(0), 1)
        return mean / mean[0]

    def _measures(self, ranker: FeatureRanker) -> dict[str, float]:
        lists = self._test
        with torch.inference_mode():
            scores = ranker(torch.from_numpy(lists.features)).numpy()
        found = list_measures(scores, lists.grades, lists.offsets, highest=self._highest)
        return {name: round(float(np.nanmean(found[name])), 6) for name in MEASURES}


def _tables(cells: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "Mean over seeds, and 95 % of Student's t over them; true grades.\n"
    for name, model in dict.fromkeys((one["dataset"], one["clicks"]) for one in cells):
        own = [one for one in cells if (one["dataset"], one["clicks"]) == (name, model)]
        yield f"## {name}, {model}, {len(own)} seeds\n"
        yield f"| | {' | '.join(MEASURES)} | error of propensities |\n|---|{'---:|' * (len(MEASURES) + 1)}"
        logging = [_interval([one["logging"][measure] for one in own]) for measure in MEASURES]
        yield f"| logging ranker | {' | '.join(logging)} | |"
        for method in METHODS:
            values = [_interval([one["methods"][method]["test"][measure] for one in own]) for measure in MEASURES]
            yield f"| {method} | {' | '.join(values)} | {_error(own, method)} |"
        yield f"\n{_verdict(own)}\n"


def _interval(values: Sequence[float]) -> str:
    return f"{fmean(values):.4f}" + (f" ± {_half(values):.4f}" if len(values) > 1 else "")


def _half(values: Sequence[float]) -> float:
    """Half the width of a mean's 95 % interval."""
    return STUDENT[len(values) - 2] * stdev(values) / math.sqrt(len(values))


def _error(cells: Sequence[Mapping[str, Any]], method: str) -> str:
    """Largest difference of propensities to the truth, mean over seeds."""
    found = [
        max(abs(a - b) for a, b in zip(one["methods"][method]["propensities"], one["examination"], strict=True))
        for one in cells
        if "propensities" in one["methods"][method]
    ]
    return f"{fmean(found):.3f}" if found else ""


def _verdict(cells: Sequence[Mapping[str, Any]]) -> str:
    """How DLA stands to the others, by differences on the same seeds."""

    def apart(first: str, second: str) -> str:
        values = [one["methods"][second]["test"][CHOSEN] - one["methods"][first]["test"][CHOSEN] for one in cells]
        return f"{second} less {first} {fmean(values):+.4f}" + (f" ± {_half(values):.4f}" if len(values) > 1 else "")

    pairs = (("naive", "labels"), ("naive", "dla"), ("oracle", "dla"))
    return f"{CHOSEN}, difference on the same seeds: " + "; ".join(apart(*pair) for pair in pairs)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", choices=tuple(DATASETS), default=list(DATASETS))
    parser.add_argument("--models", nargs="+", choices=tuple(MODELS), default=list(MODELS), help="of clicks")
    parser.add_argument("--seeds", type=int, choices=range(1, 11), default=5)
    parser.add_argument("--sessions", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--output", type=Path, required=True, help="folder of the cells and the table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
