"""What every method of the registry must keep, from its first step to the file that another library opens."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

pytest.importorskip("torch", reason="needs the extra 'dense'")
pytest.importorskip("peft", reason="needs the extra 'train'")

import torch

from rankpipe.models.adapters.attached import Attached, attach
from rankpipe.models.adapters.registry import METHODS, AdapterSettings
from rankpipe.models.adapters.settings import Adapter
from rankpipe.pipeline.settings import Setting
from rankpipe.pipeline.source import parse_source
from rankpipe.pipeline.writer import in_one_line
from rankpipe.stage import SETTINGS
from rankpipe.training.checkpoints import last_checkpoint, write_checkpoint

MADE: dict[str, dict[str, Any]] = {
    "lora": {"r": 4, "alpha": 8, "rslora": True},
    "dora": {"r": 4, "alpha": 8},
    "pissa": {"r": 4, "alpha": 4},
    "olora": {"r": 4, "alpha": 8},
    "eva": {"r": 4, "alpha": 8},
    "adalora": {"r": 2, "alpha": 16, "init_r": 4, "orthogonality": 0.1},
    "sora": {"r": 4, "alpha": 8, "threshold": 0.01, "l1": 0.01},
    "dylora": {"r": 4, "alpha": 8, "rank": 3},
    "randlora": {"r": 8, "alpha": 160},
}
"""Settings that fit the tiny network."""
NAMES = [one.name for one in METHODS if one.settings is not None]
FACTORS = {"lora_A", "lora_B"}
TRAINED = {
    **dict.fromkeys(NAMES, FACTORS),
    "dora": {*FACTORS, "lora_magnitude_vector"},
    "adalora": {*FACTORS, "lora_E"},
    "sora": {*FACTORS, "lora_gate"},
    "randlora": {"randlora_lambda", "randlora_gamma"},
}
"""Parts of the names of all parameters that a method trains outside of the head."""

TEXTS = [["apple tree", "the car"], ["a road", "sweet fruit"], ["query", "passage: the tree"], ["x", "the"]]

OPENING = """
import json, sys
import numpy, torch
from peft import PeftModel
from sentence_transformers import CrossEncoder
from transformers import AutoModelForSequenceClassification

from rankpipe.models.cross_encoder import CrossEncoderScorer
from rankpipe.models.pair_recipe import PairSettings
from rankpipe.models.runtime import Runtime

base, texts, folders = json.loads(sys.stdin.read())
queries, documents = map(list, zip(*texts))
rows = numpy.arange(len(texts)).repeat(2).reshape(-1, 2)
scores = {}
for name, folder in folders.items():
    model = CrossEncoder(folder, device="cpu")
    theirs = model.predict(texts, activation_fn=torch.nn.Identity()).tolist()
    tokens = model.tokenizer(queries, documents, padding=True, return_tensors="pt")
    network = PeftModel.from_pretrained(AutoModelForSequenceClassification.from_pretrained(base), folder).eval()
    with torch.no_grad():
        pefts = network(**tokens).logits[:, 0].tolist()
    ours = CrossEncoderScorer(base, PairSettings(), Runtime(dtype="float32"), adapter=folder)
    scores[name] = theirs, pefts, ours.score(queries, documents, rows).scores.tolist()
print(json.dumps(scores))
"""
"""A process of its own: scores by sentence-transformers, by transformers and peft, and by what `cross-encoder` runs."""


class Tuned(NamedTuple):
    """A method after fifty steps.

    untouched  scores of the network before it was attached
    first      scores before the first step
    losses     before every step
    scores     after the last step
    """

    attached: Attached
    untouched: torch.Tensor
    first: torch.Tensor
    losses: list[float]
    scores: torch.Tensor


@pytest.fixture(scope="module")
def tuned(
    classifier: Path, opened: Callable[[], Any], pairs: Any, train: Callable[..., list[float]]
) -> Callable[[str], Tuned]:
    """`tuned("lora")`: that method on the tiny network, trained once."""
    done: dict[str, Tuned] = {}

    def call(name: str) -> Tuned:
        if name not in done:
            network = opened()
            untouched = pairs.scores(network)
            attached = attach(network, settings_for(name), calibration=pairs.calibration, seed=7)
            first = pairs.scores(network)
            losses = train(attached)
            done[name] = Tuned(attached, untouched, first, losses, pairs.scores(network))
        return done[name]

    return call


def settings_for(name: str) -> Adapter:
    return TypeAdapter(AdapterSettings).validate_python({"method": name, **MADE[name]})


@pytest.mark.parametrize("name", NAMES)
def test_at_first_the_scores_are_those_of_the_network(tuned: Callable[[str], Tuned], name: str) -> None:
    assert (tuned(name).first - tuned(name).untouched).abs().max() < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_ten_steps_lower_the_loss(tuned: Callable[[str], Tuned], name: str) -> None:
    losses = tuned(name).losses
    assert losses[10] < losses[0]
    assert losses[-1] < losses[10]


@pytest.mark.parametrize("name", NAMES)
def test_only_what_is_declared_and_the_head_get_gradients(opened: Callable[[], Any], pairs: Any, name: str) -> None:
    attached = attach(opened(), settings_for(name), calibration=pairs.calibration, seed=7)
    attached.before_step(1, 10)
    pairs.loss(attached.network.train()).backward()
    with_gradient = {key for key, value in attached.network.named_parameters() if value.grad is not None}
    head = {key for key in with_gradient if key.startswith("classifier.")}
    assert head == {"classifier.weight", "classifier.bias"}
    parts = {part for key in with_gradient - head for part in key.split(".") if "lora_" in part}
    assert parts == TRAINED[name]
    assert all(any(part in key.split(".") for part in parts) for key in with_gradient - head)
    in_groups = {id(value) for group in attached.parameter_groups(1e-3, 0.0) for value in group["params"]}
    assert in_groups == {id(value) for value in attached.network.parameters() if value.requires_grad}
    assert with_gradient == {key for key, value in attached.network.named_parameters() if value.requires_grad}


@pytest.mark.parametrize("name", NAMES)
def test_merged_the_scores_are_the_same(tuned: Callable[[str], Tuned], pairs: Any, name: str) -> None:
    one = tuned(name)
    merged = one.attached.merged()
    assert (pairs.scores(merged) - one.scores).abs().max() < 1e-5
    assert (pairs.scores(one.attached.network) - one.scores).abs().max() == 0  # merged() works on a copy
    assert not any("lora" in key or "base_layer" in key for key in merged.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_bits(
    opened: Callable[[], Any], pairs: Any, train: Callable[..., list[float]], name: str
) -> None:
    states = []
    for seed in (5, 5, 6):
        attached = attach(opened(), settings_for(name), calibration=pairs.calibration, seed=seed)
        train(attached, steps=3)
        states.append(attached.state_dict())
    first, again, other = states
    assert all(torch.equal(value, again[key]) for key, value in first.items())
    if name not in ("pissa", "olora", "eva"):  # which draw nothing
        assert not all(torch.equal(value, other[key]) for key, value in first.items())


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_training_goes_on_to_the_same_bits(
    opened: Callable[[], Any], pairs: Any, train: Callable[..., list[float]], name: str
) -> None:
    def begun() -> tuple[Attached, Any]:
        attached = attach(opened(), settings_for(name), calibration=pairs.calibration, seed=5)
        return attached, torch.optim.AdamW(attached.parameter_groups(3e-3, 0.01))

    whole, optimizer = begun()
    train(whole, optimizer=optimizer, steps=12, last=7)
    state, moments = copy.deepcopy((whole.state_dict(), optimizer.state_dict()))
    train(whole, optimizer=optimizer, steps=12, first=8)
    resumed, optimizer = begun()
    resumed.load_state_dict(state)
    optimizer.load_state_dict(moments)
    train(resumed, optimizer=optimizer, steps=12, first=8)
    assert whole.state_dict().keys() == resumed.state_dict().keys()
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in whole.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_holds_the_state_at_the_end(tuned: Callable[[str], Tuned], name: str, tmp_path: Path) -> None:
    state = tuned(name).attached.state_dict()
    write_checkpoint(tmp_path, 50, state, {})
    kept = last_checkpoint(tmp_path, torch.device("cpu"))
    assert kept is not None
    assert kept[0].keys() == state.keys()
    assert all(torch.equal(value, kept[0][key]) for key, value in state.items())


@pytest.fixture(scope="module")
def opened_scores(
    tuned: Callable[[str], Tuned], classifier: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[list[float]]]:
    """Scores of TEXTS by method, as another process gets them of the exported adapters, in three ways."""
    from sentence_transformers import CrossEncoder

    root = tmp_path_factory.mktemp("exported")
    CrossEncoder(str(classifier), device="cpu").save_pretrained(str(root / "files"))
    for name in ("model.safetensors", "config.json"):
        (root / "files" / name).unlink()
    for name in NAMES:
        shutil.copytree(root / "files", root / name)
        tuned(name).attached.export(root / name, str(classifier))
    told = json.dumps([str(classifier), TEXTS, {name: str(root / name) for name in NAMES}])
    done = subprocess.run([sys.executable, "-c", OPENING], input=told, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", NAMES)
def test_sentence_transformers_peft_and_the_stage_open_what_was_exported(
    tuned: Callable[[str], Tuned], classifier: Path, opened_scores: dict[str, list[list[float]]], name: str
) -> None:
    from transformers import AutoTokenizer

    queries, documents = zip(*TEXTS, strict=True)
    tokens = AutoTokenizer.from_pretrained(classifier)(
        list(queries), list(documents), padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        scores = tuned(name).attached.network.eval()(**tokens).logits[:, 0]
    assert (torch.tensor(opened_scores[name]) - scores).abs().max() < 1e-5


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Tuning:
    """Settings with an adapter among them, as a recipe has them."""

    adapter: AdapterSettings | None = None


@pytest.mark.parametrize("name", NAMES)
def test_settings_survive_yaml_and_back(name: str) -> None:
    settings = settings_for(name)
    root = parse_source(f"adapter: {in_one_line(settings)}\n").root
    assert root is not None
    field = Tuning.__pydantic_fields__["adapter"]  # type: ignore[attr-defined]
    value = Setting("adapter", field).value(root.entries[0].value, None)
    assert Tuning(adapter=value).adapter == settings
