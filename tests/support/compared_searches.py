"""Searches that have ended, written by hand."""

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from robsearch.search.result import Search
from robsearch.study import SearchRecord

SETTING = {
    "data": "Digits(train=500)",
    "test attack": "PGD(eps=0.15)",
    "test examples": "100",
    "objective": "TRADES()",
}

RATES = {"test/natural_accuracy": 0.9, "test/robust_accuracy": 0.5, "test/stability": 0.6}

MEASURES = {
    "test/lipschitz/logit_ratio/mean": 10.0,
    "test/lipschitz/logit_ratio/se": 0.5,
    "test/margin/logit/mean": 2.0,
    "test/margin/logit/se": 0.1,
}


def trial(width, number, value, **changes):
    name = f"w{width}-{number:03d}"
    facts = {
        "trial": name,
        "width": width,
        "number": number,
        "replicate": None,
        "control": None,
        "rung": None,
    }
    facts |= {
        "state": "COMPLETE",
        "suggestion": "COMPLETE",
        "feasible": True,
        "lam": 2.0**number,
        "value": value,
    }
    facts |= {
        "best_epoch": 3,
        "epochs": 4,
        "seconds": 10.0,
        "reason": None,
        "seed": 1,
        **RATES,
        **MEASURES,
    }
    return facts | changes


def search(
    folder,
    name,
    trials,
    labels=(0, 1, 2),
    widths=(4, 8),
    maximise=("val/robust_accuracy",),
    **setting,
):
    record = SearchRecord(
        name, "m:n", widths, 0, len(trials), "sqlite:///m.db", {**SETTING, **setting}, maximise
    )
    frame = pd.DataFrame(trials)
    for one in frame["trial"]:
        (folder / name / "trials" / one).mkdir(parents=True, exist_ok=True)
        pq.write_table(
            pa.table({"label": list(labels)}), folder / name / "trials" / one / "test.parquet"
        )
    return Search(record, folder / name, frame, pd.DataFrame({"trial": frame["trial"], "epoch": 1}))
