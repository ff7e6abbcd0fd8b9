"""What counts as text, and as an id: the checks that readers, Corpus and Queries share; and what texts are known by."""

from __future__ import annotations

from hashlib import blake2b


def text_problem(text: object) -> str | None:
    """Why `text` cannot be stored or searched, or None. NUL and control characters are text; lone surrogates are not."""
    if not isinstance(text, str):
        return f"{text!r} is not text"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return (
            f"lone surrogate U+{ord(text[error.start]):04X} at character {error.start + 1}, which no Unicode text holds"
        )
    return None


def id_problem(identifier: object) -> str | None:
    """Why `identifier` cannot name a document or a query, or None."""
    if problem := text_problem(identifier):
        return problem
    if not identifier:
        return "is empty"
    return None


def text_digest(text: str) -> bytes:
    """16 bytes that a text is known by: BLAKE2b of it."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
