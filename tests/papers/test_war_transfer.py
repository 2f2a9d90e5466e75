"""From a thin net's search to a lambda for a wide net."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from robsearch import MLP, PGD, SGD, TRADES, WAR, Digits, Fixed, Recipe, train
from robsearch.errors import InputError
from robsearch.papers.war.transfer import (
    Probe,
    _last_epoch,
    lam_at,
    mean_ratios,
    probe_ratio,
    static_war,
    thin_anchor,
    window_mean,
)
from robsearch.search.result import Search
from robsearch.search.tables import TRIAL_COLUMNS
from robsearch.study import SearchRecord

WIDTHS = (4.0, 16.0)
LAMS = np.geomspace(0.5, 8, 7)
EPOCHS = 20


def log_ratio(width: float, lam: float) -> float:
    """At 0.45 of training; the ratio falls with width, and rises with lambda."""
    return 0.5 + 1.4 * math.log(lam) - 0.3 * math.log(width / 4)


def search_of(widths: tuple[float, ...] = WIDTHS, star: float = 2.0) -> Search:
    """A finished search whose thin lambda* is ``star``; log ratios fall by 1 over training."""
    rows, epochs = [], []
    for width in widths:
        for number, lam in enumerate(LAMS.tolist()):
            row = dict.fromkeys(TRIAL_COLUMNS)
            row |= {
                "trial": f"w{width:g}-{number:03d}",
                "width": width,
                "number": number,
                "state": "COMPLETE",
                "suggestion": "COMPLETE",
                "feasible": True,
                "collapsed": False,
                "choices": "",
                "lam": lam,
                "value": 0.6 - 0.02 * math.log(lam / star) ** 2,
                "recipe_epochs": float(EPOCHS),
            }
            rows.append(row)
            for epoch in range(1, EPOCHS + 1):
                progress = (epoch - 0.5) / EPOCHS
                ratio = math.exp(log_ratio(width, lam) - (progress - 0.45))
                losses = {"train/natural_loss": ratio, "train/robust_loss": 1.0}
                epochs.append({"trial": row["trial"], "epoch": epoch, **losses})
    record = SearchRecord("s", "m:n", widths, 0, len(rows), "", {}, identity="0" * 32)
    return Search(record, Path("s"), pd.DataFrame(rows), pd.DataFrame(epochs))


def test_the_anchor_is_lambda_star_and_the_mean_ratio_of_the_trials_nearest_to_it() -> None:
    """Lambdas are 0.5 times powers of 16^(1/6) = 1.587: nearest to 2 are 2, 1.26, 3.17 and one of
    the next two; each other lambda's ratio is lam^1.4 away."""
    anchor = thin_anchor(search_of())
    assert anchor.width == 4
    assert anchor.lam == pytest.approx(2.0, rel=0.01)
    assert len(anchor.trials) == 4
    assert {"w4-002", "w4-003", "w4-004"} < set(anchor.trials)
    lams = [LAMS[int(name[-3:])] for name in anchor.trials]
    expected = np.mean([log_ratio(4, lam) for lam in lams])
    assert anchor.log_ratio == pytest.approx(expected)
    assert len(anchor.ratios) == EPOCHS
    WAR(target=anchor.ratios, lam_init=anchor.lam)  # it is a target


def test_static_war_is_where_the_wide_net_has_the_thin_nets_ratio() -> None:
    """1.4 log(lam) - 0.3 log(16 / 4) + 0.5 = target."""
    search = search_of()
    static = static_war(search, 16)
    target = thin_anchor(search).log_ratio
    expected = math.exp((target - 0.5 + 0.3 * math.log(4)) / 1.4)
    assert static.lam == pytest.approx(expected, rel=1e-6)
    assert static.lam > thin_anchor(search).lam
    assert not static.extrapolated
    assert len(static.probes) == 7
    assert static.sentence().startswith(f"lambda = {expected:.3g} at width 16 has the ratio ")


def test_two_probes_do_where_the_search_has_no_wide_trial() -> None:
    search = search_of((4.0,))
    thin = thin_anchor(search)
    probes = [Probe(lam, log_ratio(64, lam)) for lam in (thin.lam, 3 * thin.lam)]
    static = static_war(search, 64, probes=probes)
    expected = math.exp((thin.log_ratio - 0.5 + 0.3 * math.log(16)) / 1.4)
    assert static.lam == pytest.approx(expected, rel=1e-6)
    far = static_war(search, 64, probes=[Probe(lam, log_ratio(64, lam)) for lam in (0.5, 0.9)])
    assert far.extrapolated
    assert "outside the lambdas probed" in far.sentence()


def test_a_curve_is_followed_near_the_target() -> None:
    """A log ratio that bends: the far probes do not tilt the line."""
    probes = [Probe(lam, math.log(lam) ** 3) for lam in (0.1, 0.9, 1.0, 1.1, 1.2, 10.0)]
    assert lam_at(probes, 0.001) == pytest.approx(math.exp(0.1), rel=0.1)


def test_what_cannot_be_solved_is_refused() -> None:
    with pytest.raises(InputError, match="probes at two lambdas or more"):
        lam_at([Probe(1.0, 0.0), Probe(1.0, 0.1)], 0.0)
    with pytest.raises(InputError, match="rises with lambda"):
        lam_at([Probe(1.0, 0.0), Probe(2.0, -0.1)], 0.0)
    with pytest.raises(InputError, match="within a factor of 10 of the lambdas probed, got far ab"):
        lam_at([Probe(1.0, 0.0), Probe(3.0, 0.0001)], 1.0)
    with pytest.raises(InputError, match="two lambdas or more, got 1 lambda above 0 with a ratio"):
        lam_at([Probe(0.0, -2.0), Probe(1.0, -1.0), Probe(3.0, math.nan)], 0.0)
    with pytest.raises(InputError, match="a finished trial of width 64 in s, got none"):
        static_war(search_of(), 64)
    with pytest.raises(InputError, match="ratios up to 40% of training, got the last at 5%"):
        window_mean(((0.05, 1.0),))


def test_trials_of_another_objective_are_not_pooled() -> None:
    """Every second trial made another choice, and its ratio is e times as large."""
    search = search_of()
    words = ["objective trades", "objective mart"]
    choices = [words[int(number) % 2] for number in search.trials["number"]]
    trials = search.trials.assign(choices=choices)
    others = trials.loc[trials["choices"] == words[1], "trial"]
    trials.loc[trials["choices"] == words[1], "value"] -= 0.1
    epochs = search.epochs.copy()
    epochs.loc[epochs["trial"].isin(others), "train/natural_loss"] *= math.e
    pooled = replace(search, trials=trials, epochs=epochs)
    assert not set(thin_anchor(pooled).trials) & set(others)
    assert len(static_war(pooled, 16).probes) == 4


@pytest.mark.parametrize(("epochs", "last"), [(2, 2), (4, 3), (8, 4), (60, 30)])
def test_a_probe_goes_as_far_as_the_window_can_be_read(epochs: int, last: int) -> None:
    """Of 2 epochs the middles are 1/4 and 3/4, of 4 they are 1/8 to 7/8: 0.45 lies before the
    second and the third."""
    assert _last_epoch(epochs) == last


def test_few_epochs_are_interpolated() -> None:
    """Three epochs, at 1/6, 1/2 and 5/6: none lies between 0.4 and 0.5 but the one at its end."""
    assert window_mean(((1 / 6, 1.0), (1 / 2, math.e), (5 / 6, 1.0))) == pytest.approx(1.0)
    assert window_mean(((0.25, 1.0), (0.75, math.e))) == pytest.approx(0.4)


def test_a_training_that_ended_early_counts_as_far_as_it_went() -> None:
    whole = ((0.25, 1.0), (0.75, 4.0))
    progress, ratios = zip(*mean_ratios([whole, ((0.25, 4.0),)]), strict=True)
    assert progress == (0.25, 0.75)
    assert ratios == pytest.approx((2.0, 4.0))


def tiny(lam: Fixed | WAR) -> Recipe:
    return Recipe(
        model=MLP(width=4),
        data=Digits(train=60),
        attack=PGD(eps=0.1, step_size=0.05, steps=1),
        objective=TRADES(),
        lam=lam,
        optimiser=SGD(lr=0.05),
        epochs=8,
        batch_size=20,
    )


def test_a_probe_is_the_first_half_of_that_training() -> None:
    recipe = tiny(Fixed(2.0))
    probe = probe_ratio(recipe)
    first = list(islice(train(recipe), 4))
    # Epoch 4 of 8 lies at (4 - 0.5) / 8 = 0.4375, the only one in the window.
    metrics = first[-1].metrics
    ratio = metrics["train/natural_loss"] / metrics["train/robust_loss"]
    assert probe == (2.0, pytest.approx(math.log(ratio)))


def test_a_probe_needs_a_constant_lambda() -> None:
    moving = replace(tiny(Fixed(1.0)), lam=WAR(target=3.0, lam_init=1.0))
    with pytest.raises(InputError, match="a recipe with a constant lambda"):
        probe_ratio(moving)
