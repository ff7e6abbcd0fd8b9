"""Losses over groups: the documents of one query each, scored by the network that is trained.

All take scores (N, G) of N groups of up to G documents and targets (N, G), with a mask (N, G) that is true where there
is a document, and give one value per group (N,). Targets are grades (0 and less: not relevant), or a teacher's scores.
A group that asks for nothing, having no two documents that differ, gives 0.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

MU = 10.0
"""Weight of the second part of NDCG-Loss2++, as in the paper's experiments (section 6.1)."""


def binary(scores: Tensor, grades: Tensor, present: Tensor) -> Tensor:
    """Cross-entropy of every document by itself, relevant or not (pointwise). Nogueira and Cho, arXiv 1901.04085, eq. 1."""
    relevant = (grades > 0).to(scores.dtype)
    losses = functional.binary_cross_entropy_with_logits(scores, relevant, reduction="none")
    return _mean(losses, present)


def ranknet(scores: Tensor, grades: Tensor, present: Tensor) -> Tensor:
    """Mean over pairs of different grades of log(1 + exp(s_lower - s_higher)). Burges et al., ICML 2005, eq. 3."""
    losses, pairs = functional.softplus(-_differences(scores)), _pairs(grades, present)
    return _mean(losses.flatten(1), pairs.flatten(1))


def margin(scores: Tensor, grades: Tensor, present: Tensor, width: float = 1.0) -> Tensor:
    """Mean over pairs of different grades of max(0, width - (s_higher - s_lower)). Herbrich et al., 1999: ranking SVM."""
    losses, pairs = (width - _differences(scores)).clamp(min=0), _pairs(grades, present)
    return _mean(losses.flatten(1), pairs.flatten(1))


def softmax(scores: Tensor, grades: Tensor, present: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross-entropy between the grades, as shares of their sum, and the softmax of the scores (listwise).

    Bruch, Wang, Bendersky and Najork, ICTIR 2019, eq. 4; with one relevant document it is InfoNCE over the group, van
    den Oord et al., arXiv 1807.03748, eq. 4.
    """
    gains = grades.to(scores.dtype).clamp(min=0) * present
    shares = gains / gains.sum(1, keepdim=True).clamp(min=torch.finfo(gains.dtype).tiny)
    return -(shares * _log_softmax(scores / temperature, present)).sum(1)


def list_net(scores: Tensor, grades: Tensor, present: Tensor) -> Tensor:
    """Cross-entropy between the softmax of the grades and that of the scores. Cao et al., ICML 2007, eq. 6, for the top one.

    Unlike `softmax`, documents of grade 0 have a share, too.
    """
    wanted = _log_softmax(grades.to(scores.dtype).clamp(min=0), present).exp() * present
    return -(wanted * _log_softmax(scores, present)).sum(1) * _told_apart(grades, present)


def approx_ndcg(scores: Tensor, grades: Tensor, present: Tensor, temperature: float = 0.1) -> Tensor:
    """1 - nDCG, ranks being 1 + sum over the other documents of sigmoid((s_j - s_i) / temperature).

    Qin, Liu and Li, Information Retrieval 2010, eq. 12 and 15, with gains 2^grade - 1; the temperature is that of Bruch,
    Zoghi, Bendersky and Najork, SIGIR 2019.
    """
    above = (-_differences(scores) / temperature).sigmoid() * present[:, None, :]
    ranks = above.sum(2) + 0.5  # a document above itself counts a half
    gains = (2.0 ** grades.to(scores.dtype).clamp(min=0) - 1) * present
    places = torch.arange(1, scores.shape[1] + 1, device=scores.device, dtype=scores.dtype)
    ideal = (gains.sort(dim=1, descending=True).values / torch.log2(1 + places)).sum(1)
    found = (gains / torch.log2(1 + ranks)).sum(1) / ideal.clamp(min=torch.finfo(gains.dtype).tiny)
    return (1 - found) * _told_apart(grades, present)


def lambda_ndcg(scores: Tensor, grades: Tensor, present: Tensor) -> Tensor:
    """NDCG-Loss2++ of LambdaLoss. Wang, Li, Golbandi, Bendersky and Najork, CIKM 2018, eq. 17 to 19 and table 1.

    Sum over pairs of different grades of (rho + MU * delta) * |G_i - G_j| * log2(1 + exp(s_lower - s_higher)), where G
    are gains 2^grade - 1 as shares of the ideal DCG, rho is the difference of the two ranks' reciprocal discounts
    (LambdaRank), and delta that of the discounts at their distance.
    """
    ranked = scores.detach().masked_fill(~present, -torch.inf)
    order = ranked.argsort(dim=1, descending=True, stable=True)
    ranks = torch.empty_like(order).scatter_(1, order, torch.arange(1, scores.shape[1] + 1).expand_as(order).to(order))
    gains = (2.0 ** grades.to(scores.dtype).clamp(min=0) - 1) * present
    discounts = torch.log2(1.0 + torch.arange(1, scores.shape[1] + 1, device=scores.device, dtype=scores.dtype))
    ideal = (gains.sort(dim=1, descending=True).values / discounts).sum(1)
    shares = gains / ideal.clamp(min=torch.finfo(gains.dtype).tiny)[:, None]
    reciprocal = 1 / torch.log2(1.0 + ranks.to(scores.dtype))
    rho = _differences(reciprocal).abs()
    apart = (ranks[:, :, None] - ranks[:, None, :]).abs().to(scores.dtype)
    delta = (1 / torch.log2(apart.clamp(min=1) + 1) - 1 / torch.log2(apart + 2)).abs()
    weights = (rho + MU * delta) * _differences(shares).abs()
    losses = weights * functional.softplus(-_differences(scores)) / math.log(2)
    return (losses * _pairs(grades, present)).flatten(1).sum(1)


def delta_ranknet(
    scores: Tensor,
    grades: Tensor,
    present: Tensor,
    *,
    gain: Literal["mrr", "ndcg"] | None = "mrr",
    cutoff: int | None = None,
) -> Tensor:
    """RankNet whose pairs weigh what swapping them would change, as LambdaRank has it; documents stand in ranked order.

    Mean over pairs of |a_i - a_j| * log(1 + exp(s_lower - s_higher)), as ADORE is trained by: Zhan et al., SIGIR 2021,
    arXiv 2104.08051. The weights are those of the given order, and have no gradient.

    gain    mrr: a is 1 / rank, and a pair is one relevant and one other document; ndcg: a pair is two of different
            grades, and the difference of discounts 1 / log2(1 + rank) is multiplied by that of the gains 2^grade - 1,
            as shares of the ideal DCG; None: every pair weighs 1
    cutoff  a is 0 beyond this rank: two documents beyond it do not matter; None for no cutoff
    """
    ranks = torch.arange(1, scores.shape[1] + 1, device=scores.device, dtype=scores.dtype)
    within = ranks <= (cutoff or len(ranks))
    if gain == "ndcg":
        levels = grades.to(scores.dtype).clamp(min=0) * present
        discounts = within / torch.log2(1 + ranks)
        gains = 2.0**levels - 1
        ideal = (gains.sort(dim=1, descending=True).values * discounts).sum(1)
        shares = gains / ideal.clamp(min=torch.finfo(gains.dtype).tiny)[:, None]
    else:
        levels = ((grades > 0) & present).to(scores.dtype)
        discounts = within / ranks if gain == "mrr" else ranks
        shares = levels
    found = []
    for group, there in enumerate(present):
        # level by level, so that no place is taken twice: the sums of gradients then have one order, whatever the threads
        losses, pairs = [scores.new_zeros(())], 0
        for level in levels[group].unique().tolist():
            higher = ((levels[group] == level) & there).nonzero()[:, 0]
            lower = ((levels[group] < level) & there).nonzero()[:, 0]
            if len(higher) and len(lower):
                of_pairs = functional.softplus(scores[group, lower] - scores[group, higher][:, None])
                if gain is not None:
                    apart = (discounts[lower] - discounts[higher][:, None]).abs()
                    of_pairs = of_pairs * apart * (shares[group, higher][:, None] - shares[group, lower])
                losses.append(of_pairs.sum())
                pairs += of_pairs.numel()
        found.append(torch.stack(losses).sum() / max(pairs, 1))
    return torch.stack(found)


def list_mle(scores: Tensor, grades: Tensor, present: Tensor) -> Tensor:
    """Negative log-likelihood of the ideal order under Plackett and Luce. Xia et al., ICML 2008, eq. 8 and 9.

    Sum over documents i of log(exp(s_i) + sum over j below i of exp(s_j)) - s_i, where those of lower grade are below.
    By Luce's choice axiom (Individual Choice Behavior, 1959) each term is -log P(i comes before all of them), whatever
    else stands in the list. Where all grades differ it is the paper's sum; among documents of one grade, which the paper
    does not have, no order is likelier to be ideal, and no term asks for one.
    """
    lower = _pairs(grades, present)
    itself = torch.eye(scores.shape[1], dtype=torch.bool, device=scores.device)
    from_here = scores[:, None, :].masked_fill(~(lower | itself), torch.finfo(scores.dtype).min).logsumexp(2)
    return ((from_here - scores) * lower.any(2)).sum(1)


def kl(scores: Tensor, teacher: Tensor, present: Tensor, temperature: float = 1.0) -> Tensor:
    """Divergence KL(teacher || student) of the softmax over a group; the teacher's scores divided by the temperature.

    Hinton, Vinyals and Dean, arXiv 1503.02531, with the documents in the place of classes; the student has no
    temperature: its scores have no unit of their own.
    """
    wanted = _log_softmax(teacher.to(scores.dtype) / temperature, present)
    return (wanted.exp() * (wanted - _log_softmax(scores, present)) * present).sum(1)


def margin_mse(scores: Tensor, teacher: Tensor, present: Tensor) -> Tensor:
    """Mean over all pairs of ((s_i - s_j) - (t_i - t_j))^2. Hofstätter et al., arXiv 2010.02666, eq. 3.

    The paper takes the pairs of a relevant and another document; without judgements, all pairs are as good.
    """
    wrong = _differences(scores - teacher.to(scores.dtype)) ** 2
    pairs = present[:, :, None] & present[:, None, :]
    return _mean(wrong.flatten(1), pairs.triu(1).flatten(1))


def _told_apart(grades: Tensor, present: Tensor) -> Tensor:
    """(N,) whether a group has two documents of different grades."""
    return _pairs(grades, present).flatten(1).any(1)


def _differences(values: Tensor) -> Tensor:
    """(N, G, G): value of the first document minus that of the second."""
    return values[:, :, None] - values[:, None, :]


def _pairs(grades: Tensor, present: Tensor) -> Tensor:
    """(N, G, G): whether the first document is there and of a higher grade than the second, which is there as well."""
    grades = grades.clamp(min=0)
    return (grades[:, :, None] > grades[:, None, :]) & present[:, :, None] & present[:, None, :]


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """(N,) mean over the places that are true; 0 where there are none."""
    return (values * where).sum(1) / where.sum(1).clamp(min=1)


def _log_softmax(scores: Tensor, present: Tensor) -> Tensor:
    """Log-softmax over the documents that are there; 0 elsewhere."""
    lowest = torch.finfo(scores.dtype).min
    return scores.masked_fill(~present, lowest).log_softmax(1).masked_fill(~present, 0)
