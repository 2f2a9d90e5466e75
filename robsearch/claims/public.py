"""H1 and H2 held against a table of somebody else's trainings, such as figures from public logs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from robsearch.claims.form import Evidence, Verdict, judge
from robsearch.claims.war_claims import NATURAL, ROBUST, STABLE, WINDOW, claims
from robsearch.claims.war_tables import LAST
from robsearch.errors import InputError, refusal
from robsearch.naming import names_of
from robsearch.schedules import FLOOR

LOSSES = ("train_nat_loss", "train_rob_loss")
COLUMNS = ("width", "epoch", *LOSSES, "test_nat_acc", "test_rob_acc")
OPTIONAL = {"lam": 1.0, "seed": 0, "test_stability": math.nan}
POSITIVE, SHARES = ("width", "lam"), ("test_nat_acc", "test_rob_acc", "test_stability")


def read_table(file: Path) -> Evidence:
    """Per-epoch figures of PGD adversarial training (lambda = 1) as evidence.

    Args:
        file: CSV with columns ``width, epoch, train_nat_loss, train_rob_loss`` (mean cross-entropies on clean and on
            perturbed images), ``test_nat_acc, test_rob_acc`` (shares), and, where there are any, ``lam`` (1), ``seed``
            (0) and ``test_stability`` (unknown). Such a table has no validation split, so its best epoch is the best
            on test, which flatters.

    Raises:
        InputError: no such file, no rows, missing columns, numbers out of their range, or an epoch that stands there
            twice for one width, lambda and seed.
    """
    try:
        rows = pd.read_csv(file)
    except (OSError, ValueError) as error:
        raise InputError(refusal(f"a table {file}", error, "pass a CSV file")) from error
    if missing := [name for name in COLUMNS if name not in rows]:
        got = ", ".join(map(str, rows.columns))
        raise InputError(refusal(f"columns {', '.join(COLUMNS)} in {file}", got, f"add {', '.join(missing)}"))
    return _evidence(_checked(rows, file))


def _checked(rows: pd.DataFrame, file: Path) -> pd.DataFrame:
    """All columns as numbers, with those that may be left out."""
    rows = rows.assign(**{name: rows.get(name, value) for name, value in OPTIONAL.items()})
    numbers: pd.DataFrame = rows[[*COLUMNS, *OPTIONAL]].apply(pd.to_numeric, errors="coerce").astype(float)
    problems = [problem for name in numbers for problem in _out_of_range(rows[name], numbers[name], file)]
    keys = ["width", "lam", "seed", "epoch"]
    if (twice := numbers.duplicated(keys)).any() and not problems:
        do = "number the trainings of one width in a column seed"
        problems = [refusal(f"each {', '.join(keys)} once in {file}", f"line {_line(twice)} again", do)]
    if rows.empty:
        problems = [refusal(f"rows in {file}", "none", "pass one for each epoch of each training")]
    if problems:
        raise InputError(*problems)
    return numbers


def _out_of_range(given: pd.Series, numbers: pd.Series, file: Path) -> Iterator[str]:
    name, most = str(given.name), 1.0 if given.name in SHARES else math.inf
    right = np.isfinite(numbers) & (numbers >= 0) & (numbers <= most)
    expected = "a share from 0 to 1" if name in SHARES else "a number from 0 up"
    if name in POSITIVE:
        right, expected = right & (numbers > 0), "a number above 0"
    wrong = ~right & (given.notna() | (name != "test_stability"))
    if wrong.any():
        got = f"{given[wrong].tolist()[0]!r} in line {_line(wrong)}"
        yield refusal(f"{expected} as {name} in {file}", got, "correct it")


def _line(marked: pd.Series) -> int:
    """Of the first that is marked, in the file."""
    return int(marked.to_numpy().argmax()) + 2


def _evidence(rows: pd.DataFrame) -> Evidence:
    rows = rows.assign(experiment="grid").sort_values(["seed", "lam", "width", "epoch"])
    rows = rows.assign(arm="lam " + rows["lam"].map(names_of(rows["lam"])))
    keys = ["experiment", "arm", "lam", "width", "seed"]
    first, longest = (rows.groupby(keys)["epoch"].transform(of) for of in ("min", "max"))
    natural, adversarial = (rows[name] for name in LOSSES)
    epochs = rows.assign(
        progress=(rows["epoch"] - first + 0.5) / (longest - first + 1),
        **{"train/natural_loss": natural, "train/robust_loss": adversarial - natural},
    )
    trials = pd.DataFrame([_training(dict(zip(keys, key, strict=True)), own) for key, own in rows.groupby(keys)])
    return Evidence(trials, epochs)


def _training(keys: dict[str, object], own: pd.DataFrame) -> dict[str, object]:
    best, last = own.iloc[int(own["test_rob_acc"].argmax())], own.iloc[-1]
    accuracies = {NATURAL: best["test_nat_acc"], ROBUST: best["test_rob_acc"], LAST: last["test_rob_acc"]}
    return {**keys, **accuracies, STABLE: best.get("test_stability", math.nan)}


def judged_table(evidence: Evidence) -> tuple[list[Verdict], Mapping[str, pd.DataFrame]]:
    """Verdicts on H1 and H2, and what the widths say without replicates: trends over widths, not over seeds."""
    widths = evidence.trials["width"]
    verdicts = judge(claims(float(widths.min()), float(widths.max()))[:2], evidence)
    return verdicts, {"Trends over widths": trends(evidence), "Each width": by_width(evidence)}


def ratios(evidence: Evidence) -> pd.Series:
    """By width: the mean ratio of natural to robust loss in the window of training that H1 looks at."""
    epochs = evidence.epochs
    at = epochs[(epochs["progress"] > WINDOW[0]) & (epochs["progress"] <= WINDOW[1])]
    ratio = at["train/natural_loss"] / at["train/robust_loss"].clip(lower=FLOOR)
    return ratio.groupby(at["width"]).mean()


def by_width(evidence: Evidence) -> pd.DataFrame:
    """Ratio, robust accuracy at the best and the last epoch, natural accuracy."""
    means = evidence.trials.groupby("width")[[ROBUST, LAST, NATURAL]].mean() * 100
    shown = means.assign(ratio=ratios(evidence)).reset_index()
    titles = {ROBUST: "robust, best epoch", LAST: "robust, last epoch", NATURAL: "natural, best epoch"}
    return shown.rename(columns=titles).map(lambda number: f"{number:.4g}")


def trends(evidence: Evidence) -> pd.DataFrame:
    """A power law of the ratio, and lines of accuracies on log2 width, with intervals over widths."""
    ratio = ratios(evidence)
    line = stats.linregress(np.log(ratio.index), np.log(ratio))
    rows = [_row(f"ratio = {math.exp(line.intercept):.2f} width^b", line, len(ratio))]
    for said, metric in (
        ("robust, best epoch", ROBUST),
        ("robust, last epoch", LAST),
        ("natural, best epoch", NATURAL),
    ):
        means = evidence.trials.groupby("width")[metric].mean() * 100
        rows.append(_row(f"{said}: points per doubling", stats.linregress(np.log2(means.index), means), len(means)))
    return pd.DataFrame(rows)


def _row(what: str, line: object, n: int) -> dict[str, str]:
    slope, error, r = (float(getattr(line, name)) for name in ("slope", "stderr", "rvalue"))
    reach = float(stats.t.ppf(0.975, n - 2)) * error
    told = f"{slope:.3f} [{slope - reach:.3f}, {slope + reach:.3f}]"
    return {"trend": what, "slope [95 %, over widths]": told, "R2": f"{r**2:.3f}", "widths": str(n)}
