"""H1 and H2 held against a table of somebody else's trainings, such as figures from public logs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from robsearch.claims.claim import Evidence, Verdict, judge
from robsearch.drawing.formatting import names_of
from robsearch.errors import InputError, refusal, refused
from robsearch.papers.war.claims import (
    GRID,
    LAST,
    NATURAL,
    ROBUST,
    STABLE,
    claims,
    in_window,
    loss_ratio,
)

COLUMNS = (
    "width",
    "epoch",
    "train_nat_loss",
    "train_rob_loss",
    "test_nat_acc",
    "test_rob_acc",
)
OPTIONAL = {"lam": 1.0, "seed": 0, "test_stability": math.nan}
POSITIVE = ("width", "lam")
SHARES = ("test_nat_acc", "test_rob_acc", "test_stability")
TRAINING = ["lam", "width", "seed"]
"""What tells one training from another."""
RATES = {
    "robust, best epoch": ROBUST,
    "robust, last epoch": LAST,
    "natural, best epoch": NATURAL,
}


def read_table(file: Path) -> Evidence:
    """Per-epoch figures of PGD adversarial training (lambda = 1) as evidence.

    Args:
        file: CSV with columns ``width, epoch, train_nat_loss, train_rob_loss`` (mean
            cross-entropies on clean and on perturbed images), ``test_nat_acc, test_rob_acc``
            (shares), and, where there are any, ``lam`` (1), ``seed`` (0) and ``test_stability``
            (unknown). Such a table has no validation split, so its best epoch is the best on test,
            which flatters.

    Raises:
        InputError: no such file, no rows, missing columns, numbers out of their range, or an epoch
            that stands there twice for one width, lambda and seed.
    """
    try:
        table = pd.read_csv(file)
    except (OSError, ValueError) as error:
        raise refused(f"a table {file}", error, "pass a CSV file") from error
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        got = ", ".join(map(str, table.columns))
        do = f"add {', '.join(missing)}"
        raise refused(f"columns {', '.join(COLUMNS)} in {file}", got, do)
    for name, value in OPTIONAL.items():
        if name not in table:
            table[name] = value
    table = table[[*COLUMNS, *OPTIONAL]]
    # What is no number becomes NaN here, and is refused by name and line below.
    numbers = table.apply(pd.to_numeric, errors="coerce").astype(float)
    problems = list(_out_of_range(table, numbers, file)) or list(_repeated(numbers, file))
    if problems:
        raise InputError(*problems)
    return _evidence(numbers)


def _out_of_range(
    table: pd.DataFrame,
    numbers: pd.DataFrame,
    file: Path,
) -> Iterator[str]:
    if table.empty:
        yield refusal(f"rows in {file}", "none", "pass one for each epoch of each training")
    for name in map(str, table):
        values = numbers[name]
        in_range = np.isfinite(values) & (values >= 0)
        expected = "a number from 0 up"
        if name in POSITIVE:
            in_range &= values > 0
            expected = "a number above 0"
        if name in SHARES:
            in_range &= values <= 1
            expected = "a share from 0 to 1"
        # Stability may be unknown, for few logs have it.
        if name == "test_stability":
            in_range |= table[name].isna()
        if not in_range.all():
            wrong = table.loc[~in_range, name].tolist()
            got = f"{wrong[0]!r} in line {_first_line(~in_range)}"
            yield refusal(f"{expected} as {name} in {file}", got, "correct it")


def _repeated(numbers: pd.DataFrame, file: Path) -> Iterator[str]:
    keys = ["width", "lam", "seed", "epoch"]
    repeated = numbers.duplicated(keys)
    if repeated.any():
        expected = f"each {', '.join(keys)} once in {file}"
        do = "number the trainings of one width in a column seed"
        yield refusal(expected, f"line {_first_line(repeated)} again", do)


def _first_line(marked: pd.Series) -> int:
    """Of the first row that is marked, in the file."""
    # Lines count from 1, and the first holds the heads.
    return int(marked.to_numpy().argmax()) + 2


def _evidence(numbers: pd.DataFrame) -> Evidence:
    rows = numbers.sort_values(["seed", "lam", "width", "epoch"])
    arms = "lam " + rows["lam"].map(names_of(rows["lam"]))
    rows = rows.assign(experiment=GRID, arm=arms)
    epoch = rows.groupby(TRAINING)["epoch"]
    first = epoch.transform("min")
    last = epoch.transform("max")
    # The middle of each epoch, as a share of the epochs that there are.
    rows["progress"] = (rows["epoch"] - first + 0.5) / (last - first + 1)
    rows["train/natural_loss"] = rows["train_nat_loss"]
    # The robust term is the rise of the loss under attack.
    rows["train/robust_loss"] = rows["train_rob_loss"] - rows["train_nat_loss"]
    trainings = rows.groupby(TRAINING)
    best = rows.loc[trainings["test_rob_acc"].idxmax()]
    trials = best[["experiment", "arm", *TRAINING]].copy()
    trials[NATURAL] = best["test_nat_acc"]
    trials[ROBUST] = best["test_rob_acc"]
    trials[LAST] = trainings["test_rob_acc"].last().to_numpy()
    trials[STABLE] = best["test_stability"]
    return Evidence(trials, rows)


def judged_table(evidence: Evidence) -> tuple[list[Verdict], Mapping[str, pd.DataFrame]]:
    """Verdicts on H1 and H2, and what the widths say without replicates: trends over widths, not
    over seeds."""
    # H3 to H5 ask for a grid of lambdas and for measures, which no table has.
    widths = evidence.trials["width"]
    h1_and_h2 = claims(float(widths.min()), float(widths.max()))[:2]
    tables = {"Trends over widths": trends(evidence), "Each width": by_width(evidence)}
    return judge(h1_and_h2, evidence), tables


def ratios(evidence: Evidence) -> pd.Series:
    """By width: the mean ratio of natural to robust loss in the window of training that H1 looks
    at."""
    epochs = in_window(evidence.epochs)
    return loss_ratio(epochs).groupby(epochs["width"]).mean()


def by_width(evidence: Evidence) -> pd.DataFrame:
    """Ratio, robust accuracy at the best and the last epoch, natural accuracy."""
    table = _mean_rates(evidence).assign(ratio=ratios(evidence)).reset_index()
    return table.map(lambda number: f"{number:.4g}")


def trends(evidence: Evidence) -> pd.DataFrame:
    """A power law of the ratio, and lines of accuracies on log2 width, with intervals over
    widths."""
    ratio = ratios(evidence)
    line = stats.linregress(np.log(ratio.index), np.log(ratio))
    rows = [_trend(f"ratio = {math.exp(line.intercept):.2f} width^b", line, len(ratio))]
    for label, rates in _mean_rates(evidence).items():
        line = stats.linregress(np.log2(rates.index), rates)
        rows.append(_trend(f"{label}: points per doubling", line, len(rates)))
    return pd.DataFrame(rows)


def _mean_rates(evidence: Evidence) -> pd.DataFrame:
    """By width, in percent."""
    trials = evidence.trials.groupby("width")
    means = pd.DataFrame({label: trials[metric].mean() for label, metric in RATES.items()})
    return means * 100


def _trend(
    what: str,
    line: Any,
    widths: int,
) -> dict[str, str]:
    reach = float(stats.t.ppf(0.975, widths - 2)) * line.stderr
    low = line.slope - reach
    high = line.slope + reach
    return {
        "trend": what,
        "slope [95 %, over widths]": f"{line.slope:.3f} [{low:.3f}, {high:.3f}]",
        "R2": f"{line.rvalue**2:.3f}",
        "widths": str(widths),
    }
