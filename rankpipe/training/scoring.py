"""Scores of pairs by the network that is trained, with gradients where they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rankpipe.models.batching import in_order, padded, rising_batches
from rankpipe.training.gradient_caching import backward
from rankpipe.training.packed import PackedBert, recomputing
from rankpipe.training.pairs import Pair
from rankpipe.training.processes import processes

BATCH_TOKENS = {"cpu": 8192, "mps": 16_384, "cuda": 65_536}
"""Tokens that go through the network together, by the kind of device."""
STEP_TOKENS = {"cpu": 32_768, "mps": 32_768, "cuda": 131_072}
"""Tokens whose activations are kept together until their gradients are computed, by the kind of device."""


class PairScorer:
    """Scores pairs with a sequence classifier as it is at the moment.

    Sequences of like length go through it together; those of a BertForSequenceClassification end to end, unpadded.
    """

    def __init__(
        self,
        network: Any,
        *,
        device: torch.device,
        dtype: torch.dtype,
        batch_tokens: int | None,
        recompute: bool = False,
    ) -> None:
        """Take a network; below float32, its products are computed in `dtype`, its weights stay as they are.

        Of a decoder, the configuration has to name a token for padding: see rankpipe.models.network.set_padding.
        """
        self._network, self._device, self._dtype = network, device, dtype
        self._budget = batch_tokens or BATCH_TOKENS[device.type]
        self._limit = STEP_TOKENS[device.type]
        padding = network.config.get_text_config().pad_token_id
        self._padding = 0 if padding is None else padding  # which is masked, and looked at by decoders alone
        self._typed = (getattr(network.config, "type_vocab_size", None) or 0) > 1
        self._packed = None
        if PackedBert.fits(network):
            self._packed = PackedBert(network, recompute=recompute)
        elif recompute:
            recomputing(network)

    def __call__(self, pairs: Sequence[Pair]) -> Tensor:
        """(H,) float32 scores of pairs, in their order."""
        if not pairs:
            return torch.empty(0, device=self._device)
        batches = rising_batches([len(tokens) for tokens, _ in pairs], self._budget)
        found = [self._batch(pairs, batch) for batch in batches]
        return in_order(torch.cat(found), [at for batch in batches for at in batch])

    def backward(self, pairs: Sequence[Pair], loss: Callable[[Tensor], Tensor]) -> float:
        """Loss of the (H,) scores of pairs; its gradients are added to what is there.

        It is one loss of all scores, and is never taken apart: where the pairs are too many, gradients are cached. Of
        several processes each scores its share of the pairs.
        """
        together = processes()
        lengths = [len(tokens) for tokens, _ in pairs]
        share = together.share(lengths)
        batches = [[share[at] for at in rows] for rows in rising_batches([lengths[row] for row in share], self._budget)]

        def joined(found: Sequence[Tensor]) -> Tensor:
            own = torch.cat(list(found)) if found else torch.zeros(0, device=self._device)
            return loss(together.joined(own[:, None], [row for rows in batches for row in rows], len(pairs))[:, 0])

        many = sum(lengths) > self._limit * together.count
        return backward([partial(self._batch, pairs, rows) for rows in batches], joined, in_turn=many)

    def given(self, pairs: Sequence[Pair]) -> dict[str, Tensor]:
        """Pairs as the network's own forward takes them, padded to the longest."""
        ids, lengths = padded([tokens for tokens, _ in pairs], self._padding)
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        found = {"input_ids": ids, "attention_mask": mask.long()}
        if self._typed:
            found["token_type_ids"] = padded([types for _, types in pairs], 0)[0]
        return {name: values.to(self._device) for name, values in found.items()}

    def _batch(self, pairs: Sequence[Pair], rows: Sequence[int]) -> Tensor:
        """(n,) scores of some of the pairs."""
        own = [pairs[row] for row in rows]
        with precision(self._device, self._dtype):
            if self._packed is not None:
                return self._packed(own, self._device)
            return self._network(**self.given(own)).logits[:, 0].float()


def precision(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Within the block, products are computed in a precision; weights stay as they are."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)
