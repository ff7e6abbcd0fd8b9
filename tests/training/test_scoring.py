"""Scores of pairs in training: those of the network's own forward, and the same gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'dense'")

from rankpipe.models.adapters.attached import attach  # noqa: E402
from rankpipe.models.adapters.settings import Lora  # noqa: E402
from rankpipe.training.networks import open_cross_encoder  # noqa: E402
from rankpipe.training.packed import PackedBert  # noqa: E402
from rankpipe.training.scoring import PairScorer  # noqa: E402

CPU = torch.device("cpu")


@pytest.fixture
def network(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> Any:
    """In double precision, so that another order of the same sums shows nowhere."""
    opened, _ = open_cross_encoder(tiny_encoder(tmp_path / "encoder", pooling=None), 0, dropout=0.0, device=CPU)
    return opened.double().train()


def pairs(count: int, shortest: int, longest: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(count)
    lengths = rng.integers(shortest, longest + 1, count)
    return [(rng.integers(1, 90, length), (np.arange(length) > length // 3).astype(np.int64)) for length in lengths]


def scorers(network: Any, batch_tokens: int | None = None) -> tuple[PairScorer, PairScorer]:
    """Packed, and by the network's own forward."""
    packed, own = (PairScorer(network, device=CPU, dtype=torch.float32, batch_tokens=batch_tokens) for _ in range(2))
    own._packed = None
    return packed, own


def gradients(network: Any, scorer: PairScorer, given: list[Any]) -> tuple[Any, dict[str, Any]]:
    network.zero_grad()
    scores = scorer(given)
    (scores.double() * torch.arange(1, len(given) + 1)).sum().backward()
    found = {name: one.grad.clone() for name, one in network.named_parameters() if one.grad is not None}
    return scores.detach(), found


@pytest.mark.parametrize("given", [pairs(1, 9, 9), pairs(7, 12, 12), pairs(30, 4, 60), pairs(20, 30, 33)])
@pytest.mark.parametrize("adapter", [None, Lora(r=4)])
def test_packed_scores_and_gradients_are_those_of_the_network(network: Any, given: list[Any], adapter: Any) -> None:
    attach(network, adapter, drawn=["classifier.weight", "classifier.bias"], seed=0)
    network.double()
    packed, own = scorers(network)
    assert PackedBert.fits(network)
    found, of_packed = gradients(network, packed, given)
    expected, of_own = gradients(network, own, given)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert of_packed.keys() == of_own.keys()
    largest = max(float(one.abs().max()) for one in of_own.values())
    for name, gradient in of_own.items():
        torch.testing.assert_close(of_packed[name], gradient, rtol=1e-9, atol=1e-12 * largest)


def test_scores_stand_in_the_order_of_the_pairs_whatever_the_batches(network: Any) -> None:
    given = pairs(25, 4, 60)
    whole, _ = scorers(network)
    small, plain = scorers(network, batch_tokens=100)
    alone = torch.cat([whole([pair]) for pair in given])
    for scorer in (whole, small, plain):
        torch.testing.assert_close(scorer(given), alone, rtol=1e-6, atol=1e-6)
    assert whole([]).shape == (0,)


def test_dropout_drops_in_training_alone(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    opened, _ = open_cross_encoder(tiny_encoder(tmp_path / "encoder", pooling=None), 0, dropout=0.3, device=CPU)
    packed, own = scorers(opened)
    given = pairs(10, 4, 40)
    for scorer in (packed, own):
        opened.train()
        assert not torch.equal(scorer(given), scorer(given))
        opened.eval()
        assert torch.equal(scorer(given), scorer(given))


def test_other_networks_are_called_as_they_are(network: Any) -> None:
    network.config.is_decoder = True
    assert not PackedBert.fits(network)
    network.config.is_decoder = False
    assert not PackedBert.fits(network.bert)


@pytest.mark.parametrize("adapter", [None, Lora(r=4)])
def test_in_bfloat16_weights_and_gradients_stay_in_float32(network: Any, adapter: Any) -> None:
    attach(network, adapter, drawn=["classifier.weight", "classifier.bias"], seed=0)
    network.float()
    given = pairs(12, 4, 40)
    packed, own = (PairScorer(network, device=CPU, dtype=torch.bfloat16, batch_tokens=None) for _ in range(2))
    own._packed = None
    exact = scorers(network)[0](given)
    for scorer in (packed, own):
        found, gradients_of = gradients(network, scorer, given)
        assert found.dtype == torch.float32
        assert {one.dtype for one in gradients_of.values()} == {torch.float32}
        torch.testing.assert_close(found, exact.detach(), rtol=0.1, atol=0.1)
        assert not torch.equal(found, exact)
