"""Fisher consistency of a loss with an average-margin penalty, found by minimising its exact
population risk."""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch
from torch import Tensor

Penalised = Literal["paper", "released"]
"""Which penalty: the one of arXiv 1907.11780, ``clamp(tau - alpha, 0, tau)``, or that of its
released code, ``clamp(-alpha, 0, tau)``."""
TIE = 1e-3
"""Two largest scores nearer than this, in logits, are a tie: no class is then on top."""
STEPS = 800
FIRST_RATE = 0.3
LAST_RATE = 1e-6


def conditional_risk(
    scores: Tensor,
    posterior: Tensor,
    mu: float,
    tau: float,
    form: Penalised,
) -> Tensor:
    """The expected loss at one point:
    ``sum_y p_y (CE(f, y) + mu * penalty(f_y - max_{k != y} f_k))``.

    Args:
        scores: (..., k), the outputs f.
        posterior: (..., k), the probabilities of the classes at the point.
        mu: strength of the penalty.
        tau: the margin at which it is cut.
        form: which penalty.
    """
    largest, second = scores.topk(2, dim=-1).values.split(1, dim=-1)
    # For the class on top the strongest other is the second, for all others the first.
    highest_other = torch.where(scores == largest, second, largest)
    margin = scores - highest_other
    shortfall = tau - margin if form == "paper" else -margin
    cross_entropy = scores.logsumexp(dim=-1, keepdim=True) - scores
    loss = cross_entropy + mu * shortfall.clamp(0, tau)
    return (posterior * loss).sum(dim=-1)


def minimisers(
    posterior: Tensor,
    mu: float,
    tau: float,
    form: Penalised,
) -> Tensor:
    """The scores of least risk for each posterior, (n, k) to (n, k), to about ``LAST_RATE``.

    The risk is convex where the class on top and whether it leads by more than ``tau`` are given.
    So there is one descent from each of these 2 k pieces and one from the posterior's logs, and the
    best of all is kept.
    """
    logs = posterior.log()
    starts = []
    for lead in (tau / 2, 2 * tau):
        for top in range(logs.shape[1]):
            start = logs.clone()
            start[:, top] = logs.amax(dim=1) + lead
            starts.append(start)
    scores = torch.stack([*starts, logs], dim=1).requires_grad_()
    target = posterior[:, None]
    optimiser = torch.optim.Adam([scores], lr=FIRST_RATE, betas=(0.9, 0.99))
    # Adam's last steps are about as long as its rate, so the rate bounds the error.
    shrink = (LAST_RATE / FIRST_RATE) ** (1 / STEPS)
    rates = torch.optim.lr_scheduler.ExponentialLR(optimiser, shrink)
    for _ in range(STEPS):
        optimiser.zero_grad()
        risk = conditional_risk(scores, target, mu, tau, form)
        # Each descent has scores of its own, so the sum's gradient is that of each alone.
        risk.sum().backward()
        optimiser.step()
        rates.step()
    with torch.no_grad():
        best = conditional_risk(scores, target, mu, tau, form).argmin(dim=1)
        return scores[torch.arange(len(scores)), best]


@cache
def agreement(
    posteriors: int,
    classes: int,
    mu: float,
    tau: float,
    form: Penalised,
) -> tuple[float, ...]:
    """For each random posterior 1 if the largest score is alone and the most probable class's, else
    0.

    Posteriors are drawn uniformly from the simplex.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        exponential = torch.distributions.Exponential(1.0)
        draws = exponential.sample((posteriors, classes)).double()
    # Exponential numbers over their sum are uniform on the simplex.
    posterior = draws / draws.sum(dim=1, keepdim=True)
    scores, classes_in_order = minimisers(posterior, mu, tau, form).topk(2)
    assert scores.isfinite().all(), "the descent diverged"
    is_right = classes_in_order[:, 0] == posterior.argmax(dim=1)
    is_alone = scores[:, 0] - scores[:, 1] > TIE
    agrees = is_right & is_alone
    return tuple(agrees.double().tolist())
