"""The sentences N1 to N4 on the norms of layers (arXiv 2009.08435), and the effects that decide them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from robsearch.claims.form import Claim, Evidence
from robsearch.claims.paired import Numbers, by_arm, positive
from robsearch.claims.statistics import Effect
from robsearch.objectives import ALP, PGDAT, TRADES
from robsearch.protocols import Objective

SOURCE = "arXiv 2009.08435"
REGULARISED, LAST, EARLY = "regularised", "last", "early"
FRAMEWORKS: Mapping[str, Objective] = {"TRADES": TRADES(), "PGD-AT": PGDAT(), "ALP": ALP()}
STANDARD, ADVERSARIAL = "Standard", "TRADES"
TARGETS = {"l1": "norms/l1", "linf": "norms/linf", "clip": "norms/l2"}
"""The norm that each family of regularisers lowers; singular value clipping, the spectral norm."""
SMALLER = float(np.log(1.05))
"""N1: a norm lowered by less than 5 % does not matter."""
COMPARABLE = float(np.log(1.1))
"""N3: norms up to 10 % smaller are comparable."""
FAR = 1.0
"""N4: far above is ten times, one in log10."""
NATURAL, ROBUST, VAL = "test/natural_accuracy", "test/robust_accuracy", "val/natural_accuracy"
LOCAL, PRODUCT = "test/lipschitz/logit_ratio/mean", "lipschitz/global_bound_by_layer"

Effects = Callable[[Evidence], Sequence[Effect]]


# -- the claims -------------------------------------------------------------------------------------------------


def n1(effects: Effects) -> Claim:
    """How well the regularisers do what they are for."""
    sentence = "Norm regularisers lower the norms that they target."
    return Claim("N1", sentence, SOURCE, effects, "a family that lowers its norm by less than 5 %")


def n2(effects: Effects, margin: float) -> Claim:
    """What they do to accuracy."""
    sentence = "Norm regularisers keep or improve natural accuracy, and do not raise robust accuracy."
    change = f"natural accuracy lower, or robust accuracy higher, by more than {margin:g} points with one family"
    return Claim("N2", sentence, SOURCE, effects, change)


def n3(effects: Effects) -> Claim:
    """Norms with and without adversarial examples."""
    sentence = "Adversarially trained nets have comparable or larger layer norms than standardly trained ones."
    return Claim("N3", sentence, SOURCE, effects, "norms more than 10 % smaller with one way of adversarial training")


def n4(effects: Effects) -> Claim:
    """Norms against what the net does around images."""
    sentence = "The product of layer norms is far above the local Lipschitz estimate."
    return Claim("N4", sentence, SOURCE, effects, "a product less than 10 times the local estimate")


def again(claim: Claim, experiment: str) -> Claim:
    """The same in another setting; beside the paper's, so without a part in the correction."""
    where = {LAST: "TRADES at lambda 1, last epoch", EARLY: "lambda 6, weight decay 5e-4, best epoch"}[experiment]
    sentence = f"{claim.sentence[:-1]} ({where})."
    return replace(claim, name=f"{claim.name}-{experiment}", sentence=sentence, primary=False)


# -- the effects ------------------------------------------------------------------------------------------------


def lower_norms(
    evidence: Evidence,
    experiment: str,
    reference: str,
    families: Mapping[str, Sequence[str]],
    columns: Mapping[str, Sequence[str]],
) -> list[Effect]:
    """Minus the log ratio of each family's norm to that without, averaged over layers and strengths."""
    trials, found = evidence.of(experiment).trials, []
    for family, arms in families.items():
        norms = by_arm(trials, [reference, *arms], columns[TARGETS[family]])
        logs = np.log(positive(norms, f"the {TARGETS[family]} norm of a layer")).mean(axis=2)
        fall = (logs[:, :1] - logs[:, 1:]).mean(axis=1)
        found.append(Effect(f"fall of the {TARGETS[family]} norm with {family}", "log", _told(fall), SMALLER))
    return found


def keep_accuracy(
    evidence: Evidence, experiment: str, reference: str, families: Mapping[str, Sequence[str]], margin: float
) -> list[Effect]:
    """Natural accuracy not lower, robust accuracy not higher, each by ``margin`` points.

    For each seed a family has the strength of highest natural accuracy on val over the *other* seeds: chosen as one
    would choose it, and judged on nets that had no part in the choice.
    """
    trials, found = _with_val(evidence.of(experiment)), []
    for family, arms in families.items():
        values = 100 * by_arm(trials, [reference, *arms], [NATURAL, ROBUST, "val"])
        chosen = 1 + best_by_others(values[:, 1:, 2])
        gain = values[np.arange(len(values)), chosen, :2] - values[:, 0, :2]
        found.append(Effect(f"natural accuracy gained with {family}", "points", _told(gain[:, 0] + margin), 0.0))
        found.append(Effect(f"robust accuracy lost with {family}", "points", _told(margin - gain[:, 1]), 0.0))
    notes = f", plus the {margin:g} points that do not matter"
    return [effect._replace(what=effect.what + notes) for effect in found]


def compare_norms(evidence: Evidence, experiment: str, columns: Mapping[str, Sequence[str]]) -> list[Effect]:
    """Log ratio of each framework's norms to the standard net's, averaged over layers, plus what is comparable."""
    trials, found = evidence.of(experiment).trials, []
    for framework in FRAMEWORKS:
        for norm in ("l1", "linf"):
            norms = by_arm(trials, [STANDARD, framework], columns[TARGETS[norm]])
            logs = np.log(positive(norms, f"the {norm} norm of a layer")).mean(axis=2)
            what = f"growth of the {norm} norms with {framework}, plus the 10 % that are comparable"
            found.append(Effect(what, "log", _told(logs[:, 1] - logs[:, 0] + COMPARABLE), 0.0))
    return found


def exceed_local(evidence: Evidence, experiment: str) -> list[Effect]:
    """log10 of the product over the local estimate, both from linf to l1, less one.

    The product is ``GlobalBound("layer")``: linf operator norms with batch norms folded in, sums over residual
    branches, times the number of logits, and so a bound on what ``LogitRatio`` estimates from below.
    """
    trials, found = evidence.of(experiment).trials, []
    for arm in (STANDARD, *FRAMEWORKS):
        bounds = positive(by_arm(trials, [arm], [LOCAL, PRODUCT]), f"a Lipschitz figure of {arm}")
        local, product = np.log10(bounds)[:, 0].T
        what = f"{arm}: log10 of product over local estimate, less the one that is far"
        found.append(Effect(what, "log10", _told(product - local - FAR), 0.0))
    return found


def best_by_others(val: Numbers) -> Numbers:
    """For each seed the place of the arm of highest mean over the other seeds: (seeds, arms) to (seeds,)."""
    return np.asarray((val.sum(axis=0) - val).argmax(axis=1))


def _with_val(evidence: Evidence) -> pd.DataFrame:
    """The trials with ``val``: natural accuracy on val at the epoch that was measured."""
    rates = evidence.epochs[["trial", "epoch", VAL]].rename(columns={"epoch": "test/epoch", VAL: "val"})
    return evidence.trials.drop(columns="val", errors="ignore").merge(rates, on=["trial", "test/epoch"], how="left")


def _told(values: Numbers) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
