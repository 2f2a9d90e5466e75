"""The effects that decide N1 to N4 on the norms of layers (arXiv 2009.08435)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd

from robsearch.claims.claim import Evidence
from robsearch.claims.seeds import Numbers, complete_arm_values, require_positive
from robsearch.claims.statistics import Effect

FRAMEWORKS = ("TRADES", "PGD-AT", "ALP")
STANDARD = "Standard"
TARGETS = {"l1": "norms/l1", "linf": "norms/linf", "clip": "norms/l2"}
"""The norm that each family of regularisers lowers; singular value clipping, the spectral norm."""
SMALLER = float(np.log(1.05))
"""N1: a norm lowered by less than 5 % does not matter."""
COMPARABLE = float(np.log(1.1))
"""N3: norms up to 10 % smaller are comparable."""
FAR = 1.0
"""N4: far above is ten times, one in log10."""
NATURAL = "test/natural_accuracy"
ROBUST = "test/robust_accuracy"
VAL = "val/natural_accuracy"
LOCAL = "test/lipschitz/logit_ratio/mean"
PRODUCT = "lipschitz/global_bound_by_layer"

Families = Mapping[str, Sequence[str]]
"""The arms of each family of regularisers."""
LayerColumns = Mapping[str, Sequence[str]]
"""The columns of the evidence of each norm, layer by layer."""


def lower_norms(
    evidence: Evidence,
    experiment: str,
    reference: str,
    families: Families,
    columns: LayerColumns,
) -> Iterator[Effect]:
    """Minus the log ratio of each family's norm to that without, averaged over layers and
    strengths."""
    trials = evidence.of(experiment).trials
    for family, arms in families.items():
        norm = TARGETS[family]
        logs = _log_norms(trials, [reference, *arms], columns, norm)
        falls = logs[:, :1] - logs[:, 1:]
        what = f"fall of the {norm} norm with {family}"
        yield Effect(what, "log", tuple(falls.mean(axis=1)), SMALLER)


def keep_accuracy(
    evidence: Evidence,
    experiment: str,
    reference: str,
    families: Families,
    margin: float,
) -> Iterator[Effect]:
    """Natural accuracy not lower, robust accuracy not higher, each by ``margin`` points.

    For each seed a family has the strength of highest natural accuracy on val over the *other*
    seeds: chosen as one would choose it, and judged on nets that had no part in the choice.
    """
    trials = _with_val(evidence.of(experiment))
    for family, arms in families.items():
        shares = complete_arm_values(trials, [reference, *arms], [NATURAL, ROBUST, "val"])
        percent = 100 * shares
        seeds = np.arange(len(percent))
        # The first arm is the reference, of which nothing is chosen.
        chosen = 1 + best_by_others(percent[:, 1:, 2])
        # For each seed the arm that was chosen for it, less the arm without.
        gained = percent[seeds, chosen] - percent[:, 0]
        natural, robust, _ = gained.T
        in_family = f"with {family}, plus the {margin:g} points that do not matter"
        sides = {"natural accuracy gained": natural, "robust accuracy lost": -robust}
        for side, gain in sides.items():
            what = f"{side} {in_family}"
            yield Effect(what, "points", tuple(gain + margin), 0.0, expected=margin)


def compare_norms(evidence: Evidence, experiment: str, columns: LayerColumns) -> Iterator[Effect]:
    """Log ratio of each framework's norms to the standard net's, averaged over layers, plus what is
    comparable."""
    trials = evidence.of(experiment).trials
    for framework, family in product(FRAMEWORKS, ("l1", "linf")):
        arms = [STANDARD, framework]
        logs = _log_norms(trials, arms, columns, TARGETS[family])
        standard, adversarial = logs.T
        growth = adversarial - standard + COMPARABLE
        what = f"growth of the {family} norms with {framework}, plus the 10 % that are comparable"
        yield Effect(what, "log", tuple(growth), 0.0, expected=COMPARABLE)


def exceed_local(evidence: Evidence, experiment: str) -> Iterator[Effect]:
    """log10 of the product over the local estimate, both from linf to l1, less one.

    The product is ``GlobalBound("layer")``: linf operator norms with batch norms folded in, sums
    over residual branches, times the number of logits, and so a bound on what ``LogitRatio``
    estimates from below.
    """
    trials = evidence.of(experiment).trials
    for arm in (STANDARD, *FRAMEWORKS):
        figures = complete_arm_values(trials, [arm], [LOCAL, PRODUCT])
        logs = np.log10(require_positive(figures, f"a Lipschitz figure of {arm}"))
        local, norms = logs[:, 0].T
        what = f"{arm}: log10 of product over local estimate, less the one that is far"
        yield Effect(what, "log10", tuple(norms - local - FAR), 0.0)


def best_by_others(val: Numbers) -> Numbers:
    """For each seed the place of the arm of highest mean over the other seeds: (seeds, arms) to
    (seeds,)."""
    of_others = val.sum(axis=0) - val
    return np.asarray(of_others.argmax(axis=1))


def _log_norms(
    trials: pd.DataFrame,
    arms: Sequence[str],
    columns: LayerColumns,
    norm: str,
) -> Numbers:
    """(seeds, arms): the mean over layers of the log of a norm."""
    norms = complete_arm_values(trials, arms, columns[norm])
    logs = np.log(require_positive(norms, f"the {norm} norm of a layer"))
    return np.asarray(logs.mean(axis=2))


def _with_val(evidence: Evidence) -> pd.DataFrame:
    """The trials with ``val``: natural accuracy on val at the epoch that was measured."""
    rates = evidence.epochs[["trial", "epoch", VAL]]
    rates = rates.rename(columns={"epoch": "test/epoch", VAL: "val"})
    trials = evidence.trials.drop(columns="val", errors="ignore")
    return trials.merge(rates, on=["trial", "test/epoch"], how="left")
