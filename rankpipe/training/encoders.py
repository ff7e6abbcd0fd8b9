"""Encoders that are trained: texts as vectors, with gradients. In float32 the vectors are those of BiEncoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rankpipe.data import Corpus
from rankpipe.models.batching import in_order, padded, rising_batches
from rankpipe.models.bi_encoder import EncoderSettings, encoder_recipe, normalises
from rankpipe.models.network import open_encoder
from rankpipe.models.pooling import DenseLayer, normalised, pool
from rankpipe.models.recipe import Recipe, network_config
from rankpipe.models.references import check_weights
from rankpipe.models.routes import Role
from rankpipe.models.tokens import Reader
from rankpipe.training.encoder_recipe import EncoderRecipe
from rankpipe.training.gradient_caching import backward
from rankpipe.training.means import Means
from rankpipe.training.networks import set_dropout
from rankpipe.training.packed import PackedBody, Spread, recomputing
from rankpipe.training.pairs import KeptTokens
from rankpipe.training.processes import processes
from rankpipe.training.scoring import BATCH_TOKENS, STEP_TOKENS, precision

UNIT_TEMPERATURE = 0.05
"""Of similarities between -1 and 1: softmax of twenty times a cosine, as sentence-transformers has it."""

Tokens = NDArray[np.int64]


class TextEncoder(nn.Module):
    """A network with all that makes one vector of its hidden states.

    recipe      how
    dimensions  of a vector
    normalises  whether vectors get length 1 after all
    """

    def __init__(
        self,
        folder: Path,
        role: Role,
        settings: EncoderSettings,
        *,
        dropout: float,
        device: torch.device,
        recompute: bool = False,
    ) -> None:
        """Open the encoder of a folder, all of it trainable but what vectors do not depend on. Raises ModelError."""
        super().__init__()
        self.recipe: Recipe = encoder_recipe(folder, role, settings)
        self.transformer: Any = open_encoder(self.recipe.transformer, device, torch.float32).requires_grad_(True)
        for name, parameter in self.transformer.named_parameters():
            if name.startswith("pooler."):
                parameter.requires_grad_(False)
        set_dropout(self.transformer, dropout)
        config: Any = self.transformer.config
        width = int(getattr(config, "hidden_size", None) or config.d_model) * len(self.recipe.pooling)
        layers: list[nn.Module] = []
        for head in self.recipe.heads:
            if head.folder is not None:
                layer = DenseLayer(head, width).requires_grad_(True)
                width = layer.outputs
                layers.append(layer)
        self.layers = nn.ModuleList(layers).to(device)
        self.dimensions = width
        self.normalises = normalises(self.recipe, settings)
        self._padding = int(config.pad_token_id or 0)
        self._packed = None
        if PackedBody.fits(self.transformer):
            self._packed = PackedBody(self.transformer, recompute=recompute)
        elif recompute:
            recomputing(self.transformer)

    @property
    def unit(self) -> bool:
        """Whether vectors have length 1."""
        return self.normalises or any(head.folder is None for head in self.recipe.heads[-1:])

    def forward(self, tokens: Sequence[Tokens], skipped: int = 0) -> Tensor:
        """(S, D) vectors of sequences in rising order of their lengths; pooling leaves out `skipped` first tokens."""
        states, lengths = self._states(tokens)
        vectors = pool(states, lengths, self.recipe.pooling, skipped)
        layers = iter(self.layers)
        for head in self.recipe.heads:
            vectors = normalised(vectors) if head.folder is None else next(layers)(vectors)
        return normalised(vectors) if self.normalises else vectors

    def _states(self, tokens: Sequence[Tokens]) -> tuple[Tensor, Tensor]:
        """(S, T, D) last hidden states, padded, and the lengths (S,)."""
        device = self.transformer.device
        if self._packed is None:
            ids, lengths = padded(tokens, self._padding)
            ids, lengths = ids.to(device), lengths.to(device)
            mask = torch.arange(ids.shape[1], device=device) < lengths[:, None]
            return self.transformer(input_ids=ids, attention_mask=mask.long()).last_hidden_state, lengths
        found = self._packed.states(tokens, None, device, firsts=False)
        lengths = torch.tensor([len(one) for one in tokens])
        longest = int(lengths.max())
        places = (torch.arange(longest) < lengths[:, None]).flatten().nonzero()[:, 0].to(device)
        whole: Any = Spread.apply(found, places, len(tokens) * longest)
        return whole.view(len(tokens), longest, -1), lengths.to(device)


class Texts:
    """Texts as an encoder reads them, kept as tokens once they have been read.

    skipped  first tokens, those of the prompt, that pooling leaves out
    """

    def __init__(self, recipe: Recipe, prompt: str) -> None:
        """Open the tokenizer. Raises ModelError where there is none, UsageError for a prompt that leaves no room."""
        known = network_config(recipe.transformer).get("vocab_size")
        reader = Reader(recipe.transformer, max_length=recipe.max_length, lower_case=recipe.lower_case, known=known)
        self.skipped = 0 if recipe.include_prompt else reader.read(["a"], prompt).skipped
        self._kept = KeptTokens(lambda texts: reader.read(texts, prompt).tokens)

    def of(self, texts: Sequence[str]) -> list[Tokens]:
        """Tokens of texts."""
        return self._kept.of(texts, list)

    def of_rows(self, corpus: Corpus, rows: NDArray[np.int32], fields: Sequence[str]) -> list[Tokens]:
        """Tokens of the documents at rows of a corpus."""
        return self._kept.of(rows.tolist(), lambda new: corpus.joined_texts(new, fields))


class Encoders(nn.Module):
    """The encoders of queries and of documents, often one, with their texts.

    query, document  the encoders
    """

    def __init__(self, query: TextEncoder, document: TextEncoder, means: Means) -> None:
        """Take encoders; below float32, their products are computed in its precision, their weights stay as they are."""
        super().__init__()
        self.query, self.document = query, document
        self._means, self._together = means, processes()
        self._budget = means.batch_tokens or BATCH_TOKENS[means.device.type]
        self._limit = STEP_TOKENS[means.device.type]
        self.query_texts = Texts(query.recipe, query.recipe.query_prompt)
        self.document_texts = Texts(document.recipe, document.recipe.document_prompt)

    @property
    def temperature(self) -> float:
        """What similarities are divided by where the recipe says nothing: cosines are small."""
        return UNIT_TEMPERATURE if self.query.unit and self.document.unit else 1.0

    def queries(self, texts: Sequence[str]) -> Part:
        """Queries, to be encoded."""
        return Part(self.query, self.query_texts.of(texts), self.query_texts.skipped)

    def documents(self, corpus: Corpus, rows: NDArray[np.int32], fields: Sequence[str]) -> Part:
        """Documents, to be encoded."""
        texts = self.document_texts
        return Part(self.document, texts.of_rows(corpus, rows, fields), texts.skipped)

    def vectors(self, part: Part) -> Tensor:
        """(N, D) float32 vectors of a part's texts, in their order."""
        batches = rising_batches([len(one) for one in part.tokens], self._budget)
        found = torch.cat([self._encoded(part, batch) for batch in batches])
        return in_order(found, [row for batch in batches for row in batch])

    def backward(self, parts: Sequence[Part], loss: Callable[..., Tensor]) -> float:
        """Loss of the parts' vectors, one argument for each part; its gradients are added to what is there.

        Where all texts together are too many, their vectors are computed first without what gradients need, and then
        batch by batch again with it, so that memory does not grow with the size of a batch.
        """
        shares = [self._together.share([len(one) for one in part.tokens]) for part in parts]
        batches = [
            [
                [share[at] for at in rows]
                for rows in rising_batches([len(part.tokens[row]) for row in share], self._budget)
            ]
            for part, share in zip(parts, shares, strict=True)
        ]
        todo = [
            partial(self._encoded, part, rows) for part, rows_of in zip(parts, batches, strict=True) for rows in rows_of
        ]

        def joined(found: Sequence[Tensor]) -> Tensor:
            given, left = [], list(found)
            for part, rows_of in zip(parts, batches, strict=True):
                own, left = left[: len(rows_of)], left[len(rows_of) :]
                rows = [row for one in rows_of for row in one]
                given.append(self._together.joined(_cat(own, part), rows, len(part.tokens)))
            return loss(*given)

        many = sum(part.length for part in parts) > self._limit * self._together.count
        return backward(todo, joined, in_turn=many)

    def _encoded(self, part: Part, rows: Sequence[int]) -> Tensor:
        with precision(self._means.device, self._means.dtype):
            return part.encoder([part.tokens[row] for row in rows], part.skipped).float()


@dataclass(frozen=True, eq=False)
class Part:
    """Texts as tokens, and what encodes them."""

    encoder: TextEncoder
    tokens: list[Tokens]
    skipped: int

    @property
    def length(self) -> int:
        """Tokens in all."""
        return sum(map(len, self.tokens))


def open_encoders(
    recipe: EncoderRecipe,
    base: Path,
    means: Means,
    *,
    apart: bool = False,
) -> Encoders:
    """The encoders of a model's folder, one for queries and documents unless it has two. Raises ModelError.

    apart  always two: that of queries is to be trained alone
    """
    opened = partial(
        TextEncoder,
        settings=settings_of(recipe),
        dropout=recipe.dropout,
        device=means.device,
        recompute=means.recompute,
    )
    document = query = opened(base, "document")
    if apart or document.recipe.routed:
        query = opened(base, "query")
    return Encoders(query, document, means)


def check_encoders(recipe: EncoderRecipe, base: Path) -> None:
    """Refuse a folder that cannot be trained as the recipe says, before anything that takes long.

    Raises ModelError for a folder that holds no encoder, or does not say how it pools; UsageError for a length that the
    network does not read.
    """
    for role in get_args(Role):
        check_weights(encoder_recipe(base, role, settings_of(recipe)).transformer)


def settings_of(recipe: EncoderRecipe) -> EncoderSettings:
    """What a recipe says of an encoder."""
    return EncoderSettings(
        query_prompt=recipe.query_prompt,
        document_prompt=recipe.document_prompt,
        pooling=recipe.pooling,
        similarity=recipe.similarity,
        max_length=recipe.max_length,
    )


def _cat(found: Sequence[Tensor], part: Part) -> Tensor:
    """Vectors of a process's share of a part, which may be none."""
    if found:
        return torch.cat(list(found))
    encoder = part.encoder
    return torch.zeros(0, encoder.dimensions, device=encoder.transformer.device)
