"""How a folder's model makes vectors: what sentence-transformers wrote down beside the weights. No torch here.

A folder with modules.json lists its modules: a Transformer, then Pooling, then any of Dense and Normalize. In place of
some of them can stand a Router, which has its own for queries and for documents. A plain Hugging Face encoder lists
none, and says nothing of pooling, so the pipeline has to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any, Literal

from rankpipe.errors import ModelError
from rankpipe.models.references import model_digest, modules_digest, read_json
from rankpipe.models.routes import Role, followed, has_router, kind_of

PoolingMode = Literal["mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
Similarity = Literal["cosine", "dot"]

LEGACY_POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Switches of older sentence-transformers, and the modes they name, in the order in which several are joined."""
TRANSFORMER_SETTINGS = "sentence_bert_config.json"
"""File of a Transformer module's settings."""
STATED = "config_sentence_transformers.json"
"""File of what is said of a model as a whole: prompts, similarity."""
SETTINGS_READ = (
    *("max_seq_length", "do_lower_case", "transformer_task", "modality_config", "module_output_name"),
    *("processing_kwargs", "unpad_inputs"),
)
"""Settings of that file that are done here as sentence-transformers does them, or that change no vector."""
OPENING = ("model_args", "model_kwargs", "tokenizer_args", "processor_kwargs", "config_args", "config_kwargs")
"""Settings of that file that are arguments of transformers."""
HARMLESS = (
    *("torch_dtype", "dtype", "attn_implementation", "trust_remote_code", "use_safetensors", "add_pooling_layer"),
    *("device_map", "low_cpu_mem_usage", "cache_dir", "revision", "token", "local_files_only", "model_max_length"),
    *("use_fast", "padding_side"),
)
"""Arguments of transformers that are decided or done here, and change no vector but for rounding."""
CALLING = ("padding", "truncation", "return_tensors", "pad_to_multiple_of", "max_length")
"""Arguments of a tokenizer's call that are done here."""
OUTPUTS = (None, "last_hidden_state", "logits")
"""What is taken of a network: of an encoder, and of one with a head."""
OLDER_SETTINGS = tuple(
    f"sentence_{kind}_config.json" for kind in ("roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Names that this file had."""
POOLING_MODES = tuple(LEGACY_POOLING.values())
OFFSET_POSITIONS = (
    *("roberta", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm", "camembert", "data2vec-text", "ibert"),
    *("longformer", "luke", "markuplm", "mpnet", "xmod", "ernie_m"),
)
"""Model types whose positions begin at pad_token_id + 1, so that their tables hold that many fewer tokens."""
OTHER_NAMES: dict[str, str] = dict.fromkeys(
    ("gpt2", "gpt_bigcode", "gptj", "codegen", "openai-gpt", "ctrl"), "n_positions"
)
"""Model types, and under which name they have max_position_embeddings."""


@dataclass(frozen=True)
class Head:
    """What happens to a vector after pooling.

    folder  of the weights of a Dense layer; None for Normalize
    """

    folder: Path | None = None
    activation: str = "Identity"
    residual: bool = False


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that makes a vector of a text, except for the weights.

    transformer      folder of the network and its tokenizer
    pooling          modes whose vectors are joined end to end
    include_prompt   whether the prompt's tokens are pooled as well
    heads            in their order
    max_length       tokens of a text that are read, special ones included
    lower_case       texts are put into lower case first
    query_prompt, document_prompt   what stands before every text
    similarity       that the model was trained for
    dimensions       of a vector that are kept, the first ones; None: all
    routed           whether this is the route of one role, and another role has its own
    """

    transformer: Path
    pooling: tuple[str, ...]
    include_prompt: bool = True
    heads: tuple[Head, ...] = ()
    max_length: int
    lower_case: bool = False
    query_prompt: str = ""
    document_prompt: str = ""
    similarity: Similarity = "cosine"
    dimensions: int | None = None
    routed: bool = False


def read_recipe(
    folder: Path,
    role: Role,
    *,
    pooling: PoolingMode | None = None,
    similarity: Similarity | None = None,
    max_length: int | None = None,
) -> Recipe:
    """Read a folder's recipe for the texts of a role; what is given stands above what the folder says.

    Raises ModelError where the folder holds no encoder, one of a kind that is not known, or says nothing of pooling or of
    the length, if that is not given.
    """
    if not (folder / "modules.json").is_file():
        config = read_json(folder / "config.json")
        if pooling is None:
            causal = architecture(config).endswith(("ForCausalLM", "LMHeadModel"))
            kind = "a causal language model" if causal else f"a plain {architecture(config)}"
            raise ModelError(
                f"model folder {folder} is {kind} without modules.json, so it does not say how its tokens become one "
                f"vector; choose the setting 'pooling' ({', '.join(POOLING_MODES)}), or take a model made for retrieval"
            )
        length = max_length or stated_length(folder, config, {})
        read = Recipe(transformer=folder, pooling=(pooling,), max_length=length)
    else:
        read = _read_modules(folder, role, max_length)
        if pooling is not None:
            read = replace(read, pooling=(pooling,))
    return _with_prompts(read, folder, similarity)


def recipe_digest(folder: Path, role: Role) -> str:
    """Digest of all that is loaded for a role: of the folder or, where it has a Router, of the modules on the role's way.

    Folders that differ in the other role's route alone have the same, so what config_sentence_transformers.json says
    is not in it: prompt and normalisation stand beside a digest wherever it is kept.
    """
    path = folder / "modules.json"
    listed = listed_modules(path) if path.is_file() else []
    return modules_digest(followed(listed, role)) if has_router(listed) else model_digest(folder)


def network_config(transformer: Path) -> dict[str, Any]:
    """The network's config.json. Raises ModelError for one that says no model type."""
    config = read_json(transformer / "config.json")
    if not isinstance(config.get("model_type"), str):
        raise ModelError(f"{transformer / 'config.json'} names no model_type, so the network's kind is not known")
    return config


def longest(config: Mapping[str, Any]) -> int | None:
    """Tokens that the network has positions for; None where it sets no limit."""
    kind = config.get("model_type")
    positions = config.get(OTHER_NAMES.get(str(kind), "max_position_embeddings"))
    if positions is None and isinstance(
        of_texts := config.get("text_config"), dict
    ):  # of a network that reads images, too
        return longest(of_texts)
    if not isinstance(positions, int) or positions < 1:
        return None
    return positions - (int(config.get("pad_token_id") or 0) + 1 if kind in OFFSET_POSITIONS else 0)


def transformer_folder(folder: Path) -> Path:
    """Where the network and its tokenizer stand in a model's folder: that of the first module, if modules are listed."""
    modules = folder / "modules.json"
    return listed_modules(modules)[0][1] if modules.is_file() else folder


def listed_modules(path: Path) -> list[tuple[str, Path]]:
    """Kind and folder of every module of a modules.json.

    Raises ModelError for a file that is none, for modules of other packages, and for folders that stand deeper or elsewhere:
    what is right inside the model's folder is what its digest is of.
    """
    try:
        listed = [(str(module["type"]), str(module["path"])) for module in _list(path)]
    except (KeyError, TypeError) as error:
        raise ModelError(f"{path} is not a list of modules, each with type and path ({error})") from None
    for kind, place in listed:
        if len(Path(place).parts) > 1 or place.startswith(("..", "/", "~")):
            raise ModelError(f"{path}: the module {kind} stands in {place!r}; it must stand right inside the folder")
    return [(kind_of(kind, path), path.parent / place) for kind, place in listed]


def stated(folder: Path) -> dict[str, Any]:
    """What a folder's config_sentence_transformers.json states: nothing where there is none."""
    path = folder / STATED
    return read_json(path) if path.is_file() else {}


def stated_prompts(folder: Path) -> tuple[str, str]:
    """Prompts of queries and of documents that a folder's config_sentence_transformers.json states."""
    told = stated(folder)
    prompts = told.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(prompt, (str, NoneType)) for prompt in prompts.values()):
        raise ModelError(f"{folder / STATED}: the prompts are {prompts!r}, must be texts by their names")
    default = prompts.get(told.get("default_prompt_name")) or ""
    there = {name: prompt for name, prompt in prompts.items() if prompt is not None}  # one that is empty is stated, too
    document = next((there[name] for name in ("document", "passage", "corpus") if name in there), default)
    return there.get("query", default), document


def _read_modules(folder: Path, role: Role, max_length: int | None) -> Recipe:
    path = folder / "modules.json"
    listed = listed_modules(path)
    routed, modules = has_router(listed), followed(listed, role)
    where = f"{path}, route {role}" if routed else path
    kinds = [kind for kind, _ in modules]
    known = {"Transformer", "Pooling", "Dense", "Normalize"}
    if unknown := [kind for kind in kinds if kind not in known]:
        raise ModelError(
            f"{where}: modules of the kind {unknown[0]} are not supported; only {', '.join(sorted(known))}"
        )
    if kinds[:2] != ["Transformer", "Pooling"] or "Transformer" in kinds[1:] or "Pooling" in kinds[2:]:
        raise ModelError(
            f"{where}: the modules are {', '.join(kinds) or 'none'}; they must begin with Transformer, Pooling"
        )
    transformer = modules[0][1]
    settings = checked_settings(transformer)
    pooled = read_json(modules[1][1] / "config.json")
    return Recipe(
        transformer=transformer,
        pooling=pooling_modes(modules[1][1] / "config.json", pooled),
        include_prompt=bool(pooled.get("include_prompt", True)),
        heads=tuple(read_head(kind, place) for kind, place in modules[2:]),
        max_length=max_length or stated_length(transformer, network_config(transformer), settings),
        lower_case=bool(settings.get("do_lower_case")),
        routed=routed,
    )


def _list(path: Path) -> list[Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}") from None
    return content if isinstance(content, list) else [content]


def transformer_settings(transformer: Path) -> dict[str, Any]:
    """Content of a Transformer module's sentence_bert_config.json, or of one by an older name; empty where there is none."""
    path = _settings_file(transformer)
    return read_json(path) if path.is_file() else {}


def _settings_file(transformer: Path) -> Path:
    path = transformer / TRANSFORMER_SETTINGS
    older = (transformer / name for name in OLDER_SETTINGS)
    return path if path.is_file() else next((one for one in older if one.is_file()), path)


def checked_settings(transformer: Path, *, chat: bool = False) -> dict[str, Any]:
    """As transformer_settings. Raises ModelError for one that would make other vectors or scores than are made here.

    chat  texts are written into the tokenizer's chat template, where the settings say so
    """
    path, settings = _settings_file(transformer), transformer_settings(transformer)

    def refuse(name: str, why: str = "is not supported") -> ModelError:
        return ModelError(f"{path}: the setting {name} {why}")

    for name, value in settings.items():
        if name in OPENING and (other := next((one for one in value or {} if one not in HARMLESS), None)):
            raise refuse(f"{name}.{other}")
        if name not in (*SETTINGS_READ, *OPENING) and value not in (None, False, {}, []):
            raise refuse(name)
    modalities = settings.get("modality_config") or {}
    if "message" in modalities and not chat:
        raise refuse("modality_config.message", "writes texts into a chat template, which is not supported here")
    text = modalities.get("text") or {}
    if text.get("method", "forward") != "forward" or text.get("method_output_name") not in OUTPUTS:
        raise refuse("modality_config.text", f"asks the network for {text.get('method_output_name')!r}: not supported")
    for part in ("text", "common"):
        calling = (settings.get("processing_kwargs") or {}).get(part) or {}
        if other := next((one for one in calling if one not in CALLING), None):
            raise refuse(f"processing_kwargs.{part}.{other}")
        if calling.get("truncation") not in (None, True, "longest_first"):
            raise refuse(f"processing_kwargs.{part}.truncation", f"is {calling['truncation']!r}: not supported")
    return settings


def pooling_modes(path: Path, pooled: Mapping[str, Any]) -> tuple[str, ...]:
    """Modes that a Pooling module's config.json names. Raises ModelError for one that is not known."""
    stated = pooled.get("pooling_mode")
    if stated is None:
        stated = [mode for key, mode in LEGACY_POOLING.items() if pooled.get(key)] or ["mean"]
    modes = tuple(map(str, stated)) if isinstance(stated, list) else (str(stated),)
    if unknown := [mode for mode in modes if mode not in POOLING_MODES]:
        raise ModelError(f"{path}: pooling {unknown[0]!r} is not known; there are {', '.join(POOLING_MODES)}")
    return modes


def read_head(kind: str, place: Path, output: str = "sentence_embedding") -> Head:
    """A module behind pooling, Normalize or Dense. Raises ModelError for a Dense layer that gives something else."""
    if kind == "Normalize":
        return Head()
    config = read_json(place / "config.json")
    takes = config.get("module_input_name", "sentence_embedding")
    gives = config.get("module_output_name") or takes
    if (takes, gives) != ("sentence_embedding", output):
        raise ModelError(f"{place / 'config.json'}: a Dense layer from {takes} to {gives} is not supported here")
    activation = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
    return Head(place, activation, bool(config.get("use_residual", False)))


def stated_length(transformer: Path, config: Mapping[str, Any], settings: Mapping[str, Any]) -> int:
    """What sentence-transformers was told; else the tokenizer's own limit, within the network's positions."""
    path = transformer / "tokenizer_config.json"
    tokenizer = read_json(path) if path.is_file() else {}
    calling = (settings.get("processing_kwargs") or {}).get("text") or {}
    opening = [(settings.get(name) or {}).get("model_max_length") for name in ("processor_kwargs", "tokenizer_args")]
    limits = [calling.get("max_length"), *opening, settings.get("max_seq_length"), tokenizer.get("model_max_length")]
    told = next((one for one in limits if one), None)
    if told is not None and not isinstance(told, (int, float)):
        raise ModelError(f"model folder {transformer} says that it reads {told!r} tokens, must be a number")
    limits = [limit for limit in (told, longest(config)) if limit is not None and 0 < limit < 1 << 30]
    if not limits:
        raise ModelError(f"model folder {transformer} sets no limit of length; choose the setting 'max_length'")
    return int(min(limits))


def _with_prompts(recipe: Recipe, folder: Path, similarity: Similarity | None) -> Recipe:
    own = stated(folder)
    named = own.get("similarity_fn_name") or "cosine"
    if similarity is None and named not in ("cosine", "dot"):
        raise ModelError(
            f"{folder / STATED}: similarity {named!r} is not supported; choose the setting 'similarity': cosine or dot"
        )
    query, document = stated_prompts(folder)
    told = {"query_prompt": query, "document_prompt": document, "similarity": similarity or named}
    return replace(recipe, **told, dimensions=own.get("truncate_dim"))


def architecture(config: Mapping[str, Any]) -> str:
    """Name of the network's class, as far as config.json says it."""
    names = config.get("architectures") or [config.get("model_type", "network")]
    return str(names[0])
