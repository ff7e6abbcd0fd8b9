"""When a rewrite of a query is refused, and the query stays as it is."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from rankpipe.index.analysis import ENGLISH_STOP_WORDS
from rankpipe.models.language_model import Answer
from rankpipe.stages.rewriting import one_line, refusal
from rankpipe.training.queries import SENTENCE_END, plain_text

LONGER, MORE_WORDS = 3, 16
"""A rewrite has at most LONGER times the words of its query, and MORE_WORDS more."""
COPIED = 0.6
"""Share of a rewrite's words of content, its query's own left out, that may be copied."""
REASONS = (
    *("prompt too long", "unreadable", "empty", "runaway", "too long", "the same"),
    *("query of another split", "copied", "cut", "rank fell"),
)
"""Why a query stays as it is, in the order in which this is looked at."""
WORD = re.compile(r"\w+")
QUESTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        "what which who whom whose when where why how do does did can could should would may might will shall has have had "
        "i you he we me my your our its from about between than",
    )
)
"""What questions are made of, and what does not tell one from another."""
LABEL = re.compile(r"(?:\w+ ){0,2}(?:query|question|search)\s*:\s*", re.IGNORECASE)
"""What small models write before the rewrite itself."""
QUOTES = "\"'`*“”‘’ "


def tidied(answer: str) -> str:
    """The first sentence of an answer, without a label before it and quotation marks around it.

    A line that ends in a colon announces the next one.
    """
    lines = (line.strip() for line in answer.splitlines())
    line = next((line for line in lines if WORD.search(line) and not line.endswith(":")), "").strip(QUOTES)
    if label := LABEL.match(line):
        line = line[label.end() :]
    return one_line(SENTENCE_END.split(line.strip(QUOTES))[0].rstrip(".").strip(QUOTES))


def content_words(text: str) -> list[str]:
    """Words of a text in small letters, without those that say nothing by themselves."""
    words = WORD.findall(text.lower())
    return [word for word in words if word not in ENGLISH_STOP_WORDS and word not in QUESTION_WORDS]


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Number of words, at most, that both have in the same order, whatever stands between."""
    row = [0] * (len(second) + 1)
    for one in first:
        before = 0
        for place, other in enumerate(second, 1):
            before, row[place] = row[place], before + 1 if one == other else max(row[place], row[place - 1])
    return row[-1]


def copied_share(rewrite: str, document: str, query: str = "") -> float:
    """Share of a rewrite's words of content that a document has, in that order; 0 of a rewrite without any.

    query  whose own words do not count: a rewrite is to have them
    """
    own = set(content_words(query))
    words = [word for word in content_words(rewrite) if word not in own]
    return longest_common_subsequence(words, content_words(document)) / len(words) if words else 0.0


def too_long(rewrite: str, query: str) -> bool:
    """Whether it has more words, parted by white space, than a query of that length may become."""
    return len(rewrite.split()) > LONGER * len(query.split()) + MORE_WORDS


def read_answer(
    answer: Answer, opening: str, query: str, document: str | None, elsewhere: Collection[str]
) -> tuple[str, str | None]:
    """The query that an answer makes, and why it does not become one, one of REASONS but the last; None if it may.

    opening    what the query begins with, before the answer
    document   what the model saw of one
    elsewhere  queries of other splits, as plain_text has them
    """
    answer = answer.whole()
    problem, said = refusal(answer), ""
    if problem != "unreadable":
        said = tidied(answer.text)
    rewrite = one_line(f"{opening} {said}") if said else ""
    problem = problem or _why_refused(rewrite, query, document, elsewhere)
    whole = answer.ended or SENTENCE_END.search(answer.text) or "\n" in answer.text.strip()
    return rewrite, problem or (None if whole else "cut")


def _why_refused(rewrite: str, query: str, document: str | None, elsewhere: Collection[str]) -> str | None:
    if not rewrite:
        return "empty"
    if too_long(rewrite, query):
        return "too long"
    if plain_text(rewrite) == plain_text(query):
        return "the same"
    if plain_text(rewrite) in elsewhere:
        return "query of another split"
    return "copied" if document is not None and copied_share(rewrite, document, query) > COPIED else None
