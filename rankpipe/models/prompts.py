"""Pairs of a query and a document written into a text, as rerankers that are language models read them.

The whole text is tokenised at once, because tokens may reach over the seams; which of them are the document's is known
by their places in the text, so that it is the document that is cut, and what stands behind it stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankpipe.errors import ModelError, UsageError
from rankpipe.models.pair_recipe import DOCUMENT, QUERY, PairRecipe
from rankpipe.models.recipe import network_config
from rankpipe.models.references import explained
from rankpipe.models.tokens import open_tokenizer, refuse_unknown

MARKS = re.compile(f"({re.escape(QUERY)}|{re.escape(DOCUMENT)})")
AT_ONCE = 1024
"""Pairs that are tokenised in one call."""


class Written(NamedTuple):
    """A pair as tokens (T,), of which begin:end are the document's."""

    ids: NDArray[np.int64]
    begin: int
    end: int


class PromptReader:
    """A model's tokenizer, and the text that pairs are written into.

    tokenizer  as transformers opens it
    """

    def __init__(self, recipe: PairRecipe) -> None:
        """Open the tokenizer. Raises ModelError for a chat template without places for a query and a document."""
        self.tokenizer = opened = open_tokenizer(recipe.tokenizer)
        self._tokenizer = opened.backend_tokenizer
        self._lower_case = recipe.lower_case
        self._folder, self._known = recipe.tokenizer, network_config(recipe.transformer).get("vocab_size")
        self._special = recipe.chat is None  # a chat template writes special tokens out itself
        self._stripped = False
        prompt = recipe.prompt
        if prompt is None:
            prompt, self._stripped = _chat_prompt(opened, recipe)
        elif recipe.query_prompt:
            prompt = prompt.replace(QUERY, recipe.query_prompt + QUERY)
        self._parts = MARKS.split(prompt)
        if self._parts.count(DOCUMENT) != 1 or QUERY not in self._parts:
            raise UsageError(f"the prompt must hold {QUERY}, and {DOCUMENT} once")
        self.max_length = recipe.max_length
        [bare] = self.read([("", "")])
        self.room = self.max_length - len(bare.ids)
        if self.room < 2:
            raise UsageError(
                f"max_length is {self.max_length}; the prompt alone has {len(bare.ids)} tokens, so it must be at least "
                f"{len(bare.ids) + 2}"
            )

    def tokens(self, text: str) -> NDArray[np.int64]:
        """Tokens of a text alone."""
        return np.array(self._tokenizer.encode(self._made(text), add_special_tokens=False).ids, np.int64)

    def cut(self, text: str, size: int) -> str:
        """The beginning of a text, of `size` tokens."""
        made = self._made(text)
        places = self._tokenizer.encode(made, add_special_tokens=False).offsets
        return text if len(places) <= size else made[: places[size - 1][1]]

    def read(self, pairs: Sequence[tuple[str, str]]) -> Iterator[Written]:
        """Tokens of pairs, uncut. Raises ModelError for tokens that the network does not know."""
        for begin in range(0, len(pairs), AT_ONCE):
            texts, places = zip(*(self._written(*pair) for pair in pairs[begin : begin + AT_ONCE]), strict=True)
            encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=self._special)
            read = [_located(one, *place) for one, place in zip(encoded, places, strict=True)]
            refuse_unknown(self._folder, [one.ids for one in read], self._known)
            yield from read

    def _made(self, text: str) -> str:
        text = text.strip() if self._stripped else text
        return text.lower() if self._lower_case else text

    def _written(self, query: str, document: str) -> tuple[str, tuple[int, int]]:
        """The text of a pair, and where in it the document begins and ends."""
        made = {QUERY: self._made(query), DOCUMENT: self._made(document)}
        texts = [made.get(part, part) for part in self._parts]
        begin = sum(map(len, texts[: self._parts.index(DOCUMENT)]))
        return "".join(texts), (begin, begin + len(made[DOCUMENT]))


def _located(encoded: Any, begin: int, end: int) -> Written:
    """A token that begins before the document and ends in it is the document's; one that ends behind it is not."""
    ids = np.array(encoded.ids, np.int64)
    spans, owners = encoded.offsets, encoded.sequence_ids
    owned = [at for at, owner in enumerate(owners) if owner is not None]
    behind = owned[-1] + 1 if owned else len(ids)
    first = next((at for at in owned if spans[at][1] > begin), behind)
    last = next((at for at in owned if at >= first and spans[at][1] > end), behind)
    return Written(ids, first, last)


def _chat_prompt(tokenizer: Any, recipe: PairRecipe) -> tuple[str, bool]:
    """The text that the chat template makes of a pair, with marks in it, and whether it strips what it is given."""
    marks = {"query": "\ue000", "document": "\ue001"}  # characters for private use, which no template writes

    def message(role: str, text: str) -> dict[str, Any]:
        return {"role": role, "content": text if recipe.chat == "flat" else [{"type": "text", "text": text}]}

    messages = [message("system", recipe.query_prompt)] if recipe.query_prompt else []
    messages += [message(role, f" {mark} ") for role, mark in marks.items()]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, **recipe.chat_options)
    except Exception as error:  # a template can fail in any way
        raise ModelError(f"model folder {recipe.tokenizer}: its chat template fails: {explained(error)}") from error
    if any(mark not in text for mark in marks.values()):
        raise ModelError(
            f"model folder {recipe.tokenizer}: its chat template has no place for messages of a query and a document; "
            f"choose the setting 'prompt', a text with {QUERY} and {DOCUMENT}"
        )
    spaced = all(f" {mark} " in text for mark in marks.values())
    for role, mark in marks.items():
        text = text.replace(f" {mark} " if spaced else mark, f"{{{role}}}")
    return text, not spaced
