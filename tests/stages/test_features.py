"""Features: every column by hand, and what is refused."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rankpipe.data import Corpus, Queries
from rankpipe.errors import DataError, PipelineError, UsageError
from rankpipe.pipeline.checks import load_text
from rankpipe.run import Run
from rankpipe.stages.bm25 import BM25
from rankpipe.stages.features import Features
from rankpipe.stages.rescore import Rescore

CORPUS = Corpus.from_records(
    [
        {"id": "d1", "title": "Apple trees", "text": "an apple a day and an apple"},
        {"id": "d2", "title": "Pears", "text": "pears keep the doctor away"},
        {"id": "d3", "title": "", "text": "apple"},
    ]
)
QUERIES = Queries.of({"q1": "apple doctor zzz", "q2": "nothing here"})


@pytest.fixture
def run() -> Run:
    ranked = {"q1": {"d1": 3.0, "d2": 2.0, "d3": 1.0}, "q2": {"d2": 5.0}}
    return Run.of(QUERIES, CORPUS, ranked)


def columns(run: Run) -> dict[str, list[float]]:
    return {
        name.removeprefix("feature:"): values.tolist()
        for name, values in run.features.items()
        if name.startswith("feature:")
    }


def test_scores_ranks_and_order(run: Run) -> None:
    result = Features(fields=())(run)
    assert columns(result) == {"score": [1, 0.5, 0, 1], "reciprocal-rank": pytest.approx([1, 1 / 2, 1 / 3, 1])}
    assert result.scores is run.scores
    assert result.documents is run.documents


def test_scores_may_stay_as_they_are(run: Run) -> None:
    assert columns(Features(fields=(), normalise="none")(run))["score"] == [3, 2, 1, 5]


def test_an_earlier_stage_has_its_lowest_score_where_it_gave_none(run: Run) -> None:
    run = run.with_feature("first", np.array([np.nan, 8, 4, np.nan]))
    assert columns(Features(scores=("first",), fields=())(run))["first"] == [0, 1, 0, 0]


def test_columns_of_a_field_by_hand(run: Run) -> None:
    found = columns(Features(fields=("text",), normalise="none")(run))
    # three documents; "apple" is in two, "doctor" in one, "zzz" in none
    apple, doctor = math.log(1 + 1.5 / 2.5), math.log(1 + 2.5 / 1.5)
    assert found["text.idf"] == pytest.approx([apple, doctor, apple, 0], abs=1e-6)
    whole = apple + doctor
    assert found["text.coverage"] == pytest.approx([apple / whole, doctor / whole, apple / whole, 0], abs=1e-6)
    assert found["text.length"] == pytest.approx([math.log(8), math.log(6), math.log(2), math.log(6)], abs=1e-6)


def test_bm25_of_a_field_is_that_of_the_stage(run: Run) -> None:
    found = columns(Features(fields=("text",), normalise="none", k1=1.2, b=0.75)(run))["text.bm25"]
    searched = BM25(k=10, k1=1.2, b=0.75, fields=("text",))(Run.empty(QUERIES, CORPUS)).to_dict()
    expected = [searched["q1"].get(doc_id, 0.0) for doc_id in ("d1", "d2", "d3")]
    assert found == pytest.approx([*expected, 0.0])
    assert expected[0] > 0


def test_an_empty_field_has_nothing(run: Run) -> None:
    found = columns(Features(fields=("title",), normalise="none")(run))
    assert [found[f"title.{kind}"][2] for kind in ("bm25", "idf", "coverage", "length")] == [0, 0, 0, 0]


def test_weighted_terms_are_taken_before_texts(run: Run) -> None:
    weighted = Queries(QUERIES.ids, QUERIES.texts, terms=({"doctor": 2.0}, {}))
    found = columns(Features(fields=("text",), normalise="none")(run.with_queries(weighted)))
    assert found["text.idf"] == pytest.approx([0, 2 * math.log(1 + 2.5 / 1.5), 0, 0], abs=1e-6)
    assert found["text.coverage"] == [0, 1, 0, 0]


def test_similarity_is_that_of_rescore(run: Run, tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    model = str(tiny_encoder(tmp_path / "encoder"))
    found = columns(Features(fields=(), model=model, normalise="none")(run))["similarity"]
    rescored = Rescore(model=model)(run).to_dict()
    assert found == pytest.approx([rescored["q1"][doc_id] for doc_id in ("d1", "d2", "d3")] + [rescored["q2"]["d2"]])


def test_columns_of_a_file(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "columns.jsonl"
    path.write_text(
        '{"_id": "d2", "clicks": 7, "age": 0.5}\n{"_id": "d1", "clicks": 1, "age": 2}\n'
        '{"_id": "d3", "clicks": 0, "age": -1}\n{"_id": "elsewhere", "clicks": 9}\n'
    )
    found = columns(Features(fields=(), columns=path)(run))
    assert found["clicks"] == [1, 7, 0, 7]
    assert found["age"] == [2, 0.5, -1, 0.5]


def test_a_candidate_without_its_column_is_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "columns.jsonl"
    path.write_text('{"_id": "d1", "clicks": 1}\n')
    with pytest.raises(UsageError) as error:
        Features(fields=(), columns=path)(run)
    assert str(error.value) == f"{path} says nothing of 'clicks' of document 'd2', which is a candidate"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"_id": "d1", "clicks": "7"}', "'clicks' is \"7\", not a finite number of 32 bits"),
        ('{"_id": "d1", "clicks": true}', "'clicks' is true, not a finite number of 32 bits"),
        (
            '{"_id": "d1", "clicks": 1' + "0" * 400 + "}",
            "'clicks' is 1" + "0" * 39 + ", not a finite number of 32 bits",
        ),
        ('{"_id": "d1", "clicks": NaN}', "'clicks' is NaN, not a finite number of 32 bits"),
        ('{"clicks": 7}', 'not an object with the id of a document, such as {"_id": "doc-7", "clicks": 12}'),
        ("[1]", 'not an object with the id of a document, such as {"_id": "doc-7", "clicks": 12}'),
        ("{", "not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
    ],
)
def test_a_line_of_columns_that_is_none_is_refused(run: Run, tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "columns.jsonl"
    path.write_text(f'{{"_id": "d2", "clicks": 1}}\n{line}\n')
    with pytest.raises(DataError) as error:
        Features(fields=(), columns=path)(run)
    assert str(error.value) == f"{path}:2: {message}"


def test_a_document_given_twice_is_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "columns.jsonl"
    path.write_text('{"_id": "d2", "clicks": 1}\n{"_id": "d2", "clicks": 1}\n')
    with pytest.raises(DataError) as error:
        Features(fields=(), columns=path)(run)
    assert str(error.value) == f"{path}:2: document 'd2' stood in line 1 already"


def test_texts_of_a_file_are_as_fields_of_the_corpus(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "clicked.jsonl"
    lines = [
        {"_id": "d3", "clicked": "apple apple pie"},
        {"_id": "d1", "clicked": "doctor"},
        {"_id": "zz", "clicked": "a"},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    found = columns(Features(fields=(), texts=path)(run))
    corpus = Corpus.from_records(
        {"id": doc_id, "text": "", "clicked": text}
        for doc_id, text in (("d1", "doctor"), ("d2", ""), ("d3", "apple apple pie"))
    )
    inside = Run.of(QUERIES, corpus, {"q1": {"d1": 3.0, "d2": 2.0, "d3": 1.0}, "q2": {"d2": 5.0}})
    assert found == columns(Features(fields=("clicked",))(inside))
    assert found["clicked.coverage"] == pytest.approx([0.5, 0, 0.5, 0])  # each term is in one document of three
    assert found["clicked.length"] == pytest.approx([math.log(2), 0, math.log(4), 0])


def test_texts_are_found_for_candidates_of_a_corpus_with_deleted_documents(tmp_path: Path) -> None:
    corpus = CORPUS.without(["d2"])
    run = Run.of(Queries.of({"q1": "pie"}), corpus, {"q1": {"d1": 3.0, "d3": 1.0}})
    path = tmp_path / "clicked.jsonl"
    path.write_text('{"_id": "d3", "clicked": "pie"}\n{"_id": "d2", "clicked": "pie"}')
    assert columns(Features(fields=(), texts=path)(run))["clicked.coverage"] == [0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"_id": "d1", "clicked": 3}', ":1: 'clicked' is 3, not a text"),
        (
            '{"clicked": "a"}',
            ':1: not an object with the id of a document, such as {"_id": "doc-7", "clicked": "words"}',
        ),
        ('{"_id": "d1"}', ': holds no texts, such as {"_id": "doc-7", "clicked": "words"}'),
        (
            '{"_id": "d1", "clicked": "pie"}\n{"_id": "d2", "id": "d3", "clicked": "a"}',
            ":2: the key 'id' cannot be that of a field; a document is named by '_id', as in "
            '{"_id": "doc-7", "clicked": "words"}',
        ),
    ],
)
def test_a_file_of_texts_that_is_none_is_refused(run: Run, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "clicked.jsonl"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        Features(texts=path)(run)
    assert str(error.value) == f"{path}{message}"


def test_the_manifest_tells_the_files_apart(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "clicked.jsonl"
    path.write_text('{"_id": "d1", "clicked": "a"}')
    first = Features(texts=path).facts(run.corpus)
    path.write_text('{"_id": "d1", "clicked": "b"}')
    assert Features(texts=path).facts(run.corpus) != first


def test_a_stage_that_lives_on_keeps_what_it_read_and_tells_the_digest_of_that(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "columns.jsonl"
    path.write_text("".join(f'{{"_id": "d{number}", "clicks": {number}}}\n' for number in (1, 2, 3)))
    stage = Features(fields=(), columns=path)
    stage.prepare(run.corpus)
    read = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_text("".join(f'{{"_id": "d{number}", "clicks": 0}}\n' for number in (1, 2, 3)))
    assert columns(stage(run))["clicks"] == [1, 2, 3, 2]
    assert stage.facts(run.corpus) == {"columns": read}


def test_files_of_any_number_of_keys_are_read_once(run: Run, tmp_path: Path) -> None:
    texts, numbers = tmp_path / "texts.jsonl", tmp_path / "columns.jsonl"
    keys = ["a", "b", "c", "d", "e"]
    texts.write_text(json.dumps({"_id": "d1", **dict.fromkeys(keys, "apple")}))
    numbers.write_text("".join(f'{{"_id": "d{number}", "clicks": {number}}}\n' for number in (1, 2, 3)))
    stage = Features(fields=("title",), texts=texts, columns=numbers, normalise="none")
    first = columns(stage(run))
    assert len({tuple(first[f"{key}.bm25"]) for key in keys}) == 1
    assert first["a.bm25"][0] > 0
    texts.unlink()
    numbers.unlink()
    assert columns(stage(run)) == first


@pytest.mark.parametrize("setting", ["columns", "texts"])
def test_a_file_that_is_not_there_is_said(run: Run, tmp_path: Path, setting: str) -> None:
    file = tmp_path / "none.jsonl"
    stage = Features(fields=(), columns=file) if setting == "columns" else Features(fields=(), texts=file)
    with pytest.raises(UsageError) as error:
        stage(run)
    assert str(error.value) == f"there is no file {tmp_path}/none.jsonl"


def test_two_columns_of_one_name_are_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "columns.jsonl"
    path.write_text("".join(f'{{"_id": "d{number}", "score": 1}}\n' for number in (1, 2, 3)))
    with pytest.raises(UsageError) as error:
        Features(fields=(), columns=path)(run)
    assert str(error.value) == (
        f"features has two columns of the name 'score'; give the stage, or the key in {path}, another name"
    )


def test_a_field_that_no_document_has_is_told_with_those_that_there_are() -> None:
    with pytest.raises(UsageError) as error:
        Features().prepare(Corpus.from_texts(["a pear", "an apple"]))
    assert str(error.value) == (
        "'features' looks at the fields title, text, and no document has title; name those that there are: 'fields: [text]'"
    )


def test_a_share_of_all_terms_is_no_more_than_all() -> None:
    rng = np.random.default_rng(0)
    words = [f"w{number}" for number in range(200)]
    texts = [" ".join(rng.choice(words, 12, replace=False)) for _ in range(300)]
    corpus = Corpus.from_texts(texts)
    queries = Queries.of({str(number): text for number, text in enumerate(texts)})
    ids = corpus.ids(np.arange(300))
    run = Run.of(queries, corpus, {str(number): {one: 1.0} for number, one in enumerate(ids)})
    found = Features(fields=("text",), analyzer="whitespace")(run).features["feature:text.coverage"]
    assert found.max() == 1
    assert found.min() > 1 - 1e-6


def test_an_analyzer_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        Features(analyzer="nonsense")


def test_a_name_without_scores_is_refused(run: Run) -> None:
    with pytest.raises(UsageError, match=r"^features finds no scores under the name 'first'; names with scores: none$"):
        Features(scores=("first",), fields=())(run)


def test_a_name_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="'fields' names one twice"):
        Features(fields=("title", "title"))


def test_a_ranker_without_features_is_refused_before_anything_runs() -> None:
    with pytest.raises(PipelineError) as error:
        load_text("stages:\n  - bm25\n  - learned: {model: somewhere}\n")
    assert str(error.value).endswith(
        "3:5: 'learned' needs features, and no stage before it makes any; put the stage 'features' first"
    )


def test_features_of_candidates_that_branches_replace_are_gone() -> None:
    with pytest.raises(
        PipelineError, match="'learned' needs features, and those before 'fuse' on line 4 are gone behind"
    ):
        load_text(
            "stages:\n  - bm25\n  - features\n  - fuse:\n      branches:\n        - bm25\n        - bm25: {k1: 1.2}\n"
            "  - learned: {model: somewhere}\n"
        )


def test_features_of_replaced_candidates_are_gone() -> None:
    with pytest.raises(PipelineError) as error:
        load_text("stages:\n  - bm25: {k: 5}\n  - features\n  - bm25\n  - learned: {model: somewhere}\n")
    assert str(error.value) == (
        "5:5: 'learned' needs features, and those before 'bm25' on line 4 are gone behind it; put the stage 'features' there"
    )


def test_features_of_branches_are_not_those_of_what_they_found_together() -> None:
    branch = "        - [bm25, features]\n"
    with pytest.raises(
        PipelineError, match="'learned' needs features, and those before 'fuse' on line 2 are gone behind"
    ):
        load_text(f"stages:\n  - fuse:\n      branches:\n{branch}{branch}  - learned: {{model: somewhere}}\n")


@pytest.mark.parametrize("text", ["", '{"_id": "d1"}'])
def test_a_file_of_columns_without_numbers_is_refused(run: Run, tmp_path: Path, text: str) -> None:
    path = tmp_path / "columns.jsonl"
    path.write_text(text)
    with pytest.raises(DataError) as error:
        Features(fields=(), columns=path)(run)
    assert str(error.value) == f'{path}: holds no numbers, such as {{"_id": "doc-7", "clicks": 12}}'
