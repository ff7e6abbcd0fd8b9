import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankpipe.data.text import id_problem, text_problem


@given(st.text())
def test_whatever_utf8_holds_is_text(text: str) -> None:
    assert text_problem(text) is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "None is not text"),
        (b"x", "b'x' is not text"),
        (3.5, "3.5 is not text"),
        ("\ud800", "lone surrogate U+D800 at character 1, which no Unicode text holds"),
        ("\U0001f600ab\udc80", "lone surrogate U+DC80 at character 4, which no Unicode text holds"),
    ],
)
def test_what_is_no_text_is_said(text: object, problem: str) -> None:
    assert text_problem(text) == id_problem(text) == problem


def test_an_id_is_not_empty() -> None:
    assert (id_problem(""), id_problem(" "), id_problem("\x00"), text_problem("")) == ("is empty", None, None, None)
