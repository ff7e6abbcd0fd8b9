"""What made a score, shown to people: words of a document and what each added, as a list and as a picture."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape

from rankpipe.run import Pieces

WORD = re.compile(r"\S+")
LINE_WIDTH = 96
"""Characters of a line in a picture."""
ADVANCE, HEIGHT, MARGIN = 7.3, 20, 12
"""Of a picture, in pixels: of a character, of a line, around the text."""


def words_of(pieces: Pieces) -> list[tuple[str, float]]:
    """The words of a text, parted by blanks, each with what its pieces added together.

    A piece that reaches over several words counts for the first that it has a character of.
    """
    text = "".join(piece for piece, _ in pieces)
    spans = [found.span() for found in WORD.finditer(text)]
    totals = [0.0] * len(spans)
    at = word = 0
    for piece, value in pieces:
        begin = at + len(piece) - len(piece.lstrip())
        while word + 1 < len(spans) and spans[word][1] <= begin:
            word += 1
        if totals:
            totals[word] += value
        at += len(piece)
    return [(text[begin:end], total) for (begin, end), total in zip(spans, totals, strict=True)]


def picture(title: str, documents: Sequence[tuple[str, Pieces]]) -> str:
    """An SVG of documents, each under a heading: the more a word added, the deeper it is coloured; blue takes away.

    One scale holds for all documents.
    """
    parts = [(heading, words_of(pieces)) for heading, pieces in documents]
    largest = max((abs(value) for _, words in parts for _, value in words), default=0.0) or 1.0
    body: list[str] = []
    line = 1
    body.append(_text(0, line, title, "font-weight='bold'"))
    for heading, words in parts:
        line += 2
        body.append(_text(0, line, heading, "fill='#555'"))
        for row in _lines(words):
            line += 1
            column = 0
            for word, value in row:
                if abs(value) / largest > 0.02:  # fainter than that is white
                    colour = "#d66014" if value > 0 else "#285ac8"
                    x, y = MARGIN + column * ADVANCE, MARGIN + (line - 1) * HEIGHT + 3
                    body.append(
                        f"<rect x='{x:.1f}' y='{y}' width='{len(word) * ADVANCE:.1f}' height='{HEIGHT - 2}' rx='2' "
                        f"fill='{colour}' fill-opacity='{abs(value) / largest:.2f}'/>"
                    )
                body.append(_text(column, line, word))
                column += len(word) + 1
    width, height = int(2 * MARGIN + LINE_WIDTH * ADVANCE), 2 * MARGIN + (line + 1) * HEIGHT
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' font-family='monospace' "
        f"font-size='12'>\n<rect width='100%' height='100%' fill='white'/>\n" + "\n".join(body) + "\n</svg>\n"
    )


def _lines(words: Sequence[tuple[str, float]]) -> Iterator[list[tuple[str, float]]]:
    """Words in lines of LINE_WIDTH characters."""
    row: list[tuple[str, float]] = []
    width = 0
    for word, value in words:
        word = word[:LINE_WIDTH]
        if row and width + 1 + len(word) > LINE_WIDTH:
            yield row
            row, width = [], 0
        row.append((word, value))
        width += len(word) + (1 if width else 0)
    if row:
        yield row


_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot say."""


def _text(column: int, line: int, text: str, more: str = "") -> str:
    x, y = MARGIN + column * ADVANCE, MARGIN + (line - 1) * HEIGHT + 16
    length = f"textLength='{len(text) * ADVANCE:.1f}' lengthAdjust='spacingAndGlyphs'"
    return f"<text x='{x:.1f}' y='{y}' {length} {more}>{escape(_NOT_XML.sub(chr(0xFFFD), text))}</text>"
