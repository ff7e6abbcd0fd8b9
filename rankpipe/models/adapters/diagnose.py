"""What tuning did to the weights: intruder dimensions.

Shuttleworth, Andreas, Torralba and Sharma, "LoRA vs Full Fine-tuning: An Illusion of Equivalence", 2024,
arXiv:2410.21228: directions among the strongest of a tuned weight that are like none of the weight before, and go with
forgetting what the network knew.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def intruder_dimensions(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], k: int = 10, epsilon: float = 0.5
) -> dict[str, int]:
    """How many intruder dimensions the weight of each layer has, by its name in both state dicts.

    Weights are matrices that both have, in one shape; those that are the same to the last bit have none. Of the k
    strongest left singular vectors after tuning, those are counted whose cosine with every left singular vector before
    is below epsilon: max_i |<u_i(W0), u_j(W1)>| < epsilon, j <= k.
    """
    counts = {}
    for name, new in after.items():
        old = before.get(name)
        if old is None or new.ndim != 2 or old.shape != new.shape:
            continue
        counts[name] = 0 if torch.equal(old, new) else _intruders(old, new, k, epsilon)
    return counts


def _intruders(old: Tensor, new: Tensor, k: int, epsilon: float) -> int:
    left_before = torch.linalg.svd(old.float(), full_matrices=False)[0]
    left_after = torch.linalg.svd(new.float(), full_matrices=False)[0][:, :k]
    likeness = (left_before.T @ left_after).abs().amax(dim=0)
    return int((likeness < epsilon).sum())
