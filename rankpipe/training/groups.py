"""Groups as tensors, and their losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rankpipe.errors import UsageError
from rankpipe.training import losses
from rankpipe.training.examples import Group
from rankpipe.training.group_phases import Distil, Labels
from rankpipe.training.recipe import Phase

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of scores, targets and presence (N, G): a value per group (N,)."""


def loss_of(phase: Phase) -> Loss:
    """The loss that a phase names, with its settings."""
    if isinstance(phase, Distil):
        if phase.loss == "kl":
            return lambda s, t, there: losses.kl(s, t, there, phase.temperature)
        return losses.margin_mse
    if not isinstance(phase, Labels):
        raise UsageError(f"a cross-encoder has no phase {type(phase).__name__}")
    return {
        "binary": losses.binary,
        "ranknet": losses.ranknet,
        "margin": lambda s, t, there: losses.margin(s, t, there, phase.margin),
        "softmax": lambda s, t, there: losses.softmax(s, t, there, phase.temperature),
        "lambda": losses.lambda_ndcg,
        "list-mle": losses.list_mle,
    }[phase.loss]


def in_groups(scores: Tensor, groups: Sequence[Group]) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, targets and presence (N, G) of N groups, given the network's scores of all their documents in turn."""
    sizes = torch.tensor([len(one.documents) for one in groups])
    present = (torch.arange(int(sizes.max())) < sizes[:, None]).to(scores.device)
    wanted = torch.cat([torch.from_numpy(one.targets) for one in groups]).to(scores.device)
    placed, targets = (torch.zeros(present.shape, device=scores.device) for _ in range(2))
    placed[present], targets[present] = scores, wanted
    return placed, targets, present
