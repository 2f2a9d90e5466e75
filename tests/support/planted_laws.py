"""Trials around a planted law."""

from __future__ import annotations

import math

import numpy as np

from robsearch.laws import Point, PowerLaw

WIDTHS = (1, 4, 16)
LAMS = (0.5, 1, 2, 4, 8, 16)
TRUTH = PowerLaw(2.0, 0.25)


def planted(
    law=TRUTH,
    *,
    widths=WIDTHS,
    seeds=2,
    lams=LAMS,
    c=-0.02,
    sd=0.0,
    effects=None,
    rng=None,
):
    """A parabola in log lambda around ``law``, every lambda at every (width, seed)."""
    effects = effects or {}
    points = []
    for width in widths:
        for seed in range(seeds):
            height = 0.5 + effects.get((width, seed), 0.0)
            noise = rng.normal(0, sd, len(lams)) if rng else np.zeros(len(lams))
            for lam, error in zip(lams, noise, strict=True):
                value = height + c * math.log(lam / law(width)) ** 2 + error
                points.append(Point(width, lam, value, seed))
    return points
