"""Texts as sequences of tokens that an encoder reads: prompt before, cut at its limit, or taken apart into windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankpipe.errors import ModelError, UsageError
from rankpipe.models.references import explained

VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model", "*.tiktoken")
"""Files of which one holds a tokenizer's vocabulary."""


@dataclass(frozen=True, kw_only=True)
class Windows:
    """How long texts are taken apart.

    size    tokens of a window, special ones and prompt included
    stride  tokens from the beginning of one window to that of the next
    """

    size: int
    stride: int


class Sequences(NamedTuple):
    """What an encoder reads of N texts: S sequences of tokens, those of one text one after another.

    tokens     S arrays of int64
    offsets    (N + 1,) int64: text n owns sequences offsets[n]:offsets[n + 1], at least one
    skipped    leading tokens of every sequence that pooling leaves out where the recipe excludes the prompt
    truncated  (N,) whether a text was longer than its one sequence
    """

    tokens: list[NDArray[np.int64]]
    offsets: NDArray[np.int64]
    skipped: int
    truncated: NDArray[np.bool_]


@contextmanager
def quiet() -> Iterator[None]:
    """Within the block, transformers prints no report and shows no bar: what matters becomes an error."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def open_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder, as transformers opens it, its backend without padding and truncation.

    Raises ModelError if there is none, or none that is written in Rust.
    """
    from transformers import AutoTokenizer

    if not any(path for pattern in VOCABULARIES for path in folder.glob(pattern)):  # transformers would make one up
        raise ModelError(f"model folder {folder} has no tokenizer: none of {', '.join(VOCABULARIES)}")
    try:
        with quiet():
            opened = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # whatever a damaged or strange file makes of the tokenizer's class
        raise ModelError(f"model folder {folder}: its tokenizer cannot be opened: {explained(error)}") from error
    if not opened.is_fast:
        raise ModelError(f"model folder {folder}: its tokenizer has no tokenizer.json, and none can be made")
    opened.backend_tokenizer.no_padding()
    opened.backend_tokenizer.no_truncation()
    return opened


SHOWN = 40
"""Characters of a prompt that an error shows."""


class Reader:
    """A model's tokenizer, and how many tokens of a text its network is given."""

    def __init__(self, folder: Path, *, max_length: int, lower_case: bool, known: object = None) -> None:
        """Open the tokenizer of a folder. Raises ModelError if there is none, or none that is written in Rust.

        known  vocab_size of its config.json: for how many tokens the network has embeddings
        """
        self._folder, self._known = folder, known
        opened = open_tokenizer(folder)
        self._tokenizer = opened.backend_tokenizer
        self._from_left = opened.truncation_side == "left"
        self._lower_case = lower_case
        self.max_length = max_length
        self.before, self.after = special_tokens(self._tokenizer)

    def read(self, texts: Sequence[str], prompt: str = "", windows: Windows | None = None) -> Sequences:
        """Tokens of texts, each with the prompt before it. Raises UsageError if the prompt leaves no room for a text."""
        if self._lower_case:
            texts, prompt = [text.lower() for text in texts], prompt.lower()
        led = len(self._tokens([prompt])[0]) if prompt else 0
        room = (windows.size if windows else self.max_length) - len(self.before) - len(self.after)
        if room <= led:
            taken = f"{len(self.before) + len(self.after)} special ones"
            if led:
                shown = prompt if len(prompt) <= SHOWN else f"{prompt[:SHOWN]}..."
                taken += f" and the {led} of the prompt {shown!r}"
            limit = f"a window has {windows.size}" if windows else f"a text may have {self.max_length}"
            raise UsageError(f"{limit} tokens, and {taken} leave no room for what it says")
        if windows and windows.stride > room - led:
            raise UsageError(
                f"a window of {windows.size} tokens has room for {room - led} of a text, so a stride of "
                f"{windows.stride} would leave text out"
            )
        sequences: list[NDArray[np.int64]] = []
        counts: list[int] = []
        longer: list[bool] = []
        for content in self._tokens([prompt + text for text in texts] if prompt else texts):
            longer.append(len(content) > room)
            if not longer[-1]:
                parts = [content]
            elif windows is None:
                parts = [content[-room:] if self._from_left else content[:room]]
            else:
                parts = list(_windows(content, led, room, windows.stride))
            sequences += [np.concatenate([self.before, part, self.after]) for part in parts]
            counts.append(len(parts))
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        truncated = np.array(longer, bool) & (windows is None)
        return Sequences(sequences, offsets, len(self.before) + led if led else 0, truncated)

    def vocabulary(self, size: int) -> list[str]:
        """At least `size` tokens as text, by their numbers; a number without a token is "[number 30522]"."""
        numbers = self._tokenizer.get_vocab(with_added_tokens=True)
        names = [f"[number {number}]" for number in range(max(size, 1 + max(numbers.values(), default=-1)))]
        for token, number in numbers.items():
            names[number] = token
        return names

    def _tokens(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        tokens = [np.array(one.ids, np.int64) for one in encoded]
        refuse_unknown(self._folder, [*tokens, self.before, self.after], self._known)
        return tokens


def refuse_unknown(folder: Path, tokens: Sequence[NDArray[np.int64]], known: object) -> None:
    """Raise ModelError for tokens with numbers that a network has no embeddings for.

    known  vocab_size of the network's config.json; where it is no number, nothing is known
    """
    highest = max((int(one.max()) for one in tokens if len(one)), default=0)
    if isinstance(known, int) and highest >= known:
        raise ModelError(
            f"model folder {folder}: its tokenizer gives tokens the numbers up to {highest}, and its network knows {known} "
            "tokens; they are not of one model"
        )


def special_tokens(tokenizer: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tokens that a tokenizer's backend puts before and after every text."""
    plain = tokenizer.encode("a", add_special_tokens=False).ids
    whole = tokenizer.encode("a").ids
    at = next((at for at in range(len(whole)) if whole[at : at + len(plain)] == plain), 0)
    return np.array(whole[:at], np.int64), np.array(whole[at + len(plain) :], np.int64)


def _windows(content: NDArray[np.int64], led: int, room: int, stride: int) -> Iterator[NDArray[np.int64]]:
    """Windows of the text behind `led` tokens of prompt, each with the prompt before it; the last ends with the text."""
    prompt, text = content[:led], content[led:]
    room -= led
    for begin in range(0, max(len(text) - room, 0) + stride, stride):
        yield np.concatenate([prompt, text[begin : begin + room]])
        if begin + room >= len(text):
            return
