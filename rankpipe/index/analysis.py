"""Text analysis: what words a text has, and under what term each is indexed.

An analyzer works in two steps, so that the second is done once a distinct word: `words` splits a text, `term` maps a
word to its index term. Four kinds are opened by name: `english`, `snowball:LANGUAGE`, `whitespace`, and the path of a
Hugging Face tokenizer.json.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rankpipe.errors import DataError, MissingExtraError, UsageError
from rankpipe.index import porter, word_break

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_STOP_WORDS = """
a an and are as at be but by for if in into is it no not of on or such that the their then there these they this to was
will with
"""
ENGLISH_STOP_WORDS = frozenset(_STOP_WORDS.split())
"""The 33 words that Lucene's EnglishAnalyzer drops."""

_APOSTROPHES = "'\N{RIGHT SINGLE QUOTATION MARK}\N{FULLWIDTH APOSTROPHE}"
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class Analyzer(Protocol):
    """Splits texts and maps words to terms. The fingerprint is part of the key under which an index is stored."""

    @property
    def fingerprint(self) -> str:
        """Name of the analyzer and of all that changes its output."""
        ...

    def words(self, text: str) -> list[str]:
        """Words of a text, in order, in the form they have there."""
        ...

    def term(self, word: str) -> str | None:
        """Index term of a word; None if it is not indexed. Depends on nothing but the word, so callers may keep it."""
        ...


def open_analyzer(name: str) -> Analyzer:
    """The analyzer of that name.

    english            Lucene's English analysis, as in Anserini
    snowball:LANGUAGE  UAX #29 words, lower case, Snowball stemmer of the language; no stop words
    whitespace         split at white space, nothing else
    PATH               a Hugging Face tokenizer.json; needs the extra 'tokenizers'

    Raises UsageError for a name that is none of these, DataError for a file that is no tokenizer.
    """
    if name == "english":
        return English()
    if name == "whitespace":
        return Whitespace()
    if name.startswith("snowball:"):
        return Snowball(name.removeprefix("snowball:"))
    if is_file(name) or name.endswith(".json"):
        return TokenizerFile(Path(name))
    kinds = ["english", "whitespace", *(f"snowball:{language}" for language in _snowball_languages())]
    raise UsageError(
        f"unknown analyzer '{name}'{_suggestion(name, kinds)}: known are 'english', 'whitespace', 'snowball:LANGUAGE' "
        "and the path of a tokenizer.json"
    )


def is_file(name: str) -> bool:
    """Whether an analyzer is a tokenizer.json that is there, not one of the names."""
    named = name in ("english", "whitespace") or name.startswith("snowball:")
    return not named and os.path.isfile(name)


def analyzer_problem(name: str) -> str | None:
    """What a name must be that no analyzer has, or None; opens no file, so a tokenizer.json may still be damaged."""
    if name in ("english", "whitespace") or os.path.isfile(name):
        return None
    languages = _snowball_languages()
    if name.startswith("snowball:"):
        language = name.removeprefix("snowball:")
        known = f"must name a language that PyStemmer knows{_suggestion(language, languages)}: {', '.join(languages)}"
        return None if language in languages else known
    if name.endswith(".json"):
        return "must be a file, and there is none"
    kinds = ["english", "whitespace", *(f"snowball:{language}" for language in languages)]
    return f"must be 'english', 'whitespace', 'snowball:LANGUAGE' or the path of a tokenizer.json{_suggestion(name, kinds)}"


def terms(analyzer: Analyzer, text: str) -> list[str]:
    """Index terms of a text, in order, those of dropped words left out."""
    return [term for word in analyzer.words(text) if (term := analyzer.term(word)) is not None]


class English:
    """Lucene's English analysis with the Porter stemmer, as Anserini uses it by default.

    Words by UAX #29, possessive 's dropped, lower case, 33 stop words, Porter. Equal to Lucene 9.9, see
    eval/lucene_tokens.py, but for a text that ends in a high surrogate: there Lucene loses the words before it.
    """

    fingerprint = "english/1"

    def words(self, text: str) -> list[str]:
        """Words of UAX #29."""
        return word_break.words(text)

    def term(self, word: str) -> str | None:
        """Stem of the word; None for a stop word."""
        if not word_break.is_word(word):
            return None
        if word[-1] in "sS" and word[-2:-1] and word[-2] in _APOSTROPHES:
            word = word[:-2]
        lower = lower_case(word)
        return None if lower in ENGLISH_STOP_WORDS else porter.stem(lower)


class Snowball:
    """UAX #29 words in lower case, stemmed by the Snowball stemmer of a language (of PyStemmer); no stop words."""

    def __init__(self, language: str) -> None:
        """Raise UsageError for a language that PyStemmer has no stemmer for."""
        import Stemmer

        languages = _snowball_languages()
        if language not in languages:
            raise UsageError(
                f"analyzer 'snowball:{language}': no such language{_suggestion(language, languages)}: "
                f"known are {', '.join(languages)}"
            )
        self.fingerprint = f"snowball:{language}/1 PyStemmer {Stemmer.version()}"
        self._stemmer = Stemmer.Stemmer(language, 0)

    def words(self, text: str) -> list[str]:
        """Words of UAX #29."""
        return word_break.words(text)

    def term(self, word: str) -> str | None:
        """Stem of the word."""
        return self._stemmer.stemWord(lower_case(word)) if word_break.is_word(word) else None


class Whitespace:
    """Words between white space, unchanged: str.split, so that all of Unicode's spaces and line ends separate."""

    fingerprint = "whitespace/1"

    def words(self, text: str) -> list[str]:
        """The pieces between white space."""
        return text.split()

    def term(self, word: str) -> str | None:
        """The word itself."""
        return word


class TokenizerFile:
    """The tokens of a Hugging Face tokenizer.json, without special tokens, truncation and padding."""

    def __init__(self, path: Path) -> None:
        """Raise DataError if the file is missing or no tokenizer, MissingExtraError without the package."""
        try:
            content = path.read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            reason = error.strerror if isinstance(error, OSError) else error
            raise DataError(f"analyzer '{path}': cannot be read: {reason}") from error
        self.fingerprint = f"tokenizer/1 sha256:{hashlib.sha256(content).hexdigest()}"
        self._tokenizer = _tokenizer(path, content)

    def words(self, text: str) -> list[str]:
        """Tokens as the tokenizer prints them; a lone surrogate, which it cannot read, goes in as U+FFFD."""
        readable = _LONE_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)
        return self._tokenizer.encode(readable, add_special_tokens=False).tokens

    def term(self, word: str) -> str | None:
        """The word itself."""
        return word


def lower_case(word: str) -> str:
    """Lower case of every character by itself, as Lucene has it from Java.

    Differs from str.lower in two letters: İ becomes i (not i and a dot above), and Σ becomes σ even at the end.
    """
    if word.isascii():
        return word.lower()
    return "".join([character.lower() for character in word.replace("İ", "i")])


def _tokenizer(path: Path, content: bytes) -> Tokenizer:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingExtraError(f"analyzer '{path}'", "tokenizers", "tokenizers") from error
    try:
        tokenizer = Tokenizer.from_str(content.decode("utf-8"))
    except Exception as error:  # the package raises Exception itself
        raise DataError(f"analyzer '{path}': not a tokenizer.json: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _snowball_languages() -> list[str]:
    import Stemmer

    return sorted(Stemmer.algorithms())


def _suggestion(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else ""
