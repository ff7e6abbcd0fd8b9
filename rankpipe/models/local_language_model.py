"""A causal language model in this process: the LanguageModel behind a folder of transformers.

On a CPU a prompt that is only read is a batch of its own, and every core has one: a product of matrices is rounded by
its shape, and what a model says of a prompt is not to depend on what is asked with it. Prompts are hundreds of tokens
long, so hardly anything would be gained. Where answers are written token by token, a pass for one of them takes about as
long as for ten, as all of the weights are read from memory each time: there, and on other devices, prompts of about one
length share a batch, padded on the left, and what is drawn may differ where two tokens are equally probable but for
rounding.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from rankpipe.errors import ModelError, UsageError
from rankpipe.models.batching import each_on_a_core, rising_batches
from rankpipe.models.causal_lm import ChatTokens, open_causal_lm
from rankpipe.models.decoding import Arranging, CausalNetwork, Drawing, Ids
from rankpipe.models.language_model import Answer, Answered, Chat, Writing, behind
from rankpipe.models.network import device_of, dtype_name, dtype_of, thread_limit
from rankpipe.models.recipe import longest, network_config
from rankpipe.models.references import model_digest, resolve
from rankpipe.models.runtime import Runtime

T = TypeVar("T")

BATCH_TOKENS = {"cpu": 8192, "mps": 4096, "cuda": 16_384}
"""Tokens of a batch, by the kind of device: what they leave as keys and values has to fit beside the weights."""
WRITTEN = 32
"""Answers that a core writes at once: with more, the products of matrices take in proportion longer."""

Advance = Callable[[int], None]


def _silent(_: int) -> None:
    """Nobody is told."""


class LocalLanguageModel:
    """An open causal language model.

    context  tokens that the network has positions for; None where it sets no limit
    dtype    precision of the network, as text: "bfloat16"
    """

    def __init__(self, reference: str, runtime: Runtime) -> None:
        """Open a model. Raises ModelError where that fails."""
        self._folder = folder = resolve(reference)
        self.context = longest(network_config(folder))
        self._device = device_of(runtime)
        self._dtype = dtype_of(runtime, self._device)
        self._threads = runtime.thread_count
        self._budget = runtime.batch_tokens or BATCH_TOKENS.get(self._device.type, BATCH_TOKENS["mps"])
        self._frames = {"": ChatTokens(folder)}
        tokenizer = self._frames[""].tokenizer
        network = open_causal_lm(folder, self._device, self._dtype, tokenizer)
        self._ends = _ends(network, tokenizer)
        self._network = CausalNetwork(network, self._dtype, padding=min(self._ends, default=0))

    @property
    def dtype(self) -> str:
        """Precision of the network, as text."""
        return dtype_name(self._dtype)

    def key(self) -> dict[str, Any]:
        """Digest and precision, and whether a model that thinks is told not to."""
        told = {"unthinking": True} if self._frame("").unthinking else {}
        return {"model": model_digest(self._folder), "dtype": self.dtype, **told}

    def counts(self) -> dict[str, int]:
        """Nothing that is not counted elsewhere."""
        return {}

    def lengths(self, chats: Sequence[Chat]) -> NDArray[np.int64]:
        """(C,) tokens of chats, with the template around them and the beginning of the answer."""
        return np.array([len(self._prompt(chat)) + len(self._answer(chat)) for chat in chats], np.int64)

    def next_logits(
        self, chats: Sequence[Chat], options: Sequence[str], advance: Advance = _silent
    ) -> NDArray[np.float32]:
        """(C, O) logits of texts as what comes next. Raises UsageError for an option that is not one token.

        Raises ModelError where the model would rather begin to think: what it answers is no answer then.
        """
        prompts, numbers = [], []
        known: dict[tuple[str, str], tuple[Ids, list[Ids]]] = {}
        for chat in chats:
            kind = (chat.system, chat.answer)
            if kind not in known:
                known[kind] = self._options(chat, options)
            prompts.append(np.concatenate([self._prompt(chat), known[kind][0]]))
            numbers.append(np.concatenate(known[kind][1]))

        def look(rows: list[int]) -> list[NDArray[np.float32]]:
            logits = self._network.logits([prompts[row] for row in rows], 1)[:, 0]
            self._refuse_thoughts(logits)
            asked = torch.from_numpy(np.stack([numbers[row] for row in rows])).to(logits.device)
            return list(logits.gather(1, asked).cpu().numpy())

        return np.array(self._each(look, _lengths(prompts), advance), np.float32).reshape(len(chats), len(options))

    def log_probabilities(
        self, chats: Sequence[Chat], texts: Sequence[str], advance: Advance = _silent
    ) -> NDArray[np.float32]:
        """(C,) mean natural logarithm of the probabilities of a text's tokens; 0 for a text without tokens."""
        prompts, wanted = [], []
        for chat, text in zip(chats, texts, strict=True):
            begun, (tokens,) = self._goes_on(self._frame(chat.system), chat.answer, [text])
            prompts.append(np.concatenate([self._prompt(chat), begun, tokens[:-1]]))
            wanted.append(tokens)

        def look(rows: list[int]) -> list[float]:
            count = max(1, *(len(wanted[row]) for row in rows))
            logs = self._network.logits([prompts[row] for row in rows], count).log_softmax(dim=-1)
            means = []
            for place, row in enumerate(rows):
                size = len(wanted[row])
                tokens = torch.from_numpy(wanted[row]).to(logs.device)
                means.append(float(logs[place, -size:].gather(1, tokens[:, None]).mean()) if size else 0.0)
            return means

        return np.array(self._each(look, _lengths(prompts), advance), np.float32)

    def write(
        self, chats: Sequence[Chat], writing: Writing, answered: Answered = lambda _, __: None
    ) -> list[list[Answer]]:
        """(C, count) answers; a chat that is, with its answer, longer than the network can read has unread ones.

        Raises UsageError where the answer alone may be longer.
        """
        if self.context is not None and writing.longest >= self.context:
            raise UsageError(
                f"an answer may have {writing.longest} tokens, and model {str(self._folder)!r} reads at most "
                f"{self.context} with the prompt"
            )
        prompts = [np.concatenate([self._prompt(chat), self._answer(chat)]) for chat in chats]
        room = (self.context or math.inf) - writing.longest
        read = [row for row, prompt in enumerate(prompts) if len(prompt) <= room]
        made = {
            row: [Answer("", ended=False, prompt_tokens=len(prompt), read=False)] * writing.count
            for row, prompt in enumerate(prompts)
            if len(prompt) > room
        }
        for row, answers in made.items():
            answered(row, answers)
        said = self._frame("").said

        def answer(places: list[int]) -> list[list[Answer]]:
            rows = [read[place] for place in places]
            choosers = [
                [Drawing(writing, self._ends, rng, said) for rng in drawn]
                for drawn in (_generators(chats[row], writing) for row in rows)
            ]
            self._network.decode([prompts[row] for row in rows], list(chain(*choosers)))
            return [
                [_answer(said(one.made), one, writing, len(prompts[row])) for one in group]
                for row, group in zip(rows, choosers, strict=True)
            ]

        def told(place: int, answers: list[Answer]) -> None:
            made[read[place]] = answers
            answered(read[place], answers)

        most = max(1, min(WRITTEN // writing.count, -(-len(read) // self._threads)))  # and a batch for every core
        sizes = [(len(prompts[row]) + writing.longest) * writing.count for row in read]
        self._each(answer, sizes, _silent, told, most=most)
        return [made[row] for row in range(len(chats))]

    def arrange(
        self, chats: Sequence[Chat], texts: Sequence[Sequence[str]], separator: str, advance: Advance = _silent
    ) -> list[list[int]]:
        """How chats go on where each has to list its texts once, as places of its texts."""
        prompts, choosers, sizes = [], [], []
        for chat, listed in zip(chats, texts, strict=True):
            begun, first, later = self._list_tokens(chat, listed, separator)
            choosers.append(Arranging(first, later))
            prompts.append(np.concatenate([self._prompt(chat), begun, np.array(choosers[-1].opening, np.int64)]))
            sizes.append(len(prompts[-1]) + sum(map(len, later)))

        def answer(rows: list[int]) -> list[list[int]]:
            self._network.decode([prompts[row] for row in rows], [choosers[row] for row in rows])
            return [choosers[row].order for row in rows]

        return self._each(answer, sizes, advance)

    def _refuse_thoughts(self, logits: torch.Tensor) -> None:
        """logits: (B, V)."""
        frame = self._frame("")
        if frame.thoughts and (begun := frame.thoughts.intersection(logits.argmax(1).tolist())):
            raise ModelError(
                f"the model {self._folder} begins to think ({frame.tokenizer.convert_ids_to_tokens(min(begun))}) where it is asked "
                "for an answer, though it was told not to: take another one, or end its thoughts in the section 'answer' of the "
                "prompt"
            )

    # -- tokens -------------------------------------------------------------------------------------------------

    def _frame(self, system: str) -> ChatTokens:
        if system not in self._frames:
            self._frames[system] = ChatTokens(self._folder, system)
        return self._frames[system]

    def _prompt(self, chat: Chat) -> Ids:
        """(T,) tokens up to where the answer begins."""
        frame = self._frame(chat.system)
        return np.concatenate([frame.before, frame.asked(chat.user), frame.after])

    def _answer(self, chat: Chat) -> Ids:
        return self._frame(chat.system).tokens(chat.answer)

    @staticmethod
    def _goes_on(frame: ChatTokens, beginning: str, texts: Sequence[str]) -> tuple[Ids, list[Ids]]:
        """Tokens of the beginning of an answer, and of each of the texts that it may go on with.

        A token that reaches from the beginning into a text counts to the texts, for all of them.
        """
        alone = frame.tokens(beginning)
        wholes = [frame.tokens(beginning + text) for text in texts]
        kept = min(_agreeing(alone, whole) for whole in wholes)
        return alone[:kept], [whole[kept:] for whole in wholes]

    def _options(self, chat: Chat, options: Sequence[str]) -> tuple[Ids, list[Ids]]:
        begun, tokens = self._goes_on(self._frame(chat.system), chat.answer, options)
        for option, one in zip(options, tokens, strict=True):
            if len(one) != 1:
                where = f" behind {chat.answer!r}" if chat.answer else ""
                raise UsageError(f"the answer {option!r} is not one token of {self._folder}{where}, but {len(one)}")
        return begun, tokens

    def _list_tokens(self, chat: Chat, texts: Sequence[str], separator: str) -> tuple[Ids, list[Ids], list[Ids]]:
        """Tokens of the beginning of an answer; of each text as the first of a list; of each behind another one."""
        frame = self._frame(chat.system)
        begun, first = self._goes_on(frame, chat.answer, [behind(chat.answer, text) for text in texts])
        shown, later = self._goes_on(frame, texts[0], [separator + text for text in texts])
        if len(shown) < len(frame.tokens(texts[0])):  # a token would reach from a text into the separator
            later = [frame.continued(separator + text) for text in texts]
        return begun, first, later

    # -- batches ------------------------------------------------------------------------------------------------

    def _each(
        self,
        work: Callable[[list[int]], Sequence[T]],
        sizes: Sequence[int],
        advance: Advance,
        answered: Callable[[int, T], None] = lambda _, __: None,
        *,
        most: int | None = 1,
    ) -> list[T]:
        """What the work on a batch of prompts, given as their places, makes of each of them. The longest come first.

        sizes     tokens of each of them and of what it may go on with
        answered  is told the place of a prompt and what became of it, in this thread
        most      prompts of a batch on a CPU; elsewhere the tokens alone limit it
        """
        on_cores = self._device.type == "cpu"
        batches = [
            np.array(rows, np.int64)
            for rows in reversed(rising_batches(sizes, self._budget, most if on_cores else None))
        ]
        made: dict[int, T] = {}
        with thread_limit(1 if on_cores else self._threads), torch.inference_mode():
            at_once = self._threads if on_cores else 1
            found = each_on_a_core(lambda rows: work(rows.tolist()), batches, at_once, shared=False)
            for rows, answers in found:
                for row, one in zip(rows.tolist(), answers, strict=True):
                    made[row] = one
                    answered(row, one)
                advance(len(rows))
        return [made[row] for row in range(len(sizes))]


def _ends(network: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end an answer: those of the tokenizer and of both configurations. A turn may end otherwise than a text."""
    settings = (network.config.get_text_config(), network.generation_config)
    stated = [tokenizer.eos_token_id, *(getattr(one, "eos_token_id", None) for one in settings)]
    ends = chain.from_iterable(one if isinstance(one, list) else [one] for one in stated)
    return frozenset(int(one) for one in ends if one is not None)


def _lengths(prompts: Sequence[Ids]) -> list[int]:
    return [len(prompt) for prompt in prompts]


def _generators(chat: Chat, writing: Writing) -> list[np.random.Generator]:
    """One for every answer; what they draw depends on the chat, the seed and the answer's number alone."""
    digest = hashlib.sha256("\0".join(chat).encode("utf-8", "surrogatepass")).digest()
    words = np.frombuffer(digest, "<u4").tolist()
    return [np.random.default_rng([writing.seed, number, *words]) for number in range(writing.count)]


def _answer(text: str, chooser: Drawing, writing: Writing, prompt_tokens: int) -> Answer:
    ends = [place for stop in writing.stop if (place := text.find(stop)) >= 0]
    return Answer(text[: min(ends, default=len(text))], chooser.ended, prompt_tokens, len(chooser.made))


def _agreeing(one: Ids, other: Ids) -> int:
    """How many tokens two texts begin with in common."""
    size = min(len(one), len(other))
    differing = np.flatnonzero(one[:size] != other[:size])
    return int(differing[0]) if len(differing) else size
