"""Groups as tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rankpipe.training.examples import Group


def in_groups(scores: Tensor, groups: Sequence[Group]) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, targets and presence (N, G) of N groups, given the network's scores of all their documents in turn.

    What a group adds to them is in the scores.
    """
    sizes = torch.tensor([len(one.documents) for one in groups])
    present = (torch.arange(int(sizes.max())) < sizes[:, None]).to(scores.device)
    wanted = torch.cat([torch.from_numpy(one.targets) for one in groups]).to(scores.device)
    placed, targets = (torch.zeros(present.shape, device=scores.device) for _ in range(2))
    added = torch.cat([torch.from_numpy(one.added) for one in groups]).to(scores.device)
    placed[present], targets[present] = scores + added, wanted
    return placed, targets, present
