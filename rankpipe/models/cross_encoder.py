"""Cross-encoder: scores of pairs of a query and a document that are read together.

Nogueira and Cho, 2019, arXiv 1901.04085. Any folder of a Hugging Face sequence classifier, of a causal language model
that answers yes or no, or of a CrossEncoder of sentence-transformers, with or without an adapter of peft. In float32
the logits equal those of CrossEncoder.predict without its activation.

Texts that are joined, and not written into a prompt, are tokenised once. Pairs of all queries are sorted by length and
scored in batches of a budget of tokens. On a CPU each core has a batch to itself, and never shares one: what threads
share, they round as they share it, and a pair is to have the same score to the last bit whatever is scored with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from rankpipe.errors import ModelError, RankpipeError, UsageError
from rankpipe.models.adapter_folder import CONFIG, classes, find_adapter
from rankpipe.models.batching import BATCH_TOKENS, each_on_a_core
from rankpipe.models.network import device_of, dtype_name, dtype_of, thread_limit
from rankpipe.models.pair_network import open_pair_network
from rankpipe.models.pair_recipe import PairSettings, read_pair_recipe
from rankpipe.models.pair_texts import JoinedTexts, Pieces, Texts, WrittenTexts, taken_apart
from rankpipe.models.pairs import PairReader
from rankpipe.models.prompts import PromptReader
from rankpipe.models.recipe import network_config
from rankpipe.models.references import model_digest, read_json, resolve
from rankpipe.models.runtime import Runtime


class Scored(NamedTuple):
    """What P pairs have got.

    scores     (P,) float32
    windows    (P,) int32, the window of the document that counted, from 0
    truncated  (P,) whether not everything of a pair was read
    """

    scores: NDArray[np.float32]
    windows: NDArray[np.int32]
    truncated: NDArray[np.bool_]


class CrossEncoderScorer:
    """An open cross-encoder.

    recipe  what is done, the pipeline's settings included
    dtype   precision of the network, as text: "bfloat16"
    """

    def __init__(self, reference: str, settings: PairSettings, runtime: Runtime, *, adapter: str | None = None) -> None:
        """Open a model. Raises ModelError where that fails, UsageError for settings that do not fit it."""
        folder, added = _folders(reference, adapter)
        self._digests = {"model": model_digest(folder), "adapter": None if added is None else model_digest(added)}
        self._settings, self._named = settings, f"model {reference!r}"
        if adapter is not None:
            self._named += f" with the adapter {adapter!r}"
        self.recipe = recipe = read_pair_recipe(
            folder, settings, added, with_head=added is not None and classes(added) is not None
        )
        if recipe.prompt is None and recipe.chat is None:
            self._reader: PairReader | PromptReader = PairReader(
                recipe.tokenizer,
                max_length=recipe.max_length,
                lower_case=recipe.lower_case,
                known=network_config(recipe.transformer).get("vocab_size"),
            )
        else:
            self._reader = PromptReader(recipe)
        self._device = device_of(runtime)
        self._dtype = dtype_of(runtime, self._device)
        self._threads = runtime.thread_count
        self._budget = runtime.batch_tokens or BATCH_TOKENS.get(self._device.type, BATCH_TOKENS["cpu"])
        self._network = open_pair_network(
            recipe, self._device, self._dtype, tokenizer=self._reader.tokenizer, adapter=added
        )
        problem = network_config(recipe.transformer).get("problem_type")
        # classes that do not exclude each other: each has a score of its own
        self._independent = recipe.kind == "classifier" and problem in ("regression", "multi_label_classification")
        self._label = _label(self._network.labels, settings.label, reference)

    @property
    def dtype(self) -> str:
        """Precision of the network, as text."""
        return dtype_name(self._dtype)

    def key(self) -> dict[str, Any]:
        """What makes the scores of pairs."""
        recipe, settings = self.recipe, self._settings
        return {
            **self._digests,
            "kind": recipe.kind,
            "scores": settings.scores,
            "label": self._network.labels[self._label] if len(self._network.labels) > 1 else None,
            "query_prompt": recipe.query_prompt,
            "prompt": recipe.prompt,
            "answers": list(recipe.answers),
            "max_length": recipe.max_length,
            "windows": settings.windows,
            "stride": settings.stride,
            "dtype": self.dtype,
        }

    def score(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        pairs: NDArray[np.int64],
        advance: Callable[[int], None] = lambda _: None,
    ) -> Scored:
        """Score pairs (P, 2): row of the query, row of the document.

        advance  told how many pairs are done, after every batch
        """
        texts = self._texts(queries, documents, pairs)
        pieces = taken_apart(texts, self.recipe.max_length, self._settings)
        logits = np.empty(len(pieces.pairs), np.float32)
        done = np.zeros(len(pieces.pairs), np.int64)  # a pair counts as done with its last piece
        done[np.flatnonzero(np.diff(pieces.pairs, append=len(pairs)))] = 1
        on_cores, budget = self._device.type == "cpu", self._budget
        if on_cores:  # of few pairs, too, every core is to have its batch
            budget = min(budget, -(-int(pieces.sizes.sum()) // self._threads))
        batches = list(self._network.batches(pieces.sizes, budget))
        at_once = self._threads if on_cores else 1
        with thread_limit(1 if on_cores else self._threads), torch.inference_mode():
            for rows, found in each_on_a_core(partial(self._logits, texts, pieces), batches, at_once, shared=False):
                logits[rows] = found
                advance(int(done[rows].sum()))
        if not np.isfinite(logits).all():
            hint = "its weights are damaged" if self._dtype == torch.float32 else "choose dtype float32"
            raise RankpipeError(f"{self._named} gave scores that are not finite, in {self.dtype}; {hint}")
        scores, windows = _best(logits, pieces, len(pairs))
        if self._settings.scores == "probability":
            scores = (1 / (1 + np.exp(-scores.astype(np.float64)))).astype(np.float32)
        return Scored(scores, windows, pieces.truncated)

    def _texts(self, queries: Sequence[str], documents: Sequence[str], pairs: NDArray[np.int64]) -> Texts:
        if isinstance(self._reader, PromptReader):
            return WrittenTexts(self._reader, queries, documents, pairs)
        return JoinedTexts(self._reader, queries, documents, pairs, query_prompt=self.recipe.query_prompt)

    def _logits(self, texts: Texts, pieces: Pieces, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """(S,) logits of the pieces at rows: of a class among several that exclude each other, the logarithm of its odds."""
        batch = []
        for row in rows.tolist():
            begin, end = int(pieces.begins[row]), int(pieces.ends[row])
            batch.append(texts.sequence(int(pieces.pairs[row]), None if begin < 0 else slice(begin, end)))
        logits = self._network.logits(batch)
        scored = logits[:, self._label]
        if logits.shape[1] > 1 and not self._independent:
            others = torch.arange(logits.shape[1], device=logits.device) != self._label
            scored = scored - logits[:, others].logsumexp(dim=1)
        return scored.cpu().numpy()


def _folders(reference: str, adapter: str | None) -> tuple[Path, Path | None]:
    """Folders of the network and of the adapter. A model that is an adapter stands for the network that it names too."""
    folder = resolve(reference)
    if adapter is None and (folder / CONFIG).is_file() and not (folder / "config.json").is_file():
        named = read_json(folder / CONFIG).get("base_model_name_or_path")
        if not isinstance(named, str):
            raise ModelError(
                f"{folder / CONFIG} names no network (base_model_name_or_path); choose 'model' and 'adapter'"
            )
        return resolve(named), find_adapter(str(folder))
    return folder, None if adapter is None else find_adapter(adapter)


def _best(logits: NDArray[np.float32], pieces: Pieces, pairs: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """(P,) the greatest logit of the pieces of every pair, and the window that it is of, the first of equal ones."""
    if len(logits) == pairs:
        return logits, pieces.windows.astype(np.int32)
    starts = np.flatnonzero(np.diff(pieces.pairs, prepend=-1))
    best = np.maximum.reduceat(logits, starts)
    places = np.where(logits == best[pieces.pairs], np.arange(len(logits)), len(logits))
    return best, pieces.windows[np.minimum.reduceat(places, starts)].astype(np.int32)


def _label(labels: Sequence[str], asked: str | int | None, reference: str) -> int:
    """Which of the classes is scored. Raises UsageError where it is not said, or there is none of that name."""
    there = ", ".join(f"{number} ({label})" for number, label in enumerate(labels))
    if asked is None:
        if len(labels) == 1:
            return 0
        raise UsageError(f"model {reference!r} has {len(labels)} classes; choose the setting 'label': {there}")
    if asked in labels:
        return list(labels).index(str(asked))
    if isinstance(asked, int) and 0 <= asked < len(labels):
        return asked
    raise UsageError(f"label is {asked!r}; model {reference!r} has {there}")
