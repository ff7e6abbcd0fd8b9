import contextlib

import ir_measures
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rankpipe.errors import UsageError
from rankpipe.evaluation.measures import DEFAULT_MEASURES, is_binary, read_measures, with_relevance_cut


@pytest.mark.parametrize(
    ("name", "measure"),
    [
        ("nDCG@10", ir_measures.nDCG @ 10),
        ("R@100", ir_measures.R @ 100),
        ("AP", ir_measures.AP),
        ("Judged@10", ir_measures.Judged @ 10),
        ("RR(rel=2)@10", ir_measures.RR(rel=2) @ 10),
        ("nDCG(gains={1: 3, 2: 7})@5", ir_measures.nDCG(gains={1: 3, 2: 7}) @ 5),
        ("nDCG(dcg='exp-log2')@10", ir_measures.nDCG(dcg="exp-log2") @ 10),
        ("IPrec@0.1", ir_measures.IPrec @ 0.1),
        ("MRR@10", ir_measures.RR @ 10),
    ],
)
def test_a_name_means_the_measure_that_ir_measures_writes_so(name, measure):
    assert read_measures([name]) == {name: measure}


def test_an_ir_measures_object_keeps_its_own_name_and_a_single_measure_needs_no_list():
    assert read_measures(ir_measures.AP(rel=2)) == {"AP(rel=2)": ir_measures.AP(rel=2)}
    assert list(read_measures("nDCG@10")) == ["nDCG@10"]


def test_the_relevance_cut_reaches_binary_measures_that_do_not_name_one():
    changed = {
        name: str(with_relevance_cut(measure, 2))
        for name, measure in read_measures([*DEFAULT_MEASURES, "RR(rel=3)@10", "NumRet"]).items()
    }
    assert changed == {
        "nDCG@10": "nDCG@10",
        "R@100": "R(rel=2)@100",
        "RR@10": "RR(rel=2)@10",
        "AP": "AP(rel=2)",
        "Judged@10": "Judged@10",
        "RR(rel=3)@10": "RR(rel=3)@10",
        "NumRet": "NumRet",
    }
    assert is_binary(ir_measures.AP)
    assert not is_binary(ir_measures.nDCG)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ndgc@10", "there is no measure 'ndgc@10'; did you mean 'nDCG@10'?"),
        ("ndcg@10", "there is no measure 'ndcg@10'; did you mean 'nDCG@10'?"),
        ("ndcg_cut_10", "there is no measure 'ndcg_cut_10'; did you mean 'nDCG@10'?"),
        ("recall_100", "there is no measure 'recall_100'; did you mean 'R@100'?"),
        (
            "speed",
            "there is no measure 'speed'; the usual ones are nDCG@10, R@100, RR@10, AP, Judged@10",
        ),
        ("", "there is no measure ''; the usual ones are nDCG@10, R@100, RR@10, AP, Judged@10"),
        ("nDCG@", "there is no measure 'nDCG@'; did you mean 'nDCG@10'?"),
        ("R", "measure 'R' needs its cutoff: R@100, for example"),
        ("nDCG@0", "measure 'nDCG@0': the cutoff must be 1 to 1000000000, not 0"),
        ("RR@-1", "measure 'RR@-1': the cutoff must be 1 to 1000000000, not -1"),
        ("P@2000000000", "measure 'P@2000000000': the cutoff must be 1 to 1000000000, not 2000000000"),
        ("AP(rel=0)", "measure 'AP(rel=0)': rel must be 1 to 1000000, not 0"),
        ("P(rel=-1)@5", "measure 'P(rel=-1)@5': rel must be 1 to 1000000, not -1"),
        (
            "nDCG(gains={1: 1.5})@10",
            "measure 'nDCG(gains={1: 1.5})@10': a gain must be a whole number, 0 to 1000000, for a relevance; "
            "1: 1.5 is not",
        ),
        ("nDCG@ten", "there is no measure 'nDCG@ten'; did you mean 'nDCG@10'?"),
        ("nDCG@2.5", "measure 'nDCG@2.5': cutoff cannot be 2.5 (ranking cutoff threshold)"),
        ("nDCG@True", "measure 'nDCG@True': cutoff cannot be True (ranking cutoff threshold)"),
        ("RR(rell=2)@10", "measure 'RR(rell=2)@10' has no parameter 'rell'; did you mean 'rel'?"),
        ("AP(grade=2)", "measure 'AP(grade=2)' has no parameter 'grade'; it has cutoff, rel, judged_only"),
        ("NumQ(x=1)", "measure 'NumQ(x=1)' has no parameter 'x'; it has none"),
    ],
)
def test_a_name_that_is_no_measure_is_refused_with_what_would_be_right(name, message):
    with pytest.raises(UsageError) as error:
        read_measures([name])
    assert str(error.value) == message


def test_no_measure_at_all_is_refused():
    with pytest.raises(UsageError) as error:
        read_measures([])
    assert str(error.value) == "no measure is named; the usual ones are nDCG@10, R@100, RR@10, AP, Judged@10"


KNOWN = st.sampled_from(sorted(ir_measures.measures.registry))
names = st.one_of(
    st.text(),
    st.text(alphabet="nDCGARP@()=,relcutoff0123456789.-_ '"),
    st.tuples(KNOWN, st.text(alphabet="@(=1,)rel", max_size=8)).map("".join),
)


@given(name=names)
@example(name="(" * 5000)
@example(name="ndcg_cut_x")
@example(name="Rndcg")
@example(name="nDCG(**{})@1")
@example(name="nDCG(cutoff=1)@10")
def test_any_text_is_a_measure_or_a_usage_error(name):
    with contextlib.suppress(UsageError):  # hypothesis fails on any other
        (measure,) = read_measures([name]).values()
        assert isinstance(measure, ir_measures.Measure)
