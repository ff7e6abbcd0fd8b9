"""Causal language models that go on with their prompts, token by token, keys and values kept between the passes.

The prompts of a batch are padded on the left, so that all of them go on at the same place. A chooser says what comes
next; what it is sure of without looking goes through the network together with what it chose.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from rankpipe.errors import ModelError, RankpipeError

Ids = NDArray[np.int64]


class Chooser(Protocol):
    """Says how one prompt goes on."""

    def choose(self, logits: Tensor) -> list[int]:
        """Tokens that come next, given the logits (V,) behind everything so far; none where the answer is over."""
        ...


class Greedy:
    """Takes the most probable token, up to one that ends the answer.

    made  tokens so far, the one that ended them left out
    """

    def __init__(self, ends: frozenset[int], longest: int) -> None:
        """Stop before a token of `ends`, or after `longest` tokens."""
        self.made: list[int] = []
        self._ends, self._longest = ends, longest

    def choose(self, logits: Tensor) -> list[int]:
        """The next token."""
        token = int(logits.argmax())
        if token in self._ends or not self._longest:
            return []
        self.made.append(token)
        return [token] if len(self.made) < self._longest else []


class Arranging:
    """Lists every one of N texts once, by the most probable of the tokens that such a list can go on with.

    opening  tokens that every list begins with
    order    places of the texts that are listed so far
    """

    def __init__(self, first: Sequence[Ids], later: Sequence[Ids]) -> None:
        """Take the tokens of every text, as the first of a list, and behind another one, its separator included.

        Raises ModelError where the tokens of one text begin those of another.
        """
        self._first, self._later = ([tuple(one.tolist()) for one in texts] for texts in (first, later))
        for texts in (self._first, self._later):
            ordered = sorted(texts)
            for one, other in pairwise(ordered):
                if other[: len(one)] == one:
                    raise ModelError(f"the model's tokens do not tell two texts of a list apart: {one} and {other}")
        self.order: list[int] = []
        self._matching = list(range(len(first)))
        self._depth = 0
        self.opening = self._certain()

    def choose(self, logits: Tensor) -> list[int]:
        """The next token, and those that have to follow it."""
        if len(self.order) == len(self._first):
            return []
        allowed = sorted({self._texts[place][self._depth] for place in self._matching})
        token = allowed[int(logits[torch.tensor(allowed, device=logits.device)].argmax())]
        self._take(token)
        more = self._certain()
        return [] if len(self.order) == len(self._first) else [token, *more]

    @property
    def _texts(self) -> list[tuple[int, ...]]:
        return self._later if self.order else self._first

    def _certain(self) -> list[int]:
        """Take tokens for as long as there is only one to take."""
        taken: list[int] = []
        while len(self.order) < len(self._first):
            allowed = {self._texts[place][self._depth] for place in self._matching}
            if len(allowed) > 1:
                break
            taken += allowed
            self._take(taken[-1])
        return taken

    def _take(self, token: int) -> None:
        texts = self._texts
        self._matching = [place for place in self._matching if texts[place][self._depth] == token]
        self._depth += 1
        if len(self._matching) == 1 and self._depth == len(texts[self._matching[0]]):
            self.order += self._matching
            self._matching = [place for place in range(len(texts)) if place not in self.order]
            self._depth = 0


class CausalNetwork:
    """A network that gives logits of what comes behind prompts.

    padding  a token for the places before shorter prompts, and behind answers that are over
    """

    def __init__(self, network: Any, dtype: torch.dtype, padding: int) -> None:
        """Take a causal language model of transformers, and the precision that it computes in."""
        self.device: torch.device = network.device
        self._network, self._dtype, self._padding = network, dtype, padding
        self._takes = inspect.signature(network.forward).parameters

    def logits(self, prompts: Sequence[Ids], count: int) -> Tensor:
        """(S, count, V) float32 logits behind each of the last `count` tokens of a batch of prompts."""
        return self._pass(self._padded(prompts), count, use_cache=False)

    def decode(self, prompts: Sequence[Ids], choosers: Sequence[Chooser]) -> None:
        """Go on with the prompts of a batch until every chooser is done. The choosers keep what they chose."""
        inputs = self._padded(prompts)
        places = inputs["position_ids"][:, -1:]
        kept: dict[str, Any] = {"past_key_values": DynamicCache(config=self._network.config), "use_cache": True}
        logits = self._pass(inputs, 1, **kept)[:, 0]
        waiting = [chooser.choose(one) for chooser, one in zip(choosers, logits, strict=True)]
        while any(waiting):
            count = min(len(tokens) for tokens in waiting if tokens)
            fed = [tokens[:count] or [self._padding] * count for tokens in waiting]
            inputs["input_ids"] = torch.tensor(fed, device=self.device)
            inputs["position_ids"] = places + 1 + torch.arange(count, device=self.device)
            places = inputs["position_ids"][:, -1:]
            if (mask := inputs.get("attention_mask")) is not None:
                inputs["attention_mask"] = torch.cat([mask, mask.new_ones(len(fed), count)], dim=1)
            logits = self._pass(inputs, 1, **kept)[:, 0]
            for row, tokens in enumerate(waiting):
                if tokens:
                    waiting[row] = tokens[count:] or choosers[row].choose(logits[row])

    def _padded(self, prompts: Sequence[Ids]) -> dict[str, Tensor]:
        """Tokens and positions (S, T) of prompts; a mask (S, T) as well, unless they are all of one length."""
        longest = max(map(len, prompts))
        ids = np.full((len(prompts), longest), self._padding, np.int64)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = prompt
        places = np.arange(longest) - np.array([[longest - len(prompt)] for prompt in prompts])
        named = {"input_ids": ids, "position_ids": places.clip(min=0)}
        if places.min() < 0:
            named["attention_mask"] = (places >= 0).astype(np.int64)
        return {name: torch.from_numpy(values).to(self.device) for name, values in named.items()}

    def _pass(self, inputs: dict[str, Tensor], count: int, **options: Any) -> Tensor:
        given = {name: value for name, value in inputs.items() if name in self._takes}
        if "logits_to_keep" in self._takes:
            options["logits_to_keep"] = count
        logits = self._network(**given, **options).logits[:, -count:].float()
        if bool(logits.isnan().any()):
            precision = str(self._dtype).removeprefix("torch.")
            hint = "its weights are damaged" if self._dtype == torch.float32 else "choose dtype float32"
            raise RankpipeError(f"the network gave logits that are not finite, in {precision}; {hint}")
        return logits
