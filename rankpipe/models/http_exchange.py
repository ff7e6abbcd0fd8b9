"""One request to a server of OpenAI's interface and its answer: which failures are worth another try, and words for all."""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import re
import socket
import ssl
from datetime import datetime, timezone
from http import HTTPStatus
from urllib.parse import quote, urlsplit

from rankpipe.errors import RankpipeError, UsageError
from rankpipe.models import completions
from rankpipe.models.endpoint import Endpoint
from rankpipe.models.http_connection import LARGEST, Connection, Reply, TooLargeError
from rankpipe.models.language_model import Answer, Chat, Writing

PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
"""Of the statuses that blame the request, those after which the same request may succeed."""
LASTING = {HTTPStatus.NOT_IMPLEMENTED, HTTPStatus.HTTP_VERSION_NOT_SUPPORTED}
"""Of the statuses that blame the server, those after which it will not."""

SECRET = 8
"""Characters that a key has at least; servers that ask for none are given shorter ones, which many words have in them."""


class AgainError(Exception):
    """A failure that may pass. seconds: for which the server asks to be left alone."""

    def __init__(self, message: str, seconds: float = 0.0) -> None:
        super().__init__(message)
        self.seconds = seconds


class Server:
    """A server as one asks it for completions. It holds the key, which stands in none of its errors."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Read the key. Raises UsageError if it is none that can be sent."""
        self.url = f"{endpoint.url}/chat/completions"
        self._endpoint = endpoint
        self._key = os.environ.get(endpoint.key_variable, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise UsageError(
                f"the environment variable {endpoint.key_variable!r} holds no key: it is one line of plain ASCII"
            )
        self._headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "rankpipe"}
        if self._key:
            self._headers["Authorization"] = f"Bearer {self._key}"
        self._context = ssl.create_default_context() if endpoint.url.startswith("https:") else None

    def connection(self) -> Connection:
        """A connection to it, not yet open."""
        return Connection(urlsplit(self.url), self._context)

    def answer(self, connection: Connection, body: bytes, chat: Chat, writing: Writing) -> Answer:
        """The answer to a request, which was made of a chat.

        Raises AgainError for a failure that may pass, RankpipeError for all others.
        """
        reply = self._reply(connection, body)
        if not 200 <= reply.status < 300:
            raise self._refusal(reply)
        try:
            return completions.answer(reply.body, chat, writing)
        except completions.ExhaustedError as error:  # the same again would be the same
            raise RankpipeError(f"{self.url} {error}") from None
        except ValueError as error:
            raise AgainError(f"{self.url} {self._shown(str(error))}") from None

    def _reply(self, connection: Connection, body: bytes) -> Reply:
        url = self.url
        try:
            return connection.post(body, self._headers, self._endpoint.timeout)
        except TimeoutError:
            raise AgainError(
                f"{url} gave no answer in {self._endpoint.timeout:g} s (a slow model needs a longer 'timeout')"
            ) from None
        except TooLargeError:
            raise RankpipeError(f"{url} answers with more than {LARGEST:,} bytes, which no text has") from None
        except ConnectionRefusedError:
            raise AgainError(f"no server answers at {url}: the connection was refused") from None
        except socket.gaierror as error:
            kind = AgainError if error.errno == socket.EAI_AGAIN else RankpipeError
            raise kind(f"no server answers at {url}: {error.strerror}") from None
        except UnicodeError:  # of a host's name, where a part of it is empty or too long
            raise RankpipeError(f"no server answers at {url}: no host has such a name") from None
        except ssl.SSLCertVerificationError as error:
            raise RankpipeError(f"{url} has no certificate that is trusted here: {error.verify_message}") from None
        except (ConnectionError, ssl.SSLEOFError, http.client.IncompleteRead):
            raise AgainError(f"{url} closed the connection before its answer was whole") from None
        except ssl.SSLError as error:
            raise AgainError(f"{url} fails to speak TLS ({error.reason}): does it answer to http only?") from None
        except http.client.HTTPException as error:
            raise AgainError(f"{url} answers with what is no HTTP: {self._shown(str(error))}") from None
        except OSError as error:
            raise AgainError(f"{url} cannot be reached: {error.strerror or error}") from None

    def _refusal(self, reply: Reply) -> Exception:
        """The error for a reply that is no success."""
        status = reply.status
        said = self._shown(completions.message(reply.body))
        text = f"{self.url} answers {status} {self._shown(reply.reason)}".rstrip() + (f": {said}" if said else "")
        if status in PASSING or (status >= 500 and status not in LASTING):
            return AgainError(text, seconds_asked(reply.headers.get("Retry-After", "")))
        if 300 <= status < 400:
            target = self._shown(reply.headers.get("Location", "nowhere"))
            text = (
                f"{self.url} sends on to {target} ({status}), which is not followed: 'url' has to be the address itself"
            )
        elif status in (401, 403):
            variable = f"the environment variable {self._endpoint.key_variable!r}"
            text += (
                f"; the key that was sent is that of {variable}"
                if self._key
                else f"; no key was sent: {variable} is empty"
            )
        elif status in (400, 422) and (advice := completions.refused_field(said, self._endpoint)):
            text += f"; {advice}"
        elif status == 404:
            text += "; is the model's name right, and the address? Most often it ends in /v1"
        return RankpipeError(text)

    def _shown(self, text: str) -> str:
        """An excerpt of what the server said. Some repeat the key that they refuse, as it is or as JSON or addresses write it."""
        if len(self._key) >= SECRET:
            for form in (
                self._key,
                json.dumps(self._key)[1:-1],
                self._key.replace("/", "\\/"),
                quote(self._key, safe=""),
            ):
                text = text.replace(form, "***")
        return completions.excerpt(text)


def seconds_asked(after: str) -> float:
    """Seconds that a header Retry-After asks for, in seconds or by a date (RFC 9110, 10.2.3); 0 if it is neither."""
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", after.strip()):
        return float(after)
    try:
        moment = email.utils.parsedate_to_datetime(after)
    except (TypeError, ValueError, OverflowError):
        return 0.0
    if moment.tzinfo is None:  # so it is read where the date says no zone
        moment = moment.replace(tzinfo=timezone.utc)
    return max((moment - datetime.now(timezone.utc)).total_seconds(), 0.0)
