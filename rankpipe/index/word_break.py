"""Split a text into words as Lucene's StandardTokenizer does: UAX #29 word boundaries of Unicode 12.1, words only.

What is a word: runs of letters, digits and joiners (a_b), with one . : ' and the like between letters, one . , ; ' and
the like between digits; runs of katakana; runs of South-East Asian letters (Thai, Lao, Khmer, Myanmar); each ideograph
and each hiragana letter by itself; emoji sequences, key caps and flags. Marks, format characters and the zero width
joiner belong to the character before them.

Which character is of which class stands in word_break.json; eval/word_break_tables.py asked Lucene itself.
Source: Unicode Standard Annex #29, section 4.1; Unicode Technical Standard #51, section 1.4.9.
"""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

LONGEST = 255
"""A word longer than this many UTF-16 units is cut there, as by Lucene."""

# Of ASCII only letters, digits, _ and the marks . : , ; ' matter, so ASCII texts have a pattern of their own.
_ASCII = re.compile(
    r"""[A-Za-z0-9_]+(?:['.:,;](?:(?<=[A-Za-z]['.:])(?=[A-Za-z])|(?<=[0-9]['.,;])(?=[0-9]))[A-Za-z0-9_]+)*"""
)

# In other texts every character is first replaced by the symbol of its class, and the pattern looks at those.
_SYMBOLS = {
    "letter": "L",
    "letter emoji": "D",  # six: ℹ, Ⓜ and the squared A, B, O, P
    "hebrew": "H",
    "numeric": "N",
    "joiner": "J",  # _ and the like
    "katakana": "K",
    "complex": "C",  # South-East Asian
    "complex extend": "c",
    "single": "S",  # ideographs, hiragana
    "emoji": "E",
    "emoji extend": "M",  # the five skin tones
    "regional": "R",  # the letters of flags
    "extend": "x",
    "mid_letter": ":",
    "mid_number": ",",
    "mid_letter mid_number": ".",
}
_ALONE = {
    "'": "'",
    '"': '"',
    "#": "b",  # base of a key cap
    "*": "b",
    "\u200d": "z",  # zero width joiner
    "\u20e3": "k",  # key cap
    "\ufe0e": "t",  # text presentation
    "\ufe0f": "p",  # emoji presentation
    "\U000e007f": "g",  # end of a tag
    **{chr(code): "f" for code in range(0xE0020, 0xE007F)},  # tags
}

_MARKS = "xcMzktpgf"  # all that belongs to the character before it
_PLAIN_MARKS = "xcMzkgf"  # Lucene takes the presentation selectors of an emoji apart


def words(text: str) -> list[str]:
    """Words of a text in order, unchanged in form.

    One thing is left to the caller: joiners with no letter among them ("___") come out here, although they are no
    word; `is_word` tells.
    """
    if text.isascii():
        found = _ASCII.findall(text)
        return _cut_words(_ASCII, text, text) if _any_longer(found, LONGEST) else found
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    symbols = _symbol_table()[codes].tobytes()
    found = [text[start:end] for start, end in map(re.Match.span, _general().finditer(symbols))]
    longest = LONGEST if codes.max() <= 0xFFFF else LONGEST // 2  # so many characters surely fit in LONGEST units
    return _cut_words(_general(), symbols, text) if _any_longer(found, longest) else found


def is_word(word: str) -> bool:
    """False for joiners without any letter or digit."""
    return word.strip(_joiners()) != ""


def _any_longer(found: list[str], longest: int) -> bool:
    """Is there a word of more characters? Joiners alone, such as a drawn line, are none."""
    return max(map(len, found), default=0) > longest and any(len(word) > longest and is_word(word) for word in found)


def _cut_words(pattern: re.Pattern, subject: str | bytes, text: str) -> list[str]:
    """Words of a text in which some may be too long: each is the longest that fits LONGEST units from where it starts.

    subject  what the pattern looks at, the text or the symbols of its characters
    """
    found = []
    position = 0
    while position < len(text):
        # Twice the window, so that a word that starts in its first half lies in it whole; time stays linear.
        start = pattern.search(subject, position, position + 2 * LONGEST)
        if start is None or start.start() >= position + LONGEST:
            position += LONGEST
            continue
        position, end = start.span()
        if end - position > LONGEST // 2:
            cut = pattern.match(subject, position, _end_of_window(text, position))
            end = cut.end() if cut else position
        word = text[position:end]
        if is_word(word):
            found.append(word)
            position = end
        else:  # it begins too far behind its joiners; drop as many as keep it out of reach
            while end < len(text) and text[end] in _joiners():
                end += 1
            position = max(position + 1, end - LONGEST + 1)
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
def class_ranges() -> dict[str, list[tuple[int, int]]]:
    """Name of a class -> first and last code point of each of its ranges."""
    table = json.loads(files("rankpipe.index").joinpath("word_break.json").read_text("ascii"))
    ranges = {}
    for name, spans in table["classes"].items():
        ends = [span.split("-") for span in spans.split()]
        ranges[name] = [(int(pair[0], 16), int(pair[-1], 16)) for pair in ends]
    return ranges


@cache
def _symbol_table() -> NDArray[np.uint8]:
    """Symbol of every code point, (0x110000,), a space for characters of no class."""
    symbols = np.full(0x110000, ord(" "), np.uint8)
    for name, ranges in class_ranges().items():
        for first, last in ranges:
            symbols[first : last + 1] = ord(_SYMBOLS[name])
    for character, symbol in _ALONE.items():
        symbols[ord(character)] = ord(symbol)
    return symbols


@cache
def _joiners() -> str:
    return "".join(chr(code) for first, last in class_ranges()["joiner"] for code in range(first, last + 1))


@cache
def _general() -> re.Pattern[bytes]:
    """The pattern over symbols.

    A regular expression takes the first alternative that fits, Lucene the longest; so the alternatives stand in such
    an order, and are so cut, that the first is the longest. Behind the start of a word every part is optional, so no
    text makes the pattern backtrack far.
    """
    letters = f"[LD][LD{_MARKS}]*"
    hebrew = f"H[{_MARKS}]*"
    numbers = f"N[N{_MARKS}]*"
    more_letters = f"(?:[:.'][{_MARKS}]*(?:{letters}|{hebrew}))*"
    more_numbers = f"(?:[,.'][{_MARKS}]*{numbers})*"
    # A Hebrew letter may keep a ' behind it, and a " before another Hebrew letter, but not where a . or ' led to it.
    hebrew_tail = f"(?:\"[{_MARKS}]*{hebrew}|'[{_MARKS}]*|{more_letters})"
    run = f"(?:{letters}{more_letters}|{numbers}{more_numbers}|{hebrew}{hebrew_tail})+"
    core = f"(?:{run}|K[K{_MARKS}]*)"
    leading = f"J[J{_MARKS}]{{0,{LONGEST - 1}}}"
    # Most words are plain: followed neither by a mark nor by punctuation that might join another piece to them.
    joins = f"LDNJHK{_MARKS}"
    plain_word = f"[LDNJ]+(?![{joins}]|[:.,'][{joins}])"
    alternatives = [
        *_emoji(),
        f"(?:{leading})?{core}(?:J[J{_MARKS}]*{core}?)*",
        "J",
        f"[Cc][Cc{_MARKS}]*",
        f"S[{_MARKS}]*",
    ]
    starts = "[LDNJHKCcSEMRzb]"  # looked at first, since most places that are no plain word are a space
    return re.compile(f"{plain_word}|(?={starts})(?:{'|'.join(alternatives)})".encode("ascii"))


def _emoji() -> list[str]:
    """Alternatives for emoji sequences, key caps and flags, to be tried in this order and before words.

    A sequence of D alone (both letter and emoji) is a word as well, and never the longer of the two, so it is left to
    the words unless it reaches a character that is only an emoji.
    """
    marks = f"[{_PLAIN_MARKS}]*"
    element = f"{marks}p?"

    def further(start: str) -> str:
        """One more element; the joiner before it is among the marks of the last, unless a selector stood between."""
        return f"(?:(?<=z)|(?<=p)z+){start}{element}"

    tail = f"(?:{further('[ED]')}|(?<=p)zM{marks})*"
    ends = f"(?:(?<=p)f+g|{tail})"
    return [
        f"E{element}{ends}",
        f"D{element}(?:{further('D')})*{further('E')}{tail}",
        f"z{{1,{LONGEST - 1}}}[ED]{element}{ends}",
        f"M{marks}{tail}",
        f"b{marks}pk{marks}",
        f"b{marks}k{marks}",
        f"R[{_MARKS}]*R[{_MARKS}]*",
    ]
