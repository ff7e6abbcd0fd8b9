import pickle

import numpy as np
import pytest

from rankpipe.data import Queries
from rankpipe.errors import UsageError


def test_queries_are_made_of_mappings_lists_and_single_texts() -> None:
    assert (Queries.of({"x": "one", "y": ""}).ids, Queries.of({"x": "one", "y": ""}).texts) == (("x", "y"), ("one", ""))
    assert Queries.of(["one", "two"]).ids == ("q1", "q2")
    assert (Queries.of("one two").ids, Queries.of("one two").texts) == (("q1",), ("one two",))
    assert (len(Queries.of([])), len(Queries.of({}))) == (0, 0)
    made = Queries.of("one")
    assert Queries.of(made) is made


def test_queries_are_found_by_id() -> None:
    queries = Queries.of({"x": "one", "y": "two"})
    assert (list(queries), queries["y"], queries.row("y"), "y" in queries, "z" in queries) == (
        ["x", "y"],
        "two",
        1,
        True,
        False,
    )
    with pytest.raises(KeyError):
        queries["z"]
    with pytest.raises(KeyError):
        queries.row("z")


@pytest.mark.parametrize("text", ["", "\x00", "a" * 1_000_000, "e\u0301 \U0001f600", "\n\t"])
def test_any_unicode_text_may_be_asked(text: str) -> None:
    assert Queries.of(text).texts == (text,)


@pytest.mark.parametrize(
    ("ids", "texts", "message"),
    [
        (("a",), (), "1 query ids for 0 texts"),
        (("a", "b", "a"), ("1", "2", "3"), "query id 'a' occurs twice"),
        (("a", ""), ("1", "2"), "query id '': is empty"),
        (("a", 2), ("1", "2"), "query id 2: 2 is not text"),
        (("a", "b"), ("1", None), "query 'b': None is not text"),
        (
            ("a", "b"),
            ("1", "x\udfff"),
            "query 'b': lone surrogate U+DFFF at character 2, which no Unicode text holds",
        ),
    ],
)
def test_queries_that_cannot_be_are_refused(ids: tuple, texts: tuple, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Queries(ids, texts)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"original": ("x",)}, "2 query ids for 1 original"),
        ({"fields": {"narrative": ("x", "y", "z")}}, "2 query ids for 3 narrative"),
        ({"terms": ({},)}, "2 query ids for 1 terms"),
        ({"vectors": np.zeros((3, 4), np.float32)}, "2 query ids for 3 vectors"),
        ({"parent": np.zeros(1, np.int64)}, "2 query ids for 1 parent"),
        ({"vectors": [[1.0], [2.0]]}, "vectors of queries are an array (queries, dimensions), not list"),
        (
            {"vectors": np.zeros(2, np.float32)},
            "vectors of queries are an array (queries, dimensions), not an array of the shape (2,)",
        ),
    ],
)
def test_parts_of_another_shape_are_refused(parts: dict, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Queries(("a", "b"), ("1", "2"), **parts)
    assert str(caught.value) == message


def whole() -> Queries:
    return Queries(
        ("a", "b", "c"),
        ("1", "2", "3"),
        fields={"narrative": ("i", "ii", "iii")},
        terms=({"x": 1.0}, {}, {"y": 0.5}),
        vectors=np.arange(6, dtype=np.float32).reshape(3, 2),
        parent=np.array([0, 0, 1]),
    )


def test_a_selection_takes_every_part_along() -> None:
    chosen = whole().select(np.array([2, 0]))
    assert (chosen.ids, chosen.texts, chosen.original) == (("c", "a"), ("3", "1"), ("3", "1"))
    assert (chosen.fields, chosen.terms) == ({"narrative": ("iii", "i")}, ({"y": 0.5}, {"x": 1.0}))
    assert chosen.vectors is not None
    assert chosen.vectors.tolist() == [[4, 5], [0, 1]]
    assert chosen.parent is None
    assert whole().select(slice(1, None)).ids == ("b", "c")
    assert len(whole().select([])) == 0


def test_a_selection_of_all_keeps_the_parents() -> None:
    parent = whole().select(slice(None)).parent
    assert parent is not None
    assert parent.tolist() == [0, 0, 1]


def test_rewriting_keeps_what_the_user_wrote_and_drops_terms_and_vectors() -> None:
    twice = whole().rewritten(["one", "two", "three"]).rewritten(["I", "II", "III"])
    assert (twice.texts, twice.original, twice.terms, twice.vectors) == (
        ("I", "II", "III"),
        ("1", "2", "3"),
        None,
        None,
    )
    assert twice.fields == {"narrative": ("i", "ii", "iii")}
    with pytest.raises(UsageError, match=r"^3 query ids for 2 texts$"):
        whole().rewritten(["one", "two"])


def test_queries_survive_pickling() -> None:
    again = pickle.loads(pickle.dumps(whole()))
    assert (again.ids, again.texts, again.row("c")) == (("a", "b", "c"), ("1", "2", "3"), 2)


def test_queries_of_any_number_are_shown_in_a_line() -> None:
    assert repr(whole()) == "Queries(3 queries)"
