import itertools
import math

import numpy as np
import pytest

from rankpipe.errors import UsageError
from rankpipe.evaluation import Result, compare
from rankpipe.evaluation.comparison import holm, paired_t_test, randomisation_test


def result(**per_query: list[float]) -> Result:
    """Values of each measure for queries q0, q1, ..."""
    means = {name: math.fsum(values) / len(values) for name, values in per_query.items()}
    return Result(
        means,
        {name: {f"q{place}": value for place, value in enumerate(values)} for name, values in per_query.items()},
    )


def test_the_t_test_is_that_worked_by_hand():
    p, interval = paired_t_test(np.array([1.0, 2.0, 3.0]))
    # mean 2, standard error 1/sqrt(3), t = 2 sqrt(3) = sqrt(12), two degrees of freedom: p = 1 - t / sqrt(2 + t^2)
    assert p == pytest.approx(1 - math.sqrt(12 / 14))
    # t of 97.5 % and two degrees of freedom: 4.302653
    assert interval == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_t_test_agrees_with_scipy(seed):
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(seed)
    first, second = generator.random((2, 5 + 40 * seed))
    theirs = stats.ttest_rel(second, first)
    p, interval = paired_t_test(second - first)
    assert p == pytest.approx(theirs.pvalue, rel=1e-9)
    assert interval == pytest.approx(tuple(theirs.confidence_interval(0.95)), rel=1e-9)


def test_the_t_test_of_equal_differences_knows_them_from_no_difference():
    assert paired_t_test(np.zeros(4)) == (1, (0, 0))
    assert paired_t_test(np.full(4, 0.25)) == (0, (0.25, 0.25))
    assert paired_t_test(np.array([0.5])) == (None, None)


def test_the_exact_randomisation_test_is_that_worked_by_hand():
    # 1 2 3: of the eight sums of +-1 +-2 +-3 only 6 and -6 are as far from 0 as 6: 2/8
    # .5 -.25 .125: sum .375; as far are +-.875, +-.625 and +-.375, not +-.125: 6/8
    # 0 0 1: one query differs, two sums, both as far: 1. No difference at all: one sum, 0: 1
    tests = randomisation_test(np.array([[1, 2, 3], [0.5, -0.25, 0.125], [0, 0, 1], [0, 0, 0]]))
    assert [(test.p, test.flips, test.exact) for test in tests] == [
        (0.25, 8, True),
        (0.75, 8, True),
        (1, 2, True),
        (1, 1, True),
    ]


def test_the_exact_randomisation_test_counts_what_enumeration_counts():
    values = np.array([0.1, 0.2, 0.3, -0.1, 0.1, 0.3, -0.2, 0.4, 0.1])  # many sums are equal but for rounding
    tenths = [1, 2, 3, -1, 1, 3, -2, 4, 1]
    sums = [sum(map(int.__mul__, signs, tenths)) for signs in itertools.product((1, -1), repeat=9)]
    expected = sum(abs(one) >= sum(tenths) for one in sums) / 2**9
    assert randomisation_test(values[None])[0].p == expected


def test_the_sampled_randomisation_test_comes_near_the_exact_one_and_never_gives_0():
    values = np.random.default_rng(3).normal(0.2, 1, (2, 16))
    exact = randomisation_test(values, permutations=2**16)
    sampled = randomisation_test(values, permutations=20_000, seed=1)
    for whole, part in zip(exact, sampled, strict=True):
        assert (whole.exact, part.exact, part.flips) == (True, False, 20_000)
        assert part.p == pytest.approx(whole.p, abs=5 * math.sqrt(whole.p / 20_000))
    for queries in (40, 3000):
        assert randomisation_test(np.ones((1, queries)), permutations=999)[0].p == 1 / 1000
    assert randomisation_test(values, permutations=20_000, seed=1) == sampled
    assert randomisation_test(values, permutations=20_000, seed=2) != sampled


def test_holms_correction_is_that_worked_by_hand():
    # rising: .01 * 4, .02 * 3, .03 * 2 = .06 (not below the one before), .04 * 1 raised to .06
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1, 1]
    assert holm([]) == []


def test_a_comparison_says_which_queries_won_and_lost():
    baseline = result(AP=[0.5, 0.5, 0.5, 0.5, 0.1 + 0.2])
    system = result(AP=[0.75, 0.5, 0.25, 1.0, 0.3])  # .1 + .2 differs from .3 by rounding only
    (found,) = compare({"bm25": baseline, "hybrid": system})
    assert (found.measure, found.baseline, found.system) == ("AP", "bm25", "hybrid")
    assert (found.baseline_mean, found.system_mean) == pytest.approx((0.46, 0.56))
    assert found.difference == pytest.approx(0.1)
    assert (found.wins, found.ties, found.losses) == (2, 2, 1)
    assert found.largest_gains == {"q3": 0.5, "q0": 0.25}
    assert found.largest_losses == {"q2": -0.25}
    # .25 -.25 .5: sums 1, .5, .5, 0 and their negatives; six of eight as far from 0 as .5
    assert (found.randomisation_p, found.flips, found.exact) == (0.75, 8, True)
    assert found.randomisation_p_holm == 0.75


def test_counting_measures_are_compared_by_their_means():
    from dataclasses import replace

    results = {
        name: replace(result(NumRet=values), means={"NumRet": sum(values)})
        for name, values in {"a": [3.0, 2.0], "b": [1.0, 1.0]}.items()
    }
    (found,) = compare(results, measures=iter(["NumRet"]))
    assert (found.baseline_mean, found.system_mean, found.difference) == (2.5, 1.0, -1.5)


def test_several_systems_are_corrected_together_measure_by_measure():
    baseline = result(AP=[0.0] * 6, P=[0.0] * 6)
    better = result(AP=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6], P=[0.0] * 6)
    mixed = result(AP=[0.1, -0.2, 0.3, 0.1, 0.2, 0.1], P=[0.5] * 6)
    found = compare({"base": baseline, "better": better, "mixed": mixed})
    assert [(one.measure, one.system) for one in found] == [
        ("AP", "better"),
        ("AP", "mixed"),
        ("P", "better"),
        ("P", "mixed"),
    ]
    assert found[0].randomisation_p == 2 / 64  # all six of one sign
    assert found[0].randomisation_p_holm == 4 / 64  # times two systems
    assert found[1].randomisation_p_holm == max(4 / 64, found[1].randomisation_p)
    assert found[1].t_p_holm is not None


def test_measures_are_those_in_common_unless_named():
    first, second = result(AP=[0.5, 1.0], P=[0.5, 1.0]), result(P=[1.0, 1.0], R=[0.5, 1.0])
    assert [one.measure for one in compare({"a": first, "b": second})] == ["P"]
    with pytest.raises(UsageError, match=r"^'b' was not measured in 'AP'; it has P, R$"):
        compare({"a": first, "b": second}, measures=["AP"])
    with pytest.raises(UsageError, match=r"^the results have no measure in common$"):
        compare({"a": result(AP=[0.5]), "b": result(R=[0.5])})


def test_results_over_different_queries_are_not_compared():
    message = r"^'a' and 'b' were measured over different queries: 2 in both, 1 and 0 in one only$"
    with pytest.raises(UsageError, match=message):
        compare({"a": result(AP=[0.1, 0.2, 0.3]), "b": result(AP=[0.1, 0.2])})


def test_fewer_than_two_results_and_no_permutations_are_refused():
    with pytest.raises(UsageError, match=r"^a comparison needs two results or more, not 1$"):
        compare({"a": result(AP=[0.1])})
    with pytest.raises(UsageError, match=r"^permutations must be 1 or more, not 0$"):
        compare({"a": result(AP=[0.1]), "b": result(AP=[0.2])}, permutations=0)
