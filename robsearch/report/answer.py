"""The answer first: the law in words, lambda* and the net to deploy at each width."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from markupsafe import Markup, escape
from pandas import DataFrame, Series

from robsearch.drawing.formatting import ABSENT, MINUS, names_of, number, percentage_points
from robsearch.laws import Loss, Optimum
from robsearch.metrics import TEST_ROBUST, VALUE
from robsearch.report.evidence import STRONGEST, Evidence, meets, suggestions_of
from robsearch.report.thinning import MOST_DRAWN
from robsearch.study import others_than_lam, params_of, params_text
from robsearch.trials.selection import collapsed_among

STATES = {
    "COMPLETE": "done",
    "PRUNED": "pruned",
    "FAIL": "failed",
    "RUNNING": "running",
}


def column(metric: str) -> str:
    """The metric's column in the table of trials."""
    return "value" if metric == VALUE else metric


def title(metric: str) -> str:
    """``natural accuracy`` for ``val/natural_accuracy``."""
    return metric.removeprefix("val/").replace("_", " ")


def answer(evidence: Evidence) -> dict[str, Any]:
    """The law's sentence, where the search stands, and the two tables per width."""
    bests = evidence.bests
    missing = bests["width"][~meets(bests)]
    seeds = suggestions_of(evidence.complete)  # a seed that collapsed is one of its seeds
    has_seeds = (seeds["n"] > 1).any()
    constraints = [(title(goal.metric), goal.value) for goal in evidence.search.subject_to]
    return {
        "law": typeset(evidence.ridge.sentence()),
        "typeset": typeset,
        "ended": ended,
        "collapsed": int(collapsed_among(evidence.trials).sum()),
        "rungs": evidence.scouts["rung"].value_counts(sort=False).to_dict(),
        "aims": [title(metric) for metric in evidence.search.maximise],
        "constraints": constraints,
        "meeting": int(meets(evidence.finished).sum()),
        "missing": [evidence.names[width] for width in missing],
        "beyond": beyond(evidence),
        "most_drawn": MOST_DRAWN if len(evidence.all_trials) > MOST_DRAWN else None,
        "regret": evidence.ridge.regret,
        "loss": loss,
        "highest_mean": partial(highest_mean, evidence),
        "others": {best["trial"]: other_parameters(best) for _, best in bests.iterrows()},
        "has_strongest": bests[STRONGEST].notna().any(),
        "seeds": seeds.set_index(["width", "number"]) if has_seeds else None,
        "gain": gain,
    }


def typeset(sentence: str) -> Markup:
    """The terminal's sentence as the page's: ``lambda* = 1.5 * width^0.3`` with signs and
    exponent."""
    signs = str(escape(sentence)).replace("lambda*", "λ*").replace(" * ", " × ")
    return Markup(re.sub(r"\^(-?[\d.]*\d)", r"<sup>\1</sup>", signs))


def ended(trials: DataFrame) -> str:
    """``18 done, 4 pruned, 2 failed``, and those still running where there are any."""
    counts = {word: int((trials["state"] == state).sum()) for state, word in STATES.items()}
    if not counts["running"]:
        del counts["running"]
    return ", ".join(f"{count} {word}" for word, count in counts.items())


def beyond(evidence: Evidence) -> tuple[str, Optimum] | None:
    """Where there is a law, what it recommends one step beyond the widest net, as far as the last
    two are apart."""
    if evidence.ridge.law is None:
        return None
    # A law is not determined with fewer than two widths.
    *_, before, widest = evidence.widths
    width = widest * widest / before
    names = names_of([*evidence.widths, width])
    return names[width], evidence.ridge.optimum(width)


def other_parameters(trial: Series | Mapping[str, Any]) -> str:
    """What was searched besides lambda: ``lr 0.31, objective trades``."""
    return params_text(others_than_lam(params_of(trial)))


def highest_mean(evidence: Evidence, width: float) -> str:
    """In brackets what to take at a width whose trials do not place lambda*; a dash where nothing
    is known."""
    regret = evidence.ridge.regret
    if regret is None or width not in regret.widths:
        return ABSENT
    return f"({number(regret.lams[regret.widths.index(width)])})"


def loss(lost: Loss) -> str:
    """Points lost, with their interval: ``0.4 [−0.2, 1.0]``."""
    # Adding 0 makes 0 of what rounds to minus 0.
    points = [f"{round(100 * rate, 1) + 0.0:.1f}".replace("-", MINUS) for rate in lost]
    return "{} [{}, {}]".format(*points)


def gain(best: Series, control: Series) -> str:
    """In test robust accuracy over a control; the two nets count as independent."""
    error_name = f"{TEST_ROBUST}_se"
    error = math.hypot(best[error_name], control[error_name])
    return percentage_points(best[TEST_ROBUST] - control[TEST_ROBUST], error)
