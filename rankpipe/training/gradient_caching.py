"""Gradients of a loss of what several computations give, all of them kept at once or one at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def backward(
    todo: Sequence[Callable[[], Tensor]], loss: Callable[[Sequence[Tensor]], Tensor], *, in_turn: bool
) -> float:
    """Loss of what the computations give; its gradients are added to what is there.

    in_turn  only one of them is held at a time, and each is done twice, so that memory does not grow with their number
    """
    if in_turn:
        return _backward_in_turn(todo, loss)
    value = loss([one() for one in todo])
    if value.requires_grad:  # not where nothing of it is this process's
        value.backward()
    return float(value.detach())


def _backward_in_turn(todo: Sequence[Callable[[], Tensor]], loss: Callable[[Sequence[Tensor]], Tensor]) -> float:
    """The second time with the same random numbers. Gao, Zhang, Han and Callan, RepL4NLP 2021, arXiv 2101.06983."""
    states, found = [], []
    with torch.no_grad():
        for one in todo:
            states.append(_random_state())
            found.append(one())
    leaves = [one.detach().requires_grad_() for one in found]
    value = loss(leaves)
    if value.requires_grad:
        value.backward()
    after = _random_state()
    for one, state, leaf in zip(todo, states, leaves, strict=True):
        _set_random_state(state)
        if leaf.grad is not None:
            one().backward(leaf.grad)
    _set_random_state(after)
    return float(value.detach())


def _random_state() -> tuple[Tensor, list[Tensor]]:
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []


def _set_random_state(state: tuple[Tensor, list[Tensor]]) -> None:
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])
