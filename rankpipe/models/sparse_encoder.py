"""Sparse encoder: texts as weighted terms of a tokenizer's vocabulary, by a masked language model.

SPLADE: Formal, Piwowarski and Clinchant, SIGIR 2021, arXiv 2107.05720; with the maximum: Formal, Lassance, Piwowarski
and Clinchant, 2021, arXiv 2109.10086. The weight of term j in a text of tokens i is

    w(j) = max over i of log(1 + relu(logit(i, j)))

As in the authors' code, i goes over [CLS] and [SEP] too, and every token of the vocabulary can be a term, special ones
included; padding adds nothing. In float32 the weights equal those of SparseEncoder.encode of sentence-transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankpipe.errors import RankpipeError
from rankpipe.models.batching import BATCH_TOKENS, batches, distinct, each_on_a_core, padded, query_batches
from rankpipe.models.network import device_of, dtype_name, dtype_of, open_masked_lm, thread_limit
from rankpipe.models.recipe import longest, network_config
from rankpipe.models.references import model_digest, resolve
from rankpipe.models.runtime import Runtime
from rankpipe.models.sparse_recipe import read_sparse_recipe
from rankpipe.models.tokens import Reader

LOGITS = {"cpu": 1 << 26, "mps": 1 << 27, "cuda": 1 << 30}
"""Logits of a batch, by the kind of device: in float32, 2^26 of them are 256 MiB."""


class WeightedTerms(NamedTuple):
    """Terms of N texts, P in all.

    offsets    (N + 1,) int64: text n owns terms offsets[n]:offsets[n + 1]
    terms      (P,) int32, numbers of tokens in the vocabulary, rising in each text
    weights    (P,) float32, above 0
    truncated  (N,) whether a text was cut
    """

    offsets: NDArray[np.int64]
    terms: NDArray[np.int32]
    weights: NDArray[np.float32]
    truncated: NDArray[np.bool_]


Terms = tuple[NDArray[np.int32], NDArray[np.float32]]
"""Terms of one text, rising, and their weights."""


class SparseEncoder:
    """A sparse encoder; its network opens when a text is first encoded, so that `bags` needs none.

    digest  of the model's folder
    recipe  what is done, the pipeline's settings included
    dtype   precision of the network, as text: "bfloat16"
    """

    def __init__(self, reference: str, runtime: Runtime, *, max_length: int | None = None) -> None:
        """Open a model's tokenizer. Raises ModelError where that fails, UsageError for a max_length that is too long."""
        folder = resolve(reference)
        self.digest = model_digest(folder)
        self.recipe = read_sparse_recipe(folder, max_length=max_length)
        self._device = device_of(runtime)
        self._dtype = dtype_of(runtime, self._device)
        self._runtime = runtime
        config = network_config(self.recipe.transformer)
        self._reader = Reader(
            self.recipe.transformer,
            max_length=self.recipe.max_length,
            lower_case=self.recipe.lower_case,
            known=config.get("vocab_size"),
        )
        self._longest = longest(config)
        self._padding = int(config.get("pad_token_id") or 0)

    @property
    def dtype(self) -> str:
        """Precision of the network, as text."""
        return dtype_name(self._dtype)

    @cached_property
    def vocabulary(self) -> list[str]:
        """The terms as text, by their numbers: tokens of the tokenizer."""
        return self._reader.vocabulary(int(network_config(self.recipe.transformer).get("vocab_size") or 0))

    def key(self) -> dict[str, Any]:
        """What makes the terms of documents, for the store."""
        return {
            "model": self.digest,
            "prompt": self.recipe.document_prompt,
            "pooling": self.recipe.pooling,
            "logarithms": self.recipe.logarithms,
            "max_length": self.recipe.max_length,
            "dtype": self.dtype,
        }

    def queries(self, texts: Sequence[str], most: int | None = None) -> WeightedTerms:
        """Terms of queries, the query prompt before each; `most` of them with the greatest weights."""
        read = self._reader.read(texts, self.recipe.query_prompt)
        found: list[Terms] = [_NONE] * len(texts)
        with self._working():
            for rows, filled, length in query_batches(read.tokens, self._longest):
                weights = self._batch([read.tokens[row] for row in filled], length)[: len(rows)]
                _take(found, rows, weights, most or self.recipe.most)
        return _joined(found, read.truncated)

    def documents(
        self, texts: Sequence[str], most: int | None = None, advance: Callable[[int], None] = lambda _: None
    ) -> WeightedTerms:
        """Terms of documents, the document prompt before each; `most` of them with the greatest weights.

        advance  told how many texts are done, after every batch
        """
        read = self._reader.read(texts, self.recipe.document_prompt)
        firsts, which = distinct(read.tokens)
        tokens = [read.tokens[row] for row in firsts]
        found: list[Terms] = [_NONE] * len(tokens)
        done = np.bincount(which, minlength=len(tokens))
        with self._working():
            weigh = partial(self._weights, tokens)
            for rows, weights in each_on_a_core(weigh, list(batches(tokens, self._batch_tokens)), self._at_once):
                _take(found, rows, weights, most or self.recipe.most)
                advance(int(done[rows].sum()))
        return _joined([found[one] for one in which], read.truncated)

    def bags(self, texts: Sequence[str]) -> WeightedTerms:
        """The texts' own tokens, without special ones, each with weight 1 however often it stands there.

        The queries of SPLADE-doc (arXiv 2109.10086, section 3.3), which need no network.
        """
        read = self._reader.read(texts)
        around = np.concatenate([self._reader.before, self._reader.after])
        found = []
        for tokens in read.tokens:
            terms = np.setdiff1d(tokens, around).astype(np.int32)
            found.append((terms, np.ones(len(terms), np.float32)))
        return _joined(found, read.truncated)

    @cached_property
    def _network(self) -> Any:
        return open_masked_lm(self.recipe.transformer, self._device, self._dtype)

    @property
    def _batch_tokens(self) -> int:
        if self._runtime.batch_tokens:
            return self._runtime.batch_tokens
        kind = self._device.type if self._device.type in LOGITS else "cpu"
        return min(BATCH_TOKENS[kind], LOGITS[kind] // self._network.config.vocab_size)

    @property
    def _at_once(self) -> int:
        """Batches that are computed at a time."""
        return self._runtime.thread_count if self._device.type == "cpu" else 1

    def _weights(self, tokens: Sequence[NDArray[np.int64]], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._batch([tokens[row] for row in rows])

    @contextmanager
    def _working(self) -> Iterator[None]:
        with thread_limit(self._runtime.thread_count), torch.inference_mode():
            yield

    def _batch(self, tokens: list[NDArray[np.int64]], length: int = 0) -> NDArray[np.float32]:
        """(S, V) weights of all terms in the texts of a batch, padded to `length` or the longest."""
        ids, lengths = padded(tokens, self._padding, length)
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).to(self._device)
        logits = self._network(input_ids=ids.to(self._device), attention_mask=mask.long()).logits
        weights = _pooled(logits, mask, self.recipe.pooling, self.recipe.logarithms).cpu().numpy()
        if not np.isfinite(weights).all():
            hint = "its weights are damaged" if self._dtype == torch.float32 else "choose dtype float32"
            raise RankpipeError(f"the network gave weights that are not finite, in {self.dtype}; {hint}")
        return weights


def _pooled(logits: Tensor, mask: Tensor, pooling: str, logarithms: int) -> Tensor:
    """(S, V) float32 weights from logits (S, T, V), which are overwritten; mask (S, T) is true where is no padding."""
    if pooling == "max":  # logarithms and relu keep the order, so the maximum may come first
        return _activated(logits.masked_fill_(~mask[:, :, None], -torch.inf).amax(dim=1).float(), logarithms)
    return (_activated(logits.float(), logarithms) * mask[:, :, None]).sum(dim=1)


def _activated(logits: Tensor, logarithms: int) -> Tensor:
    weights = logits.relu()
    for _ in range(logarithms):
        weights = weights.log1p()
    return weights


_NONE: Terms = (np.empty(0, np.int32), np.empty(0, np.float32))


def _take(found: list[Terms], rows: NDArray[np.int64], weights: NDArray[np.float32], most: int | None) -> None:
    """Put the terms of texts at rows where they belong; of equal weights the smaller term is kept first."""
    for row, values in zip(rows.tolist(), weights, strict=True):
        terms = np.flatnonzero(values)
        if most is not None and len(terms) > most:
            terms = np.sort(terms[np.argsort(-values[terms], kind="stable")[:most]])
        found[row] = terms.astype(np.int32), values[terms]


def _joined(found: Sequence[Terms], truncated: NDArray[np.bool_]) -> WeightedTerms:
    offsets = np.cumsum([0, *(len(terms) for terms, _ in found)]).astype(np.int64)
    terms, weights = (np.concatenate([none, *parts]) for none, *parts in zip(_NONE, *found, strict=True))
    return WeightedTerms(offsets, terms, weights, truncated)
