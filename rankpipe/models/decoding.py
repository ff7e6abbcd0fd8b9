"""Causal language models that go on with their prompts, token by token, keys and values kept between the passes.

The prompts of a batch are padded on the left, so that all of them go on at the same place. A chooser says what comes
next; what it is sure of without looking goes through the network together with what it chose.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from rankpipe.errors import ModelError, RankpipeError
from rankpipe.models.language_model import Writing
from rankpipe.models.network import dtype_name

Ids = NDArray[np.int64]
LIKELY = 1024
"""Tokens among which those of a nucleus are looked for first."""


class Chooser(Protocol):
    """Says how one prompt goes on."""

    def choose(self, logits: Tensor) -> list[int]:
        """Tokens that come next, given the logits (V,) behind everything so far; none where the answer is over."""
        ...


class Drawing:
    """Draws tokens, or takes the most probable ones, up to one that ends the answer, or to a text that does.

    made   tokens so far, the one that ended them left out
    ended  whether the answer ended by itself
    """

    def __init__(
        self, writing: Writing, ends: frozenset[int], rng: np.random.Generator, text: Callable[[list[int]], str]
    ) -> None:
        """Stop before a token of `ends`, behind a text of writing.stop, or after writing.longest tokens.

        text  that an answer has at the end of these tokens, or all of them; what was thought before it is none of it
        """
        self.made: list[int] = []
        self.ended = False
        self._writing, self._ends, self._rng, self._text = writing, ends, rng, text
        self._tail = max(map(len, writing.stop), default=0) + 8  # a token more often than not has several characters

    def choose(self, logits: Tensor) -> list[int]:
        """The next token."""
        token = self._drawn(logits)
        if token in self._ends:
            self.ended = True
            return []
        self.made.append(token)
        if self._writing.stop:
            self.ended = self._stopped(self.made[-self._tail :]) and self._stopped(self.made)
        return [] if self.ended or len(self.made) >= self._writing.longest else [token]

    def _stopped(self, tokens: list[int]) -> bool:
        text = self._text(tokens)
        return any(stop in text for stop in self._writing.stop)

    def _drawn(self, logits: Tensor) -> int:
        writing = self._writing
        if not writing.temperature:
            return int(logits.argmax())
        values = logits.cpu().numpy().astype(np.float64) / writing.temperature
        shares = np.exp(values - values.max())
        shares /= shares.sum()
        tokens = nucleus(shares, writing.top_p) if writing.top_p < 1 else None
        sums = np.cumsum(shares if tokens is None else shares[tokens])
        place = int(np.searchsorted(sums, self._rng.random() * sums[-1], side="right"))
        if place == len(sums):  # the product was rounded up to the sum
            place = int(np.searchsorted(sums, sums[-1]))
        return place if tokens is None else int(tokens[place])


def nucleus(shares: NDArray[np.float64], least: float) -> NDArray[np.int64]:
    """The most probable tokens that together have at least this share, in rising order; among equals, the first ones."""

    def first(tokens: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
        """Tokens, given in rising order, from the most probable one on, and how many of them are enough."""
        order = tokens[np.argsort(-shares[tokens], kind="stable")]
        return order, int(np.searchsorted(np.cumsum(shares[order]), least)) + 1

    if len(shares) > LIKELY:  # sorting all of a vocabulary takes longer than a small network
        order, count = first(np.sort(np.argpartition(-shares, LIKELY)[:LIKELY]))
        if count < LIKELY and shares[order[count]] > shares[order[-1]]:  # else one left out may be as probable
            return np.sort(order[:count])
    order, count = first(np.arange(len(shares)))
    return np.sort(order[:count])


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
        """Go on with the prompts of a batch until every chooser is done. The choosers keep what they chose.

        A prompt may have several choosers, as many as every other one, in a row: it is read once.
        """
        inputs = self._padded(prompts)
        cache = DynamicCache(config=self._network.config)
        kept: dict[str, Any] = {"past_key_values": cache, "use_cache": True}
        logits = self._pass(inputs, 1, **kept)[:, 0]
        if (copies := len(choosers) // len(prompts)) > 1:
            cache.batch_repeat_interleave(copies)
            logits = logits.repeat_interleave(copies, dim=0)
            inputs = {name: values.repeat_interleave(copies, dim=0) for name, values in inputs.items()}
        places = inputs["position_ids"][:, -1:]
        choosers = list(choosers)
        waiting = [chooser.choose(one) for chooser, one in zip(choosers, logits, strict=True)]
        while any(waiting):
            going = [row for row, tokens in enumerate(waiting) if tokens]
            if 2 * len(going) <= len(waiting):  # fewer rows are worth a copy of what is kept of them
                rows = torch.tensor(going, device=self.device)
                cache.batch_select_indices(rows)
                places, inputs = places[rows], {name: values[rows] for name, values in inputs.items()}
                choosers, waiting = [choosers[row] for row in going], [waiting[row] for row in going]
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
            precision = dtype_name(self._dtype)
            hint = "its weights are damaged" if self._dtype == torch.float32 else "choose dtype float32"
            raise RankpipeError(f"the network gave logits that are not finite, in {precision}; {hint}")
        return logits
