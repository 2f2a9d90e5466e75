"""Fisher consistency of a loss with an average-margin penalty, found by minimising its exact population risk."""

from __future__ import annotations

import math
from functools import cache
from typing import Literal

import torch
from torch import Tensor

Head = Literal["paper", "released"]
TIE = 1e-3
"""Two largest scores nearer than this, in logits, are a tie: the argmax is then nobody's."""
STEPS, FIRST, LAST = 800, 0.3, 1e-6


def conditional_risk(scores: Tensor, posterior: Tensor, mu: float, tau: float, head: Head) -> Tensor:
    """The expected loss at one point: ``sum_y p_y (CE(f, y) + mu * penalty(f_y - max_{k != y} f_k))``.

    The penalty is ``clamp(tau - alpha, 0, tau)`` (arXiv 1907.11780), or ``clamp(-alpha, 0, tau)`` as in its released
    code.

    Args:
        scores: (..., k), the outputs f.
        posterior: (..., k), the probabilities of the classes at the point.
        mu: strength of the penalty.
        tau: the margin at which it is cut.
        head: which penalty.
    """
    top = scores.topk(2, dim=-1).values
    is_top = scores == top[..., :1]
    alpha = scores - torch.where(is_top, top[..., 1:], top[..., :1])
    penalty = (tau - alpha).clamp(0, tau) if head == "paper" else (-alpha).clamp(0, tau)
    cross_entropy = scores.logsumexp(dim=-1, keepdim=True) - scores
    return (posterior * (cross_entropy + mu * penalty)).sum(dim=-1)


def minimisers(posterior: Tensor, mu: float, tau: float, head: Head) -> Tensor:
    """The scores of least risk for each posterior, (n, k) to (n, k), to about ``LAST``.

    The risk is convex where the class on top and whether it leads by more than ``tau`` are given. So there is one
    descent from each of these 2 k pieces, and the best of all is kept.
    """
    n, classes = posterior.shape
    starts = posterior.log()[:, None].repeat(1, 2 * classes, 1)
    for place in range(classes):
        for piece, lead in ((place, tau / 2), (classes + place, 2 * tau)):
            starts[:, piece, place] = starts[:, piece].amax(dim=-1) + lead
    starts = torch.cat([starts, posterior.log()[:, None]], dim=1)
    scores, whole = starts.requires_grad_(), posterior[:, None].expand_as(starts)
    optimiser = torch.optim.Adam([scores], lr=FIRST, betas=(0.9, 0.99))
    shrink = (LAST / FIRST) ** (1 / STEPS)
    for _ in range(STEPS):
        optimiser.zero_grad()
        conditional_risk(scores, whole, mu, tau, head).sum().backward()
        optimiser.step()
        optimiser.param_groups[0]["lr"] *= shrink
    with torch.no_grad():
        best = conditional_risk(scores, whole, mu, tau, head).argmin(dim=1)
        return scores[torch.arange(n), best]


@cache
def agreement(posteriors: int, classes: int, mu: float, tau: float, head: Head, seed: int = 0) -> tuple[float, ...]:
    """For each random posterior 1 if the largest score is alone and the most probable class's, else 0.

    Posteriors are drawn uniformly from the simplex.
    """
    draws = torch.distributions.Exponential(1.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        drawn = draws.sample((posteriors, classes)).double()
    posterior = drawn / drawn.sum(dim=1, keepdim=True)
    top = minimisers(posterior, mu, tau, head).topk(2, dim=1)
    right = (top.indices[:, 0] == posterior.argmax(dim=1)) & (top.values[:, 0] - top.values[:, 1] > TIE)
    assert math.isfinite(float(top.values.sum())), "the descent diverged"
    return tuple(right.double().tolist())
