"""The compiled loop over the lines of an SVMlight file.

A decimal number of up to 19 digits whose digits make a whole number below 2^53, times or over a power of ten up to
10^22, is exact in one operation (Clinger, PLDI 1990); all others are left to Python.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankpipe.compiled import compiled

PROBLEMS = {
    1: "the grade is {word!r}, not a number",
    2: "behind the grade stands {word!r}, not the query, qid:...",
    3: "{word!r} is not a feature, index:value",
    4: "{word!r}: the index must be a whole number from 1",
    5: "{word!r}: the index does not rise; each feature is given once, the lowest first",
    6: "{word!r}: the value is not a finite number",
    7: "{word!r}: {limit}",
}

_POWERS = np.array([10.0**exponent for exponent in range(23)])


class Parsed(NamedTuple):
    """What a block of whole lines holds.

    grades     (R,) of its documents
    row_ends   (R,) entries up to and with each document
    row_lines  (R,) line of each in the block, from 1
    columns    (E,) int32 feature of every entry, from 0
    values     (E,)
    queries    (B, 3) first document, begin and end of the name, of every query; the first one may go on from the block
               before
    comments   (R, 2) begin and end of what stands behind #
    inexact    (X, 3) entry, begin and end of numbers that Python is to read; -1 - document for a grade
    lines      of the block; up to the problem if there is one
    problem    its number, begin and end of the word; None without one
    """

    grades: NDArray[np.float64]
    row_ends: NDArray[np.int64]
    row_lines: NDArray[np.int64]
    columns: NDArray[np.int32]
    values: NDArray[np.float64]
    queries: NDArray[np.int64]
    comments: NDArray[np.int64]
    inexact: NDArray[np.int64]
    lines: int
    problem: tuple[int, int, int] | None


def parse(block: bytes, limit: int) -> Parsed:
    """Parse whole lines; no feature may be above `limit`."""
    text = np.frombuffer(block, np.uint8)
    rows, entries = block.count(b"\n"), block.count(b":")
    grades, row_ends, row_lines = np.empty(rows), np.empty(rows, np.int64), np.empty(rows, np.int64)
    columns, values = np.empty(entries, np.int32), np.empty(entries)
    queries, comments = np.empty((rows, 3), np.int64), np.empty((rows, 2), np.int64)
    inexact = np.empty((entries + rows, 3), np.int64)
    counts = np.zeros(5, np.int64)
    problem = np.zeros(3, np.int64)
    _lines(
        text, limit, _POWERS, grades, row_ends, row_lines, columns, values, queries, comments, inexact, counts, problem
    )
    r, e, q, x, lines = counts.tolist()
    code, begin, end = problem.tolist()
    return Parsed(
        grades[:r],
        row_ends[:r],
        row_lines[:r],
        columns[:e],
        values[:e],
        queries[:q],
        comments[:r],
        inexact[:x],
        lines,
        (code, begin, end) if code else None,
    )


@compiled
def _blank(byte):
    return byte == 32 or byte == 9 or byte == 13 or byte == 11 or byte == 12


@compiled
def _word_end(text, at, end):
    while at < end and not _blank(text[at]):
        at += 1
    return at


@compiled
def _decimal(text, begin, end, powers):
    """A number and 0; 1 where it is none, 8 where it needs more care."""
    at, negative = begin, False
    if at < end and (text[at] == 45 or text[at] == 43):
        negative = text[at] == 45
        at += 1
    mantissa, digits, point, exponent = 0, 0, False, 0
    any_digit = careful = False
    while at < end:
        byte = text[at]
        if 48 <= byte <= 57:
            any_digit = True
            if digits or byte != 48:
                digits += 1
            if digits <= 18:
                mantissa = mantissa * 10 + (byte - 48)
                if point:
                    exponent -= 1
            else:
                careful = True
        elif byte == 46 and not point:
            point = True
        else:
            break
        at += 1
    if not any_digit:
        return 0.0, 1
    if at < end and (text[at] == 101 or text[at] == 69):
        at += 1
        falls = False
        if at < end and (text[at] == 45 or text[at] == 43):
            falls = text[at] == 45
            at += 1
        if at == end:
            return 0.0, 1
        power = 0
        while at < end and 48 <= text[at] <= 57:
            if power < 100000:
                power = power * 10 + (text[at] - 48)
            at += 1
        exponent += -power if falls else power
    if at != end:
        return 0.0, 1
    if careful or mantissa > 9007199254740992 or exponent > 22 or exponent < -22:
        return 0.0, 8
    value = float(mantissa)
    value = value * powers[exponent] if exponent >= 0 else value / powers[-exponent]
    return (-value if negative else value), 0


@compiled
def _lines(
    text, limit, powers, grades, row_ends, row_lines, columns, values, queries, comments, inexact, counts, problem
):
    size, at, row, entry, groups, careful, line = len(text), 0, 0, 0, 0, 0, 0
    name_begin = name_end = 0
    while at < size:
        line += 1
        counts[4] = line
        end = at
        while text[end] != 10:
            end += 1
        next_line, comment = end + 1, end
        for place in range(at, end):
            if text[place] == 35:
                comment = place
                break
        while at < comment and _blank(text[at]):
            at += 1
        if at == comment:  # an empty line, or nothing but a comment
            at = next_line
            continue
        word = _word_end(text, at, comment)
        grade, wrong = _decimal(text, at, word, powers)
        if wrong == 1:
            problem[0], problem[1], problem[2] = 1, at, word
            return
        if wrong == 8:
            inexact[careful, 0], inexact[careful, 1], inexact[careful, 2] = -1 - row, at, word
            careful += 1
        at = word
        while at < comment and _blank(text[at]):
            at += 1
        word = _word_end(text, at, comment)
        named = word - at > 4 and text[at] == 113 and text[at + 1] == 105 and text[at + 2] == 100 and text[at + 3] == 58
        if not named:
            problem[0], problem[1], problem[2] = 2, at, word
            return
        begin = at + 4
        same = groups > 0 and word - begin == name_end - name_begin
        if same:
            for place in range(word - begin):
                if text[begin + place] != text[name_begin + place]:
                    same = False
                    break
        if not same:
            name_begin, name_end = begin, word
            queries[groups, 0], queries[groups, 1], queries[groups, 2] = row, begin, word
            groups += 1
        at, last = word, 0
        while True:
            while at < comment and _blank(text[at]):
                at += 1
            if at == comment:
                break
            word = _word_end(text, at, comment)
            colon, index = at, 0
            while colon < word and 48 <= text[colon] <= 57 and index <= limit:
                index = index * 10 + (text[colon] - 48)
                colon += 1
            parted = at
            while parted < word and text[parted] != 58:
                parted += 1
            code, value = 0, 0.0
            if parted == word:
                code = 3
            elif index > limit:
                code = 7
            elif colon != parted or index == 0:
                code = 4
            elif index <= last:
                code = 5
            if code == 0:
                value, wrong = _decimal(text, colon + 1, word, powers)
                if wrong == 1:
                    code = 6
                elif wrong == 8:
                    inexact[careful, 0], inexact[careful, 1], inexact[careful, 2] = entry, colon + 1, word
                    careful += 1
            if code != 0:
                problem[0], problem[1], problem[2] = code, at, word
                return
            columns[entry] = index - 1
            values[entry] = value
            entry += 1
            last = index
            at = word
        grades[row], row_ends[row], row_lines[row] = grade, entry, line
        comments[row, 0], comments[row, 1] = min(comment + 1, end), end
        row += 1
        at = next_line
        counts[0], counts[1], counts[2], counts[3] = row, entry, groups, careful
