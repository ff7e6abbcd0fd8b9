"""Networks opened for inference: where they run, in which precision, from safetensors only."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from rankpipe.errors import ModelError, UsageError
from rankpipe.models.bert import FastBert
from rankpipe.models.int8 import check_products, quantise
from rankpipe.models.recipe import architecture, network_config
from rankpipe.models.references import check_weights, explained
from rankpipe.models.runtime import Runtime
from rankpipe.models.tokens import quiet

ENCODER_ONLY = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}
"""Encoder-decoders of which the encoder alone makes vectors."""
NOT_NEEDED = ("pooler.", "embeddings.position_ids")
"""Weights that checkpoints may lack: vectors are made from the last hidden states."""


LAYER = re.compile(r"(.*\b(?:layer|layers|h|block|blocks)\.\d+\.)")
"""How the name of a weight begins that stands in one of a network's like layers."""
BUFFERS = ("inv_freq", "position_ids", "masked_bias", "attn.bias", "attention.bias", "_cached")
"""How names end of what older versions kept with the weights and newer ones compute."""

States = Callable[[Tensor, Tensor], Tensor]
"""(S, T, D) last hidden states of tokens (S, T); a mask (S, T) is true where a token is no padding."""


def device_of(runtime: Runtime) -> torch.device:
    """The device that a runtime means. Raises UsageError for one that is not there."""
    if runtime.device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(runtime.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {runtime.device!r} cannot be used: {explained(error).partition('. ')[0]}") from None
    return device


def dtype_of(runtime: Runtime, device: torch.device) -> torch.dtype:
    """The precision of networks: as asked, or bfloat16 where the hardware computes with it, else float32.

    Raises UsageError for int8 where there are no products of 8-bit integers: on a GPU.
    """
    if runtime.dtype == "int8":
        if device.type != "cpu":
            raise UsageError(f"dtype int8 is for CPUs, and the device is {device}; choose auto, bfloat16 or float16")
        check_products()
    if runtime.dtype != "auto":
        return getattr(torch, runtime.dtype)
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere was the first
    else:
        abilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
        fast = any(abilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.bfloat16 if fast else torch.float32


def dtype_name(dtype: torch.dtype) -> str:
    """A precision as settings and manifests write it: float32, bfloat16."""
    return str(dtype).removeprefix("torch.")


def open_encoder(folder: Path, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The network of a folder, with its own weights only, ready to compute hidden states.

    Raises ModelError for weights that are missing, damaged or pickled, and for a network that is not an encoder.
    """
    kind = network_kind(folder, known=ENCODER_ONLY)
    network, lacking = opened(folder, ENCODER_ONLY.get(kind, "AutoModel"), "an encoder", dtype)
    lacking = [name for name in lacking if not name.startswith(NOT_NEEDED)]
    if lacking:
        raise lacks(folder, network, lacking)
    return network.eval().requires_grad_(False).to(device)


def open_states(folder: Path, device: torch.device, dtype: torch.dtype) -> tuple[nn.Module, States]:
    """The network of a folder, and how its last hidden states are computed in a precision. Raises ModelError."""
    ours = network_config(folder)["model_type"] == "bert" and device.type == "cpu"
    network = open_encoder(folder, device, torch.float32 if ours else dtype)
    if ours and FastBert.fits(network, dtype):
        return network, FastBert(network, dtype)
    network = in_precision(network, dtype) if ours else network
    return network, lambda ids, mask: network(input_ids=ids, attention_mask=mask.long()).last_hidden_state


def open_masked_lm(folder: Path, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The masked language model of a folder, ready to compute logits over its vocabulary.

    Raises ModelError as open_encoder, and for weights without a head: it would be drawn at random.
    """
    network_kind(folder)
    network, lacking = opened(folder, "AutoModelForMaskedLM", "a masked language model", dtype)
    advice = "take a model made for sparse retrieval, such as SPLADE"
    refuse_lacking(folder, network, lacking, head="masked-language-model head", advice=advice)
    return network.eval().requires_grad_(False).to(device)


def opened_for_training(folder: Path) -> tuple[Any, list[str]]:
    """A sequence classifier with one output in float32, and the weights that the folder lacks, which are drawn at random.

    Raises ModelError for weights that are damaged or pickled, and for a head over several classes.
    """
    network_kind(folder)
    check_classes(folder)
    return opened(folder, "AutoModelForSequenceClassification", "a sequence classifier", torch.float32, num_labels=1)


def without_weights(folder: Path) -> nn.Module:
    """The sequence classifier with one output that a folder's config.json describes, on torch's device without memory.

    Raises ModelError where transformers cannot make one of it.
    """
    try:
        with quiet(), torch.device("meta"):
            config = transformers.AutoConfig.from_pretrained(
                folder, num_labels=1, local_files_only=True, trust_remote_code=False
            )
            return transformers.AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    except Exception as error:  # a strange configuration fails in nearly any way
        raise _cannot_be_opened(folder, "a sequence classifier", error) from error


def check_classes(folder: Path) -> None:
    """Raise ModelError for a classifier of several classes or of tokens, whose head cannot be trained as one of scores."""
    config = network_config(folder)
    classes = len(config.get("id2label") or ()) or config.get("num_labels", 2)  # transformers does not write down two
    kind = architecture(config)
    of_texts = kind.endswith("ForSequenceClassification")
    if (of_texts and classes != 1) or kind.endswith("ForTokenClassification"):
        what = f"a classifier of {classes} classes" if of_texts else f"a classifier of tokens ({kind})"
        raise ModelError(
            f"model folder {folder} is {what}, and a head of one class is trained over texts; take a model with a single "
            "class, or an encoder without a head"
        )


def set_padding(network: Any, tokenizer: Any) -> int:
    """The token that fills sequences up, which the network's configuration names from now on.

    Where it named none it is the tokenizer's, or the one at the end of a text: a classifier that is a decoder finds the
    last token of a sequence by it.
    """
    config = network.config.get_text_config()
    numbers = (config.pad_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id)
    config.pad_token_id = next((number for number in numbers if number is not None), 0)
    return config.pad_token_id


def network_kind(folder: Path, known: Container[str] = ()) -> str:
    """The model type of a folder whose weights can be read. An encoder with a decoder is refused unless it is known."""
    config = network_config(folder)
    kind = config["model_type"]
    check_weights(folder)
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"model folder {folder} holds a network and an adapter beside it (adapter_config.json), which would be applied or "
            "not as it happens; merge the two, or put the adapter into a folder of its own, for the setting 'adapter'"
        )
    if own := config.get("auto_map"):
        print(
            f"note: model folder {folder} names code of its own ({', '.join(map(str, own))}), which is never run; it is read "
            f"as a {kind!r} of transformers, which may compute something else",
            file=sys.stderr,
        )
    named = (config.get("architectures") or [""])[0]
    described = getattr(getattr(transformers, str(named), None), "config_class", None)
    if described is not None and described.model_type != kind:  # weights of RoBERTa have the names of BERT's
        raise ModelError(
            f"{folder / 'config.json'} says model_type {kind!r} and architectures {named}, which is of the type "
            f"{described.model_type!r}; one of the two is wrong"
        )
    if config.get("is_encoder_decoder") and kind not in known:
        raise ModelError(f"model folder {folder} is of the type {kind!r}, an encoder with a decoder, not an encoder")
    return kind


def opened(folder: Path, opener: str, what: str, dtype: torch.dtype, **settings: Any) -> tuple[Any, list[str]]:
    """The network that a class of transformers makes of a folder, and the weights that the folder does not have.

    dtype     int8 is computed with; weights are then loaded in float32
    settings  that stand above those of config.json

    Raises ModelError for weights of other shapes than config.json describes, and for more layers.
    """
    try:
        with quiet():
            network, found = getattr(transformers, opener).from_pretrained(
                folder,
                dtype=torch.float32 if dtype == torch.int8 else dtype,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                **settings,
            )
    except Exception as error:  # a strange configuration fails in nearly any way
        raise _cannot_be_opened(folder, what, error) from error
    whole = f"model folder {folder}: its config.json and its weights do not fit each other"
    if found["mismatched_keys"]:
        name, has, described = min(found["mismatched_keys"])
        raise ModelError(f"{whole}: {name} has the shape {tuple(has)}, and should have {tuple(described)}")
    if surplus := _surplus(network, found["unexpected_keys"]):
        raise ModelError(f"{whole}: {surplus[0]} is of a layer that config.json does not count")
    if left_over := _left_over(network, found["unexpected_keys"]):
        raise ModelError(f"{whole}: a {type(network).__name__} has no place for {left_over[0]}, and would leave it out")
    return quantise(network) if dtype == torch.int8 else network, sorted(found["missing_keys"])


def _cannot_be_opened(folder: Path, what: str, error: Exception) -> ModelError:
    own = "; it needs code of its own, which is not run" if network_config(folder).get("auto_map") else ""
    return ModelError(f"model folder {folder} cannot be opened as {what}: {explained(error)}{own}")


def in_precision(network: Any, dtype: torch.dtype) -> Any:
    """A network that was opened in float32 in another precision, as if it had been opened in it; it is changed.

    What is not a weight stays in float32, such as the frequencies of rotary positions, and so do the weights that the
    network's class needs in it.
    """
    if dtype == torch.int8:
        return quantise(network)
    needed = tuple(getattr(network, "_keep_in_fp32_modules_strict", None) or ())
    if dtype == torch.float16:
        needed += tuple(getattr(network, "_keep_in_fp32_modules", None) or ())
    for name, parameter in network.named_parameters():
        if not any(part in needed for part in name.split(".")):
            parameter.data = parameter.data.to(dtype)
    return network


def _surplus(network: Any, unexpected: Iterable[str]) -> list[str]:
    """Weights for which the network has no place, though it has one for their like in another layer."""

    def like(name: str) -> str:
        return re.sub("[0-9]+", "0", name.removeprefix(f"{network.base_model_prefix}."))

    known = {like(name) for name in network.state_dict()}
    return [name for name in sorted(unexpected) if like(name) in known]


def _left_over(network: Any, unexpected: Iterable[str]) -> list[str]:
    """Weights for which the network has no place within a layer that it has: it computes something else than was trained."""

    def layer(name: str) -> str | None:
        found = LAYER.match(name.removeprefix(f"{network.base_model_prefix}."))
        return found and found[1]

    known = {layer(name) for name in network.state_dict()} - {None}
    return [name for name in sorted(unexpected) if layer(name) in known and not name.endswith(BUFFERS)]


def refuse_lacking(folder: Path, network: Any, lacking: Sequence[str], *, head: str, advice: str) -> None:
    """Raise ModelError where weights are lacking; where they are those of the head alone, name it and say what to do."""
    if lacking and not any(name.startswith(f"{network.base_model_prefix}.") for name in lacking):
        raise ModelError(f"model folder {folder} has no {head}: {lacking[0]} is not in its safetensors; {advice}")
    if lacking:
        raise lacks(folder, network, lacking)


def lacks(folder: Path, network: nn.Module, lacking: Sequence[str]) -> ModelError:
    """The error for a network whose folder does not have these weights."""
    return ModelError(
        f"model folder {folder}: {len(lacking)} weights of a {type(network).__name__}, which its config.json describes, "
        f"are not in its safetensors; the first is {lacking[0]}"
    )


@contextmanager
def thread_limit(threads: int) -> Iterator[None]:
    """Within the block, torch computes with so many threads."""
    before = torch.get_num_threads()
    if before != threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if before != threads:
            torch.set_num_threads(before)
