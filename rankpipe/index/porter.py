"""The Porter stemmer as Lucene has it.

M. F. Porter, An algorithm for suffix stripping, Program 14(3), 1980, with the three departures of his own later C and
Java programs, which Lucene follows: BLI -> BLE (for ABLI -> ABLE), LOGI -> LOG, and words of one or two letters stay.
Snowball's "porter" has none of the three.
"""

from __future__ import annotations

# Names follow the paper: m, the measure of a stem, counts its vowel-consonant sequences; *v*: it holds a vowel;
# *d: it ends in a double consonant; *o: it ends consonant, vowel, consonant, the last not w, x or y.

_FORMS = bytes(ord("v") if chr(byte) in "aeiou" else ord("y") if chr(byte) == "y" else ord("c") for byte in range(256))

# Steps 2 to 4 look at the letter that tells the suffixes apart, then try these in order; the first that fits is the
# only one tried, whether or not its condition on the stem holds.
_STEP_2 = {
    "a": (("ational", "ate"), ("tional", "tion")),
    "c": (("enci", "ence"), ("anci", "ance")),
    "e": (("izer", "ize"),),
    "l": (("bli", "ble"), ("alli", "al"), ("entli", "ent"), ("eli", "e"), ("ousli", "ous")),
    "o": (("ization", "ize"), ("ation", "ate"), ("ator", "ate")),
    "s": (("alism", "al"), ("iveness", "ive"), ("fulness", "ful"), ("ousness", "ous")),
    "t": (("aliti", "al"), ("iviti", "ive"), ("biliti", "ble")),
    "g": (("logi", "log"),),
}
_STEP_3 = {
    "e": (("icate", "ic"), ("ative", ""), ("alize", "al")),
    "i": (("iciti", "ic"),),
    "l": (("ical", "ic"), ("ful", "")),
    "s": (("ness", ""),),
}
_STEP_4 = {
    "a": ("al",),
    "c": ("ance", "ence"),
    "e": ("er",),
    "i": ("ic",),
    "l": ("able", "ible"),
    "n": ("ant", "ement", "ment", "ent"),
    "o": ("ion", "ou"),
    "s": ("ism",),
    "t": ("ate", "iti"),
    "u": ("ous",),
    "v": ("ive",),
    "z": ("ize",),
}
_LAST_LETTERS = frozenset("cdegilmnrstuy")  # of every word that some step changes


def stem(word: str) -> str:
    """Stem of a word in lower case.

    Any characters may occur; all but a, e, i, o, u and y count as consonants. As in Lucene, a character beyond the
    first plane counts as two (its UTF-16 units).
    """
    if word[-1:] not in _LAST_LETTERS:
        return word
    if not word.isascii() and max(word) > "\uffff":
        return _joined(stem(_halved(word)))
    if len(word) < 3:
        return word
    word = _step_1(word)
    if len(word) < 2:
        return word
    word = _replaced(word, _STEP_2.get(word[-2:-1], ()))
    word = _replaced(word, _STEP_3.get(word[-1], ()))
    word = _step_4(word)
    return _step_5(word)


def _step_1(word: str) -> str:
    """Plurals, -ed and -ing, and a final y."""
    if word[-1] == "s":
        if word.endswith(("sses", "ies")):
            word = word[:-2]
        elif not word.endswith("ss"):
            word = word[:-1]
    if word.endswith("eed"):
        if _measure(word[:-3]) > 0:
            word = word[:-1]
    elif word.endswith(("ed", "ing")):
        start = word[:-2] if word[-1] == "d" else word[:-3]
        if _has_vowel(start):
            word = _mended(start)
    if word.endswith("y") and _has_vowel(word[:-1]):
        word = word[:-1] + "i"
    return word


def _mended(word: str) -> str:
    """What -ed or -ing left, made a word again: conflat(ed) -> conflate, hopp(ing) -> hop, fil(ing) -> file."""
    if word.endswith(("at", "bl", "iz")):
        return word + "e"
    if _ends_double(word):
        return word if word[-1] in "lsz" else word[:-1]
    return word + "e" if _ends_short(word) and _measure(word) == 1 else word


def _replaced(word: str, rules: tuple[tuple[str, str], ...]) -> str:
    """The first ending of the rules that the word has, replaced if m > 0 before it."""
    for ending, replacement in rules:
        if word.endswith(ending):
            start = word[: -len(ending)]
            return start + replacement if _measure(start) > 0 else word
    return word


def _step_4(word: str) -> str:
    """A suffix dropped if m > 1 before it; -ion only behind s or t."""
    for ending in _STEP_4.get(word[-2:-1], ()):
        if word.endswith(ending):
            start = word[: -len(ending)]
            if ending == "ion" and not start.endswith(("s", "t")):
                continue
            return start if _measure(start) > 1 else word
    return word


def _step_5(word: str) -> str:
    """A final e dropped, a final ll made l."""
    measure = _measure(word) if word[-1:] in ("e", "l") else 0  # a final e adds nothing to m
    if word.endswith("e") and (measure > 1 or (measure == 1 and not _ends_short(word[:-1]))):
        word = word[:-1]
    return word[:-1] if measure > 1 and word.endswith("ll") else word


def _forms(word: str) -> bytes:
    """c for every consonant, v for every vowel; y is a vowel behind a consonant."""
    forms = word.encode("latin-1", "replace").translate(_FORMS)
    if b"y" not in forms:
        return forms
    known = bytearray(forms)
    for place, form in enumerate(known):
        if form == ord("y"):
            known[place] = ord("v") if place and known[place - 1] == ord("c") else ord("c")
    return bytes(known)


def _measure(word: str) -> int:
    return _forms(word).count(b"vc")


def _has_vowel(word: str) -> bool:
    return b"v" in _forms(word)


def _ends_double(word: str) -> bool:
    return len(word) > 1 and word[-1] == word[-2] and _forms(word).endswith(b"c")


def _ends_short(word: str) -> bool:
    """*o of the paper: consonant, vowel, consonant, and the last not w, x or y."""
    return word[-1:] not in ("w", "x", "y") and _forms(word).endswith(b"cvc")


def _halved(word: str) -> str:
    """The word with every character beyond the first plane as its two surrogates."""
    units = memoryview(word.encode("utf-16-le", "surrogatepass")).cast("H")
    return "".join(map(chr, units))


def _joined(halves: str) -> str:
    return halves.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
