"""Re-ranking by attention: a language model reads all candidates and a query, and what it attends to is the ranking.

Chen, Gutiérrez and Su, ICLR 2025, arXiv 2410.02642. Nothing is generated: the candidates are read once, and behind them
the query, and once more a query without content, whose attention is what the prompt's form alone draws.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from rankpipe.errors import ModelError, RankpipeError
from rankpipe.machine import free_memory
from rankpipe.models.attention_rows import ROWS, AttentionReader, Prefix
from rankpipe.models.attention_scores import Heads, document_scores, kept_tokens, parsed_heads, read_heads
from rankpipe.models.batching import each_on_a_core
from rankpipe.models.causal_lm import ChatTokens, Ids, open_causal_lm
from rankpipe.models.network import device_of, dtype_name, dtype_of, thread_limit
from rankpipe.models.prompt import SEPARATOR, filled, load_attention_prompt
from rankpipe.models.recipe import longest, network_config
from rankpipe.models.references import model_digest, resolve, weights_digest
from rankpipe.models.runtime import Runtime

P = TypeVar("P")
T = TypeVar("T")

CONTENT_FREE = "N/A"
"""The query without content. Zhao et al., Calibrate Before Use, ICML 2021, arXiv 2102.09690."""


@dataclass(frozen=True, kw_only=True)
class AttentionSettings:
    """How documents are scored.

    prompt        file or name of the prompt
    heads         "all", heads such as "14-22", or a file of heads
    layers        first and last layer that is read of all heads; None: all
    calibrate     subtract the attention of the query without content
    filter_sigma  see document_scores
    mean          divide by the number of a document's tokens
    """

    prompt: str = "attention-find"
    heads: str | tuple[str, ...] = "all"
    layers: tuple[int, int] | None = None
    calibrate: bool = True
    filter_sigma: float | None = 2.0
    mean: bool = False


class Listed(NamedTuple):
    """Documents as the beginning of a prompt.

    ids           (P,) tokens up to the separator behind the last document
    begins, ends  (N,) the tokens begins[n]:ends[n] are document n's, its number included; a token that reaches over into
                  the blank line behind, such as a mark and the line breaks in one, is no document's
    characters    (P,) where in `text` a token begins; those of the chat template before it at 0
    """

    ids: Ids
    begins: NDArray[np.int64]
    ends: NDArray[np.int64]
    characters: NDArray[np.int64]
    text: str


class ReadPrefix(NamedTuple):
    """Documents that the network has read, and what the query without content attends to: (W, H, T), or None."""

    listed: Listed
    prefix: Prefix
    blank: NDArray[np.float32] | None


class AttentionScorer:
    """An open language model.

    limit    tokens of a prompt that the network has positions for; None: no limit
    weights  digest of the network's
    shape    layers and heads of the network
    heads    that are read
    """

    def __init__(self, reference: str, settings: AttentionSettings, runtime: Runtime) -> None:
        """Open a model.

        Raises ModelError where that fails, UsageError and DataError for a prompt or heads that do not fit it.
        """
        self.prompt = load_attention_prompt(settings.prompt)
        self._before, _, behind = self.prompt.user.partition("{documents}")
        self._behind = behind.lstrip()
        self._gap = behind[: len(behind) - len(self._behind)] or SEPARATOR
        folder = resolve(reference)
        self._digest, self.weights = model_digest(folder), weights_digest(folder)
        self._settings = settings
        chosen = self._chosen(settings.heads)  # before the network, which takes longer to open
        config = network_config(folder)
        self.limit = longest(config)
        self._tokens = ChatTokens(folder, self.prompt.system)
        self._device = device_of(runtime)
        self._dtype = dtype_of(runtime, self._device)
        self._threads = runtime.thread_count
        # eager is what every network can be opened with; the reader puts its own attention in its place
        opened = self._tokens.tokenizer
        network = open_causal_lm(folder, self._device, self._dtype, opened, head=False, attention="eager")
        self._reader = AttentionReader(network)
        self._config = network.config.get_text_config()
        self.shape = (self._reader.layers, self._reader.heads)
        self.heads = Heads.all(*self.shape, settings.layers) if chosen is None else Heads.of(chosen, *self.shape)

    @property
    def dtype(self) -> str:
        """Precision of the network, as text."""
        return dtype_name(self._dtype)

    def key(self) -> dict[str, Any]:
        """What makes the scores."""
        settings, heads = self._settings, self.heads
        rows, columns = np.nonzero(heads.weights)
        few = len(rows) < heads.weights.size or settings.layers is not None
        named = [
            [heads.layers[row], int(column), float(heads.weights[row, column])]
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
        ]
        return {
            "model": self._digest,
            "prompt": self.prompt.digest(),
            "heads": named if few else "all",
            "calibrate": settings.calibrate,
            "filter_sigma": settings.filter_sigma,
            "mean": settings.mean,
            "dtype": self.dtype,
            **({"unthinking": True} if self._tokens.unthinking else {}),
        }

    def listed(self, documents: Sequence[str]) -> Listed:
        """Documents, in the order in which the model is to read them, as the beginning of a prompt."""
        before = filled(self._before, {"count": str(len(documents))})
        parts = self.prompt.listed(documents)
        sizes = np.array([len(part) for part in parts], np.int64)
        begins = len(before) + np.cumsum(sizes + len(SEPARATOR)) - sizes - len(SEPARATOR)
        text = before + SEPARATOR.join(parts) + self._gap
        ids, places = self._tokens.located(text)
        led = len(self._tokens.before)
        first = np.searchsorted(places[:, 0], begins)
        behind = np.searchsorted(places[:, 1], begins + sizes, side="right")
        return Listed(
            np.concatenate([self._tokens.before, ids]),
            first + led,
            np.maximum(first, behind) + led,
            np.concatenate([np.zeros(led, np.int64), places[:, 0]]),
            text,
        )

    def suffix(self, query: str, count: int) -> Ids:
        """(S,) tokens of a prompt behind its documents, of which there are `count`."""
        asked = filled(self._behind, {"query": query, "count": str(count)})
        answer = filled(self.prompt.answer, {"query": query})
        begun = self._tokens.tokens(answer) if answer else np.zeros(0, np.int64)
        return np.concatenate([self._tokens.continued(asked), self._tokens.after, begun])

    def tokens(self, listed: Listed, query: str) -> int:
        """Tokens of the longer of the prompts that are computed for a query."""
        computed = (query, CONTENT_FREE) if self._settings.calibrate else (query,)
        return len(listed.ids) + max(len(self.suffix(one, len(listed.begins))) for one in computed)

    def most_documents(self, listed: Listed, query: str) -> int:
        """How many of these documents fit into a prompt, whichever they are; 0 if none does."""
        if self.limit is None or self.tokens(listed, query) <= self.limit:
            return len(listed.begins)
        count = len(listed.begins)
        sizes = np.diff(listed.begins, append=len(listed.ids))
        around = self.tokens(listed, query) - int(sizes.sum())
        around += self.prompt.user.count("{count}") * len(str(count))  # a smaller number may take more tokens
        grown = [len(str(count)) - len(str(number)) for number in range(1, count + 1)]  # with another number before it
        largest = np.sort(sizes + np.array(grown, np.int64))[::-1]
        return int(np.searchsorted(around + np.cumsum(largest), self.limit, side="right"))

    def at_once(self, tokens: int, whose: str) -> int:
        """How many prompts of so many tokens are read at once: on a CPU one a core, where all of these fit into memory.

        Raises RankpipeError if one alone needs more memory than is free.

        whose  prompt it is, for the error
        """
        free = torch.cuda.mem_get_info(self._device)[0] if self._device.type == "cuda" else free_memory()
        needed = self._needed(tokens)
        if free is not None and needed > free:
            raise RankpipeError(
                f"{whose}: a prompt of {tokens:,} tokens needs about {needed / 2**30:.1f} GiB of memory, and "
                f"{free / 2**30:.1f} GiB are free; choose a smaller depth, window or max_words"
            )
        fit = self._device.type == "cpu" and (free is None or self._threads * needed <= free)
        return self._threads if fit else 1

    def each(self, work: Callable[[P], T], parts: Sequence[P], at_once: int) -> Iterator[tuple[P, T]]:
        """Pairs (part, work(part)) in order, where work reads prompts; see `at_once`.

        Fewer parts than that are read one after the other, each by all cores, so that a single query does not wait for
        one of them.
        """
        with thread_limit(self._threads):
            yield from each_on_a_core(work, parts, at_once)

    def read(self, listed: Listed) -> ReadPrefix:
        """Let the network read documents, for any number of queries."""
        prefix = self._reader.prefix(listed.ids, max(self.heads.layers))
        blank = None
        if self._settings.calibrate:
            blank = self._rows(prefix, self.suffix(CONTENT_FREE, len(listed.begins)))
        return ReadPrefix(listed, prefix, blank)

    def attention(self, read: ReadPrefix, query: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(W, H, P) what a query attends to among documents that were read; twice, the second time calibrated if set."""
        rows = self._rows(read.prefix, self.suffix(query, len(read.listed.begins)))
        return rows, rows if read.blank is None else rows - read.blank

    def token_scores(self, read: ReadPrefix, query: str) -> NDArray[np.float64]:
        """(P,) scores of the tokens, summed over the heads."""
        return self.heads.summed(self.attention(read, query)[1])

    def scores(self, listed: Listed, tokens: NDArray[np.float64]) -> NDArray[np.float64]:
        """(..., N) scores of the documents, from those of the tokens (..., P)."""
        settings = self._settings
        return document_scores(tokens, listed.begins, listed.ends, sigma=settings.filter_sigma, mean=settings.mean)

    def explained(self, listed: Listed, tokens: NDArray[np.float64]) -> list[list[tuple[str, float]]]:
        """For each document, its text in pieces, and what each piece, a token, adds to the score; outliers add 0."""
        characters = np.append(listed.characters, len(listed.text))
        found = []
        for begin, end in zip(listed.begins.tolist(), listed.ends.tolist(), strict=True):
            own = tokens[begin:end]
            added = np.where(kept_tokens(own, self._settings.filter_sigma), own, 0.0)
            if self._settings.mean:
                added /= max(1, end - begin)
            pieces = [listed.text[characters[at] : characters[at + 1]] for at in range(begin, end)]
            found.append(list(zip(pieces, added.tolist(), strict=True)))
        return found

    def _rows(self, prefix: Prefix, ids: Ids) -> NDArray[np.float32]:
        rows = self._reader.rows(prefix, ids, self.heads.layers)[:, :, : prefix.size].cpu().numpy()
        if not np.isfinite(rows).all():
            hint = "its weights are damaged" if self._dtype == torch.float32 else "choose dtype float32"
            raise RankpipeError(f"the network gave attention that is not finite, in {self.dtype}; {hint}")
        return rows

    def _needed(self, tokens: int) -> int:
        """Bytes, about: keys and values of every layer, a layer's states, and rows of attention with copies of them."""
        config = self._config
        groups = getattr(config, "num_key_value_heads", None) or self._reader.heads
        width = getattr(config, "head_dim", None) or config.hidden_size // self._reader.heads
        kept = (max(self.heads.layers) + 1) * 2 * groups * width
        states = 4 * config.hidden_size + 3 * (getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
        attention = 3 * 4 * max(ROWS, self._reader.heads // groups)
        return tokens * ((kept + states) * max(2, self._dtype.itemsize) + attention)

    def _chosen(self, heads: str | tuple[str, ...]) -> list[tuple[int, int, float]] | None:
        """Heads by layer, number and weight; None: all."""
        if heads == "all":
            return None
        if not isinstance(heads, str):
            return parsed_heads(heads)
        told = read_heads(path := Path(os.path.expanduser(heads)))
        if told["model"]["weights"] != self.weights:
            raise ModelError(
                f"{path}: its heads are those of another model ({told['model'].get('reference')}, whose weights' digest "
                f"is {told['model']['weights'][:8]}, and here it is {self.weights[:8]}); detect them anew, or list them"
            )
        return told["chosen"]
