"""Derive the character classes of Lucene's StandardTokenizer by asking it, and write rankpipe/index/word_break.json.

    python eval/word_break_tables.py

Every code point is put into a few short texts ("a?a", "1,?", ...); what the tokenizer makes of them tells its class. So
the table equals Lucene's behaviour by construction. It is that of Unicode 12.1 for Lucene 9.9 (letters new in 12.0 are
in it, those of 13.0 are not). See eval/lucene_jvm.py for the environment.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lucene_jvm import Lucene

TABLE = Path(__file__).parents[1] / "rankpipe" / "index" / "word_break.json"
CODE_POINTS = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
SENTINEL = "zzzq"  # a word between the probes, so that one call answers thousands
BATCH = 8192

# ? is the code point in question; a probe asks whether the tokenizer keeps all of it in one token
PROBES = ("?", "a?", "?a", "a?a", "1?", "1?1", "1,?", "ア?", "?_", "ก?", "?ก", "?'", "??", "\N{WOMAN}\u200d?")

# Each class by what its characters do. A character may be in two, as ℹ is a letter and an emoji.
CLASSES: dict[str, Callable[[dict[str, bool]], bool]] = {
    "letter": lambda whole: whole["?"] and whole["?a"] and not whole["1,?"] and not whole["?'"],
    "hebrew": lambda whole: whole["?'"],
    "numeric": lambda whole: whole["1,?"],
    "katakana": lambda whole: whole["?"] and whole["ア?"] and whole["?_"],
    "complex": lambda whole: whole["?"] and whole["?ก"],
    "single": lambda whole: whole["?"] and not whole["??"] and not whole["\N{WOMAN}\u200d?"],
    "emoji": lambda whole: whole["?"] and whole["\N{WOMAN}\u200d?"] and not whole["?ก"],
    "regional": lambda whole: whole["??"] and not whole["?"],
    "extend": lambda whole: whole["a?"] and not whole["?a"],
    "joiner": lambda whole: whole["?a"] and not whole["?"],
    "mid_letter": lambda whole: whole["a?a"] and not whole["a?"],
    "mid_number": lambda whole: whole["1?1"] and not whole["1?"],
}


def main() -> None:
    """Ask, classify, write."""
    lucene = Lucene()
    tokenizer = lucene.tokenizer_only()
    answers = {probe: probed(lucene, tokenizer, probe) for probe in PROBES}
    members: dict[str, list[int]] = defaultdict(list)  # "letter" or, of a character in two, "letter emoji"
    for place, code in enumerate(CODE_POINTS):
        whole = {probe: answers[probe][place] for probe in PROBES}
        if names := [name for name, belongs in CLASSES.items() if belongs(whole)]:
            members[" ".join(names)].append(code)
    table = {
        "about": "Character classes of Lucene's StandardTokenizer (UAX #29 of Unicode 12.1); ranges of code points "
        "in hexadecimal. Written by eval/word_break_tables.py.",
        "lucene": lucene.version,
        "classes": {name: ranges(codes) for name, codes in sorted(members.items())},
    }
    TABLE.write_text(json.dumps(table, indent=1) + "\n", encoding="ascii")
    for name, codes in sorted(members.items()):
        print(f"{name:22} {len(codes):7,} code points")


def probed(lucene: Lucene, tokenizer: Any, probe: str) -> list[bool]:
    """For every code point: does the tokenizer keep the probe whole?"""
    whole = []
    for start in range(0, len(CODE_POINTS), BATCH):
        texts = [probe.replace("?", chr(code)) for code in CODE_POINTS[start : start + BATCH]]
        tokens = iter([*lucene.tokens(tokenizer, f" {SENTINEL} ".join(texts)), SENTINEL])
        # iter(callable, sentinel) reads one probe's tokens, up to the sentinel behind it
        whole += [list(iter(tokens.__next__, SENTINEL)) == [text] for text in texts]
    return whole


def ranges(codes: list[int]) -> str:
    """Sorted code points as "41-5A 61-7A AA"."""
    spans: list[list[int]] = []
    for code in codes:
        if spans and code == spans[-1][1] + 1:
            spans[-1][1] = code
        else:
            spans.append([code, code])
    return " ".join(f"{first:X}" if first == last else f"{first:X}-{last:X}" for first, last in spans)


if __name__ == "__main__":
    main()
