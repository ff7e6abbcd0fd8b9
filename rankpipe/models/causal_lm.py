"""Causal language models: their tokens, with the chat template around what they are asked, and their networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rankpipe.errors import ModelError
from rankpipe.models.network import network_kind, opened, refuse_lacking
from rankpipe.models.prompt import chat_frame
from rankpipe.models.recipe import architecture, network_config
from rankpipe.models.tokens import open_tokenizer, special_tokens

Ids = NDArray[np.int64]
CAUSAL = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
"""How the names of networks end that go on with a text; those that read images besides generate under conditions."""


class ChatTokens:
    """A model's tokenizer, and the tokens of its chat template around the text of a user.

    What a user or a document says is tokenised as text throughout: "<|im_end|>" in a document ends no turn.

    before, after  (T,) tokens of the template; before any template stands what the model has before every text
    """

    def __init__(self, folder: Path, system: str = "") -> None:
        """Open a tokenizer. Raises ModelError if there is none, or its chat template has no place for a text."""
        self.tokenizer = opened = open_tokenizer(folder)
        self._special = opened.backend_tokenizer
        self._plain = Tokenizer.from_str(self._special.to_str())
        self._plain.encode_special_tokens = True
        self._plain.post_processor = (
            None  # it would add nothing here, and some take white space out of where a token is
        )
        frame = chat_frame(opened, system, folder)
        if frame is not None:
            self.before, self.after = (self._encoded(self._special, text) for text in frame)
        else:
            led, _ = special_tokens(self._special)
            self.before = np.concatenate([led, self.tokens(f"{system}\n\n" if system else "")])
            self.after = self.tokens("\n\n")

    def tokens(self, text: str) -> Ids:
        """(T,) tokens of a text."""
        return self._encoded(self._plain, text)

    def located(self, text: str) -> tuple[Ids, NDArray[np.int64]]:
        """(T,) tokens of a text, and (T, 2) the characters that they begin at and end before."""
        encoded = self._plain.encode(text, add_special_tokens=False)
        return np.array(encoded.ids, np.int64), np.array(encoded.offsets, np.int64).reshape(-1, 2)

    def text(self, ids: Ids) -> str:
        """Text of tokens, special ones left out."""
        return self._special.decode(ids.tolist(), skip_special_tokens=True)

    @staticmethod
    def _encoded(tokenizer: Any, text: str) -> Ids:
        return np.array(tokenizer.encode(text, add_special_tokens=False).ids, np.int64)


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
