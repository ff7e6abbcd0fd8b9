"""Bi-encoder: texts as vectors, queries and documents apart, their similarity a dot product.

Reimers and Gurevych, EMNLP 2019, arXiv 1908.10084; Karpukhin et al., EMNLP 2020, arXiv 2004.04906. Any folder of
sentence-transformers (Transformer, Pooling, Dense, Normalize; a Router, with such modules for queries and for documents)
or of a Hugging Face encoder. In float32 the vectors equal those of SentenceTransformer.encode.

Documents are tokenised once, sorted by length and encoded in batches of a budget of tokens, so hardly anything is
computed for padding. Queries are encoded in batches of one shape, because the rounding of a matrix product depends on
its shape: a query gets the same vector to the last bit whatever else is asked with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rankpipe.errors import RankpipeError, UsageError
from rankpipe.models.batching import BATCH_TOKENS, batches, distinct, each_on_a_core, padded, query_batches
from rankpipe.models.network import device_of, dtype_name, dtype_of, open_states, thread_limit
from rankpipe.models.pooling import DenseLayer, normalised, pool
from rankpipe.models.recipe import (
    PoolingMode,
    Recipe,
    Similarity,
    longest,
    network_config,
    read_recipe,
    recipe_digest,
)
from rankpipe.models.references import resolve
from rankpipe.models.routes import Role
from rankpipe.models.runtime import Runtime
from rankpipe.models.tokens import Reader, Windows


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """What a pipeline says of an encoder; None is what the model's folder says.

    pooling, similarity  stand above the folder's
    normalise            vectors of length 1; by default as the model does, and always where similarity is cosine, so
                         that False takes similarity "dot"
    dimensions           first dimensions to keep (Matryoshka: Kusupati et al., NeurIPS 2022, arXiv 2205.13147)
    max_length           tokens of a text that are read, special ones and prompt included
    windows              how documents that are longer than one are taken apart; they are no longer than max_length.
                         Without, documents are cut at max_length, as queries always are
    """

    query_prompt: str | None = None
    document_prompt: str | None = None
    pooling: PoolingMode | None = None
    normalise: bool | None = None
    dimensions: int | None = None
    similarity: Similarity | None = None
    max_length: int | None = None
    windows: Windows | None = None


class Encoded(NamedTuple):
    """Vectors of N texts, W in all.

    vectors    (W, D) float32
    offsets    (N + 1,) int64: text n owns vectors offsets[n]:offsets[n + 1], one for each of its windows
    truncated  (N,) whether a text was cut
    """

    vectors: NDArray[np.float32]
    offsets: NDArray[np.int64]
    truncated: NDArray[np.bool_]


class BiEncoder:
    """An open encoder.

    device      where it computes
    digest      of what was loaded
    dimensions  D
    recipe      what is done, the pipeline's settings included
    dtype       precision of the network, as text: "bfloat16"
    """

    def __init__(self, reference: str, settings: EncoderSettings, runtime: Runtime, *, role: Role = "document") -> None:
        """Open a model. Raises ModelError where that fails, UsageError for settings that do not fit it.

        role  whose texts it is for, where queries and documents have routes of their own (`recipe.routed`)
        """
        folder = resolve(reference)
        self.digest = recipe_digest(folder, role)
        self.settings = settings
        self.recipe = encoder_recipe(folder, role, settings)
        self.device = device_of(runtime)
        self._dtype = dtype_of(runtime, self.device)
        self._threads = runtime.thread_count
        self._batch_tokens = runtime.batch_tokens or BATCH_TOKENS.get(self.device.type, BATCH_TOKENS["cpu"])
        self._network, self._states = open_states(self.recipe.transformer, self.device, self._dtype)
        config = network_config(self.recipe.transformer)
        self._reader = Reader(
            self.recipe.transformer,
            max_length=self.recipe.max_length,
            lower_case=self.recipe.lower_case,
            known=config.get("vocab_size"),
        )
        self._longest = longest(config)
        self._padding = int(config.get("pad_token_id") or 0)
        self._heads, self._native = self._open_heads()
        if settings.dimensions is not None and settings.dimensions > self._native:
            raise UsageError(f"dimensions is {settings.dimensions}; the vectors of {reference!r} have {self._native}")
        self.dimensions = settings.dimensions or min(self.recipe.dimensions or self._native, self._native)

    @property
    def dtype(self) -> str:
        """Precision of the network, as text."""
        return dtype_name(self._dtype)

    @property
    def normalises(self) -> bool:
        """Whether vectors get length 1 after all, so that their dot product is their cosine."""
        return normalises(self.recipe, self.settings)

    @property
    def of_length_1(self) -> bool:
        """Whether vectors have length 1: they get it after all, or a module Normalize stands last and all is kept of it."""
        return self.normalises or (self._heads[-1:] == [normalised] and self.dimensions == self._native)

    def key(self) -> dict[str, Any]:
        """What makes the vectors of documents, for the store."""
        windows = self.settings.windows
        return {
            "model": self.digest,
            "prompt": self.recipe.document_prompt,
            "pooling": list(self.recipe.pooling),
            "dimensions": self.dimensions,
            "normalised": self.normalises,
            "heads": len(self._heads),
            "max_length": self.recipe.max_length,
            "windows": None if windows is None else [windows.size, windows.stride],
            "dtype": self.dtype,
        }

    def space(self) -> dict[str, Any]:
        """What vectors have to have in common to be compared."""
        return {
            "model": self.digest,
            "pooling": list(self.recipe.pooling),
            "dimensions": self.dimensions,
            "normalise": self.of_length_1,
        }

    def queries(self, texts: Sequence[str]) -> Encoded:
        """Vectors of queries, one each, the query prompt before it; those that are too long are cut."""
        read = self._reader.read(texts, self.recipe.query_prompt)
        skipped = 0 if self.recipe.include_prompt else read.skipped
        vectors = np.zeros((len(texts), self.dimensions), np.float32)  # of a text without tokens, too
        with self._working():
            for rows, filled, length in query_batches(read.tokens, self._longest):
                found = self._batch([read.tokens[row] for row in filled], skipped, length)
                vectors[rows] = found[: len(rows)].cpu().numpy()
        return Encoded(self._checked(vectors), read.offsets, read.truncated)

    def documents(self, texts: Sequence[str], advance: Callable[[int], None] = lambda _: None) -> Encoded:
        """Vectors of documents, the document prompt before each, one for each window.

        advance  told how many texts are done, after every batch
        """
        sequences = self._reader.read(texts, self.recipe.document_prompt, self.settings.windows)
        firsts, which = distinct(sequences.tokens)
        tokens = [sequences.tokens[row] for row in firsts]
        vectors = np.zeros((len(tokens), self.dimensions), np.float32)  # of a text without tokens, too
        skipped = 0 if self.recipe.include_prompt else sequences.skipped
        # a text counts as done with its last window
        done = np.bincount(which[sequences.offsets[1:] - 1], minlength=len(tokens))
        encode = partial(self._vectors, tokens, skipped)
        with self._working():
            for rows, found in each_on_a_core(encode, list(batches(tokens, self._batch_tokens)), self._at_once):
                vectors[rows] = found
                advance(int(done[rows].sum()))
        return Encoded(self._checked(vectors)[which], sequences.offsets, sequences.truncated)

    @property
    def _at_once(self) -> int:
        """Batches that are computed at a time."""
        return self._threads if self.device.type == "cpu" else 1

    def _vectors(
        self, tokens: Sequence[NDArray[np.int64]], skipped: int, rows: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        return self._batch([tokens[row] for row in rows], skipped).cpu().numpy()

    @contextmanager
    def _working(self) -> Iterator[None]:
        with thread_limit(self._threads), torch.inference_mode():
            yield

    def _checked(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        if not np.isfinite(vectors).all():
            hint = "its weights are damaged" if self._dtype == torch.float32 else "choose dtype float32"
            raise RankpipeError(f"the network gave vectors that are not finite, in {self.dtype}; {hint}")
        return vectors

    def _batch(self, tokens: list[NDArray[np.int64]], skipped: int, length: int = 0) -> Tensor:
        """(S, D) vectors of a batch, padded to `length` where that is more than the longest has."""
        ids, lengths = padded(tokens, self._padding, length)
        ids, lengths = ids.to(self.device), lengths.to(self.device)
        mask = torch.arange(ids.shape[1], device=self.device) < lengths[:, None]
        vectors = pool(self._states(ids, mask), lengths, self.recipe.pooling, skipped)
        for head in self._heads:
            vectors = head(vectors)
        vectors = vectors[:, : self.dimensions]
        return normalised(vectors) if self.normalises else vectors

    def _open_heads(self) -> tuple[list[Callable[[Tensor], Tensor]], int]:
        """What follows on pooling, and the dimensions that come out."""
        config: Any = self._network.config
        width = int(getattr(config, "hidden_size", None) or config.d_model) * len(self.recipe.pooling)
        heads: list[Callable[[Tensor], Tensor]] = []
        for head in self.recipe.heads:
            if head.folder is None:
                if self.settings.normalise is not False:
                    heads.append(normalised)
            else:
                layer = DenseLayer(head, width)
                width = layer.outputs
                heads.append(layer)
        return heads, width


def encoder_recipe(folder: Path, role: Role, settings: EncoderSettings) -> Recipe:
    """A folder's recipe for the texts of a role, with what the pipeline says instead of the folder.

    Raises ModelError as read_recipe does, UsageError for a length that the network does not read, a window that is longer
    than max_length, and vectors that are not to be normalised where the similarity is cosine.
    """
    recipe = read_recipe(
        folder, role, pooling=settings.pooling, similarity=settings.similarity, max_length=settings.max_length
    )
    if settings.normalise is False and recipe.similarity == "cosine":
        raise UsageError(
            f"normalise is false, but the similarity of model folder {folder} is cosine, as it is where none is stated, "
            "and its vectors always get length 1; choose similarity: dot"
        )
    changes: dict[str, Any] = {}
    for name in ("query_prompt", "document_prompt"):
        if (value := getattr(settings, name)) is not None:
            changes[name] = value
    limit = longest(network_config(recipe.transformer))
    lengths = {"max_length": settings.max_length, "window": settings.windows and settings.windows.size}
    for name, length in lengths.items():
        if length is not None and limit is not None and length > limit:
            raise UsageError(f"{name} is {length}; the network {recipe.transformer} reads {limit} tokens")
    recipe = replace(recipe, **changes)
    if settings.windows is not None and settings.windows.size > recipe.max_length:
        raise UsageError(
            f"window is {settings.windows.size}, but {recipe.max_length} tokens of a text are read; choose a smaller "
            f"window, or a max_length of at least {settings.windows.size}"
        )
    return recipe


def normalises(recipe: Recipe, settings: EncoderSettings) -> bool:
    """Whether vectors get length 1 after all, so that their dot product is their cosine."""
    return settings.normalise is True or recipe.similarity == "cosine"
