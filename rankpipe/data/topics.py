"""TREC topics: files of queries, in any of the three forms they come in.

    classic  <top> <num> Number: 301 <title> ... <desc> Description: ... <narr> Narrative: ... </top>, tags mostly open
    XML      any element named topic or top, with its id as attribute `number` or `id` or as element `num`; one behind the
             other, or inside of others
    TSV      id, tab, text; one query a line

The text is the title (in XML, `query` where there is no title), with single blanks for white space; what else a topic has becomes fields, the classic ones
under their full names: description, narrative. Marks inside of a text, as <i>, are dropped, their text is kept.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from xml.parsers import expat

from rankpipe.data.lines import Lines
from rankpipe.data.queries import Queries
from rankpipe.data.readers import queries_of_records
from rankpipe.data.text import id_problem, text_problem
from rankpipe.errors import DataError

FIELD_NAMES = {"desc": "description", "narr": "narrative"}
LABELS = {"num": "Number:", "title": "Topic:", "desc": "Description:", "narr": "Narrative:"}
"""What the classic form repeats behind a tag, and is no part of the text."""
TOPIC_TAGS = ("topic", "top")
ONCE = ("title", "query")
"""What the query may be taken from: of two in one topic, neither is more so than the other."""
CLASSIC_TAGS = ("top", "num", "title", "desc", "narr", "dom", "smry", "con", "fac", "nat", "def", "head", "time")
INLINE_TAGS = ("a", "b", "em", "i", "span", "strong", "sub", "sup", "tt", "u")
"""Marks inside of a word or a text; other tags part words."""
HEADERS = ("qid", "query_id", "query-id", "queryid", "topic_id", "topic-id")
_ROOTLESS = re.compile(r"\s*<top(ic)?\b", re.IGNORECASE)
_TAG = re.compile(r"""<(/?)([A-Za-z_][\w-]*)(?:\s+[\w:-]+\s*=\s*(?:"[^"]*"|'[^']*'))*\s*/?>""")

Topic = tuple[int, dict[str, str]]
"""The line a topic begins in, and its parts by tag; `num` is its id."""


def read_topics(path: Path | str) -> Queries:
    """The queries of a file of TREC topics, plain or .gz, in its order.

    Raises DataError with file:line for a topic without an id or a text, an id that occurs twice, and what is no topic.
    """
    lines = Lines(path)
    numbered = [(lines.number, line) for line in lines]
    first = numbered[0][1].lstrip() if numbered else ""
    if not first:
        raise DataError(f"{path}: holds no topics")
    if not first.startswith("<"):
        topics = _tsv(lines)
    elif _is_classic([line for _, line in numbered]):
        topics = _classic(lines)
    else:
        topics = _xml(lines)
    return _queries(lines.path, topics)


def _queries(path: Path, topics: list[Topic]) -> Queries:
    first: dict[str, int] = {}
    records: list[dict[str, str]] = []
    for line, parts in topics:
        texts = {tag: " ".join(text.split()) for tag, text in parts.items()}
        query_id = texts.pop("num", "")
        if problem := id_problem(query_id):
            raise DataError.at(path, line, f"the id of this topic {problem}")
        present = [tag for tag in ("title", "query", "text") if tag in texts]
        text_tag = next((tag for tag in present if texts[tag]), present[0] if present else None)
        if text_tag is None:
            raise DataError.at(path, line, f"topic {query_id!r} has no title")
        if query_id in first:
            raise DataError.at(path, line, f"topic {query_id!r} occurs twice; the first time in line {first[query_id]}")
        if problem := next((problem for text in texts.values() if (problem := text_problem(text))), None):
            raise DataError.at(path, line, f"topic {query_id!r}: {problem}")
        first[query_id] = line
        others = {FIELD_NAMES.get(tag, tag): text for tag, text in texts.items() if tag != text_tag and text}
        records.append({"id": query_id, "text": texts[text_tag], **others})
    if not records:
        raise DataError(f"{path}: holds no topics")
    return queries_of_records(records)


def _tsv(lines: Lines) -> list[Topic]:
    topics = []
    for line in lines:
        query_id, tab, text = line.partition("\t")
        if not tab:
            raise lines.error("no tab; a line is 'query_id<TAB>text'")
        if "\t" in text:
            raise lines.error(f"{line.count(tab)} tabs; a line is 'query_id<TAB>text'")
        if not topics and query_id.strip().lower() in HEADERS:
            raise lines.error(f"{query_id.strip()!r} names a column; topics have no header, so leave this line out")
        topics.append((lines.number, {"num": query_id, "text": text}))
    return topics


def _is_classic(lines: list[str]) -> bool:
    """Whether the tags inside <top> are left open, so that no XML parser can read them."""
    text = "\n".join(lines).lower()
    return "<top>" in text and text.count("</title>") < text.count("<title>")


def _classic(lines: Lines) -> list[Topic]:
    topics: list[Topic] = []
    parts: dict[str, str] | None = None
    tag = ""
    for line in lines:
        position = 0
        if parts is not None and tag:
            parts[tag] += " "
        for match in [*_TAG.finditer(line), None]:
            closing, name = (bool(match[1]), match[2].lower()) if match else (False, "")
            begins_line = match is not None and not closing and not line[: match.start()].strip()
            inline = name in INLINE_TAGS
            if match and not (inline or name in CLASSIC_TAGS or name == tag or begins_line):
                continue  # an address, say, or p < q: text
            if parts is not None and tag:
                parts[tag] += line[position : match.start() if match else None]
            if match is None:
                break
            position = match.end()
            if inline:
                continue
            if name == "top":
                if closing == (parts is None):
                    raise lines.error(
                        "</top> without <top>" if closing else "<top> before the </top> of the one before"
                    )
                if parts is not None:
                    topics[-1][1].update({key: _unlabelled(key, html.unescape(text)) for key, text in parts.items()})
                    parts, tag = None, ""
                else:
                    parts = {}
                    topics.append((lines.number, {}))
            elif parts is not None:
                tag = "" if closing else name
                if tag in parts and tag in ONCE:
                    raise lines.error(f"a second <{tag}> in one topic; keep one")
                if tag:
                    parts[tag] = parts.get(tag, "") + " "
    if parts is not None:
        raise DataError.at(lines.path, topics[-1][0], "this <top> has no </top>")
    return topics


def _unlabelled(tag: str, text: str) -> str:
    text = text.strip()
    label = LABELS.get(tag, "")
    return text[len(label) :] if label and text.lower().startswith(label.lower()) else text


def _xml(lines: Lines) -> list[Topic]:
    topics: list[Topic] = []
    open_tags: list[str] = []
    within: list[tuple[int, dict[str, str]]] = []  # open topics: how many tags were open, and their parts
    parser = expat.ParserCreate(encoding="utf-8")

    def start(name: str, attributes: dict[str, str]) -> None:
        name = name.lower()
        if name in TOPIC_TAGS:
            identifier = attributes.get("number") or attributes.get("id") or ""
            topics.append((parser.CurrentLineNumber, {"num": identifier} if identifier else {}))
            within.append((len(open_tags), topics[-1][1]))
        elif within and len(open_tags) == within[-1][0] + 1:
            parts = within[-1][1]
            if name in ONCE and name in parts:
                raise DataError.at(lines.path, parser.CurrentLineNumber, f"a second <{name}> in one topic; keep one")
            if name in ("num", "number"):  # goes before an attribute
                parts["num"] = ""
            else:
                parts[name] = parts.get(name, "") + " "
        open_tags.append(name)
        between_words(name)

    def end(name: str) -> None:
        between_words(open_tags.pop())
        if within and len(open_tags) == within[-1][0]:
            within.pop()

    def between_words(name: str) -> None:
        if name not in INLINE_TAGS:
            text(" ")

    def text(content: str) -> None:
        if within and len(open_tags) > within[-1][0] + 1:
            depth, parts = within[-1]
            tag = "num" if open_tags[depth + 1] == "number" else open_tags[depth + 1]
            parts[tag] += content

    def refuse(*_: object) -> None:
        raise DataError.at(lines.path, parser.CurrentLineNumber, "declares an entity, which topics have no use for")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    parser.EntityDeclHandler = refuse
    whole = lines.text()
    try:
        if _ROOTLESS.match(whole):  # XML wants one element around them
            whole = f"<topics>{whole}</topics>"
        parser.Parse(whole.encode(), True)
    except expat.ExpatError as error:
        raise DataError.at(lines.path, error.lineno, f"not XML: {expat.ErrorString(error.code)}") from None
    return [(line, {tag: _unlabelled(tag, text) for tag, text in topic.items()}) for line, topic in topics]
