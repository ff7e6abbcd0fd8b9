"""How a folder's model scores a pair of a query and a document. No torch here.

A plain Hugging Face folder is a sequence classifier, or a causal language model that answers with one of two tokens. A
folder with modules.json is a CrossEncoder of sentence-transformers: a Transformer that is one of these (the second with
LogitScore), or an encoder with Pooling and Dense layers, of which the last one gives the scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from rankpipe.errors import ModelError, UsageError
from rankpipe.models.recipe import (
    STATED,
    Head,
    architecture,
    checked_settings,
    listed_modules,
    longest,
    network_config,
    pooling_modes,
    read_head,
    stated,
    stated_length,
    transformer_settings,
)
from rankpipe.models.references import read_json

ANSWERS = ("yes", "no")
"""Tokens that a causal language model answers with where nothing else is said, as for sentence-transformers."""
QUERY, DOCUMENT = "{query}", "{document}"
"""Where the texts of a pair go in a prompt."""
TOKENISING = ("padding", "truncation", "max_length", "return_tensors", "restore_suffix")
"""Options that stand among those of a chat template, and are none of its own."""


@dataclass(frozen=True, kw_only=True)
class PairSettings:
    """What a pipeline says of a cross-encoder; None is what the model's folder says.

    scores      "logit" or "probability"
    label       name or number of the class that is scored, where there are several
    prompt      text that a pair is written into, with {query} and {document}
    answers     tokens of a causal language model whose logits make the score: yes, and no if there are two
    max_length  tokens of a pair that are read
    windows     which part of a document that is too long is scored: its beginning, the best part, or the likeliest
    stride      tokens from the beginning of one window to that of the next
    """

    scores: Literal["logit", "probability"] = "logit"
    label: str | int | None = None
    query_prompt: str | None = None
    prompt: str | None = None
    answers: tuple[str, ...] | None = None
    max_length: int | None = None
    windows: Literal["first", "max", "best"] = "first"
    stride: int | None = None


@dataclass(frozen=True, kw_only=True)
class PairRecipe:
    """All that makes the scores of a pair, except for the weights.

    transformer, tokenizer  their folders
    kind          "classifier": a head over classes; "causal": logits of the answers; "encoder": pooling and Dense layers
    max_length    tokens of a pair that are read, special ones and prompt included
    lower_case    texts are put into lower case first
    query_prompt  stands before every query; in a chat, it is the message of the system
    prompt        text that a pair is written into; without it and `chat`, the tokenizer's own template of a pair
    chat          messages of "query" and "document" that the tokenizer's chat template writes: plain text, or a list
    chat_options  arguments of the chat template
    answers       tokens, by name or number: the score is the logit of the first, less that of the second if there is one
    pooling, heads  see rankpipe.models.recipe
    """

    transformer: Path
    tokenizer: Path
    kind: Literal["classifier", "causal", "encoder"]
    max_length: int
    lower_case: bool = False
    query_prompt: str = ""
    prompt: str | None = None
    chat: Literal["flat", "structured"] | None = None
    chat_options: Mapping[str, Any] = field(default_factory=dict)
    answers: tuple[str | int, ...] = ()
    pooling: tuple[str, ...] = ()
    heads: tuple[Head, ...] = ()


def read_pair_recipe(
    folder: Path, settings: PairSettings, adapter: Path | None = None, *, with_head: bool = False
) -> PairRecipe:
    """Read a folder's recipe, with what the pipeline says instead of it.

    adapter  makes a classifier of the network of a bi-encoder as well; may bring a tokenizer, and say how texts are read.
             Only it says what stands before queries: a prompt of the network's folder is one of another training
    with_head  whether the adapter brings a head over classes, which makes a classifier of a causal language model, too

    Raises ModelError where the folder holds no such model, UsageError for settings that do not fit it.
    """
    if (folder / "modules.json").is_file():
        transformer, found = _modules(folder / "modules.json", with_adapter=adapter is not None)
        found["query_prompt"] = _default_prompt(folder)
    else:
        decoder = architecture(read_json(folder / "config.json")).endswith(("ForCausalLM", "LMHeadModel"))
        causal = decoder and not with_head
        if causal and settings.prompt is None:
            raise UsageError(
                f"model folder {folder} is a causal language model that does not say how a pair is written for it; "
                f"choose the setting 'prompt', a text with {QUERY} and {DOCUMENT}"
            )
        transformer: Path = folder
        found: dict[str, Any] = {"kind": "causal", "answers": ANSWERS} if causal else {"kind": "classifier"}
    if adapter is not None:
        found["query_prompt"] = _default_prompt(adapter)
    tokenizer = adapter if adapter is not None and (adapter / "tokenizer_config.json").is_file() else transformer
    own = {} if adapter is None else transformer_settings(adapter)
    told = {**transformer_settings(tokenizer), **own}
    if "max_seq_length" in own and "processing_kwargs" not in own:
        told.pop("processing_kwargs", None)  # in which the network's folder says how it was read before
    if settings.max_length is None:
        found["max_length"] = stated_length(tokenizer, network_config(transformer), told)
    recipe = PairRecipe(
        transformer=transformer,
        tokenizer=tokenizer,
        lower_case=bool(told.get("do_lower_case")),
        **{"max_length": settings.max_length, **found},
    )
    return _checked(_with_settings(recipe, settings), settings)


def _with_settings(recipe: PairRecipe, settings: PairSettings) -> PairRecipe:
    if settings.query_prompt is not None:
        recipe = replace(recipe, query_prompt=settings.query_prompt)
    if settings.prompt is not None:
        recipe = replace(recipe, prompt=settings.prompt, chat=None)
    if settings.answers is not None:
        recipe = replace(recipe, answers=settings.answers)
    return recipe


def _checked(recipe: PairRecipe, settings: PairSettings) -> PairRecipe:
    """The recipe itself. Raises UsageError where a setting does not fit its kind."""
    limit = longest(network_config(recipe.transformer))
    if limit is not None and recipe.max_length > limit:
        raise UsageError(f"max_length is {recipe.max_length}; the network {recipe.transformer} reads {limit} tokens")
    if settings.answers is not None and recipe.kind != "causal":
        raise UsageError(f"'answers' are those of a causal language model, and {recipe.transformer} is none")
    if settings.label is not None and recipe.kind == "causal":
        raise UsageError(f"'label' is that of a classifier; {recipe.transformer} is a causal language model")
    return recipe


def _modules(path: Path, *, with_adapter: bool) -> tuple[Path, dict[str, Any]]:
    """Folder of the network, and what the modules say of the scores."""
    modules = listed_modules(path)
    kinds = [kind for kind, _ in modules]
    if not kinds or kinds[0] != "Transformer":
        raise ModelError(f"{path}: the modules are {', '.join(kinds) or 'none'}; they must begin with Transformer")
    transformer = modules[0][1]
    told = checked_settings(transformer, chat=kinds[1:] == ["LogitScore"])
    task = told.get("transformer_task", "feature-extraction")
    if kinds == ["Transformer"] and task == "sequence-classification":
        return transformer, {"kind": "classifier"}
    if kinds == ["Transformer", "LogitScore"] and task == "text-generation":
        return transformer, {"kind": "causal", **_chat(told), "answers": _answers(modules[1][1] / "config.json")}
    if task == "feature-extraction" and kinds[1:2] == ["Pooling"] and _gives_scores(modules[-1]):
        return transformer, {
            "kind": "encoder",
            "pooling": pooling_modes(modules[1][1] / "config.json", read_json(modules[1][1] / "config.json")),
            "heads": (*(read_head(*one) for one in modules[2:-1]), read_head(*modules[-1], "scores")),
        }
    if with_adapter and task == "feature-extraction":
        return transformer, {"kind": "classifier"}
    if task == "feature-extraction" and set(kinds) <= {"Transformer", "Pooling", "Dense", "Normalize"}:
        raise ModelError(
            f"{path}: the modules are {', '.join(kinds)}, a bi-encoder, which makes vectors of texts and no scores of "
            "pairs; the stage 'rescore' takes it, or 'cross-encoder' with an adapter that was trained on it"
        )
    raise ModelError(
        f"{path}: the modules are {', '.join(kinds)}, the Transformer's task {task}; a cross-encoder is supported as "
        "a Transformer for sequence-classification, one for text-generation with LogitScore, or one for "
        "feature-extraction with Pooling and Dense layers that give scores"
    )


def _gives_scores(module: tuple[str, Path]) -> bool:
    kind, place = module
    return kind == "Dense" and read_json(place / "config.json").get("module_output_name") == "scores"


def _chat(told: Mapping[str, Any]) -> dict[str, Any]:
    """How sentence-transformers writes a pair for a causal language model: as messages, where it is told to."""
    message = (told.get("modality_config") or {}).get("message")
    if message is None:
        return {}
    options = (told.get("processing_kwargs") or {}).get("chat_template") or {}
    return {
        "chat": "flat" if message.get("format") == "flat" else "structured",
        "chat_options": {name: value for name, value in options.items() if name not in TOKENISING},
    }


def _answers(path: Path) -> tuple[int, ...]:
    told = read_json(path)
    numbers = [told.get("true_token_id"), told.get("false_token_id")]
    if not isinstance(numbers[0], int) or not isinstance(numbers[1], (int, type(None))):
        raise ModelError(f"{path}: true_token_id and false_token_id are {numbers}, must be numbers of tokens")
    return tuple(number for number in numbers if number is not None)


def _default_prompt(folder: Path) -> str:
    told = stated(folder)
    prompts = told.get("prompts") or {}
    prompt = prompts.get(told.get("default_prompt_name")) if isinstance(prompts, dict) else prompts
    if not isinstance(prompt, (str, type(None))):
        raise ModelError(f"{folder / STATED}: the prompts are {prompts!r}, must be texts by their names")
    return prompt or ""
