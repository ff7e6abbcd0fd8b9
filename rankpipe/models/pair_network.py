"""Networks that score pairs, opened for inference: classifiers, causal language models, encoders with a head.

Each says how batches are cut, and computes the logits of one. On a CPU they are cut and computed so that the logits of a
pair depend on nothing that is scored with it: how a row is rounded depends on the shape of the product it is in. So a
sequence is padded to a length that depends on it alone, and layers that see a row of each sequence, as heads do, compute
whole blocks of rows. Other devices choose their kernels by more than that, and get fewer and larger batches instead.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from rankpipe.errors import ModelError, UsageError
from rankpipe.models.adapter_folder import classes, merged
from rankpipe.models.batching import packed_batches, padded_batches, padded_length
from rankpipe.models.bert import FastBert, filled
from rankpipe.models.network import in_precision, network_kind, opened, refuse_lacking, set_padding
from rankpipe.models.pair_recipe import PairRecipe
from rankpipe.models.pairs import Tokens
from rankpipe.models.pooling import DenseLayer, normalised, pool
from rankpipe.models.recipe import architecture, longest, network_config

Batch = Sequence[tuple[Tokens, Tokens]]
"""Tokens (T,) of sequences, and the types of their tokens."""


class PairNetwork(Protocol):
    """A network that is open."""

    @property
    def labels(self) -> Sequence[str]:
        """Names of the L classes that it gives logits of."""
        ...

    def batches(self, sizes: NDArray[np.int64], budget: int) -> Iterator[NDArray[np.int64]]:
        """Rows of sequences of these sizes that are scored together, within a budget of tokens."""
        ...

    def logits(self, batch: Batch) -> Tensor:
        """(S, L) float32 logits of the sequences of a batch."""
        ...


def open_pair_network(
    recipe: PairRecipe, device: torch.device, dtype: torch.dtype, *, tokenizer: Any, adapter: Path | None
) -> PairNetwork:
    """The network of a recipe, with an adapter merged into it.

    tokenizer  that of the recipe, opened by transformers

    Raises ModelError for weights that are missing (those of a head too: it would be drawn at random), damaged or
    pickled, and for a network of another kind; UsageError for answers that are no tokens.
    """
    if recipe.kind == "causal":
        network = _open(recipe, "AutoModelForCausalLM", "a causal language model", dtype, adapter)
        return Causal(network, recipe, device, tokenizer)
    typed = _typed(recipe, tokenizer)
    if recipe.kind == "encoder":
        network = _open(recipe, "AutoModel", "an encoder", dtype, adapter)
        return Pooled(network, recipe, device, tokenizer, typed=typed)
    known = architecture(network_config(recipe.transformer)).endswith("ForSequenceClassification")
    brought = None if adapter is None else classes(adapter)
    # as for sentence-transformers, a network that is no classifier yet becomes one of a single class
    several = {} if known and brought is None else {"num_labels": brought or 1}
    ours = device.type == "cpu" and network_config(recipe.transformer)["model_type"] == "bert"
    network = _open(
        recipe,
        "AutoModelForSequenceClassification",
        "a sequence classifier",
        torch.float32 if ours else dtype,
        adapter,
        **several,
    )
    if ours and FastBert.fits(network.bert, dtype):
        return FastClassifier(network, dtype)
    return Classifier(in_precision(network, dtype) if ours else network, recipe, device, tokenizer, typed=typed)


def _open(recipe: PairRecipe, opener: str, what: str, dtype: torch.dtype, adapter: Path | None, **settings: Any) -> Any:
    folder = recipe.transformer
    decoding = [network_config(folder)["model_type"]] if recipe.kind == "classifier" else []
    network_kind(folder, known=decoding)
    with torch.random.fork_rng(devices=[]):  # a head that is missing is drawn, and refused below
        network, lacking = opened(folder, opener, what, dtype if adapter is None else torch.float32, **settings)
    if recipe.kind == "encoder":
        lacking = [name for name in lacking if not name.startswith("pooler.")]
    if adapter is not None:
        network = in_precision(merged(network, adapter, folder, lacking), dtype)
    else:
        advice = "take a model that was trained to re-rank, or an adapter with a head"
        refuse_lacking(folder, network, lacking, head=f"head of {what}", advice=advice)
    return network.eval().requires_grad_(False)


def _typed(recipe: PairRecipe, tokenizer: Any) -> bool:
    """Whether the network is told which of the two texts a token is of. Raises ModelError where it knows but one."""
    if "token_type_ids" not in tokenizer.model_input_names:
        return False
    known = network_config(recipe.transformer).get("type_vocab_size")
    if recipe.prompt is None and known == 1 and max(tokenizer("a", "a")["token_type_ids"]) > 0:
        raise ModelError(
            f"model folder {recipe.transformer}: its tokenizer tells the texts of a pair apart by token types, and its "
            "network knows but one (type_vocab_size 1)"
        )
    return True


def _labels(network: Any) -> list[str]:
    names = network.config.id2label or {}
    return [str(names.get(number, number)) for number in range(network.config.num_labels)]


class FastClassifier:
    """A BertForSequenceClassification on a CPU: sequences end to end, without padding; the head in float32."""

    def __init__(self, network: Any, dtype: torch.dtype) -> None:
        self.labels = _labels(network)
        self._body = FastBert(network.bert, dtype)
        self._pooler, self._classifier = network.bert.pooler, network.classifier

    def batches(self, sizes: NDArray[np.int64], budget: int) -> Iterator[NDArray[np.int64]]:
        """Rows of sequences whose sizes sum up to the budget."""
        return packed_batches(sizes, budget)

    def logits(self, batch: Batch) -> Tensor:
        """(S, L) float32 logits."""
        ids, types = (torch.from_numpy(np.concatenate(columns)) for columns in zip(*batch, strict=True))
        first = filled(self._body.firsts(ids, types, [len(one) for one, _ in batch]))
        return self._classifier(self._pooler(first[:, None]))[: len(batch)]


class _Padded:
    """What networks have in common whose batches are padded to one shape."""

    def __init__(self, network: Any, recipe: PairRecipe, device: torch.device, tokenizer: Any) -> None:
        self._network = network.to(device)
        self._device = device
        if device.type == "cpu":
            _compute_blocks(network)
        self._longest = longest(network_config(recipe.transformer))
        self._padding = set_padding(network, tokenizer)

    def batches(self, sizes: NDArray[np.int64], budget: int) -> Iterator[NDArray[np.int64]]:
        """Rows of sequences of about the same size, the longest first."""
        return padded_batches(sizes, budget, alike=self._device.type == "cpu")

    def _inputs(self, batch: Batch, *, left: bool = False) -> dict[str, Tensor]:
        """Tokens, types and mask (S, T) of a batch, padded on the right, or the left."""
        length = padded_length(max(len(ids) for ids, _ in batch), self._longest)
        ids = np.full((len(batch), length), self._padding, np.int64)
        types, mask = np.zeros_like(ids), np.zeros_like(ids)
        for row, (one, kinds) in enumerate(batch):
            place = slice(length - len(one), length) if left else slice(len(one))
            ids[row, place], types[row, place], mask[row, place] = one, kinds, 1
        named = {"input_ids": ids, "token_type_ids": types, "attention_mask": mask}
        return {name: torch.from_numpy(values).to(self._device) for name, values in named.items()}

    def _read(self, batch: Batch, typed: bool) -> Any:
        inputs = self._inputs(batch)
        if not typed:
            del inputs["token_type_ids"]
        return self._network(**inputs)


def _compute_blocks(network: nn.Module) -> None:
    """Have the linear layers of a network compute whole blocks of rows, also of fewer; it is changed."""
    for layer in network.modules():
        if type(layer) is nn.Linear:
            layer.forward = partial(_in_blocks, layer)  # type: ignore[method-assign] - its parameter has another name


def _in_blocks(layer: nn.Linear, states: Tensor) -> Tensor:
    """What a layer makes of states (..., inputs): (..., outputs)."""
    rows = filled(states.reshape(-1, states.shape[-1]))
    made = functional.linear(rows, layer.weight, layer.bias)
    return made[: states.shape[:-1].numel()].view(*states.shape[:-1], -1)


class Classifier(_Padded):
    """A sequence classifier of transformers."""

    def __init__(self, network: Any, recipe: PairRecipe, device: torch.device, tokenizer: Any, *, typed: bool) -> None:
        super().__init__(network, recipe, device, tokenizer)
        self.labels = _labels(network)
        self._typed = typed

    def logits(self, batch: Batch) -> Tensor:
        """(S, L) float32 logits."""
        return self._read(batch, self._typed).logits.float()


class Pooled(_Padded):
    """An encoder whose vectors, pooled, go through Dense layers, of which the last one gives the logits."""

    def __init__(self, network: Any, recipe: PairRecipe, device: torch.device, tokenizer: Any, *, typed: bool) -> None:
        super().__init__(network, recipe, device, tokenizer)
        self._typed, self._pooling = typed, recipe.pooling
        self._heads: list[Callable[[Tensor], Tensor]] = []
        width = network.config.hidden_size * len(recipe.pooling)
        for head in recipe.heads:
            if head.folder is None:
                self._heads.append(normalised)
            else:
                layer = DenseLayer(head, width)
                width = layer.outputs
                self._heads.append(layer)
        self.labels = [str(number) for number in range(width)]

    def logits(self, batch: Batch) -> Tensor:
        """(S, L) float32 logits."""
        hidden = self._read(batch, self._typed).last_hidden_state
        lengths = torch.tensor([len(ids) for ids, _ in batch], device=self._device)
        made = filled(pool(hidden, lengths, self._pooling))
        for head in self._heads:
            made = head(made)
        return made[: len(batch)]


class Causal(_Padded):
    """A causal language model that answers with one of two tokens, or with one or not.

    Documents sorting as in Nogueira, Jiang, Pradeep and Lin, Findings of EMNLP 2020, arXiv 2003.06713, without the
    softmax: the logit of "yes" less that of "no", of which sigmoid makes the share of "yes".
    """

    labels = ("answer",)

    def __init__(self, network: Any, recipe: PairRecipe, device: torch.device, tokenizer: Any) -> None:
        super().__init__(network, recipe, device, tokenizer)
        self._answers = [_token(tokenizer, answer, recipe.tokenizer) for answer in recipe.answers]
        self._takes = inspect.signature(network.forward).parameters

    def logits(self, batch: Batch) -> Tensor:
        """(S, 1) float32 logits."""
        inputs = self._inputs(batch, left=True)  # so that the last position is the one that is answered at
        mask = inputs["attention_mask"]
        inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        inputs["logits_to_keep"] = torch.tensor([mask.shape[1] - 1], device=self._device)
        given = {name: value for name, value in inputs.items() if name in self._takes and name != "token_type_ids"}
        logits = self._network(**given, use_cache=False).logits[:, -1].float()
        scores = logits[:, self._answers[0]]
        return (scores if len(self._answers) == 1 else scores - logits[:, self._answers[1]])[:, None]


def _token(tokenizer: Any, answer: str | int, folder: Path) -> int:
    """Number of a token that is given by its name, as the vocabulary or as a text writes it, or by its number."""
    size = len(tokenizer)
    if isinstance(answer, int):
        if answer < size:
            return answer
        raise ModelError(f"model folder {folder} answers with the token {answer}; its tokenizer has {size} tokens")
    number = tokenizer.get_vocab().get(answer)
    if number is None:
        alone = tokenizer.encode(answer, add_special_tokens=False)
        number = alone[0] if len(alone) == 1 and alone[0] != tokenizer.unk_token_id else None
    if number is None:
        raise UsageError(f"the answer {answer!r} is not one token of {folder}")
    return number
