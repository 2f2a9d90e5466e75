"""What a reader wants beside the verdicts under wrong labels: the ways, the grid, and pictures of
both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from robsearch.claims.claim import Evidence, NotDecidableError, Part
from robsearch.claims.experiment import Findings, pooled
from robsearch.claims.figures import forest, means_by_arm
from robsearch.claims.images import accuracy_effect, points_apart
from robsearch.claims.statistics import estimate
from robsearch.drawing.style import Drawing
from robsearch.laws.curves import FAMILIES
from robsearch.metrics import APART, NATURAL_LOSS, ROBUST_LOSS
from robsearch.papers.war.claims import (
    GRID,
    LAST,
    NORMALISED,
    ORACLE,
    SHORTFALL,
    in_window,
    loss_ratio,
    peak_slopes,
    trade_off,
)
from robsearch.papers.war.tables import percent
from robsearch.papers.war.ways import BETWEEN, COSTS, SENTENCES, TWO
from robsearch.papers.war.wrong_labels_claims import LAST_NATURAL, LAST_STABLE, trials_at
from robsearch.parts.schedules import FLOOR

LAST_ACCURACY = {"robust accuracy on test (%)": (LAST, 100.0)}


def tables(
    findings: Findings,
    ways: pd.DataFrame,
    widths: Sequence[float],
) -> Mapping[str, pd.DataFrame]:
    """By caption; accuracies in percent, differences in points, intervals at 95 % over replicates.

    Args:
        findings: of the study.
        ways: as ``ways_frame`` has them; empty where none was compared.
        widths: thin to wide.
    """
    shown = {}
    if not ways.empty:
        wide = ways["width"].iloc[0]
        caption = f"Ways of choosing lambda at width {wide:g} (after the last epoch, on test)"
        shown[caption] = ways_table(ways)
        shown["What each way takes"] = pd.DataFrame(
            {"way": arm, "net": SENTENCES[arm]} for arm in ways["arm"].unique()
        )
    shown["Robust accuracy by width and lambda (after the last epoch, on test)"] = grid_table(
        findings, (GRID, BETWEEN)
    )
    shown["Rise per doubling of width at each lambda (H2; after the last epoch, in points)"] = (
        rises_table(findings)
    )
    slopes = slopes_table(findings, widths)
    if not slopes.empty:
        caption = "Slope of log lambda* on log width in the replicates that both of a pair have"
        shown[f"{caption} (H3; no claim asked for the differences)"] = slopes
    apart = terms_table(findings)
    if not apart.empty:
        shown["Loss terms of images with a right and with a wrong label (H1)"] = apart
    if NORMALISED in findings:
        shown["The same with the loss divided by 1 + lambda"] = grid_table(findings, (NORMALISED,))
    return shown


def ways_table(ways: pd.DataFrame) -> pd.DataFrame:
    """One row per way: what it reached, against the full search and two trainings, and its cost as
    a share of the full search's."""
    whole = ways.loc[ways["arm"] == ORACLE, list(COSTS)].mean()
    rows = []
    for arm, of_way in ways.groupby("arm", sort=False):
        way = str(arm)
        low, lam, high = of_way["lam"].quantile([0.25, 0.5, 0.75])
        against = {
            f"less {other}": "" if way == other else points_apart(ways, "robust", way, other).text()
            for other in (ORACLE, TWO)
        }
        rows.append(
            {
                "way": way,
                "lambda (quartiles)": f"{lam:.3g} ({low:.3g} to {high:.3g})",
                "robust": percent(of_way["robust"]),
                **against,
                "natural": percent(of_way["natural"]),
                "stability": percent(of_way["stability"]),
                "wide trainings": f"{of_way['trainings'].mean():g}",
                **{cost: f"{of_way[cost].mean() / whole[cost]:.1%}" for cost in COSTS},
                "seeds": of_way["seed"].nunique(),
            }
        )
    return pd.DataFrame(rows)


def grid_table(findings: Findings, experiments: Sequence[str]) -> pd.DataFrame:
    """One row per width and lambda: robust accuracy at the last epoch and at the best on val, the
    ratio of the losses in ``WINDOW``, and to which robust loss the nets were fitted (H2)."""
    held = [findings[name] for name in experiments if name in findings]
    trials = pd.concat([evidence.trials for evidence in held])
    epochs = pd.concat([evidence.epochs for evidence in held])
    window = in_window(epochs)
    ratios = geometric_means(loss_ratio(window), window)
    last = epochs[epochs["epoch"] == epochs["epoch"].max()]
    losses = geometric_means(last[ROBUST_LOSS], last)
    rows = []
    for (width, lam, arm), cell in trials.groupby(["width", "lam", "arm"]):
        rows.append(
            {
                "width": f"{width:g}",
                "lambda": f"{lam:g}",
                "robust": percent(cell[LAST]),
                "robust, best epoch": percent(cell["test/robust_accuracy"]),
                "natural": percent(cell["test_last/natural_accuracy"]),
                "ratio of the losses": f"{ratios.get((width, arm), np.nan):.3g}",
                "robust loss at the end": f"{losses.get((width, arm), np.nan):.2g}",
                "collapsed": int(cell["collapsed"].sum()),
                "seeds": len(cell),
            }
        )
    return pd.DataFrame(rows)


def rises_table(findings: Findings) -> pd.DataFrame:
    """One row per lambda of the grid: by how many points natural accuracy and stability rise per
    doubling of width. A mean over lambdas may hide that the sign changes."""
    trials, epochs = findings[GRID]
    rows = []
    for lam, of_lam in trials.groupby("lam"):
        effects = trade_off(Evidence(of_lam, epochs), LAST_NATURAL, LAST_STABLE)
        rise, fall = (effect.per_seed for effect in effects)
        natural = estimate(rise)
        stability = estimate([-value for value in fall])
        rows.append(
            {
                "lambda": f"{lam:g}",
                "natural accuracy": natural.text(),
                "stability": stability.text(),
                "seeds": len(fall),
            }
        )
    return pd.DataFrame(rows)


def slopes_table(findings: Findings, widths: Sequence[float]) -> pd.DataFrame:
    """H3 with the loss as it is and divided by 1 + lambda, and from thin to middle and from middle
    to wide, each pair in the same replicates, with the difference; empty where neither pair was
    trained."""
    evidence = pooled(findings)
    usual = (GRID, BETWEEN)
    ends = (widths[0], widths[-1])
    middle = len(widths) // 2
    pairs: list[tuple[Setting, Setting]] = []
    if NORMALISED in findings:
        divided = Setting("loss divided by 1 + lambda", ends, (NORMALISED,))
        pairs.append((Setting("loss as it is", ends, usual), divided))
    if BETWEEN in findings:
        thin, wide = widths[: middle + 1], widths[middle:]
        pairs.append(
            (
                Setting(f"width {thin[0]:g} to {thin[-1]:g}", thin, usual),
                Setting(f"width {wide[0]:g} to {wide[-1]:g}", wide, usual),
            )
        )
    rows: list[Mapping[str, object]] = []
    for pair in pairs:
        rows += _rows_of_pair(evidence, pair)
    return pd.DataFrame(rows)


class Setting(NamedTuple):
    """Where H3 is asked: the widths, and the experiments that trained them."""

    name: str
    widths: Sequence[float]
    experiments: Sequence[str]


def _rows_of_pair(
    evidence: Evidence,
    pair: tuple[Setting, Setting],
) -> Iterator[Mapping[str, object]]:
    held = [trials_at(evidence, setting.widths, setting.experiments) for setting in pair]
    shared = set(held[0]["seed"]) & set(held[1]["seed"])
    slopes = []
    for setting, trials in zip(pair, held, strict=True):
        try:
            of_setting = peak_slopes(trials[trials["seed"].isin(shared)], LAST)
        except NotDecidableError as reason:
            yield {"setting": setting.name, **dict.fromkeys(FAMILIES, str(reason))}
            continue
        slopes.append(of_setting)
        texts = {family: estimate(values).text() for family, values in of_setting.items()}
        yield {"setting": setting.name, **texts, "seeds": len(shared)}
    if len(slopes) == len(pair):
        first, second = slopes
        texts = {
            family: estimate(np.subtract(first[family], second[family]).tolist()).text()
            for family in first
        }
        yield {"setting": "difference", **texts, "seeds": len(shared)}


def terms_table(findings: Findings) -> pd.DataFrame:
    """One row per width and lambda: each loss term in ``WINDOW`` over the images whose label is
    right, and over those whose label is wrong. Empty of trainings that an earlier version did,
    which has not recorded them."""
    held = [findings[name].epochs for name in (GRID, BETWEEN) if name in findings]
    epochs = in_window(pd.concat(held))
    if not APART.keys() <= set(epochs):
        return pd.DataFrame()
    epochs = epochs.dropna(subset=list(APART))
    logs = pd.DataFrame(np.log(epochs[list(APART)].clip(lower=FLOOR)))
    heads = [
        f"{'natural' if term == NATURAL_LOSS else 'robust'}, {'wrong' if is_wrong else 'right'}"
        for term, is_wrong in APART.values()
    ]
    rows = []
    for (width, lam), cell in logs.groupby([epochs["width"], epochs["train/lam"]]):
        means = [f"{mean:.3g}" for mean in np.exp(cell.mean())]
        of_cell = dict(zip(heads, means, strict=True))
        rows.append({"width": f"{width:g}", "lambda": f"{lam:g}", **of_cell})
    return pd.DataFrame(rows)


def geometric_means(values: pd.Series, epochs: pd.DataFrame) -> pd.Series:
    """By (width, arm), of one value for each of these epochs."""
    logs = np.log(values.clip(lower=FLOOR))
    return pd.Series(np.exp(logs.groupby([epochs["width"], epochs["arm"]]).mean()))


def figures(findings: Findings, ways: pd.DataFrame) -> list[Drawing]:
    """In the order of the page; arguments as ``tables`` has them."""
    title = "Robust accuracy on test after the last epoch, by lambda and width"
    held = [findings[name].trials for name in (GRID, BETWEEN) if name in findings]
    drawings = [means_by_arm(pd.concat(held), LAST_ACCURACY, title)]
    if not ways.empty:
        drawings.append(regrets(ways))
    return drawings


def regrets(ways: pd.DataFrame) -> Drawing:
    """Points lost against a full search, one row per way."""
    unit = "regret (points of robust accuracy below the full search)"
    parts = []
    for way in ways["arm"].unique():
        if way == ORACLE:
            continue
        regret = accuracy_effect(way, ways, "robust", ORACLE, way, SHORTFALL)
        if regret.per_seed:
            parts.append(Part.of(regret._replace(unit=unit)))
    parts.sort(key=lambda part: part.estimate.mean)
    caption = (
        f"Robust accuracy below that of the full search at the widest net, paired over "
        f"{ways['seed'].nunique()} replicates, with 95 % intervals. Each replicate chooses on its "
        "own val. Left of the line at 0 a way is better than the full search; right of the dashes "
        f"it loses more than {SHORTFALL:g} points."
    )
    return forest(parts, "Regret of each way of choosing lambda", caption)
