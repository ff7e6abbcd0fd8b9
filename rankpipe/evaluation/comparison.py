"""compare: systems against a baseline, query by query, with a paired t-test and a randomisation test.

Smucker, Allan and Carterette, "A comparison of statistical significance tests for information retrieval evaluation",
CIKM 2007, for the two tests; Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
Statistics 6, 1979, for the correction where several systems meet one baseline.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from rankpipe.errors import UsageError
from rankpipe.evaluation.result import Result

PERMUTATIONS = 100_000
"""Sign flips drawn where there are too many to try them all: the standard error of p = .05 is then .0007."""
BLOCK = 1 << 22
"""Sign flips held in memory at a time."""
TOLERANCE = 1e-12
"""Sums closer than this, relative to the sum of all absolute differences, count as equal; so do a query's values."""
SHOWN = 5
"""Queries listed with the largest gains, and with the largest losses."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One system against the baseline, in one measure, over Q queries.

    difference        mean over the queries of system less baseline; above 0, the system is better
    interval          95 % confidence interval of the difference, of the t distribution; None for one query
    t_p               two-sided p of the paired t-test; None for one query
    randomisation_p   two-sided p of the randomisation test
    flips             sign flips behind it: all 2^n of the n queries that differ (`exact`), or a sample
    t_p_holm, randomisation_p_holm   the same p after Holm's correction over all systems in this measure
    wins, ties, losses               queries in which the system is better, equal, worse
    largest_gains, largest_losses    {query_id: difference}, the largest first, of the queries that differ most
    """

    measure: str
    baseline: str
    system: str
    baseline_mean: float
    system_mean: float
    difference: float
    interval: tuple[float, float] | None
    t_p: float | None
    randomisation_p: float
    flips: int
    exact: bool
    wins: int
    ties: int
    losses: int
    largest_gains: Mapping[str, float] = field(repr=False)
    largest_losses: Mapping[str, float] = field(repr=False)
    t_p_holm: float | None = None
    randomisation_p_holm: float = math.nan


def compare(
    results: Mapping[str, Result],
    *,
    measures: Iterable[str] | None = None,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> list[Comparison]:
    """Compare systems, named as in `results`, with the first of them; by measure, then by system.

    measures      default: those that all results have
    permutations  sign flips drawn by the randomisation test where trying all of them would be more; p is then
                  (c + 1) / (permutations + 1), c being the draws at least as far from 0 as what was seen, in either
                  direction, so that no p is ever 0

    Raises UsageError for fewer than two results, results over different queries, and a measure that one lacks.
    """
    if len(results) < 2:
        raise UsageError(f"a comparison needs two results or more, not {len(results)}")
    if permutations < 1:
        raise UsageError(f"permutations must be 1 or more, not {permutations}")
    names, (baseline, *systems) = _shared_measures(results, measures), results
    pairs = [(measure, system) for measure in names for system in systems]
    query_ids = list(results[baseline].per_query[names[0]])
    differences = np.empty((len(pairs), len(query_ids)))
    for row, (measure, system) in enumerate(pairs):
        differences[row] = _values(results, system, measure, query_ids) - _values(results, baseline, measure, query_ids)
    differences[np.abs(differences) < TOLERANCE] = 0  # the same value, summed in another order
    tests = randomisation_test(differences, permutations=permutations, seed=seed)
    compared = [
        _comparison(results, (measure, baseline, system), dict(zip(query_ids, row.tolist(), strict=True)), test)
        for (measure, system), row, test in zip(pairs, differences, tests, strict=True)
    ]
    return [one for measure in names for one in _corrected([c for c in compared if c.measure == measure])]


def paired_t_test(differences: NDArray[np.float64]) -> tuple[float | None, tuple[float, float] | None]:
    """Two-sided p that the mean difference (Q,) is 0, and its 95 % confidence interval; None, None for Q = 1.

    Differences that are all 0 have p 1; all the same and not 0, p 0.
    """
    from scipy.special import stdtr, stdtrit

    count = len(differences)
    if count < 2:
        return None, None
    mean = float(differences.mean())
    error = float(differences.std(ddof=1)) / math.sqrt(count)
    if error <= TOLERANCE * abs(mean):
        return float(mean == 0), (mean, mean)
    half = float(stdtrit(count - 1, 0.975)) * error
    return float(2 * stdtr(count - 1, -abs(mean) / error)), (mean - half, mean + half)


@dataclass(frozen=True)
class RandomisationTest:
    """p of a randomisation test, the sign flips behind it, and whether those were all there are."""

    p: float
    flips: int
    exact: bool


def randomisation_test(
    differences: NDArray[np.float64], *, permutations: int = PERMUTATIONS, seed: int = 0
) -> list[RandomisationTest]:
    """Two-sided test that signs are a matter of chance, for every row of differences (rows, Q).

    Queries that do not differ have no sign to flip. With n that do, all 2^n flips are tried if they are no more than
    `permutations`; otherwise that many are drawn, the same ones for all rows.
    """
    tests: list[RandomisationTest | None] = [None] * len(differences)
    sampled: list[int] = []
    for row, values in enumerate(differences):
        nonzero = values[values != 0]
        if 2 ** len(nonzero) <= permutations:
            sums = np.zeros(1)
            for value in nonzero:
                sums = np.concatenate([sums + value, sums - value])
            tests[row] = RandomisationTest(_as_far(sums, nonzero) / len(sums), len(sums), exact=True)
        else:
            sampled.append(row)
    if sampled:
        counts = _sampled_as_far(differences[sampled], permutations, seed)
        for row, count in zip(sampled, counts, strict=True):
            tests[row] = RandomisationTest((count + 1) / (permutations + 1), permutations, exact=False)
    return [test for test in tests if test is not None]


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number: the smallest times n, the next times n - 1, ...; never falling, at most 1."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def _as_far(sums: NDArray[np.float64], values: NDArray[np.float64]) -> int:
    """How many of the sums are at least as far from 0 as that of the values."""
    slack = TOLERANCE * float(np.abs(values).sum())
    return int((np.abs(sums) >= abs(float(values.sum())) - slack).sum())


def _sampled_as_far(differences: NDArray[np.float64], permutations: int, seed: int) -> list[int]:
    generator = np.random.default_rng(seed)
    queries = differences.shape[1]
    counts = [0] * len(differences)
    block = max(1, BLOCK // queries)
    for start in range(0, permutations, block):
        drawn = min(block, permutations - start)
        bits = np.unpackbits(generator.integers(0, 256, (drawn, -(-queries // 8)), np.uint8), axis=1, count=queries)
        sums = 2 * (bits.astype(np.float64) @ differences.T) - differences.sum(axis=1)
        counts = [count + _as_far(sums[:, row], differences[row]) for row, count in enumerate(counts)]
    return counts


def _comparison(
    results: Mapping[str, Result], names: tuple[str, str, str], by_query: dict[str, float], test: RandomisationTest
) -> Comparison:
    measure, baseline, system = names
    differences = np.array(list(by_query.values()))
    t_p, interval = paired_t_test(differences)
    rising = sorted(by_query.items(), key=lambda item: item[1])
    falling = sorted(by_query.items(), key=lambda item: -item[1])
    return Comparison(
        measure=measure,
        baseline=baseline,
        system=system,
        baseline_mean=_mean(results[baseline], measure),
        system_mean=_mean(results[system], measure),
        difference=math.fsum(by_query.values()) / len(by_query),
        interval=interval,
        t_p=t_p,
        randomisation_p=test.p,
        flips=test.flips,
        exact=test.exact,
        wins=int((differences > 0).sum()),
        ties=int((differences == 0).sum()),
        losses=int((differences < 0).sum()),
        largest_gains={query_id: value for query_id, value in falling[:SHOWN] if value > 0},
        largest_losses={query_id: value for query_id, value in rising[:SHOWN] if value < 0},
    )


def _mean(result: Result, measure: str) -> float:
    """Over the queries, of counting measures too, whose value of a result is a sum: the difference is one of means."""
    values = result.per_query[measure].values()
    return math.fsum(values) / len(values)


def _corrected(compared: list[Comparison]) -> list[Comparison]:
    """The comparisons of one measure with Holm's correction over them."""
    t_ps = [one.t_p for one in compared if one.t_p is not None]
    t_holm: list[float | None] = [*holm(t_ps)] if len(t_ps) == len(compared) else [None] * len(compared)
    r_holm = holm([one.randomisation_p for one in compared])
    return [
        replace(one, t_p_holm=t_p, randomisation_p_holm=p) for one, t_p, p in zip(compared, t_holm, r_holm, strict=True)
    ]


def _shared_measures(results: Mapping[str, Result], measures: Iterable[str] | None) -> list[str]:
    """The measures to compare, all results being over the same queries."""
    baseline, first = next(iter(results.items()))
    shared = [name for name in first if all(name in other for other in results.values())]
    wanted = None if measures is None else list(measures)
    for name in wanted or ():
        for system, result in results.items():
            if name not in result:
                raise UsageError(f"{system!r} was not measured in {name!r}; it has {', '.join(result)}")
    chosen = shared if wanted is None else wanted
    if not chosen:
        raise UsageError("the results have no measure in common")
    expected = set(first.per_query[chosen[0]])
    for system, result in results.items():
        found = set(result.per_query[chosen[0]])
        if found != expected:
            raise UsageError(
                f"{baseline!r} and {system!r} were measured over different queries: "
                f"{len(expected & found)} in both, {len(expected - found)} and {len(found - expected)} in one only"
            )
    return chosen


def _values(results: Mapping[str, Result], system: str, measure: str, query_ids: list[str]) -> NDArray[np.float64]:
    per_query = results[system].per_query[measure]
    return np.array([per_query[query_id] for query_id in query_ids])
