"""Every trial and control of the search, what went wrong, and how it was searched."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from pandas import DataFrame, MultiIndex, concat

from robsearch.drawing.formatting import percent
from robsearch.errors import counted
from robsearch.metrics import TEST_ROBUST
from robsearch.report.answer import STATES, other_parameters
from robsearch.report.evidence import Evidence, LeftOutError, suggestions_of, text_of
from robsearch.study import failures_of
from robsearch.trials.underway import trainings_underway

MOST_LISTED = 300
"""Trials that the table lists, for about; a search with fewer has all of them."""
SCORES = (
    "value",
    TEST_ROBUST,
    "test/natural_accuracy",
    "test/stability",
    "test_last/robust_accuracy",
)


def failures(evidence: Evidence) -> dict[str, Any]:
    """What went wrong: a group for each reason, with what its trials tried beside the others."""
    trials = evidence.all_trials
    failed = int((trials["state"] == "FAIL").sum())
    return {
        "count": len(trials),
        "failed": failed,
        "groups": list(failures_of(trials)),
    }


def not_ended(evidence: Evidence) -> dict[str, Any]:
    """How far the trainings are that have begun and not ended."""
    search = evidence.search
    return {"underway": trainings_underway(search.trials, search.epochs)}


def all_trials(evidence: Evidence) -> dict[str, Any]:
    """One table, a group of rows per width, the best trial in bold, then controls, then trials of
    lower fidelity."""
    trials = evidence.all_trials
    if trials.empty:
        raise LeftOutError("the search has no trials")
    # Each row of the table is made by itself, which takes as long as it has columns.
    unused = [name for name in trials.columns if str(name).startswith(("val/", "strongest/"))]
    rows = listed(evidence.trials).drop(columns=unused)
    scouts = listed(evidence.scouts).drop(columns=unused)
    in_table = concat([rows, evidence.controls.drop(columns=unused), scouts])
    return {
        "listed": rows,
        "scouts": scouts,
        "left_out": len(trials) - len(in_table),
        "test_rates": test_rates,
        "state": state,
        "text_of": text_of,
        "by_suggestion": by_suggestion,
        "other_parameters": other_parameters,
        "searched": any(map(other_parameters, plain_rows(in_table))),
        "bests": set(evidence.bests["trial"]),
        "error": evidence.trials[f"{TEST_ROBUST}_se"].median(),
        "seeded": bool((suggestions_of(evidence.finished)["n"] > 1).any()),
    }


def listed(trials: DataFrame) -> DataFrame:
    """All, or of more than a reader would go through the best suggestions of each width."""
    if len(trials) <= MOST_LISTED:
        return trials
    each = max(MOST_LISTED // trials["width"].nunique(), 1)
    suggestion = [trials["width"], trials["number"]]
    best = trials["value"].where(trials["state"] == "COMPLETE").groupby(suggestion, dropna=False)
    best_first = best.transform("max").sort_values(ascending=False, kind="stable").index
    head = trials.loc[best_first].groupby("width").head(each)
    # A suggestion is listed with all of its seeds, which its mean is taken over.
    names = MultiIndex.from_frame(head[["width", "number"]])
    rows: DataFrame = trials[MultiIndex.from_frame(trials[["width", "number"]]).isin(names)]
    return rows


def test_rates(trial: Mapping[str, Any]) -> list[str]:
    """The rates of a row but the first, in percent."""
    return [percent(trial[score]) for score in SCORES[1:]]


def by_suggestion(
    trials: DataFrame,
) -> Iterator[tuple[list[Mapping[str, Any]], dict[str, Any] | None]]:
    """The rows of each suggestion of one width, and the ``means`` of its seeds."""
    trials = trials.sort_values("trial")
    # As plain rows: most suggestions have one, and a table of each would take a second.
    rows = plain_rows(trials)
    rows_of: dict[float, list[int]] = {}
    for place, number in enumerate(trials["number"].tolist()):
        rows_of.setdefault(-1 if math.isnan(number) else number, []).append(place)
    for of_one in rows_of.values():
        yield [rows[place] for place in of_one], means(trials.iloc[of_one])


def plain_rows(trials: DataFrame) -> list[Mapping[str, Any]]:
    """Each row of a table by its columns."""
    rows: list[Any] = trials.to_dict("records")
    return rows


def means(suggestion: DataFrame) -> dict[str, Any] | None:
    """What the finished seeds of a suggestion come to, where there are several: mean ± standard
    deviation."""
    if len(suggestion) < 2:
        return None
    done = suggestion[(suggestion["state"] == "COMPLETE") & suggestion["value"].notna()]
    if len(done) < 2:
        return None
    scores = [percent(done[score].mean(), done[score].std()) for score in SCORES]
    return {
        "n": len(done),
        "lam": done["lam"].mean(),
        "scores": scores,
    }


def state(trial: Mapping[str, Any]) -> str:
    """A trial's state, with its rung; for a control which one it is."""
    if control := text_of(trial["control"]):
        return f"control: {control}"
    collapsed = text_of(trial["collapsed"]) == "True"
    text = "collapsed" if collapsed else STATES.get(trial["state"], text_of(trial["state"]))
    rung = text_of(trial["rung"])
    return f"{rung}: {text}" if rung else text


def setting(evidence: Evidence) -> dict[str, Any]:
    """What is needed to judge and to repeat the numbers."""
    seeds = evidence.trials["seed"].nunique()
    counts = [counted(len(evidence.trials), "trial"), counted(len(evidence.controls), "control")]
    if len(evidence.scouts):
        counts.insert(1, counted(len(evidence.scouts), "scout"))
    facts = {
        "space": evidence.search.space,
        "widths": ", ".join(evidence.names.values()),
        "trials": ", ".join(counts),
        "training seeds": str(seeds) if seeds else "not recorded",
        **evidence.search.setting,
    }
    return {"facts": facts}
