"""The fused product: what the layers of every method give, and the same gradients."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("peft", reason="needs the extra 'train'")

import torch

from rankpipe.models.adapters import settings as of
from rankpipe.models.adapters.attached import attach
from rankpipe.models.adapters.fused import applied, low_rank

FUSED = [
    of.Lora(r=4),
    of.Lora(r=4, rslora=True),
    of.Pissa(r=4),
    of.Olora(r=4),
    of.AdaLora(r=4),
    of.DyLora(r=4),
    of.DyLora(r=4, frozen=True),
    of.Sora(r=4),
]
OTHERS = [of.Dora(r=4), of.RandLora(r=8), of.Lora(r=4, dropout=0.5)]


def layer_of(network: Any, settings: of.Adapter) -> Any:
    """A layer in double precision whose factors are both far from zero."""
    attach(network, settings, seed=0)
    layer = network.bert.encoder.layer[1].intermediate.dense.double().train()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
    return layer


def results(layer: Any, function: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Output and gradients for states of 2 by 5 tokens."""
    layer.zero_grad()
    generator = torch.Generator().manual_seed(4)
    states = torch.randn(2, 5, layer.in_features, generator=generator, dtype=torch.float64, requires_grad=True)
    found = function(states)
    found.square().sum().backward()
    gradients = {name: one.grad.clone() for name, one in layer.named_parameters() if one.grad is not None}
    assert states.grad is not None
    return found.detach(), {**gradients, "states": states.grad}


@pytest.mark.parametrize("settings", FUSED, ids=lambda one: one.method)
@pytest.mark.parametrize("training", [True, False])
def test_the_fused_product_is_what_the_layer_gives(opened: Any, settings: of.Adapter, training: bool) -> None:
    layer = layer_of(opened(), settings).train(training)
    assert low_rank(layer) is not None
    expected, of_layer = results(layer, layer)
    found, of_product = results(layer, lambda states: applied(layer, states))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert of_product.keys() == of_layer.keys()
    assert len(of_layer) > 1
    for name, gradient in of_layer.items():
        torch.testing.assert_close(of_product[name], gradient, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("settings", OTHERS, ids=lambda one: one.method)
def test_layers_that_do_more_are_called(opened: Any, settings: of.Adapter) -> None:
    layer = layer_of(opened(), settings)
    assert low_rank(layer) is None
    torch.manual_seed(0)
    expected, of_layer = results(layer, layer)
    torch.manual_seed(0)
    found, of_called = results(layer, lambda states: applied(layer, states))
    assert torch.equal(found, expected)
    assert all(torch.equal(of_called[name], gradient) for name, gradient in of_layer.items())


def test_an_untouched_layer_and_one_whose_update_is_off_are_called(opened: Any) -> None:
    network = opened()
    attached: Any = attach(network, of.Lora(r=4, targets=("query",)), seed=0)
    attention = network.bert.encoder.layer[0].attention.self
    assert low_rank(attention.key) is None
    assert low_rank(attention.query) is not None
    with attached.tuned.disable_adapter():
        assert low_rank(attention.query) is None


def test_under_autocast_the_product_is_computed_in_its_precision(opened: Any) -> None:
    layer = layer_of(opened(), of.Lora(r=4)).float()
    states = torch.randn(6, layer.in_features, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = applied(layer, states)
    found.float().sum().backward()
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), layer(states), rtol=0.05, atol=0.05)
    assert states.grad is not None
    assert {states.grad.dtype, layer.lora_A["default"].weight.grad.dtype} == {torch.float32}


def test_frozen_states_get_no_gradient(opened: Any) -> None:
    layer = layer_of(opened(), of.Lora(r=4))
    applied(layer, torch.randn(6, layer.in_features, dtype=torch.float64)).sum().backward()
    assert layer.lora_A["default"].weight.grad.abs().sum() > 0
    assert layer.base_layer.weight.grad is None
