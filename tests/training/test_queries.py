"""Queries to train with: judged ones, and texts of documents."""

from __future__ import annotations

from pathlib import Path

import pytest

from rankpipe import Corpus
from rankpipe.data import Dataset, Queries
from rankpipe.errors import UsageError
from rankpipe.training.cross_encoder_recipe import CrossEncoderRecipe
from rankpipe.training.queries import (
    held_out,
    judged_queries,
    sentences,
    sentences_of,
    titles,
    train_and_development,
)
from rankpipe.training.recipe_file import load_recipe

CORPUS = Corpus.from_records(
    [
        {"id": "a", "title": "On the sorting of lists", "text": "Sorting is done in place. It takes no memory at all."},
        {"id": "b", "title": "Single", "text": "Too short. This one is long enough to be taken."},
        {"id": "c", "title": "on the  SORTING of lists", "text": "e.g. i.e. none"},
        {"id": "d", "title": "", "text": "The version 3.5 of this text has one stop inside a number."},
    ]
)


def test_sentences_end_at_stops_and_are_neither_short_nor_long() -> None:
    assert sentences_of("One two three four five. Six! Seven, e.g. eight nine ten eleven? 12 3 4 5 6 ") == [
        "One two three four five.",
        "Seven, e.g. eight nine ten eleven?",
        "12 3 4 5 6",
    ]
    assert sentences_of(" ".join(["word"] * 41)) == []


def test_titles_are_drawn_once_each_with_their_documents() -> None:
    # "Single" has one word; a and c have the same title but for blanks and capitals
    drawn = titles(CORPUS, 10, seed=0)
    assert len(drawn) == 1
    assert drawn.own.tolist() in ([0], [2])
    assert drawn.queries.texts[0].lower() == "on the sorting of lists"
    assert drawn.queries.ids == ("title-1",)
    assert len(titles(CORPUS, 10, seed=0, avoid=["on the sorting of lists"])) == 0


def test_sentences_come_from_every_document_in_turn() -> None:
    drawn = sentences(CORPUS, 3, seed=1)
    assert sorted(drawn.own.tolist()) == [0, 1, 3]  # c has none that is long enough
    more = sentences(CORPUS, 10, seed=1)
    assert more.own.tolist()[:3] == drawn.own.tolist()
    assert more.own.tolist()[3:] == [0]  # the second one of a
    assert set(more.queries.texts) == {
        "Sorting is done in place.",
        "It takes no memory at all.",
        "This one is long enough to be taken.",
        "The version 3.5 of this text has one stop inside a number.",
    }


def test_a_seed_draws_the_same_and_another_one_differently() -> None:
    corpus = Corpus.from_records({"id": f"d{n}", "title": f"Title number {n}", "text": ""} for n in range(50))
    first, again, other = (titles(corpus, 10, seed=seed).own.tolist() for seed in (3, 3, 4))
    assert first == again
    assert first != other


class Splits:
    """A data set of three splits."""

    splits = ("dev", "test", "train")

    def queries(self, split: str) -> Queries:
        texts = {
            "train": {"1": "Sort a list", "2": "hash  of a Tuple", "3": "read a file"},
            "dev": {"4": "hash of a tuple"},
            "test": {"5": "write a file"},
        }
        return Queries.of(texts[split])


def test_training_queries_that_recur_in_another_split_are_left_out(dataset: Dataset) -> None:
    kept, dropped = judged_queries(dataset, "train")
    assert kept.ids == ("1", "3")
    assert dropped == ["2"]


@pytest.fixture
def dataset(tmp_path) -> Dataset:
    return Splits()  # type: ignore[return-value]


def test_held_out_queries_train_nothing() -> None:
    queries = Queries.of([f"query {n}" for n in range(20)])
    train, out = held_out(queries, 0.2, seed=3)
    assert (len(train), len(out)) == (16, 4)
    assert {*train.ids, *out.ids} == set(queries.ids)
    assert held_out(queries, 0.2, seed=3)[1].ids == out.ids
    assert held_out(queries, 0.2, seed=4)[1].ids != out.ids
    with pytest.raises(UsageError, match=r"^a share of 0.2 of 2 training queries cannot be held out$"):
        held_out(queries.select([0, 1]), 0.2, seed=0)


def test_a_text_that_is_held_out_trains_nothing_under_another_id_either() -> None:
    queries = Queries.of([f"{'Query' if n % 2 else 'query'}  {n // 2}" for n in range(20)])
    train, out = held_out(queries, 0.2, seed=3)
    assert {*train.ids, *out.ids} == set(queries.ids)
    assert 4 <= len(out) <= 8
    assert not {text.casefold() for text in train.texts} & {text.casefold() for text in out.texts}
    same = Queries(("a", "b", "c"), ("query",) * 3)
    with pytest.raises(UsageError, match=r"^a share of 0.4 of 3 training queries cannot be held out$"):
        held_out(same, 0.4, seed=0)


@pytest.mark.parametrize(
    ("judged", "said"),
    [
        ({"q1": {"elsewhere": 1}}, "of what is judged for its 1 queries nothing that is relevant is in the corpus"),
        ({"q1": {"d1": 0}}, "of what is judged for its 1 queries nothing is relevant"),
    ],
)
def test_development_that_could_measure_nothing_is_refused(
    judged: dict[str, dict[str, int]], said: str, tmp_path: Path
) -> None:
    corpus = Corpus.from_records([{"id": "d1", "text": "a"}])
    dataset = Dataset.of(corpus, Queries.of({"q1": "a"}), judged, split="dev")
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "train: cross-encoder\nmodel: minilm\ncandidates: {pipeline: bm25, depth: 5}\nphases:\n  - distil: {steps: 1, learning_rate: 1e-4, queries: [titles]}\n"
    )
    recipe = load_recipe(path)
    assert isinstance(recipe, CrossEncoderRecipe)
    with pytest.raises(UsageError) as error:
        train_and_development(recipe, dataset, {}, needed=False)
    assert str(error.value).startswith("nothing can be measured on split 'dev' of data set")
    assert said in str(error.value)
