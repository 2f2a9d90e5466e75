"""What the search wanted besides robust accuracy: constraints, and several metrics at once."""

from __future__ import annotations

from typing import NamedTuple

from robsearch.trainer import VALUE
from robsearch.wording import counted

from .evidence import Evidence, meets
from .markup import Html, join, tag
from .numerals import plain

SUBJECT_TO = "subject to"
"""The label in the setting of the constraints: ``val/natural_accuracy >= 0.84, val/stability >= 0.6``."""


class Constraint(NamedTuple):
    """A metric of the best epoch on ``val``, and how high it must be, as a share."""

    metric: str
    least: float


def constraints(evidence: Evidence) -> list[Constraint]:
    """Those of the search, none for most."""
    told = [each.split(" >= ") for each in evidence.search.setting.get(SUBJECT_TO, "").split(", ") if each]
    return [Constraint(metric, float(least)) for metric, least in told]


def column(metric: str) -> str:
    """The metric's column in the table of trials."""
    return "value" if metric == VALUE else metric


def named(metric: str) -> str:
    """``natural accuracy`` for ``val/natural_accuracy``."""
    return metric.removeprefix("val/").replace("_", " ")


def aims(evidence: Evidence) -> Html:
    """What the search wanted besides robust accuracy; nothing for most searches."""
    metrics = [named(metric) for metric in evidence.search.maximise]
    if len(metrics) == 1:
        return constraint_line(evidence)
    told = f"Searched for {', '.join(metrics[:-1])} and {metrics[-1]} at once: the best trials below are only the most "
    told += "robust ones, and "
    front = tag("p", told, tag("a", "the front", href="#front"), " shows what they cost.")
    return join([front, constraint_line(evidence)])


def constraint_line(evidence: Evidence) -> Html:
    """Which constraints there are, how many trials meet them all, and what that means for the rest of the page."""
    wanted = [f"{named(metric)} of at least {plain(100 * least)} %" for metric, least in constraints(evidence)]
    finished = evidence.finished
    if not wanted:
        return Html()
    met = int(meets(finished).sum())
    told = f"Searched subject to validation {' and '.join(wanted)}: "
    told += f"{met} of {counted(len(finished), 'finished trial')} meet{'s' * (met == 1)} this. "
    none = [plain(best["width"]) for best in evidence.bests() if not meets(best.to_frame().T).all()]
    if none:
        told += f"At width {', '.join(none)} no trial does, and the best one there misses it. "
    told += "The best trials are chosen among those that do; λ* and the law ask for robust accuracy alone."
    return tag("p", told)
