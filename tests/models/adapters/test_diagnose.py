"""Intruder dimensions, planted where they are to be found."""

import pytest

pytest.importorskip("torch", reason="needs the extra 'dense'")

import torch

from rankpipe.models.adapters.diagnose import intruder_dimensions


def weight(rows: int = 20, columns: int = 12) -> torch.Tensor:
    """Singular values 12, 11, ... 1."""
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(rows, columns, generator=generator))[0]
    right = torch.linalg.qr(torch.randn(columns, columns, generator=generator))[0]
    return left @ torch.diag(torch.arange(columns, 0, -1.0)) @ right.T


def planted(before: torch.Tensor, size: float) -> torch.Tensor:
    """The weight with a direction added that is orthogonal to all its left singular vectors."""
    beyond = torch.linalg.svd(before, full_matrices=True)[0][:, before.shape[1]]
    return before + size * torch.outer(beyond, torch.linalg.svd(before)[2][-1])


def test_an_unchanged_weight_has_none() -> None:
    assert intruder_dimensions({"layer": weight()}, {"layer": weight()}) == {"layer": 0}
    assert intruder_dimensions({"layer": weight()}, {"layer": 2 * weight()}) == {"layer": 0}


def test_a_strong_new_direction_is_one() -> None:
    # |u_12 + 30 u_new| has a cosine with u_12 of 1 / sqrt(901) = .03, and is the strongest
    assert intruder_dimensions({"layer": weight()}, {"layer": planted(weight(), 30.0)}) == {"layer": 1}


def test_a_weak_one_is_not_among_the_first_k() -> None:
    # sqrt(1 + 1.5^2) = 1.80, which is the 12th value: 12, 11, ... 2, 1.80
    after = {"layer": planted(weight(), 1.5)}
    assert intruder_dimensions({"layer": weight()}, after, k=11, epsilon=0.99) == {"layer": 0}
    # its cosine with u_12 is 1 / sqrt(1 + 1.5^2) = .555
    assert intruder_dimensions({"layer": weight()}, after, k=12, epsilon=0.55) == {"layer": 0}
    assert intruder_dimensions({"layer": weight()}, after, k=12, epsilon=0.56) == {"layer": 1}


def test_only_matrices_that_both_have_are_looked_at() -> None:
    before = {"a": weight(), "bias": torch.ones(3), "b": weight(6, 4)}
    after = {"a": weight(), "bias": torch.zeros(3), "b": weight(6, 3), "c": weight()}
    assert intruder_dimensions(before, after) == {"a": 0}
