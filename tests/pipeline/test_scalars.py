import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rankpipe.pipeline.scalars import resolve_plain


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1e5", 1e5),
        (".5", 0.5),
        ("5.", 5.0),
        ("-1.5E+3", -1500.0),
        ("0o17", 15),
        ("0x1F", 31),
        ("010", 10),
        ("+3", 3),
        ("-0", 0),
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        ("1_000", "1_000"),
        ("0b1", "0b1"),
        ("0o8", "0o8"),
        ("-0x1", "-0x1"),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("true", True),
        ("True", True),
        ("FALSE", False),
        ("tRUE", "tRUE"),
        ("null", None),
        ("~", None),
        ("", None),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("inf", "inf"),
        ("nan", "nan"),
        ("-.nan", "-.nan"),
        (".", "."),
        ("e5", "e5"),
    ],
)
def test_plain_scalars_follow_the_core_schema_of_yaml_1_2(text: str, value: object) -> None:
    read_value = resolve_plain(text)
    assert read_value == value
    assert type(read_value) is type(value)


@pytest.mark.parametrize("text", [".nan", ".NaN", ".NAN"])
def test_nan_is_a_float(text: str) -> None:
    value = resolve_plain(text)
    assert isinstance(value, float)
    assert math.isnan(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(1e-5)
@example(1e22)
@example(-0.0)
def test_floats_as_python_writes_them_come_back_equal(number: float) -> None:
    assert repr(resolve_plain(repr(number))) == repr(number)


@given(st.integers())
def test_whole_numbers_come_back_equal(number: int) -> None:
    assert resolve_plain(str(number)) == number
