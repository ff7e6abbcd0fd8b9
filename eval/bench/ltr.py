"""Learning to rank beside its peers: reading SVMlight files, and shown lists that DLA learns from per second.

    RANKPIPE_DATA=folder python eval/bench/ltr.py [--repeats 5] [--rows 100000]

Reading: scikit-learn's load_svmlight_file and ours, in turn, on one file made of LETOR's MQ2008 over and over, to dense
float32 both. Training: the published algorithm (Ai et al., SIGIR 2018), written plainly in torch: every step draws 256
queries, clicks on each list until there is one, document by document, and takes one step of either loss; ours adds up the
sessions of every list before it begins, so that a step of 256 lists learns from all their sessions. Both have the
network of the paper (512, 256, 128 units), Adagrad and the same seconds, in turn; nDCG@10 on true grades afterwards shows what
they were worth. The last line is JSON.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from interleaved import interleaved
from torch import nn

from rankpipe.data.dataset import data_folders
from rankpipe.data.svmlight import FeatureLists, read_svmlight
from rankpipe.models.feature_ranker import FeatureRanker
from rankpipe.training.click_losses import Dual
from rankpipe.training.click_models import PositionBased, perceived_relevance
from rankpipe.training.feature_ranking import RankerSteps, measured, train_on_clicks
from rankpipe.training.sessions import Sessions, ranked, simulate

POSITIONS, BATCH, HIDDEN = 10, 256, (512, 256, 128)
SESSIONS = 1_000_000
"""That ours has to learn from; the other draws its own, as it goes."""


def main() -> None:
    """Measure, print, and end with a line of JSON."""
    options = _options()
    file = _file("letor-mq2008/Fold1/train.txt.gz")
    told = {**_reading(file, options.rows, options.repeats), **_training(read_svmlight(file), options)}
    print(json.dumps(told))


def _reading(file: Path, rows: int, repeats: int) -> dict[str, float]:
    from sklearn.datasets import load_svmlight_file

    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder) / "lists.txt"
        _repeated(file, large, rows)
        ours = read_svmlight(large)  # and compiles

        def theirs() -> np.ndarray:
            features, _, _ = load_svmlight_file(str(large), query_id=True)
            return features.toarray().astype(np.float32)

        if not np.array_equal(theirs(), ours.features):
            raise SystemExit("scikit-learn reads other numbers")
        seconds = interleaved({"rankpipe": lambda: read_svmlight(large), "scikit-learn": theirs}, repeats)
        ratio = _median(seconds["scikit-learn"]) / _median(seconds["rankpipe"])
        print(
            f"reading {len(ours.grades):,} documents, {large.stat().st_size / 1e6:.0f} MB: {ratio:.1f} times scikit-learn"
        )
    return {"reading": round(ratio, 2)}


def _repeated(file: Path, target: Path, rows: int) -> None:
    """Write the file over and over, each time with other query ids."""
    with gzip.open(file, "rt") as source:
        lines = source.readlines()
    with open(target, "w") as written:
        for number in range(-(-rows // len(lines))):
            written.writelines(line.replace(" qid:", f" qid:{number:03d}", 1) for line in lines)


def _training(lists: FeatureLists, options: argparse.Namespace) -> dict[str, float]:
    rng, model = np.random.default_rng(0), PositionBased()
    few = lists.features @ rng.normal(size=lists.features.shape[1])
    shown = ranked(lists, few, POSITIONS)
    log = simulate(lists, shown, model, SESSIONS, rng)
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        _ours(lists, log, 20, Path(folder) / "first")
        steps = max(round(options.seconds / (time.perf_counter() - begun) * 20), 1)
        rates: dict[str, list[float]] = {"rankpipe": [], "plain": []}
        last: dict[str, FeatureRanker] = {}
        for turn in range(options.repeats):
            last["plain"], count, seconds = _plain(lists, shown, model, options.seconds)
            rates["plain"].append(count / seconds)
            begun = time.perf_counter()
            last["rankpipe"] = _ours(lists, log, steps, Path(folder) / str(turn))
            rates["rankpipe"].append(steps * BATCH / (time.perf_counter() - begun))
    a_list = float(log.count.mean())
    speeds = {name: _median(values) for name, values in rates.items()}
    with torch.inference_mode():
        quality = {name: measured(one, lists, "nDCG@10")() for name, one in last.items()}
    ratio = _median([ours / theirs for ours, theirs in zip(rates["rankpipe"], rates["plain"], strict=True)])
    print(
        f"training: {speeds['rankpipe']:,.0f} lists/s, each with {a_list:,.0f} sessions; plain {speeds['plain']:,.0f} lists/s of "
        f"one session: {ratio:.2f} times the lists, {ratio * a_list:,.0f} times the sessions; nDCG@10 after the same seconds "
        f"{quality['rankpipe']:.4f} and {quality['plain']:.4f}"
    )
    return {
        "lists": round(ratio, 2),
        "sessions": round(ratio * a_list, 1),
        **{f"nDCG@10 {name}": round(quality[name], 4) for name in rates},
    }


def _ours(lists: FeatureLists, log: Sessions, steps: int, folder: Path) -> FeatureRanker:
    ranker = _ranker(lists)
    train_on_clicks(ranker, lists, log, Dual(POSITIONS), RankerSteps(steps=steps, batch=BATCH, every=steps), folder)
    return ranker


def _ranker(lists: FeatureLists) -> FeatureRanker:
    torch.manual_seed(0)
    ranker = FeatureRanker(lists.features.shape[1], HIDDEN)
    ranker.fit_scale(lists.features)
    return ranker


def _plain(
    lists: FeatureLists, shown: np.ndarray, model: PositionBased, limit: float
) -> tuple[FeatureRanker, int, float]:
    """The published algorithm, list by list, for so many seconds: the ranker, lists, seconds."""
    ranker, logits = _ranker(lists), nn.Parameter(torch.zeros(POSITIONS))
    for place, layer in enumerate(ranker.layers):
        if isinstance(layer, nn.ELU):
            ranker.layers[place] = nn.ELU()  # as anybody writes it
    optimizers = [torch.optim.Adagrad(ranker.parameters(), lr=0.05), torch.optim.Adagrad([logits], lr=0.5)]
    relevance = perceived_relevance(lists.grades)
    looked = model.propensities(POSITIONS).tolist()
    drawing = random.Random(0)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < limit:
        features = torch.zeros(BATCH, POSITIONS, lists.features.shape[1])
        clicks, present = torch.zeros(BATCH, POSITIONS), torch.zeros(BATCH, POSITIONS, dtype=torch.bool)
        for place in range(BATCH):
            rows = [row for row in shown[drawing.randrange(len(shown))].tolist() if row >= 0]
            drawn: list[float] = []
            for _ in range(1000):  # until one is clicked
                drawn = [float(drawing.random() < looked[at] * relevance[row]) for at, row in enumerate(rows)]
                if any(drawn):
                    break
            for at, row in enumerate(rows):
                features[place, at] = torch.from_numpy(lists.features[row])
                clicks[place, at], present[place, at] = drawn[at], True
        scores = ranker(features).masked_fill(~present, -1e9)
        positions = logits.expand(BATCH, POSITIONS).masked_fill(~present, -1e9)
        of_scores, of_positions = scores.softmax(1), positions.softmax(1)
        weights = clicks * (of_positions[:, :1] / of_positions.clamp(min=1e-9)).detach()
        looking = clicks * (of_scores[:, :1] / of_scores.clamp(min=1e-9)).detach()
        loss = -(weights * scores.log_softmax(1).masked_fill(~present, 0)).sum() / weights.sum()
        loss = loss - (looking * positions.log_softmax(1).masked_fill(~present, 0)).sum() / looking.sum()
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(ranker.parameters(), 5.0)
        for optimizer in optimizers:
            optimizer.step()
        count += BATCH
    return ranker, count, time.perf_counter() - started


def _median(values: list[float]) -> float:
    return float(np.median(values))


def _file(name: str) -> Path:
    for folder in data_folders():
        if (folder / name).exists():
            return folder / name
    raise SystemExit(f"no folder of RANKPIPE_DATA has {name}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="documents of the file that is read, at least")
    parser.add_argument("--repeats", type=int, default=5, help="readings and trainings of each, in turn")
    parser.add_argument("--seconds", type=float, default=10.0, help="that a training has")
    return parser.parse_args()


if __name__ == "__main__":
    main()
