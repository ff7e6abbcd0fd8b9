"""RM3, Rocchio and Bo1 over a small corpus, by hand; what they leave as it is, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from rankpipe.data import Corpus, Queries
from rankpipe.errors import UsageError
from rankpipe.run import Run
from rankpipe.stages.bm25 import BM25
from rankpipe.stages.expansion import Original
from rankpipe.stages.feedback import RM3, Bo1, Feedback, Rocchio

CORPUS = Corpus.from_texts(
    [
        "apple apple pear x",  # x is too short for a term that is taken
        "apple plum plum plum plum",
        "pear cherry",
        "apple common",
        "common",
        "common",
        "common",
        "common",
        "common",
        "common",
    ]
)
IDS = CORPUS.ids(np.arange(4))
QUERIES = Queries.of({"q1": "apple apple unknown", "q2": "pear", "q3": "nothing"})
SETTINGS = {"analyzer": "whitespace", "fields": ("text",), "max_share": 0.5}


def a_run() -> Run:
    first, second, third, fourth = IDS
    return Run.of(QUERIES, CORPUS, {"q1": {first: 3.0, second: 1.0, third: 0.5, fourth: 0.25}, "q2": {third: 1.0}})


def terms(stage: Feedback, run: Run | None = None) -> list[dict[str, float]]:
    found = stage(a_run() if run is None else run).queries.terms
    assert found is not None
    return [dict(one) for one in found]


def test_rm3_takes_terms_of_every_document_and_then_of_all() -> None:
    # own: apple 2/3, unknown 1/3. Two terms a document: apple 2, pear 1 of 3; plum 4, apple 1 of 5.
    # apple 3 * 2/3 + 1/5, pear 3 * 1/3, plum 4/5: of the first two, 2.2 and 1, shares 2.2/3.2 and 1/3.2.
    found = terms(RM3(documents=2, terms=2, weight=0.6, **SETTINGS))[0]
    assert found == pytest.approx(
        {"apple": 0.6 * 2 / 3 + 0.4 * 2.2 / 3.2, "unknown": 0.6 / 3, "pear": 0.4 / 3.2}, rel=1e-6
    )


def test_rm3_can_weight_documents_equally_or_by_a_softmax() -> None:
    # apple 2/3 + 1/5, pear 1/3, plum 4/5
    equal = terms(RM3(documents=2, terms=3, weight=0.0, scores="equal", **SETTINGS))[0]
    assert equal == pytest.approx({"apple": 13 / 30, "plum": 2 / 5, "pear": 1 / 6}, rel=1e-6)
    softmax = terms(RM3(documents=2, terms=3, weight=0.0, scores="softmax", **SETTINGS))[0]
    share = 1 / (1 + np.exp(-2))  # of the first document: scores 3 and 1
    assert softmax == pytest.approx(
        {"apple": share * 2 / 3 + (1 - share) / 5, "plum": (1 - share) * 4 / 5, "pear": share / 3}, rel=1e-6
    )


def test_rm3_refuses_to_weight_by_negative_scores() -> None:
    run = a_run()
    with pytest.raises(UsageError) as caught:
        RM3(**SETTINGS)(run.rescored(run.scores - np.float32(1)))
    assert str(caught.value) == (
        "'rm3' weights documents by their scores, and query 'q1' has one of -0.75; "
        "choose 'scores: softmax' or 'scores: equal'"
    )


def test_rocchio_moves_a_query_of_length_one() -> None:
    # own (2, 1) / sqrt 5. Mean of (2, 1) / sqrt 5 over apple and pear, and (1, 4) / sqrt 17 over apple and plum.
    apple, pear, plum = 2 / 5**0.5 + 1 / 17**0.5, 1 / 5**0.5, 4 / 17**0.5
    norm = (apple**2 + plum**2) ** 0.5  # plum outweighs pear
    assert plum > pear
    found = terms(Rocchio(documents=2, terms=2, alpha=1.0, beta=0.5, **SETTINGS))[0]
    assert found == pytest.approx(
        {"apple": 2 / 5**0.5 + 0.5 * apple / norm, "unknown": 1 / 5**0.5, "plum": 0.5 * plum / norm}, rel=1e-6
    )


def test_rocchio_moves_a_query_away_from_its_last_documents() -> None:
    # the last one has apple alone, "common" being too common; own apple is 2 / sqrt 5
    found = terms(Rocchio(documents=1, alpha=1.0, beta=0.0, gamma=0.25, **SETTINGS))[0]
    assert found == pytest.approx({"apple": 2 / 5**0.5 - 0.25, "unknown": 1 / 5**0.5}, rel=1e-6)
    gone = terms(Rocchio(documents=1, alpha=1.0, beta=0.0, gamma=1.0, **SETTINGS))[0]
    assert gone == pytest.approx({"unknown": 1 / 5**0.5}, rel=1e-6)


def test_the_last_documents_are_none_of_the_first_ones() -> None:
    # behind the first three stands one document, of "apple" alone; behind the first four there is none
    few = terms(Rocchio(documents=3, alpha=1.0, beta=0.0, gamma=0.25, **SETTINGS))[0]
    assert few == pytest.approx({"apple": 2 / 5**0.5 - 0.25, "unknown": 1 / 5**0.5}, rel=1e-6)
    none = terms(Rocchio(documents=4, alpha=1.0, beta=0.5, gamma=0.25, **SETTINGS))[0]
    assert none == terms(Rocchio(documents=4, alpha=1.0, beta=0.5, **SETTINGS))[0]


def test_terms_of_another_index_are_refused() -> None:
    run = RM3(**SETTINGS)(a_run())
    message = (
        "'{}' takes terms that the queries were given with '{}', and here it is '{}'; give both stages the same, or put "
        "'original' between them"
    )
    for stage in (BM25(fields=("text",)), RM3(fields=("text",))):
        with pytest.raises(UsageError) as error:
            stage(run)
        assert str(error.value) == message.format(stage.type_name(), "analyzer: whitespace", "analyzer: english")
    assert BM25(fields=("text",))(Original()(run)).counts[0]
    assert BM25(analyzer="whitespace", fields=("text",))(run).counts[0]


def test_terms_of_one_tokenizer_at_two_places_are_the_same(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    written = tiny_encoder(tmp_path / "model") / "tokenizer.json"
    here, there = tmp_path / "here.json", tmp_path / "there.json"
    for copy in (here, there):
        copy.write_bytes(written.read_bytes())
    run = RM3(analyzer=str(here), fields=("text",), max_share=1.0)(a_run())
    assert BM25(analyzer=str(there), fields=("text",))(run).offsets[-1] > 0
    there.write_text(written.read_text() + " ")
    with pytest.raises(
        UsageError, match=r"given with 'analyzer: tokenizer.json of sha256 [0-9a-f]{16}', and here it is"
    ):
        BM25(analyzer=str(there), fields=("text",))(run)


def test_bo1_adds_weights_to_those_of_the_query() -> None:
    def weight(frequency: int, collection: int) -> float:
        share = collection / 10
        return frequency * np.log2((1 + share) / share) + np.log2(1 + share)

    # of the first two documents: apple 3 of 4 in all, pear 1 of 2, plum 4 of 4
    plum, apple = weight(4, 4), weight(3, 4)
    found = terms(Bo1(documents=2, terms=2, **SETTINGS))[0]
    assert found == pytest.approx({"apple": 1 + apple / plum, "unknown": 0.5, "plum": 1}, rel=1e-6)


@pytest.mark.parametrize("stage", [RM3(**SETTINGS), Rocchio(**SETTINGS), Bo1(**SETTINGS)])
def test_a_query_with_less_than_two_candidates_keeps_its_terms(stage: Feedback) -> None:
    _, one, none = terms(stage)
    assert (one, none) == ({"pear": 1.0}, {"nothing": 1.0})
    assert terms(replace(stage, least=1))[1].keys() == {"pear", "cherry"}


@pytest.mark.parametrize("stage", [RM3(**SETTINGS), Rocchio(**SETTINGS), Bo1(**SETTINGS)])
def test_texts_and_candidates_stay_and_terms_that_a_query_has_are_its_own(stage: Feedback) -> None:
    run = a_run()
    result = stage(run)
    assert (result.queries.texts, result.queries.original) == (QUERIES.texts, QUERIES.texts)
    assert result.documents is run.documents
    assert result.scores is run.scores
    given = run.with_queries(replace(QUERIES, terms=({"apple": 2.0, "unknown": 1.0}, {"plum": 0.5}, {})))
    again = terms(stage, given)
    assert again[0] == terms(stage)[0]
    assert again[1:] == [{"plum": 0.5}, {}]


def test_a_bm25_that_follows_finds_what_only_the_feedback_names() -> None:
    settings = {"analyzer": "whitespace", "fields": ("text",)}
    run = BM25(k=10, **settings)(Run.empty(Queries.of("apple"), CORPUS))
    assert IDS[2] not in run.to_dict()["q1"]
    expanded = BM25(k=10, **settings)(RM3(**SETTINGS)(run))
    assert {IDS[2], *run.to_dict()["q1"]} <= expanded.to_dict()["q1"].keys()


def test_a_bm25_of_terms_as_they_stand_in_the_text_is_a_bm25_of_the_text() -> None:
    stage = BM25(k=5, analyzer="whitespace", fields=("text",))
    empty = Run.empty(QUERIES, CORPUS)
    kept = stage(RM3(least=1_000_000, **SETTINGS)(stage(empty)))
    plain = stage(empty)
    assert kept.to_dict() == plain.to_dict()


@pytest.mark.parametrize("stage", [RM3(weight=0, **SETTINGS), Rocchio(alpha=0, **SETTINGS)])
def test_a_query_of_which_nothing_would_be_left_keeps_its_terms(stage: Feedback) -> None:
    own = {"apple": 1.0, "unknown": 1.0}
    given = a_run().with_queries(replace(QUERIES, terms=(own, {"plum": 0.5}, {})))
    assert terms(replace(stage, max_share=0.01), given)[0] == own
    assert "apple" in terms(stage, given)[0]


def test_a_query_that_would_lose_all_terms_is_refused() -> None:
    with pytest.raises(ValidationError, match="'alpha' and 'beta' are both 0, and no term would be left"):
        Rocchio(alpha=0, beta=0)


def test_pieces_of_words_are_terms_without_their_marks(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="needs the extra 'dense'")
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(
        models.WordLevel({"[UNK]": 0, "\u2581apple": 1, "\u2581pear": 2, "\u2581!": 3}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    corpus = Corpus.from_texts(["apple pear !", "apple pear !", "x", "x", "x"])
    settings = {"analyzer": str(tmp_path / "tokenizer.json"), "fields": ("text",), "max_share": 0.5}
    ranked = dict(zip(corpus.ids(np.arange(2)), (2.0, 1.0), strict=True))
    found = terms(RM3(weight=0.5, **settings), Run.of(Queries.of({"q": "apple"}), corpus, {"q": ranked}))
    # "!" is no word: half of the feedback is apple, and half of all
    assert found == [pytest.approx({"\u2581apple": 0.5 + 0.5 / 2, "\u2581pear": 0.5 / 2})]


def test_more_documents_than_any_run_has_are_all_of_them() -> None:
    assert terms(RM3(documents=10**30, **SETTINGS)) == terms(RM3(documents=4, **SETTINGS))
