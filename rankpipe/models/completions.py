"""What a server of OpenAI's interface is asked at /chat/completions and what it answers, as JSON. No network here.

Fields: OpenAI, API reference, "Create chat completion"; only those that other servers (vLLM, llama.cpp, Ollama) know, too.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from rankpipe.models.endpoint import LENGTH_FIELDS, Endpoint
from rankpipe.models.language_model import Answer, Chat, Writing, without_thoughts

SURROGATES = re.compile("[\ud800-\udfff]")
"""Halves of a character that stand alone: JSON can say them as an escape, a text of Unicode cannot hold them."""
REASONING = ("reasoning_content", "reasoning", "reasoning_details")
PARTS = ("thinking", "reasoning")
"""Fields of a message, and types of the parts of its content, in which servers say what a model thought."""
FAILED = ("error", "abort")
"""What a server says where it could not finish an answer; that it was long enough, or refused, it says otherwise."""
LEFT_OUT = ("temperature", "top_p", "seed", "stop")
"""Fields that a request can do without."""
NOT_TAKEN = re.compile("support|permit|unknown|unrecogni[sz]ed|unexpected|cannot both", re.IGNORECASE)
TOO_MUCH = re.compile("too (large|long|many)|at most|maximum", re.IGNORECASE)
"""How servers say that they do not take a field, and that a value is too large."""


class ExhaustedError(ValueError):
    """An answer of no text at all that was cut: a model that thinks first has used its tokens up, or said a stop text."""


EXCERPT = 300
"""Characters of what a server said that an error shows."""


def request(model: str, chat: Chat, writing: Writing, number: int, endpoint: Endpoint) -> bytes:
    """What is sent for one answer to a chat.

    number  of the answer, from 0; it makes another seed
    """
    said = [("system", chat.system), ("user", chat.user), ("assistant", chat.answer)]
    fields: dict[str, Any] = {
        "model": model,
        "messages": [{"role": role, "content": _whole(text)} for role, text in said if text or role == "user"],
        endpoint.length_field: writing.longest,
        "temperature": writing.temperature,
        "top_p": writing.top_p,
        "seed": answer_seed(writing.seed, number),
    }
    if writing.stop:
        fields["stop"] = list(writing.stop)
    fields |= endpoint.fields
    return json.dumps({name: value for name, value in fields.items() if value is not None}).encode()


def refused_field(message: str, endpoint: Endpoint) -> str | None:
    """What to do where a server says of a field, by its name in quotation marks, that it does not take it; else None."""
    if TOO_MUCH.search(message) or not NOT_TAKEN.search(message):
        return None
    named = re.findall(r"['\"`](\w+)['\"`]", message)
    name = next((one for one in named if one in (*LEFT_OUT, endpoint.length_field)), None)
    if name is None:
        return None
    if name == endpoint.length_field:
        other = next(one for one in LENGTH_FIELDS if one != name)
        return f"'length_field: {other}' of the endpoint gives it another name"
    return f"'fields: {{{name}: null}}' of the endpoint leaves it out"


def answer_seed(seed: int, number: int) -> int:
    """The seed, of 31 bits, of one answer; the answers of neighbouring seeds have none in common."""
    digest = hashlib.sha256(f"{seed} {number}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1 if number else seed


def answer(body: bytes, chat: Chat, writing: Writing) -> Answer:
    """What a server wrote.

    Raises ValueError if that is no completion: it goes on from the name of the server, and may be long.
    """
    try:
        # Not strict: a line break that stands in a text as it is takes nothing from its meaning.
        content = json.loads(_decoded(body), strict=False)
    except (ValueError, RecursionError):
        raise ValueError(f"answers with what is no JSON: {_decoded(body).strip() or 'nothing'}") from None
    match content:
        case {"choices": [{"message": dict(said)} as choice, *_]}:
            text = _text(said.get("content"))
        case _:
            text, choice, said = None, {}, {}
    if text is None:
        raise ValueError(f"answers with JSON that is no completion: {message(body)}")
    if choice.get("error") or choice.get("finish_reason") in FAILED:
        raise ValueError(f"broke its answer off: {message(json.dumps(choice).encode())}")
    written, text = text, without_thoughts(text)
    thought = text != written or _apart(said)
    if not text.strip() and choice.get("finish_reason") == "length":
        raise ExhaustedError(
            "wrote nothing within its tokens; a model that thinks first needs more of them ('max_tokens'), or to be told not to, "
            "by 'fields' of the endpoint"
        )
    if thought and not text.strip():
        raise ExhaustedError(_only_thought(writing))
    if thought:
        text = text.lstrip()  # an empty line often stands between; it ends no answer
    text, stopped = _cut(_after(chat.answer, text), writing.stop)
    return Answer(
        text,
        ended=stopped or choice.get("finish_reason") != "length",
        prompt_tokens=_count(content.get("usage"), "prompt_tokens"),
        tokens=_count(content.get("usage"), "completion_tokens"),
    )


def _apart(said: Mapping[str, Any]) -> bool:
    """Whether a message has thoughts apart from its text."""
    parts = said.get("content")
    among = isinstance(parts, list) and any(isinstance(one, dict) and one.get("type") in PARTS for one in parts)
    return among or any(said.get(name) for name in REASONING)


def _only_thought(writing: Writing) -> str:
    """What is wrong where all that a model said are thoughts, and what to do about it."""
    stops = f", or {json.dumps(list(writing.stop))} ended them ('fields: {{stop: null}}')" if writing.stop else ""
    return (
        f"gave thoughts and no answer: the server takes the answer for one of them (its reasoning parser){stops}; a model that "
        "is told not to think, by 'fields' of the endpoint, has none"
    )


def message(body: bytes) -> str:
    """What a server says of an error, in whatever place it says it; it may be long, or nothing."""
    text = _decoded(body)
    try:
        content = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return text
    match content:
        case {"error": {"message": str(said)}} | {"error": str(said)} | {"message": str(said)} | {"detail": str(said)}:
            return said
        case _:
            return text


def excerpt(text: str) -> str:
    """The beginning of what a server said, as one line that a terminal can show."""
    shown = "".join(character if character.isprintable() else " " for character in text[: 4 * EXCERPT])
    line = " ".join(shown.split())
    return line if len(line) <= EXCERPT else f"{line[:EXCERPT]}..."


def _decoded(body: bytes) -> str:
    return body.decode("utf-8-sig", "replace")


def _whole(text: str) -> str:
    return SURROGATES.sub("\ufffd", text)


def _text(content: object) -> str | None:
    """The text of a message: null is an empty one, and parts that are text are joined. None: it is none of these."""
    match content:
        case None:
            return ""
        case str():
            return _whole(content)
        case list():
            parts = [part for part in content if isinstance(part, dict) and part.get("type") == "text"]
            return _whole("".join(part["text"] for part in parts if isinstance(part.get("text"), str)))
        case _:
            return None


def _after(beginning: str, text: str) -> str:
    """An answer without its beginning, which some servers repeat; white space before it may be the template's."""
    if beginning and text.lstrip().startswith(beginning):
        return text.lstrip()[len(beginning) :]
    return text.removeprefix(beginning)


def _cut(text: str, stop: tuple[str, ...]) -> tuple[str, bool]:
    """A text up to the first of some texts, for a server that left it in, and whether there was one."""
    ends = [place for one in stop if (place := text.find(one)) >= 0]
    return (text[: min(ends)], True) if ends else (text, False)


def _count(usage: object, name: str) -> int:
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if type(count) is int and count >= 0 else 0
