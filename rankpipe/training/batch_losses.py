"""Losses over a whole batch: every query against the documents of all of them.

Scores (Q, C) are of Q queries and C documents; positive (Q,) is the column of the document that a query is trained to
find, and masks (Q, C) say which of the others count as its negatives: none that is judged relevant to it may. All give
one value for the batch, 0 where there is nothing to compare.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def pooled(scores: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
    """RankNet, mean over all pairs of a batch of log(1 + exp(s_negative - s_positive)), each pair the same.

    STAR as its authors' code has it: Zhan et al., SIGIR 2021, arXiv 2104.08051; RankNet: Burges et al., ICML 2005, eq. 3.
    """
    losses = functional.softplus(scores - scores.gather(1, positive[:, None]))
    return (losses * negatives).sum() / negatives.sum().clamp(min=1)


def weighted(scores: Tensor, positive: Tensor, hard: Tensor, random: Tensor, alpha: float) -> Tensor:
    """RankNet over pairs with hard negatives, plus alpha times that over pairs with random ones, which steady it.

    STAR as its paper has it: Zhan et al., SIGIR 2021, arXiv 2104.08051.
    """
    return pooled(scores, positive, hard) + alpha * pooled(scores, positive, random)


def info_nce(scores: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
    """Mean over queries of the cross-entropy of the positive among its negatives (softmax, InfoNCE).

    van den Oord, Li and Vinyals, arXiv 1807.03748, eq. 4; over a batch: Karpukhin et al., EMNLP 2020, arXiv 2004.04906.
    """
    columns = torch.arange(scores.shape[1], device=scores.device)
    kept = negatives | (columns == positive[:, None])
    lowest = torch.finfo(scores.dtype).min
    shares = scores.masked_fill(~kept, lowest).log_softmax(1).gather(1, positive[:, None])[:, 0]
    asked = negatives.any(1)
    return -(shares * asked).sum() / asked.sum().clamp(min=1)
