"""Searches side by side: at each width the trial to deploy, what was measured of it, lambda*, and what it cost."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pandas as pd
from scipy.special import stdtrit

from robsearch.errors import InputError, refusal
from robsearch.measures.summaries import wilson
from robsearch.naming import names_of
from robsearch.search.frames import tables_of
from robsearch.search.result import Search, of_one_type
from robsearch.search.setting import agree, comparable, unknown
from robsearch.search.strongest import STRONGEST
from robsearch.selection import collapsed_among
from robsearch.study import COLUMN, params_of
from robsearch.trainer import VALUE
from robsearch.wording import counted

LEVEL = 0.95
RATES = ("test/natural_accuracy", "test/robust_accuracy", "test/stability")
ROBUST = "test/robust_accuracy"
OVER_SEEDS = f"over_seeds/{ROBUST}"
MEASURE = re.compile(r"test/(lipschitz|margin)/.+/mean")
"""The measures per image that are compared, under their names in MLflow."""
JUDGED_BY = ("test attack", "data set", "test examples", "test labels")
"""What must be the same for test figures to be comparable."""
OF_EACH_SEARCH = {"model", "search seed"}
"""Parts of the setting that are no difference between searches: the thinnest model, and the seed."""


@dataclass(frozen=True)
class Comparison:
    """What ``compare`` found.

    Attributes:
        rows: one row per width and search, thin to wide:

            - ``search, width, trials`` (finished there), ``trial`` (the one to deploy), ``lam``, ``value`` (its robust
              accuracy on ``val``, by which it was chosen), ``feasible``, ``param/NAME`` for each searched parameter.
            - ``strongest/robust_accuracy, attack, on, n, low, high``: the strongest figure that is known of that trial
              (``Search.strongest``), which was the best of ``best_of`` on ``val``.
            - ``lam_star``, with ``_low``, ``_high`` (the ridge's, Fieller) and ``_problem`` (why not to build on it).
            - ``test/natural_accuracy``, ``robust_accuracy``, ``stability`` of that trial, as shares, each with
              ``_low``, ``_high``: Wilson over the test images.
            - ``test/lipschitz/.../mean`` and ``test/margin/.../mean``, as far as measured, each with ``_low``,
              ``_high``: normal over the images that were measured.
            - ``seeds``, and where it is 2 or more ``over_seeds/test/robust_accuracy``: the mean over all seeds of the
              trial's suggestion, those that collapsed or miss a constraint too, with ``_low``, ``_high``: Student's t
              over seeds.
            - ``trial_seconds`` of the trial's training, ``width_seconds`` of all searched trainings at the width as
              far as they got, rungs and failures included, controls not; ``width_gpu_seconds``, with measuring, if GPUs
              were used.

            All intervals are at 95 %. What is not known is missing (NaN or None).
        differences: parts of the setting that differ between the searches: label, then search, then text.
        notes: what a reader must know of single rows.
    """

    rows: pd.DataFrame
    differences: dict[str, dict[str, str]]
    notes: tuple[str, ...]

    @property
    def measures(self) -> list[str]:
        """The columns of Lipschitz and margin measures."""
        return [name for name in self.rows.columns if MEASURE.fullmatch(name)]

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Writes ``rows`` as ``comparison.csv`` and ``comparison.parquet``; returns the two paths.

        Raises:
            InputError: the folder cannot be written.
        """
        files = folder / "comparison.csv", folder / "comparison.parquet"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.rows.to_csv(files[0], index=False)
            self.rows.to_parquet(files[1], index=False)
        except OSError as error:
            do = "pass another folder with --out"
            raise InputError(refusal(f"to write in {folder}", error.strerror or error, do)) from error
        return files


def compare(*searches: Search) -> Comparison:
    """Puts searches side by side, running ones too.

    Raises:
        InputError: no search, two of one name, or searches that were not judged alike: by another test attack, or on
            other test images.
    """
    names = [search.name for search in searches]
    if not names or len(set(names)) < len(names):
        do = "pass each search once"
        raise InputError(refusal("searches of different names", ", ".join(names) or "none", do))
    _refuse_unlike(searches)
    rows = pd.DataFrame([_row(search, width) for search in searches for width in search.widths])
    rows = rows.reindex(columns=sorted(rows.columns, key=_place)).sort_values("width", kind="stable")
    notes = (*_notes(searches), *_attacks(rows))
    rows = rows.apply(of_one_type).reset_index(drop=True)
    return Comparison(rows, _differences(searches), notes)


def _refuse_unlike(searches: tuple[Search, ...]) -> None:
    facts = {search.name: _judged_by(search) for search in searches}
    problems = []
    for label in JUDGED_BY:
        said = {name: known[label] for name, known in facts.items() if label in known}
        if not agree(list(said.values())):
            got = ", ".join(f"{text} in {name}" for name, text in said.items())
            problems.append(refusal(f"the same {label} in all searches", got, "compare those that agree"))
    if problems:
        raise InputError(*problems)


def _judged_by(search: Search) -> dict[str, str]:
    setting = search.record.setting
    known: dict[str, str] = {label: setting[label] for label in JUDGED_BY if label in setting}
    if "data" in setting:
        known["data set"] = setting["data"].partition("(")[0]
    for file in sorted((search.folder / "trials").glob("*/test.parquet")):
        for table in tables_of(search.folder / "trials", "test", [file.parent.name]).values():
            labels = table["label"].to_numpy().astype("int64")
            return {**known, "test labels": f"digest {hashlib.sha256(labels.tobytes()).hexdigest()[:8]}"}
    return known


def _differences(searches: tuple[Search, ...]) -> dict[str, dict[str, str]]:
    settings = {each.name: comparable(each.record.setting, _searched(each)) for each in searches}
    labels = dict.fromkeys(label for setting in settings.values() for label in setting)
    said = {
        label: {
            name: setting.get(label, "-")
            for name, setting in settings.items()
            if label in setting or not unknown(setting, label)
        }
        for label in labels
        if label not in OF_EACH_SEARCH
    }
    return {label: of for label, of in said.items() if len(set(of.values())) > 1}


def _searched(search: Search) -> set[str]:
    """The names of the parameters that were suggested."""
    columns = map(str, search.trials.columns)
    return {name.removeprefix(COLUMN) for name in columns if name.startswith(COLUMN)}


def _notes(searches: tuple[Search, ...]) -> Iterator[str]:
    for search in searches:
        setting = search.record.setting
        if len(searches) > 1 and comparable(setting, _searched(search)) != setting:
            yield f"{search.name} recorded its first suggestion, not its space: their recipes are not compared"
        if search.ended < search.record.trials:
            yield f"{search.name}: {search.ended} of {counted(search.record.trials, 'trial')} ended"
        if len(search.maximise) > 1:
            yield f"{search.name} seeks several metrics: the trial shown is the best in {VALUE}"
        if group := search.ridge.group:
            yield f"{search.name}: lambda* is that of the trials with {group}"
        for width, name in names_of(search.widths).items():
            if why := search.all_collapsed(width):
                yield f"{search.name}, width {name}: {why}"
            best = search.best(width)
            if best is not None and (lost := int(collapsed_among(seeds_of(search, best)).sum())):
                yield f"{search.name}, width {name}: {counted(lost, 'seed')} of {best['trial']}'s suggestion collapsed"
            if best is not None and best["feasible"] is not None and not best["feasible"]:
                yield f"{search.name}, width {name}: no trial meets the constraints"


def _attacks(rows: pd.DataFrame) -> Iterator[str]:
    """Where the strongest figures of one width are not of one attack."""
    names = names_of(rows["width"])
    for _, own in rows.groupby("width", sort=False):
        judged = [
            f"{attack} on {on} in {name}"
            for attack, on, name in zip(own["strongest/attack"], own["strongest/on"], own["search"], strict=True)
            if isinstance(attack, str)
        ]
        if len({each.rpartition(" in ")[0] for each in judged}) > 1:
            where = f"width {names[own['width'].iloc[0]]}"
            yield f"{where}: the strongest known figures are not comparable: {', '.join(judged)}"


def _place(column: str) -> int:
    """Where a column stands: the measures, which not every search has, between rates and seeds."""
    order = ("search", "width", "trials", "trial", *STRONGEST, "best_of", "lam", "value", "feasible", COLUMN,
             "lam_star", "lam_star_low", "lam_star_high", "lam_star_problem")  # fmt: skip
    groups = [*order, *RATES, "test/lipschitz", "test/margin", "seeds", "over_seeds", "trial_seconds", "width_"]
    return max(place for place, start in enumerate(groups) if column.startswith(start))


def _row(search: Search, width: float) -> dict[str, Any]:
    best, optimum = search.best(width), search.ridge.optimum(width)
    finished = search.finished[search.finished["width"] == width]
    found: dict[str, Any] = {"search": search.name, "width": float(width), "trials": len(finished)}
    found |= {"trial": None, "lam": math.nan, "value": math.nan, "feasible": None, **dict.fromkeys(STRONGEST, math.nan)}
    stars = zip(("lam_star", "lam_star_low", "lam_star_high"), optimum[1:4], strict=True)
    found |= {name: math.nan if number is None else number for name, number in stars}
    found["lam_star_problem"] = optimum.censored
    if best is None:
        return found | _missing(RATES) | _seeds(finished) | _cost(search, width, None)
    found |= {name: best[name] for name in ("trial", "lam", "value", "feasible")}
    found |= {name: best.get(name, math.nan) for name in STRONGEST}
    found["best_of"] = len(finished)
    found |= {f"{COLUMN}{name}": value for name, value in params_of(best).items()}
    return found | _rates(search, best) | _measured(best) | _seeds(seeds_of(search, best)) | _cost(search, width, best)


def _rates(search: Search, best: pd.Series) -> dict[str, float]:
    told = search.record.setting.get("test examples", "")
    n = int(told) if told.isdigit() else 0
    found: dict[str, float] = {}
    for name in RATES:
        share = float(best.get(name, math.nan))
        low, high = wilson(share, n, LEVEL) if n and not math.isnan(share) else (math.nan, math.nan)
        found |= {name: share, f"{name}_low": low, f"{name}_high": high}
    return found


def _measured(best: pd.Series) -> dict[str, float]:
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    found: dict[str, float] = {}
    for name in filter(MEASURE.fullmatch, map(str, best.index)):
        mean, half = float(best[name]), z * float(best.get(f"{name.removesuffix('mean')}se", math.nan))
        found |= {name: mean, f"{name}_low": mean - half, f"{name}_high": mean + half}
    return found


def seeds_of(search: Search, best: pd.Series) -> pd.DataFrame:
    """The trainings of a trial's suggestion at its width: those that collapsed or miss a constraint too."""
    done = search.complete
    seeds: pd.DataFrame = done[(done["width"] == best["width"]) & (done["number"] == best["number"])]
    return seeds


def _seeds(suggestion: pd.DataFrame) -> dict[str, float]:
    known = suggestion[ROBUST].dropna() if ROBUST in suggestion else suggestion["value"].iloc[:0]
    if len(known) < 2:
        return {"seeds": len(known), **_missing((OVER_SEEDS,))}
    mean = float(known.mean())
    half = float(stdtrit(len(known) - 1, (1 + LEVEL) / 2) * known.std() / math.sqrt(len(known)))
    return {"seeds": len(known), OVER_SEEDS: mean, f"{OVER_SEEDS}_low": mean - half, f"{OVER_SEEDS}_high": mean + half}


def _cost(search: Search, width: float, best: pd.Series | None) -> dict[str, float]:
    searched = search.trials["control"].isna() & (search.trials["width"] == width)
    found = {"trial_seconds": math.nan if best is None else float(best["seconds"])}
    found["width_seconds"] = float(search.trials.loc[searched, "seconds"].sum())
    if "gpu_seconds" in search.trials and search.trials["gpu_seconds"].any():
        found["width_gpu_seconds"] = float(search.trials.loc[searched, "gpu_seconds"].sum())
    return found


def _missing(names: tuple[str, ...]) -> dict[str, float]:
    return {f"{name}{end}": math.nan for name in names for end in ("", "_low", "_high")}
