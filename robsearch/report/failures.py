"""What went wrong, each reason once."""

from __future__ import annotations

from pandas import DataFrame, concat

from robsearch.wording import counted

from .evidence import Evidence, words
from .hover import linked
from .markup import Html, join, row, table, tag

NAMES = 8
"""Trials named for one reason."""


def failures(evidence: Evidence) -> Html:
    """A row per reason with the trials that failed for it; the plain words where none did."""
    every = concat([evidence.trials, evidence.controls, evidence.scouts])
    failed = every[every["state"] == "FAIL"]
    if failed.empty:
        return tag("p", f"No trial failed, of {len(every)}.")
    told = failed.assign(why=[words(reason).partition("\n")[0] or "no reason given" for reason in failed["reason"]])
    reasons = told.groupby("why", sort=False)
    rows = [row(str(len(own)), [why, named(evidence, own)]) for why, own in reasons]
    caption = (
        f"{len(failed)} of {counted(len(every), 'trial')} failed; failed trials enter neither law nor figures, "
        "and others take their place. The first line of each reason; "
        "`robsearch status` names the file with its traceback."
    )
    return table(caption, ["Trials", "Reason", "Which"], [rows])


def named(evidence: Evidence, failed: DataFrame) -> Html:
    """The first few names, as links where runs are known."""
    names = [linked(evidence, str(trial)) for trial in failed["trial"]]
    more = [f"and {len(names) - NAMES} more"] if len(names) > NAMES else []
    return join([*names[:NAMES], *more], ", ")
