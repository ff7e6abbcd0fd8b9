"""Prompts of language models: text files with places for a query and documents, and the chat template around them.

A file has sections, each under a line `--- NAME`:

    user      what the model is asked, with the places {query}, {documents} or {document}, {count}
    document  how each of several documents is written, with the places {document} and {number} or {letter}
    system    what it is told before, if anything
    answer    how its answer begins, if it is to begin in a certain way

Documents stand a blank line apart. Places are filled in one pass, so braces within a text are left as they are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from string import ascii_uppercase
from typing import Any, NamedTuple

from rankpipe.data.shipped import shipped
from rankpipe.errors import DataError, ModelError, UsageError, told_of_a_setting
from rankpipe.models.language_model import THOUGHTS
from rankpipe.models.references import explained
from rankpipe.store import key_digest

HEADING = re.compile(r"--- *(\w+) *")
PLACE = re.compile(r"\{(query|documents|document|count|number|letter)\}")
SECTIONS = {
    "user": ("query", "documents", "document", "count"),
    "document": ("document", "number", "letter"),
    "system": (),
    "answer": ("query",),
}
"""Sections of a file, and the places that each may have."""
SEPARATOR = "\n\n"
LETTERS = ascii_uppercase
MARK = "\ue000"
"""A character for private use, which no template writes."""
DATE = datetime(2024, 7, 26)
"""What chat templates are told that today is, so that a score does not depend on the day; the templates of Llama 3 take
this date where they are told none."""
UNTHINKING = {"enable_thinking": False, "thinking": False, "reasoning": False, "thinking_budget": 0}
"""What chat templates are told so that the answer comes at once: the names that Qwen, GLM and SmolLM, DeepSeek and Granite,
Command A, and Seed-OSS have for it. A template passes over those that it does not know."""
SWITCH = re.compile(r"/(no_)?think\b")
"""What templates take out of the system's text, and heed."""
DIRECTIVES = "aAbBdHIjmMpSyY"
"""Of strftime: parts of a date that a template may ask for."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What a language model is given.

    file  that it was read from, which takes no part in comparisons
    """

    user: str
    document: str = "{document}"
    system: str = ""
    answer: str = ""
    file: str = field(default="", compare=False)

    def digest(self) -> str:
        """Digest of its texts, wherever they stand."""
        return key_digest({name: getattr(self, name) for name in SECTIONS})

    def need(self, user: Sequence[str], *, answer: Sequence[str] = (), document: Sequence[str] = ()) -> None:
        """Raise UsageError unless the sections have these places, those of several documents or of one just once."""
        for section, places in (("user", user), ("answer", answer), ("document", document)):
            for place in places:
                count = getattr(self, section).count(f"{{{place}}}")
                if not count or (count > 1 and place in ("documents", "document")):
                    often = "once" if place in ("documents", "document") else "at least once"
                    raise UsageError(
                        f"prompt {self.file}: its section '{section}' has {{{place}}} {count} times, and needs it {often}"
                    )

    def have_only(self, *places: str) -> None:
        """Raise UsageError where what is asked has another place, for which there is no text."""
        if other := next((place for place in PLACE.findall(self.user) if place not in places), None):
            *names, last = (f"{{{place}}}" for place in places)
            known = f"{', '.join(names)} and {last}" if names else last
            raise UsageError(
                f"prompt {self.file}: there is no text here for {{{other}}} in its section 'user', only {known}"
            )

    def listed(self, documents: Sequence[str]) -> list[str]:
        """Documents as the prompt writes them. Raises UsageError for more than there are letters, where it has them."""
        if "{letter}" in self.document and len(documents) > len(LETTERS):
            raise UsageError(f"prompt {self.file}: {len(documents)} documents, and there are {len(LETTERS)} letters")
        letters = LETTERS.ljust(len(documents))
        return [
            filled(self.document, {"document": text, "number": str(at + 1), "letter": letters[at]})
            for at, text in enumerate(documents)
        ]


def filled(text: str, values: Mapping[str, str]) -> str:
    """A text whose places have these values; a place without one stays."""
    return PLACE.sub(lambda found: values.get(found[1], found[0]), text)


def known_prompt(reference: str) -> str:
    """The reference, if there is such a prompt; a validator of settings."""
    with told_of_a_setting():
        _found(reference)
    return reference


def load_prompt(reference: str) -> Prompt:
    """The prompt in a file, or the shipped one of that name.

    Raises UsageError where there is none, DataError with the line for a file that is not written as one.
    """
    path = _found(reference)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as a text in UTF-8: {error}") from None
    return Prompt(**_sections(path, text), file=str(path))


def load_attention_prompt(reference: str) -> Prompt:
    """As load_prompt, for re-ranking by attention: documents, and behind them the query.

    Raises UsageError as well for a prompt that lacks a place, or has one that there is no text for.
    """
    prompt = load_prompt(reference)
    prompt.need(("documents", "query"), document=("document",))
    prompt.have_only("documents", "query", "count")
    before, _, _ = prompt.user.partition("{documents}")
    if "{query}" in before:
        raise UsageError(f"prompt {prompt.file}: the query must stand behind the documents, which are read once")
    return prompt


def _found(reference: str) -> Path:
    """The shipped prompt of that name, whatever lies in the working folder, or the file."""
    shipped_ones = shipped_prompts()
    if reference in shipped_ones:
        return shipped_ones[reference]
    path = Path(os.path.expanduser(reference))
    if not os.path.isfile(path):
        known = ", ".join(sorted(shipped_ones))
        raise UsageError(f"there is no prompt file {reference!r}, and no shipped one of that name ({known})")
    return path


@cache
def shipped_prompts() -> dict[str, Path]:
    """Files of the prompts that come with rankpipe, by their names."""
    return {file.stem: file for file in shipped("prompts").glob("*.txt")}


def _sections(path: Path, text: str) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    name = None
    for number, line in enumerate(text.split("\n"), 1):
        if heading := HEADING.fullmatch(line):
            name = heading[1]
            if name not in SECTIONS:
                raise DataError.at(path, number, f"no section {name!r}; a prompt has {', '.join(SECTIONS)}")
            if name in found:
                raise DataError.at(path, number, f"a second section {name!r}")
            found[name] = []
            continue
        if name is None:
            if line.strip():
                raise DataError.at(path, number, "a text before the first section; a prompt begins with '--- user'")
            continue
        for place in PLACE.findall(line):
            if place not in SECTIONS[name]:
                allowed = ", ".join(f"{{{one}}}" for one in SECTIONS[name]) or "none"
                raise DataError.at(path, number, f"{{{place}}} has no meaning in '{name}', whose places are: {allowed}")
        found[name].append(line)
    sections = {name: "\n".join(lines).strip() for name, lines in found.items()}
    if not sections.get("user"):
        raise DataError(f"{path}: no section 'user', which says what the model is asked")
    return sections


class Frame(NamedTuple):
    """What a chat template writes around the text of a user.

    unthinking  whether it would have been another one for a model that is not told to answer at once
    """

    before: str
    after: str
    unthinking: bool = False


def chat_frame(tokenizer: Any, system: str, folder: Path) -> Frame | None:
    """What a model's chat template writes around the text of a user; None for a model without a template.

    system  what the model is told before, if anything

    A template that writes today's date is given DATE. A model that thinks before it answers is told not to; thoughts that
    its template begins all the same are ended, empty. Raises ModelError for a template that fails, or that leaves out what
    the user or the system says.
    """
    if not tokenizer.chat_template:
        return None
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": MARK})
    try:
        template = tokenizer.get_chat_template()
        if "strftime_now" in template:
            template = f"{_fixed_date()}\n{template}"
        options = {"chat_template": template, "tokenize": False, "add_generation_prompt": True}
        text = tokenizer.apply_chat_template(messages, **options, **UNTHINKING)
        plain = tokenizer.apply_chat_template(messages, **options)
    except Exception as error:  # a template can fail in any way
        raise ModelError(f"model folder {folder}: its chat template fails: {explained(error)}") from error
    before, mark, after = text.partition(MARK)
    if not mark or MARK in after:
        raise ModelError(f"model folder {folder}: its chat template does not write the text of a user once")
    if SWITCH.sub("", system).strip() not in text:  # templates may trim it
        raise ModelError(
            f"model folder {folder}: its chat template does not write what the system says; take a prompt without the "
            "section 'system'"
        )
    begun = next((end for begin, end in THOUGHTS.items() if after.rstrip().endswith(begin)), None)
    if begun is not None:
        after = f"{after.rstrip()}\n\n{begun}\n\n"
    return Frame(before, after, unthinking=begun is not None or text != plain)


def _fixed_date() -> str:
    """A macro in the place of transformers' strftime_now, whose answer is another one every day."""
    filled_in = "".join(f"|replace('%{letter}', '{DATE.strftime(f'%{letter}')}')" for letter in DIRECTIVES)
    return f"{{% macro strftime_now(format) %}}{{{{ format{filled_in} }}}}{{% endmacro %}}"
