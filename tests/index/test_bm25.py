"""BM25's formulas: the length byte against its definition, the sums by hand, ranges."""

import math

import numpy as np
import pytest

from rankpipe.errors import UsageError
from rankpipe.index.bm25 import (
    LARGEST_K1,
    LENGTHS,
    check_parameters,
    inverse_document_frequency,
    length_bytes,
    saturation,
)


def four_bit_float(value: int) -> int:
    """A number rounded down to its four leading bits: what is left of a length above 24, less 24."""
    shift = max(value.bit_length() - 4, 0)
    return value >> shift << shift


def test_lengths_up_to_39_are_kept_exactly() -> None:
    assert LENGTHS[length_bytes(np.arange(40))].tolist() == list(range(40))
    assert LENGTHS[length_bytes(np.array([40, 41]))].tolist() == [40, 40]


def test_a_length_is_read_back_as_its_four_leading_bits_above_24() -> None:
    lengths = np.unique(np.concatenate([np.arange(3000), 2 ** np.arange(31) - 1, 2 ** np.arange(31)]))
    expected = [n if n < 24 else 24 + four_bit_float(n - 24) for n in lengths.tolist()]
    assert LENGTHS[length_bytes(lengths)].tolist() == expected


def test_known_bytes_of_lucene() -> None:
    # SmallFloat.intToByte4: 0 -> 0, 24 -> 24, 40 -> 40 (24 + 16), 100 -> 24 + byte of 76 = 24 + ((4 << 3) | 1)
    # 76 = 0b1001100: leading four bits 1001, shift 3, so the byte is ((3 + 1) << 3) | 0b001 = 33
    assert length_bytes(np.array([0, 24, 40, 100, 2**31 - 1])).tolist() == [0, 24, 40, 57, 255]
    assert LENGTHS[57] == 96
    assert LENGTHS[255] == 2013265944  # 24 + (0b1111 << 27)


def test_the_bytes_rise_with_the_lengths() -> None:
    assert (np.diff(LENGTHS) > 0).all()
    assert length_bytes(LENGTHS).tolist() == list(range(256))


def test_idf_by_hand() -> None:
    # N = 3, df = 1: ln(1 + 2.5 / 1.5) = ln(8/3) = .98083; df = 3: ln(1 + .5 / 3.5) = ln(8/7) = .13353
    assert inverse_document_frequency(np.array([1, 3]), 3) == pytest.approx([0.980829, 0.133531], abs=1e-6)


def test_saturation_by_hand() -> None:
    # k1 = .9, b = .4, length 2 of average 4: norm = .9 (1 - .4 + .4 * 2 / 4) = .72; 3 / (3 + .72) = .80645
    assert saturation(np.array([3]), np.array([2]), 4.0, 0.9, 0.4) == pytest.approx([0.806452], abs=1e-6)
    assert saturation(np.array([3]), np.array([2]), 4.0, 0.0, 0.4).tolist() == [1.0]
    assert saturation(np.array([1]), np.array([2**31 - 1]), 1.0, LARGEST_K1, 1.0)[0] > 0


@pytest.mark.parametrize(
    ("k1", "b", "message"),
    [
        (-0.1, 0.4, "k1 is -0.1; it must lie between 0 and 1e+30"),
        (math.nan, 0.4, "k1 is nan; it must lie between 0 and 1e+30"),
        (math.inf, 0.4, "k1 is inf; it must lie between 0 and 1e+30"),
        (1.1e30, 0.4, "k1 is 1.1e+30; it must lie between 0 and 1e+30"),
        (0.9, 1.1, "b is 1.1; it must lie between 0 and 1"),
        (0.9, math.nan, "b is nan; it must lie between 0 and 1"),
    ],
)
def test_parameters_without_meaning_are_refused(k1: float, b: float, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        check_parameters(k1, b)
    assert str(refused.value) == message
