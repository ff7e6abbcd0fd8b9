"""Products of 8-bit integers: exact as integers, close as numbers, the same whatever is computed with them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'dense'")
pytest.importorskip("transformers", reason="needs the extra 'dense'")

import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5EncoderModel,
)

from rankpipe import Runtime
from rankpipe.errors import UsageError
from rankpipe.models import int8
from rankpipe.models.int8 import Quantised, QuantisedLinear, quantise
from rankpipe.models.network import dtype_of, in_precision


def layer(inputs: int, outputs: int, seed: int = 0, **settings: Any) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(inputs, outputs, **settings)


@pytest.mark.parametrize(("inputs", "outputs"), [(32, 8), (384, 1152), (1536, 384), (5, 3)])
def test_products_are_of_the_integers_that_the_rule_gives(inputs: int, outputs: int) -> None:
    one = layer(inputs, outputs)
    weight, bias = (part.detach().numpy() for part in (one.weight, one.bias))
    states = (torch.randn(17, inputs) * torch.tensor([10.0**power for power in range(-8, 9)])[:, None]).numpy()
    largest = np.abs(states).max(axis=1, keepdims=True)
    of_states = np.floor(states * (np.float32(127) / largest) + np.float32(128.5)).astype(np.int64) - 128
    unit = np.abs(weight).max(axis=1, keepdims=True) / np.float32(63)
    of_weights = np.round(weight / unit).astype(np.int64)
    assert (np.abs(of_states).max(), np.abs(of_weights).max()) == (127, 63)
    expected = (of_states @ of_weights.T) * (largest / 127.0) * unit[:, 0].astype(np.float64) + bias
    found = Quantised.of(one)(torch.from_numpy(states)).numpy()
    assert np.allclose(found, expected, rtol=1e-6, atol=1e-6 * largest.max(axis=1, keepdims=True))
    # an input is half a step off at most, a weight half a unit
    step, exact = largest / 127.0, states.astype(np.float64) @ weight.T + bias
    bound = step / 2 * np.abs(weight).sum(axis=1) + np.abs(states).sum(axis=1, keepdims=True) * unit[:, 0] / 2
    assert (np.abs(found - exact) <= bound + inputs * step / 2 * unit[:, 0] / 2 + 1e-6).all()


def test_the_largest_numbers_do_not_overflow() -> None:
    one = layer(64, 2, bias=False)
    with torch.no_grad():
        one.weight[0], one.weight[1] = 63.0, -63.0
    states = torch.full((3, 64), 127.0)
    states[1] *= -1
    states[2, ::2] *= -1
    found = Quantised.of(one)(states)
    assert found.tolist() == [[64 * 127 * 63.0, -64 * 127 * 63.0], [-64 * 127 * 63.0, 64 * 127 * 63.0], [0.0, 0.0]]


def test_zeros_give_the_bias_and_what_is_no_number_stays_none() -> None:
    one = layer(32, 4)
    states = torch.zeros(4, 32)
    states[1, 5], states[2, 6], states[3, 0] = float("nan"), float("inf"), -float("inf")
    found = Quantised.of(one)(states)
    assert torch.equal(found[0], one.bias.detach())
    assert not torch.isfinite(found[1:]).any()


def test_rows_of_weights_that_are_zero_give_the_bias() -> None:
    one = layer(32, 4)
    with torch.no_grad():
        one.weight[2] = 0
    found = Quantised.of(one)(torch.randn(5, 32))
    assert found[:, 2].tolist() == [float(one.bias.detach()[2])] * 5


def test_layers_side_by_side_and_activations() -> None:
    first, second = layer(32, 4), layer(32, 6, seed=1, bias=False)
    states = torch.randn(3, 5, 32)
    alone = torch.cat([Quantised.of(first)(states), Quantised.of(second)(states)], dim=2)
    assert torch.equal(Quantised.of(first, second)(states), alone)
    assert torch.equal(Quantised.of(first, second, activation="relu")(states), alone.relu())
    for variant in ("none", "tanh"):
        found = Quantised.of(first, second, activation="gelu", variant=variant)(states)
        assert torch.equal(found, nn.functional.gelu(alone, approximate=variant))


def test_a_row_is_the_same_to_the_last_bit_in_every_company() -> None:
    one = Quantised.of(layer(48, 20))
    states = torch.randn(301, 48)
    together = one(states)
    for begin, end in ((0, 1), (5, 21), (300, 301), (7, 201)):
        assert torch.equal(one(states[begin:end]), together[begin:end])
    assert torch.equal(one(states.T.contiguous().T), together)


def test_a_network_keeps_its_head() -> None:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    config = RobertaConfig(vocab_size=50, max_position_embeddings=40, **settings)
    config.num_labels = 1
    network = RobertaForSequenceClassification(config).eval()
    ids = torch.randint(5, 50, (4, 12))
    with torch.inference_mode():
        before = network.roberta(ids).last_hidden_state
        after = quantise(network).roberta(ids).last_hidden_state
    kinds = [type(module) for module in network.roberta.modules()]
    assert kinds.count(QuantisedLinear) == 12
    assert nn.Linear not in kinds
    assert type(network.classifier.dense) is nn.Linear
    difference = float((before - after).norm() / before.norm())
    assert 1e-5 < difference < 0.03


def test_layers_that_are_asked_for_their_weights_have_none() -> None:
    torch.manual_seed(0)
    config = T5Config(vocab_size=20, d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=4)
    network, ids = T5EncoderModel(config).eval(), torch.tensor([[3, 4, 5, 1]])
    with torch.inference_mode():
        before = network(ids).last_hidden_state
        after = quantise(network)(ids).last_hidden_state
    assert 1e-5 < float((before - after).norm() / before.norm()) < 0.05


def test_a_network_without_linear_layers_is_refused() -> None:
    network = GPT2Model(GPT2Config(vocab_size=10, n_positions=8, n_embd=8, n_layer=1, n_head=2))
    with pytest.raises(UsageError) as caught:
        quantise(network)
    assert str(caught.value) == "a GPT2Model has no linear layers that dtype int8 could stand for"


def test_it_is_for_cpus() -> None:
    assert dtype_of(Runtime(dtype="int8"), torch.device("cpu")) == torch.int8
    with pytest.raises(UsageError) as caught:
        dtype_of(Runtime(dtype="int8"), torch.device("cuda:1"))
    assert str(caught.value) == ("dtype int8 is for CPUs, and the device is cuda:1; choose auto, bfloat16 or float16")


def test_a_torch_without_onednn_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "has_products", lambda: False)
    with pytest.raises(UsageError, match="needs a torch that is built with oneDNN, and this one is not"):
        dtype_of(Runtime(dtype="int8"), torch.device("cpu"))


def test_auto_never_takes_it() -> None:
    assert dtype_of(Runtime(), torch.device("cpu")) != torch.int8


@pytest.mark.parametrize(
    ("dtype", "why"), [("int8", "is for networks that are trained already"), ("float16", "loses small gradients")]
)
def test_nothing_is_trained_in_it(
    tmp_path: Path, rankpipe: Callable[..., Any], pets: Path, dtype: str, why: str
) -> None:
    done = rankpipe(
        *("train", "cross-encoder-distilled", "--dataset", pets, "--output", tmp_path / "out", "--dtype", dtype)
    )
    said = f"error: dtype {dtype} {why}; choose auto, float32 or bfloat16\n"
    assert (done.status, done.err) == (2, said)


def test_what_is_no_weight_stays_in_float32() -> None:
    settings: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    network = in_precision(LlamaModel(LlamaConfig(vocab_size=9, intermediate_size=16, **settings)), torch.bfloat16)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}
    assert network.rotary_emb.inv_freq.dtype == torch.float32  # of positions, which bfloat16 cannot tell apart
