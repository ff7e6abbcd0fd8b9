"""Causal language models: their tokens, with the chat template around what they are asked, and their networks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rankpipe.errors import ModelError
from rankpipe.models.language_model import THOUGHTS, without_thoughts
from rankpipe.models.network import network_kind, opened, refuse_lacking
from rankpipe.models.prompt import chat_frame
from rankpipe.models.recipe import architecture, network_config
from rankpipe.models.tokens import open_tokenizer, special_tokens

Ids = NDArray[np.int64]
PROBE = "a"
"""A text that no tokenizer joins with what stands around it, as a rule."""
CHANNELS = ("<|channel|>",)
"""With which gpt-oss begins whatever it says, its thoughts first."""
CAUSAL = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""How the names of networks end that go on with a text; those that read images besides generate under conditions."""


class ChatTokens:
    """A model's tokenizer, and the tokens of its chat template around the text of a user.

    What a user or a document says is tokenised as text throughout: "<|im_end|>" in a document ends no turn. Pieces are
    tokenised apart, and come out as in the whole: the mark of a word's beginning, which tokenizers like Llama 2's put
    before every text they are given, stands before none that goes on from another.

    before, after  (T,) tokens of the template; before any template stands what the model has before every text
    thoughts       tokens with which thoughts begin, for a model that has them
    unthinking     whether the template was told that the model is not to think before it answers, or ends its thoughts
    """

    def __init__(self, folder: Path, system: str = "") -> None:
        """Open a tokenizer. Raises ModelError if there is none, or its chat template has no place for a text."""
        self.tokenizer = opened = open_tokenizer(folder)
        self._special = opened.backend_tokenizer
        added = {one.content: (number, one.special) for number, one in opened.added_tokens_decoder.items()}
        self.thoughts = frozenset(added[one][0] for one in (*THOUGHTS, *CHANNELS) if one in added)
        # Special ones are in no text; those that are not are known by it.
        special = {content: number for content, (number, is_special) in added.items() if is_special}
        self._thoughts_begin = {special[one] for one in THOUGHTS if one in special}
        self._thoughts_end = {special[one] for one in THOUGHTS.values() if one in special}
        written = self._special.to_str()
        unmarked = _without_prefix(written)
        self._plain = _of_text(written)
        self._inner = self._plain if unmarked is None else _of_text(unmarked)
        frame = chat_frame(opened, system, folder)
        if frame is not None:
            before, after, self.unthinking = frame
            led = before.rstrip(" ")
            self._blanks = before[len(led) :]  # most tokenizers have one token of a blank and the word behind it
            self.before = self._encoded(self._special, led)
            self.after = self._behind(after)
            self._first = self._plain if self._begins_anew(led) else self._inner
        else:
            led, _ = special_tokens(self._special)
            self.before = np.concatenate([led, self.tokens(f"{system}\n\n" if system else "")])
            self.after = self.continued("\n\n")
            self.unthinking = False
            self._blanks, self._first = "", self._inner if system else self._plain

    def tokens(self, text: str) -> Ids:
        """(T,) tokens of a text by itself, such as an answer."""
        return self._encoded(self._plain, text)

    def continued(self, text: str) -> Ids:
        """(T,) tokens of a text that goes on from another one."""
        return self._encoded(self._inner, text)

    def asked(self, text: str) -> Ids:
        """(T,) tokens of a text that stands behind `before`."""
        return self.located(text)[0]

    def located(self, text: str) -> tuple[Ids, NDArray[np.int64]]:
        """(T,) tokens of a text behind `before`, and (T, 2) the characters of it that they begin at and end before."""
        encoded = self._first.encode(self._blanks + text, add_special_tokens=False)
        places = np.array(encoded.offsets, np.int64).reshape(-1, 2) - len(self._blanks)
        return np.array(encoded.ids, np.int64), np.maximum(places, 0)

    def text(self, ids: Ids | Sequence[int]) -> str:
        """Text of tokens, special ones left out."""
        return self._special.decode([int(one) for one in ids], skip_special_tokens=True)

    def said(self, ids: Sequence[int]) -> str:
        """Text of an answer's tokens, what the model thought before it left out; see without_thoughts."""
        ends = [place for place, one in enumerate(ids) if one in self._thoughts_end]
        if ends:
            return self.text(ids[ends[-1] + 1 :]).lstrip()
        return "" if self._thoughts_begin.intersection(ids) else without_thoughts(self.text(ids))

    def _begins_anew(self, before: str) -> bool:
        """Whether a text behind another has the mark of a beginning, as behind a special token with some tokenizers."""
        whole = self._encoded(self._special, f"{before}{PROBE}")[len(self.before) :]
        return np.array_equal(whole, self.tokens(PROBE)) and not np.array_equal(whole, self.continued(PROBE))

    def _behind(self, text: str) -> Ids:
        """(T,) tokens of what a template writes behind a text."""
        probe, whole = self._encoded(self._special, PROBE), self._encoded(self._special, f"{PROBE}{text}")
        if np.array_equal(whole[: len(probe)], probe):
            return whole[len(probe) :]
        return self._encoded(self._special, text)  # one token reaches over the seam

    @staticmethod
    def _encoded(tokenizer: Any, text: str) -> Ids:
        return np.array(tokenizer.encode(text, add_special_tokens=False).ids, np.int64)


def _of_text(written: str) -> Tokenizer:
    """A tokenizer, as JSON, that takes special tokens for text."""
    tokenizer = Tokenizer.from_str(written)
    tokenizer.encode_special_tokens = True
    tokenizer.post_processor = None  # it would add nothing here, and some take white space out of where a token is
    return tokenizer


def _without_prefix(written: str) -> str | None:
    """A tokenizer, as JSON, that puts nothing before a text; None for one that never does."""
    described = json.loads(written)
    steps = {
        name: _unmarked(described.get(name), inner)
        for name, inner in (("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers"))
    }
    if all(described.get(name) == step for name, step in steps.items()):
        return None
    return json.dumps({**described, **steps})


def _unmarked(step: dict[str, Any] | None, inner: str) -> dict[str, Any] | None:
    """A step of a tokenizer that marks no beginning. inner: under which name a sequence has its steps."""
    if step is None or step["type"] == "Prepend":
        return None
    if step["type"] == "Sequence":
        return {**step, inner: [one for part in step[inner] if (one := _unmarked(part, inner)) is not None]}
    unmarked = {"Metaspace": {"prepend_scheme": "never"}, "ByteLevel": {"add_prefix_space": False}}
    return {**step, **unmarked.get(step["type"], {})}


def open_causal_lm(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    tokenizer: Any,
    *,
    head: bool = True,
    attention: Literal["sdpa", "eager"] = "sdpa",
) -> Any:
    """The network of a folder, ready to compute.

    tokenizer  that of the folder, as transformers opens it
    head       with the layer that gives logits over the vocabulary; without, the network gives hidden states

    Raises ModelError for weights that are missing, damaged or pickled, for a network of another kind, and for a
    tokenizer with more tokens than the network knows.
    """
    config = network_config(folder)
    if config.get("architectures") and not architecture(config).endswith(CAUSAL):
        raise ModelError(f"model folder {folder} is a {architecture(config)}, which is no causal language model")
    known, highest = config.get("vocab_size"), max(tokenizer.get_vocab().values(), default=0)
    if isinstance(known, int) and highest >= known:
        raise ModelError(
            f"model folder {folder}: its tokenizer gives tokens the numbers up to {highest}, and its network knows "
            f"{known} tokens; they are not of one model"
        )
    network_kind(folder)
    opener, what = "AutoModelForCausalLM", "a causal language model"
    network, lacking = opened(folder, opener, what, dtype, attn_implementation=attention)
    refuse_lacking(folder, network, lacking, head="language-model head", advice="take a causal language model")
    network = network if head else network.base_model
    return network.eval().requires_grad_(False).to(device)
