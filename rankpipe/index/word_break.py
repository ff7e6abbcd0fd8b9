"""Split a text into words as Lucene's StandardTokenizer does: UAX #29 word boundaries of Unicode 12.1, words only.

The character classes are in word_break.json, asked of Lucene itself by eval/word_break_tables.py. What is a word:
runs of letters, digits and joiners (a_b), with one . : ' and the like between letters, one . , ; ' between digits;
runs of katakana; runs of South-East Asian letters (Thai, Lao, Khmer, Myanmar); each ideograph and hiragana letter by
itself; emoji sequences and flags. Marks, format characters and joiners (U+200D) belong to the character before them.

Source: Unicode Standard Annex #29, section 4.1; Unicode Technical Standard #51, section 1.4.9.
"""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.resources import files

LONGEST = 255
"""A word longer than this many UTF-16 units is cut there, as by Lucene."""

_ZWJ, _PRESENTATION = "\\u200D", "\\uFE0F"
_ASTRAL = re.compile("[\U00010000-\U0010ffff]")
# Of ASCII only letters, digits, _ and the seven marks matter, so ASCII has a pattern of its own, four times as fast.
_ASCII = re.compile(
    r"""[A-Za-z0-9_]+(?:['.:,;](?:(?<=[A-Za-z]['.:])(?=[A-Za-z])|(?<=[0-9]['.,;])(?=[0-9]))[A-Za-z0-9_]+)*"""
)


def words(text: str) -> list[str]:
    """Words of a text in order, unchanged in form.

    One thing is left to the caller: joiners with no letter among them ("___") come out here, although they are no
    word; `is_word` tells.
    """
    if text.isascii():
        pattern, longest = _ASCII, LONGEST
    elif _ASTRAL.search(text) is None:
        pattern, longest = _pattern(0xFFFF), LONGEST
    else:
        pattern, longest = _pattern(0x10FFFF), LONGEST // 2  # as many characters surely fit in LONGEST units
    found = pattern.findall(text)
    if max(map(len, found), default=0) > longest:
        return _bounded_words(pattern, text)
    return found


def is_word(word: str) -> bool:
    """False for joiners without any letter or digit."""
    return _joiners().fullmatch(word) is None


def _bounded_words(pattern: re.Pattern[str], text: str) -> list[str]:
    """Words of a text in which some word is too long: each is the longest that fits LONGEST units from where it starts."""
    found = []
    position = 0
    while position < len(text):
        # Twice the window, so that a word that starts in its first half lies in it whole; time stays linear.
        start = pattern.search(text, position, position + 2 * LONGEST)
        if start is None or (first := start.start()) >= position + LONGEST:
            position += LONGEST
            continue
        word = pattern.match(text, first, _end_of_window(text, first))
        if word is not None and is_word(word[0]):
            found.append(word[0])
            position = word.end()
        else:  # the word begins too far behind its joiners
            position = first + 1
    return found


def _end_of_window(text: str, start: int) -> int:
    """End of the longest piece of text from start that has at most LONGEST UTF-16 units."""
    units = 0
    for end in range(start, min(len(text), start + LONGEST)):
        units += 1 if text[end] <= "\uffff" else 2
        if units > LONGEST:
            return end
    return min(len(text), start + LONGEST)


@cache
def _joiners() -> re.Pattern[str]:
    return re.compile(f"[{_classes(0x10FFFF)['joiner']}]+")


@cache
def _classes(last: int) -> dict[str, str]:
    """Name of a class -> its characters up to the code point `last`, as the inside of a regular expression's [...]."""
    table = json.loads(files("rankpipe.index").joinpath("word_break.json").read_text("ascii"))
    classes = {}
    for name, spans in table["classes"].items():
        pieces = []
        for span in spans.split():
            low, _, high = span.partition("-")
            first, final = int(low, 16), min(int(high or low, 16), last)
            if first <= final:
                pieces.append(f"\\U{first:08X}-\\U{final:08X}")
        classes[name] = "".join(pieces)
    return classes


@cache
def _pattern(last: int) -> re.Pattern[str]:
    """The pattern for texts whose characters go up to the code point `last` (the ends of the planes 0 and 16).

    A regular expression takes the first alternative that fits, Lucene the longest; so the alternatives stand in such
    an order, and are so cut, that the first is the longest. Nothing that follows an optional part can fail, so no
    text makes it backtrack far.
    """
    c = _classes(last)
    letter, hebrew, number, katakana = c["letter"], c["hebrew"], c["numeric"], c["katakana"]
    extend, joiner, mid_letter, mid_number = c["extend"], c["joiner"], c["mid_letter"], c["mid_number"]

    letters = f"[{letter}][{letter}{extend}]*"
    one_hebrew = f"[{hebrew}][{extend}]*"
    numbers = f"[{number}][{number}{extend}]*"
    more_letters = f"(?:[{mid_letter}][{extend}]*(?:{letters}|{one_hebrew}))*"
    # A Hebrew letter may keep a ' behind it, and a " before another Hebrew letter, but not where a . or ' led to it.
    hebrew_tail = f"(?:\"[{extend}]*{one_hebrew}|'[{extend}]*|{more_letters})"
    run = f"(?:{letters}{more_letters}|{numbers}(?:[{mid_number}][{extend}]*{numbers})*|{one_hebrew}{hebrew_tail})+"
    core = f"(?:{run}|[{katakana}][{katakana}{extend}]*)"
    joined = f"[{joiner}][{joiner}{extend}]*{core}?"

    # Most words are plain: followed neither by a mark nor by punctuation that might join another piece to them.
    plain = f"{letter}{number}{joiner}"
    joins = f"{plain}{hebrew}{katakana}{extend}"
    plain_word = f"[{plain}]+(?![{joins}]|[{mid_letter}{mid_number}][{joins}])"
    leading = f"[{joiner}][{joiner}{extend}]{{0,{LONGEST - 1}}}"
    alternatives = [
        plain_word,
        *_emoji(c),
        f"(?:{leading})?{core}(?:{joined})*",
        f"[{joiner}]",
        f"[{c['complex']}][{c['complex']}{extend}]*",
        f"[{c['single']}][{extend}]*",
    ]
    return re.compile("|".join(alternatives))


def _emoji(c: dict[str, str]) -> list[str]:
    """Alternatives for emoji sequences, key caps and flags, to be tried in this order and before words.

    Six characters (ℹ and others) are both letters and emoji. A sequence of such alone is a word as well, and never the
    longer of the two, so it is left to the words unless it reaches a character that is only an emoji.
    """
    # Lucene keeps the presentation selectors apart from the other marks, so that U+FE0F is taken once, at the end.
    marks = f"(?:(?![\\uFE0E\\uFE0F])[{c['extend']}])*"
    astral = bool(c["regional"])  # flags, skin tones and tags lie beyond the first plane
    tones = "\\U0001F3FB-\\U0001F3FF"
    anything = f"[{c['emoji']}]" if not astral else f"(?![{tones}])[{c['emoji']}]"
    only_emoji, also_letter = f"(?![{c['letter']}]){anything}", f"(?=[{c['letter']}]){anything}"

    def element(start: str) -> str:
        return f"{start}{marks}{_PRESENTATION}?"

    def further(start: str) -> str:
        # a joiner before it is among the marks of the element before, unless a selector stood between
        return f"(?:(?<={_ZWJ})|(?<={_PRESENTATION}){_ZWJ}+){element(start)}"

    tone = f"[{tones}]{marks}"
    tail = f"(?:{further(anything)}{f'|(?<={_PRESENTATION}){_ZWJ}{tone}' if astral else ''})*"
    tags = "(?<=\\uFE0F)[\\U000E0020-\\U000E007E]+\\U000E007F|" if astral else ""
    ends = f"(?:{tags}{tail})"
    alternatives = [
        f"{element(only_emoji)}{ends}",
        f"{element(also_letter)}(?:{further(also_letter)})*{further(only_emoji)}{tail}",
        f"{_ZWJ}{{1,{LONGEST - 1}}}{element(anything)}{ends}",
        f"[#*]{marks}{_PRESENTATION}\\u20E3{marks}",
        f"[#*]{marks}\\u20E3{marks}",
    ]
    if astral:
        flag = f"[{c['regional']}][{c['extend']}]*"
        alternatives += [f"{tone}{tail}", f"{flag}{flag}"]
    return alternatives
