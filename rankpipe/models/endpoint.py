"""Where a language model answers over HTTP, as servers of OpenAI's interface do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from annotated_types import Ge, Gt, Le
from pydantic import AfterValidator, BeforeValidator, ConfigDict, JsonValue, Strict
from pydantic.dataclasses import dataclass

LengthField = Literal["max_tokens", "max_completion_tokens"]
LENGTH_FIELDS: tuple[str, ...] = get_args(LengthField)
OURS = ("model", "messages", "n", "stream")
"""Fields of a request without which an answer could not be told from another, or not be read."""


def _base_url(url: str) -> str:
    """The address, its scheme in lower case, without a slash at its end; a validator of settings."""
    parts = urlsplit(url)
    plain = url.isascii() and url.isprintable() and " " not in url
    if not plain or parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("not the address of a server, such as http://localhost:8000/v1")
    if parts.username is not None or parts.password is not None:
        raise ValueError("an address bears no password; 'key_variable' names the environment variable that holds a key")
    _ = parts.port  # raises ValueError where it is no port
    return f"{parts.scheme}{url[len(parts.scheme) :]}".rstrip("/")


def _no_field_of_ours(fields: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
    """The fields, if all of them are for others to say; a validator of settings."""
    if ours := next((name for name in OURS if name in fields), None):
        raise ValueError(f"{ours!r} is no field that can be set here")
    return fields


def _as_json(value: Any) -> Any:
    """The value, its tuples as lists: settings of a pipeline are tuples."""
    if isinstance(value, Mapping):
        return {name: _as_json(one) for name, one in value.items()}
    return [_as_json(one) for one in value] if isinstance(value, tuple | list) else value


Fields = Annotated[Mapping[str, JsonValue], BeforeValidator(_as_json), AfterValidator(_no_field_of_ours)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Endpoint:
    """A server of OpenAI's interface, and how patient one is with it.

    url           to which /chat/completions is added: http://localhost:8000/v1
    key_variable  environment variable that holds the key, sent as a bearer token where it is set
    concurrency   requests that are on their way at once
    timeout       seconds after which a request without an answer has failed, a week at most
    retries       how often a request that failed is sent again
    length_field  what the field is called that limits the tokens of an answer: all servers know max_tokens, but for
                  OpenAI's own newer models, which refuse it
    fields        of a request, beside those that are always sent or instead of them, such as `reasoning_effort: low`;
                  null leaves one out that the model refuses: `temperature: null`
    """

    url: Annotated[str, AfterValidator(_base_url)]
    key_variable: str = "OPENAI_API_KEY"
    concurrency: Annotated[int, Strict(), Ge(1), Le(256)] = 4
    timeout: Annotated[float, Gt(0), Le(604_800)] = 120.0
    retries: Annotated[int, Strict(), Ge(0)] = 5
    length_field: LengthField = "max_tokens"
    fields: Fields = field(default_factory=dict, hash=False)
