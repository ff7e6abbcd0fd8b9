import math
from pathlib import Path

import ir_measures
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ir_measures import AP, RR, Judged, R, nDCG

from rankpipe.data import Corpus, Queries
from rankpipe.errors import UsageError
from rankpipe.evaluation import DEFAULT_MEASURES, evaluate
from rankpipe.run import Run


def corpus(*ids: str) -> Corpus:
    return Corpus.from_records({"id": doc_id, "text": f"text of {doc_id}"} for doc_id in ids)


def run_of(ranked: dict[str, list[str]], documents: Corpus) -> Run:
    """Each ranking in the order given."""
    queries = Queries.of({query_id: f"question {query_id}" for query_id in ranked})
    return Run.of(
        queries,
        documents,
        {query_id: {doc_id: float(-place) for place, doc_id in enumerate(ids)} for query_id, ids in ranked.items()},
    )


DOCUMENTS = corpus("a", "b", "c", "d", "e")


def test_values_are_those_worked_by_hand():
    run = run_of({"q1": ["b", "a", "c"], "q2": ["d"]}, DOCUMENTS)
    result = evaluate(run, {"q1": {"a": 2, "c": 1, "b": 0, "e": 1}, "q2": {"d": 1}})

    # q1: relevant at ranks 2 (gain 2) and 3 (gain 1), of three relevant documents with gains 2, 1, 1
    found = 2 / math.log2(3) + 1 / math.log2(4)
    ideal = 2 / math.log2(2) + 1 / math.log2(3) + 1 / math.log2(4)
    assert result.per_query["nDCG@10"] == pytest.approx({"q1": found / ideal, "q2": 1})
    assert result.per_query["RR@10"] == pytest.approx({"q1": 1 / 2, "q2": 1})
    assert result.per_query["R@100"] == pytest.approx({"q1": 2 / 3, "q2": 1})
    assert result.per_query["AP"] == pytest.approx({"q1": (1 / 2 + 2 / 3) / 3, "q2": 1})
    assert result.per_query["Judged@10"] == pytest.approx({"q1": 1, "q2": 1})
    assert result["nDCG@10"] == pytest.approx((found / ideal + 1) / 2)
    assert list(result) == list(DEFAULT_MEASURES)


def test_the_relevance_cut_changes_binary_measures_and_leaves_ndcg_its_grades():
    run = run_of({"q1": ["b", "a"]}, DOCUMENTS)
    qrels = {"q1": {"a": 2, "b": 1}}
    cut = evaluate(run, qrels, relevance_cut=2)
    assert cut["nDCG@10"] == evaluate(run, qrels)["nDCG@10"]
    assert (cut["RR@10"], cut["R@100"], cut["AP"]) == (0.5, 1, 0.5)  # a alone is relevant, at rank 2
    assert cut.assumed == (
        "relevance 2 or more taken as relevant in R@100, RR@10, AP",
        "only relevant documents are judged, so Judged@10 is their share, no more",
    )


def test_judged_queries_without_candidates_and_missing_ones_count_as_0_and_unjudged_ones_not_at_all():
    run = run_of({"q1": ["a"], "empty": [], "unjudged": ["a"]}, DOCUMENTS)
    qrels = {"q1": {"a": 1, "b": 0}, "empty": {"a": 1}, "absent": {"a": 1}, "nothing": {}}
    result = evaluate(run, qrels)
    for measure in DEFAULT_MEASURES:
        assert result.per_query[measure] == {"q1": 1, "empty": 0, "absent": 0}
        assert result[measure] == 1 / 3
    assert result.assumed == (
        "1 of the run's 3 queries without judgements left out",
        "1 judged query not in the run counted as 0",
        "1 judged query without candidates counted as 0",
    )


def test_a_judged_query_without_a_relevant_document_stays_in_the_mean_as_0():
    run = run_of({"q1": ["a"], "q2": ["a"]}, DOCUMENTS)
    result = evaluate(run, {"q1": {"a": 1}, "q2": {"a": 0}}, ["nDCG@10", "AP"])
    assert dict(result) == {"nDCG@10": 0.5, "AP": 0.5}
    assert result.assumed == ("1 judged query without a document of relevance 1 or more kept in the mean",)


def test_a_run_without_any_candidate_scores_0_everywhere():
    run = Run.empty(Queries.of({"q1": "one", "q2": "two"}), DOCUMENTS)
    result = evaluate(run, {"q1": {"a": 1, "b": 0}, "q2": {"a": 1}})
    assert dict(result) == dict.fromkeys(DEFAULT_MEASURES, 0.0)
    assert result.assumed == ("2 judged queries without candidates counted as 0",)


def test_the_document_with_the_querys_own_id_is_removed_only_on_request():
    run = run_of({"a": ["a", "b"], "q2": ["a"]}, DOCUMENTS)
    qrels = {"a": {"b": 1}, "q2": {"a": 1, "b": 0}}
    assert evaluate(run, qrels, ["RR@10"]).per_query["RR@10"] == {"a": 0.5, "q2": 1}
    removed = evaluate(run, qrels, ["RR@10"], drop_self=True)
    assert removed.per_query["RR@10"] == {"a": 1, "q2": 1}
    assert removed.assumed == ("1 candidate with the id of the query removed before measuring",)


def test_judged_documents_that_the_corpus_lacks_count_as_not_found():
    result = evaluate(run_of({"q1": ["a"]}, DOCUMENTS), {"q1": {"a": 1, "gone": 1, "lost": 0}}, ["R@100"])
    assert result["R@100"] == 0.5
    assert result.assumed == ("2 judged documents not in the corpus counted as not found",)


def test_a_corpus_of_ids_only_is_not_told_what_it_lacks():
    result = evaluate(run_of({"q1": ["a"]}, Corpus.of_ids(["a"])), {"q1": {"a": 1, "gone": 1}}, ["R@100"])
    assert result["R@100"] == 0.5
    assert result.assumed == ()


def test_ids_with_odd_characters_are_kept_apart():
    ids = ["x", "x\0y", "x\0z", "absent 0", "0", "7", "é", "a b"]
    run = run_of({"q\0one": ids, "q\0two": ids[::-1]}, corpus(*ids))
    result = evaluate(run, {"q\0one": {"x\0z": 1, "lost": 1}, "q\0two": {"x\0y": 1}}, ["RR@10"])
    assert result.per_query["RR@10"] == {"q\0one": 1 / 3, "q\0two": 1 / 7}


def test_scores_closer_than_single_precision_and_equal_ones_are_measured_in_our_order():
    queries, ids = Queries.of({"q": "question"}), [f"d{number}" for number in range(8)]
    documents = corpus(*ids)
    run = Run.of(queries, documents, {"q": dict.fromkeys(ids, 1e30)})
    assert run.corpus.ids(run.documents) == ids[::-1]
    result = evaluate(run, {"q": {"d5": 1}}, ["RR@10", "RR", "nDCG@10", "P@3", "Judged@3"])
    assert dict(result) == pytest.approx(
        {"RR@10": 1 / 3, "RR": 1 / 3, "nDCG@10": 1 / math.log2(4), "P@3": 1 / 3, "Judged@3": 1 / 3}
    )


def test_counting_measures_are_summed_as_ir_measures_does():
    run = run_of({"q1": ["a", "b"], "q2": ["c"]}, DOCUMENTS)
    assert dict(evaluate(run, {"q1": {"a": 1}, "q2": {"c": 1}}, ["NumQ", "NumRet"])) == {"NumQ": 2, "NumRet": 3}


def test_negative_relevance_is_judged_and_not_relevant():
    result = evaluate(run_of({"q1": ["a", "b"]}, DOCUMENTS), {"q1": {"a": -2, "b": 1}})
    assert dict(result) == pytest.approx(
        {"nDCG@10": 1 / math.log2(3), "R@100": 1, "RR@10": 0.5, "AP": 0.5, "Judged@10": 1}
    )


def written(path: Path, qrels: dict[str, dict[str, int]], run: Run) -> tuple[str, str]:
    run.write_trec(path / "run.trec")
    lines = (f"{q} 0 {d} {relevance}\n" for q, judged in qrels.items() for d, relevance in judged.items())
    (path / "qrels").write_text("".join(lines))
    return str(path / "qrels"), str(path / "run.trec")


IDS = [f"d{number}" for number in range(25)]
MANY = corpus(*IDS)
TIED = [0.0, 0.5, 0.5000001, 0.1, 1.0, -1.0, -7.3, 16777217.0, 1e-30, 1e-45, 3.4e38]
rankings = st.dictionaries(
    st.sampled_from(["q1", "q2", "q10"]),
    st.dictionaries(st.sampled_from(IDS), st.sampled_from(TIED), min_size=1),
    min_size=1,
)
judgements = st.dictionaries(
    st.sampled_from(["q1", "q2", "q10"]),
    st.dictionaries(st.sampled_from(IDS), st.integers(0, 3), min_size=1),
    min_size=1,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(ranked=rankings, qrels=judgements)
def test_a_written_run_measured_by_ir_measures_gives_the_same_values(tmp_path, ranked, qrels):
    if not set(ranked) & set(qrels):
        return
    run = Run.of(Queries.of(dict.fromkeys(ranked, "")), MANY, ranked)
    ours = evaluate(run, qrels, ["nDCG@10", "RR@10", "AP"])
    qrels_file, run_file = written(tmp_path, qrels, run)
    measures = [ir_measures.nDCG @ 10, ir_measures.RR @ 10, ir_measures.AP]
    theirs = ir_measures.calc_aggregate(
        measures, ir_measures.read_trec_qrels(qrels_file), ir_measures.read_trec_run(run_file)
    )
    assert dict(ours) == pytest.approx({str(measure): value for measure, value in theirs.items()}, abs=1e-12)


def test_long_rankings_full_of_ties_are_measured_as_ir_measures_measures_our_ranks():
    generator = np.random.default_rng(5)
    queries = Queries.of({f"q{number}": "" for number in range(50)})
    ids = [f"d{number}" for number in range(3000)]
    documents = Corpus.of_ids(ids)
    picked = np.concatenate([generator.permutation(3000)[:1000] for _ in range(50)]).astype(np.int32)
    scores = generator.integers(0, 40, len(picked)).astype(np.float32)
    run = Run(queries, documents, np.arange(0, 50_001, 1000), picked, scores).rescored(scores)
    qrels = {f"q{q}": {f"d{d}": int(d % 4) for d in generator.choice(3000, 60, replace=False)} for q in range(50)}
    ours = evaluate(run, qrels)
    exact = {
        query_id: {candidate.doc_id: -candidate.rank for candidate in run[query_id]} for query_id in run.queries.ids
    }
    measures = [nDCG @ 10, R @ 100, RR @ 10, AP, Judged @ 10]
    assert tuple(map(str, measures)) == DEFAULT_MEASURES
    theirs = ir_measures.calc_aggregate(measures, qrels, exact)
    assert dict(ours) == pytest.approx({str(measure): value for measure, value in theirs.items()}, abs=1e-12)


@pytest.mark.parametrize(
    ("qrels", "options", "message"),
    [
        (
            {"q7": {"a": 1}},
            {},
            "the run and the judgements share no query: the run's begin with 'q1', the judgements' with 'q7'",
        ),
        ({}, {}, "there are no judgements to measure against"),
        ({"q1": {}}, {}, "there are no judgements to measure against"),
        ({"q1": {"a": 1.0}}, {}, "relevance of document 'a' for query 'q1' is 1.0, not a whole number"),
        (
            {"q1": {"a": 10**12}},
            {},
            "relevance of document 'a' for query 'q1' is 1000000000000; measures take at most 1000000",
        ),
        ({"q1": {"a": 1}}, {"relevance_cut": 0}, "relevance_cut must be a whole number, 1 to 1000000, not 0"),
        (
            {"q1": {"a": 1}},
            {"measures": ["RBP"]},
            "ir_measures cannot measure this: Unsupported measures {RBP}.",
        ),
        ({"q1": {"a": 1}}, {"measures": ["nDGC@10"]}, "there is no measure 'nDGC@10'; did you mean 'nDCG@10'?"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_the_reason(qrels, options, message):
    with pytest.raises(UsageError) as error:
        evaluate(run_of({"q1": ["a"]}, DOCUMENTS), qrels, **options)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("BM25.top100", 0.5058),
        ("BM25_RM3.top100", 0.5216),
        ("D_BERT_KD_TASB.top100", 0.7210),
        ("OPEN_AI_ADA2.top100", 0.7035),
        ("SPLADE_P_P_ENSEMBLE_DISTIL.top100", 0.7308),
        (
            "REP_LLAMA.top200",
            0.7384,
        ),  # published .7439: of its rank column; the file's scores have three digits and tie
    ],
)
def test_published_runs_of_trec_dl_2019_score_what_was_published(real_dataset, file, expected):
    dataset = real_dataset("msmarco-dl19")
    run = Run.read_trec(Path(dataset.name) / "runs" / f"{file}.trec.gz", corpus=dataset.corpus)
    result = evaluate(run, dataset.qrels("test"), ["nDCG@10"], relevance_cut=2)
    assert round(result["nDCG@10"], 4) == expected
    assert result.assumed == ()


@pytest.mark.parametrize(
    ("ranked", "qrels", "message"),
    [
        (
            {"q1": ["b", "a"]},
            {"q1": {"a": 1, "b": 1}},
            "ir_measures divides by 0 for Accuracy: too few documents are judged to be, or not to be, relevant",
        ),
        (
            {"q1": ["a", "b"], "q2": ["b"]},
            {"q1": {"a": 1, "b": 0}, "q2": {"a": 1}},
            "ir_measures gives no value of Accuracy for query 'q2', so that it has no mean",
        ),
    ],
)
def test_a_measure_that_a_query_has_no_value_of_is_refused(ranked, qrels, message):
    with pytest.raises(UsageError) as error:
        evaluate(run_of(ranked, DOCUMENTS), qrels, "Accuracy")
    assert str(error.value) == message


@pytest.mark.parametrize("lowest", [-2, -7])
def test_grades_below_minus_one_are_measured_as_it(lowest: int) -> None:
    # pytrec_eval writes outside its table for a query whose highest grade is below -1
    documents = corpus("d1", "d7", "d8", "d9")
    run = run_of({"b": ["d7"], "a": ["d1", "d9"]}, documents)
    found, expected = (
        evaluate(run, {"a": {"d9": grade}, "b": {"d8": 0, "d7": 1}}, ["nDCG@10", "AP", "Judged@10"])
        for grade in (lowest, -1)
    )
    assert dict(found) == dict(expected)
    assert found.per_query == expected.per_query
    with pytest.raises(UsageError, match="grades below -1 are measured as -1, so -2 has no gain of its own"):
        evaluate(run, {"a": {"d9": 1}}, "nDCG(gains={-2: 0})@10")
