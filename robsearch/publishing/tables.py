"""The tables of a search, and those of a validation."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import pandas as pd

from robsearch.claims.claim import Verdict, estimated, why
from robsearch.claims.page import Validation
from robsearch.drawing.formatting import ABSENT, names_of, number, percent
from robsearch.errors import counted
from robsearch.laws.regret import RegretMap
from robsearch.publishing.latex import Table
from robsearch.search import Search

_LEFT_OUT = re.compile(r"(?:, )?\b(?:\w+=None|(?:root|fingerprint)='[^']*')")
"""What a caption leaves out of a part: what is not set, and where files lie."""


def search_tables(search: Search) -> dict[str, Table]:
    """Lambda* by width with the networks to deploy, and the regret map; by the names of their
    files."""
    tables = {"lambda-by-width": _lambda_by_width(search)}
    regret = search.ridge.regret
    if regret is not None:
        tables["regret"] = _regret(search, regret)
    return tables


def _lambda_by_width(search: Search) -> Table:
    heads = [
        "width",
        "trials",
        "lambda*",
        "95 % interval",
        "best trial's lambda",
        "robust (%)",
        "95 % interval",
        "natural (%)",
    ]
    finished = search.finished
    rows = []
    for width, name in names_of(search.widths).items():
        optimum = search.ridge.optimum(width)
        figure = None
        best = search.best(width)
        if best is not None:
            figure = search.strongest(str(best["trial"]))
        rows.append(
            [
                name,
                str(int((finished["width"] == width).sum())),
                _number(optimum.lam),
                _interval(optimum.low, optimum.high),
                ABSENT if best is None else number(best["lam"]),
                ABSENT if figure is None else percent(figure.robust_accuracy),
                ABSENT if figure is None else _percents(figure.low, figure.high),
                ABSENT if best is None else percent(best.get("test/natural_accuracy", math.nan)),
            ]
        )
    sentence = search.ridge.sentence()
    chosen = "Robust accuracy is the strongest known figure of the trial that is best on val"
    under = _attacks(search)
    caption = f"{search.name}: {sentence} {chosen} ({under}). {made_by(search)}"
    return Table(caption, f"{search.name}-lambda", heads, rows)


def _attacks(search: Search) -> str:
    """Under which attacks, on how many images, the figures of the best trials were found."""
    texts = []
    for best in search.bests:
        figure = search.strongest(str(best["trial"]))
        if figure is not None:
            texts.append(f"{figure.attack}, {counted(figure.n, 'image')} of {figure.on}")
    return "; ".join(dict.fromkeys(texts)) or "not measured"


def _regret(search: Search, regret: RegretMap) -> Table:
    names = names_of(regret.widths)
    heads = ["at width"]
    for width, lam in zip(regret.widths, regret.lams, strict=True):
        is_placed = regret.placed[regret.widths.index(width)]
        heads.append(
            f"lambda* of {names[width]} ({number(lam)}{'' if is_placed else ', not placed'})"
        )
    rows = []
    for width in regret.widths:
        cells = [names[width]]
        for other in regret.widths:
            loss = regret.at(width, other)
            cells.append(_points(*loss) if width != other else "0")
        rows.append(cells)
    caption = (
        f"{search.name}: percentage points of robust accuracy on val that one width's lambda* "
        f"loses at another, with 95 % intervals, from {counted(search.ridge.n, 'trial')} under "
        f"{search.setting.get('evaluation attack', 'the attack on val')}. "
        f"{made_by(search)}"
    )
    return Table(caption, f"{search.name}-regret", heads, rows)


def made_by(search: Search) -> str:
    """Data, seeds and what made the numbers, as sentences."""
    setting = search.setting
    seeds = int(search.finished["seed"].nunique()) if len(search.finished) else 0
    parts = [_short(setting[label]) for label in ("data", "objective") if label in setting]
    text = f"{', '.join(parts)}; {counted(seeds, 'training seed')}."
    made = [setting["versions"]] if "versions" in setting else []
    commit = setting.get("commit", "")
    if commit:
        made.append(commit if commit.startswith("not ") else f"commit {commit}")
    return f"{text} Made by {', '.join(made)}." if made else text


def _short(part: str) -> str:
    """A part of a recipe without what is not set, and without where its files lie."""
    kept = _LEFT_OUT.sub("", part)
    return kept.replace("(, ", "(")


# --- a validation ---


def validation_tables(validation: Validation, plan: str) -> dict[str, Table]:
    """The verdicts with their effects, and the study's own tables; by the names of their files.

    Args:
        validation: judged.
        plan: when it was registered, with its digest, and the attack that judges, in words.
    """
    name = validation.name
    caption = (
        f"{name}: verdicts at 95 % after Holm's correction, effects with 95 % intervals over "
        f"seeds. {_trainings(validation)}. Plan: {plan}."
    )
    rows = [row for verdict in validation.verdicts for row in _verdict_rows(verdict)]
    heads = ["claim", "verdict", "effect", "estimate", "n"]
    tables = {"verdicts": Table(caption, f"{name}-verdicts", heads, rows)}
    for place, (title, frame) in enumerate(validation.tables.items(), start=1):
        cells = [[_cell(value) for value in row] for row in frame.itertuples(index=False)]
        label = f"{name}-table-{place}"
        columns = list(map(str, frame.columns))
        tables[f"table-{place}"] = Table(f"{name}: {title}. Plan: {plan}.", label, columns, cells)
    return tables


def _trainings(validation: Validation) -> str:
    count = sum(len(evidence.trials) for evidence in validation.findings.values())
    seeds = {seed for evidence in validation.findings.values() for seed in evidence.trials["seed"]}
    return f"{counted(count, 'training')} with {counted(len(seeds), 'seed')}"


def _verdict_rows(verdict: Verdict) -> Iterator[list[str]]:
    """A row for each effect; the claim and its verdict stand in the first."""
    first = [verdict.claim.name, verdict.answer]
    if not verdict.parts:
        yield [*first, why(verdict) or ABSENT, ABSENT, ABSENT]
        return
    for place, part in enumerate(verdict.parts):
        effect, estimate = part
        unit = f" ({effect.unit})" if effect.unit else ""
        names = first if place == 0 else ["", ""]
        yield [*names, f"{effect.what}{unit}", estimated(part), str(estimate.n)]


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else ABSENT
    return ABSENT if value is None or value is pd.NA else str(value)


# --- numbers ---


def _number(value: float | None) -> str:
    return ABSENT if value is None else number(value)


def _interval(low: float | None, high: float | None) -> str:
    return ABSENT if low is None or high is None else f"[{number(low)}, {number(high)}]"


def _percents(low: float, high: float) -> str:
    return f"[{percent(low)}, {percent(high)}]" if math.isfinite(low) else ABSENT


def _points(lost: float, low: float, high: float) -> str:
    return f"{percent(lost)} [{percent(low)}, {percent(high)}]"
