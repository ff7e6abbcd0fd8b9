"""What is trained of a network, and what is saved of it: the head always, the rest by the adapter."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the extra 'dense'")
pytest.importorskip("peft", reason="needs the extra 'train'")

import torch
from safetensors.torch import load_file

from rankpipe.errors import MissingExtraError, ModelError, UsageError
from rankpipe.models.adapters.attached import attach, head_of, linear_targets
from rankpipe.models.adapters.settings import Lora


def trained(network: torch.nn.Module) -> set[str]:
    return {name for name, parameter in network.named_parameters() if parameter.requires_grad}


def test_without_an_adapter_all_is_trained(opened: Callable[[], Any], train: Callable[..., list[float]]) -> None:
    attached = attach(opened(), None, seed=0)
    assert trained(attached.network) == {name for name, _ in attached.network.named_parameters()}
    groups = {group["name"]: group for group in attached.parameter_groups(1e-3, 0.1)}
    assert {name: group["weight_decay"] for name, group in groups.items()} == {
        "network": 0.1,
        "network vectors": 0.0,
        "head": 0.1,
        "head vectors": 0.0,
    }
    assert sum(len(group["params"]) for group in groups.values()) == len(list(attached.network.parameters()))
    losses = train(attached, steps=10)
    assert losses[-1] < losses[0]


def test_full_fine_tuning_has_no_adapter_to_export(opened: Callable[[], Any], tmp_path: Path) -> None:
    with pytest.raises(
        UsageError,
        match=r"^full fine-tuning leaves no adapter to export; save the network that merged\(\) gives$",
    ):
        attach(opened(), None, seed=0).export(tmp_path, "base")


def test_the_head_is_what_stands_beside_the_body_and_what_was_drawn(opened: Callable[[], Any]) -> None:
    network = opened()
    assert head_of(network, ()) == ("classifier",)
    assert head_of(network, ["classifier.weight", "classifier.bias"]) == ("classifier",)
    assert head_of(network, ["bert.pooler.dense.weight", "bert.pooler.dense.bias"]) == ("classifier", "bert.pooler")
    assert head_of(network, ["bert.embeddings.LayerNorm.bias"]) == ("classifier", "bert.embeddings.LayerNorm")


def test_a_network_without_a_body_is_refused() -> None:
    with pytest.raises(ModelError, match=r"^a Linear is no sequence classifier of transformers: it has no body$"):
        attach(torch.nn.Linear(2, 2), None, seed=0)


def test_a_network_of_nothing_but_a_head_takes_no_adapter(opened: Callable[[], Any]) -> None:
    network = opened()
    network.bert = torch.nn.Identity()
    with pytest.raises(ModelError) as caught:
        attach(network, Lora(), seed=0)
    assert str(caught.value) == (
        "a BertForSequenceClassification has no linear layer outside of its head, so no adapter fits"
    )


def test_a_drawn_pooler_is_trained_and_saved(opened: Callable[[], Any], tmp_path: Path) -> None:
    drawn = ["bert.pooler.dense.weight", "bert.pooler.dense.bias"]
    attached = attach(opened(), Lora(targets=("query",)), drawn=drawn, seed=0)
    assert {*drawn, "classifier.weight", "classifier.bias"} <= trained(attached.network)
    attached.export(tmp_path, "base")
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert {f"base_model.model.{name}" for name in (*drawn, "classifier.weight", "classifier.bias")} <= set(saved)


def test_targets_are_all_linear_layers_but_the_heads_or_those_named(opened: Callable[[], Any]) -> None:
    network = opened()
    layers = [f"bert.encoder.layer.{layer}" for layer in (0, 1)]
    assert linear_targets(network, ("classifier",), ("query", "layer.1.output.dense")) == (
        f"{layers[0]}.attention.self.query",
        f"{layers[1]}.attention.self.query",
        f"{layers[1]}.output.dense",
    )
    assert len(linear_targets(network, ("classifier",), "auto")) == 13  # six in each of two layers, and the pooler's
    assert len(linear_targets(network, ("classifier", "bert.pooler"), "auto")) == 12


@pytest.mark.parametrize(
    ("target", "hint"),
    [
        ("querry", "did you mean 'query'?"),
        ("classifier", "there are: dense, key, query, value"),
    ],
)
def test_a_target_that_names_nothing_is_refused(opened: Callable[[], Any], target: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        attach(opened(), Lora(targets=("value", target)), seed=0)
    assert str(caught.value) == (
        f"adapter target '{target}' names no linear layer of a BertForSequenceClassification outside of its head; {hint}"
    )


def test_attaching_leaves_torchs_random_numbers_alone(opened: Callable[[], Any]) -> None:
    network = opened()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    attach(network, Lora(), seed=0)
    assert torch.rand(4).tolist() == expected.tolist()


@pytest.mark.parametrize("settings", [None, Lora(r=4)])
def test_a_state_of_another_training_is_refused(opened: Callable[[], Any], settings: Lora | None) -> None:
    attached = attach(opened(), settings, seed=0)
    state = attached.state_dict()
    with pytest.raises(ModelError) as caught:
        attached.load_state_dict({name: value for name, value in state.items() if name != "classifier.bias"})
    assert str(caught.value) == "the saved state is that of another training: classifier.bias is missing in it"
    with pytest.raises(ModelError) as caught:
        attached.load_state_dict({**state, "zebra": torch.zeros(1)})
    assert str(caught.value) == "the saved state is that of another training: zebra is not trained here, but is in it"
    with pytest.raises(ModelError) as caught:
        attached.load_state_dict({**state, "classifier.bias": torch.zeros(2)})
    assert str(caught.value) == (
        "the saved state is that of another training: classifier.bias has the shape (2,), here (1,)"
    )


def test_without_peft_the_extra_is_named(opened: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError) as caught:
        attach(opened(), Lora(), seed=0)
    assert str(caught.value) == (
        "adapter method 'lora' needs peft: install rankpipe with its extra 'train', for example pip install '.[train]'"
    )
    assert attach(opened(), None, seed=0).head == ("classifier",)
