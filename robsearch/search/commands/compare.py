"""Searches side by side: at each width the trial to deploy, what was measured of it, lambda*, and
what it cost."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
from rich.console import RenderableType
from rich.text import Text
from scipy.special import stdtrit

from robsearch.drawing.formatting import names_of
from robsearch.errors import counted, refusal, refuse, refused
from robsearch.metrics import TEST_NATURAL, TEST_ROBUST, TEST_STABILITY, VALUE, wilson
from robsearch.search.grid import Grid, duration
from robsearch.search.result import Search
from robsearch.search.settings import agree, comparable, unknown
from robsearch.search.strongest import STRONGEST, ladder_of
from robsearch.search.tables import labels_of_test, write_csv
from robsearch.study import COLUMN, others_than_lam, params_of, params_text
from robsearch.trials.files import of_one_type, replacing
from robsearch.trials.ladder.results import NATURAL, rung_results, shared_rung
from robsearch.trials.selection import collapsed_among

LEVEL = 0.95
RATES = (TEST_NATURAL, TEST_ROBUST, TEST_STABILITY)
OVER_SEEDS = f"over_seeds/{TEST_ROBUST}"
MEASURE = re.compile(r"test/(lipschitz|margin)/.+/mean")
"""The measures per image that are compared, under their names in MLflow."""
TEST_ATTACK = "test attack"
JUDGED_BY = (TEST_ATTACK, "data set", "test examples", "test labels")
"""What must be the same for test figures to be comparable."""
OF_EACH_SEARCH = {"model", "search seed"}
"""Parts of the setting that are no difference between searches: the thinnest model, and the
seed."""
ORDER = (
    "search",
    "width",
    "trials",
    "trial",
    *STRONGEST,
    "best_of",
    "lam",
    "value",
    "feasible",
    COLUMN,
    "lam_star",
    "lam_star_low",
    "lam_star_high",
    "lam_star_problem",
    *RATES,
    "test/lipschitz",
    "test/margin",
    "seeds",
    "over_seeds",
    "trial_seconds",
    "width_",
)
"""How columns begin, in their order: the measures, which not every search has, stand between rates
and seeds."""


@dataclass(frozen=True)
class Comparison:
    """What ``compare`` found.

    Attributes:
        rows: one row per width and search, thin to wide:

            - ``search, width, trials`` (finished there), ``trial`` (the one to deploy), ``lam``,
              ``value`` (its robust accuracy on ``val``, by which it was chosen), ``feasible``,
              ``param/NAME`` for each searched parameter.
            - ``strongest/robust_accuracy, attack, on, n, low, high``: the strongest figure that is
              known of that trial (``Search.strongest``), which was the best of ``best_of`` on
              ``val``.
            - ``lam_star``, with ``_low``, ``_high`` (the response surface's) and ``_problem`` (why
              not to build on it).
            - ``test/natural_accuracy``, ``robust_accuracy``, ``stability`` of that trial, as
              shares, each with ``_low``, ``_high``: Wilson over the test images. Where the test
              attacks differ, the first two are those of the ladder's rung that all share.
            - ``test/lipschitz/.../mean`` and ``test/margin/.../mean``, as far as measured, each
              with ``_low``, ``_high``: normal over the images that were measured.
            - ``seeds``, and where it is 2 or more ``over_seeds/test/robust_accuracy``: the mean
              over all seeds of the trial's suggestion, those that collapsed or miss a constraint
              too, with ``_low``, ``_high``: Student's t over seeds.
            - ``trial_seconds`` of the trial's training, ``width_seconds`` of all searched trainings
              at the width as far as they got, rungs and failures included, controls not;
              ``width_gpu_seconds``, with measuring, if GPUs were used.

            All intervals are at 95 %. What is not known is missing (NaN or None).
        differences: parts of the setting that differ between the searches: label, then search, then
            text.
        notes: what a reader must know of single rows.
        rung: that of the ladder by which they are compared; empty where they share a test attack.
    """

    rows: pd.DataFrame
    differences: dict[str, dict[str, str]]
    notes: tuple[str, ...]
    rung: str = ""

    @property
    def measures(self) -> list[str]:
        """The columns of Lipschitz and margin measures."""
        return [name for name in self.rows.columns if MEASURE.fullmatch(name)]

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Writes ``rows`` as ``comparison.csv`` and ``comparison.parquet``; returns the two paths.

        Raises:
            InputError: the folder cannot be written.
        """
        csv = folder / "comparison.csv"
        parquet = folder / "comparison.parquet"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_csv(self.rows, csv)
            with replacing(parquet) as unfinished:
                self.rows.to_parquet(unfinished, index=False)
        except OSError as error:
            got = error.strerror or error
            do = "pass another folder with --out"
            raise refused(f"to write in {folder}", got, do) from error
        return csv, parquet


def compare(*searches: Search) -> Comparison:
    """Puts searches side by side, running ones too.

    Searches with different test attacks are compared by the dearest rung of the ladder on which the
    best trial of each width of all of them was evaluated.

    Raises:
        InputError: no search, two of one name, or searches that were not judged alike: by another
            test attack without such a rung, or on other test images.
    """
    names = [search.name for search in searches]
    if not names or len(set(names)) < len(names):
        got = ", ".join(names) or "none"
        raise refused("searches of different names", got, "pass each search once")
    common = _common_rung(searches)
    rows = pd.DataFrame(
        [_row(search, width, common) for search in searches for width in search.widths]
    )
    rows = rows.reindex(columns=sorted(rows.columns, key=_position))
    rows = rows.sort_values("width", kind="stable")
    notes = (*_judge_notes(common), *_notes(searches), *_attack_notes(rows))
    rows = rows.apply(of_one_type).reset_index(drop=True)
    rung = "" if common is None else common.name
    return Comparison(rows, _differences(searches), notes, rung)


def _position(column: str) -> int:
    return max(position for position, start in enumerate(ORDER) if column.startswith(start))


class CommonRung(NamedTuple):
    """What searches with different test attacks are compared by.

    Attributes:
        name: of the rung.
        ladders: of the best trials, by search and trial.
    """

    name: str
    ladders: dict[str, pa.Table]


def _common_rung(searches: tuple[Search, ...]) -> CommonRung | None:
    """None where the searches share their test attack.

    Raises:
        InputError: they share neither attack nor rung, or have other test images.
    """
    judgements = {search.name: _judgement(search) for search in searches}
    unlike = {}
    for label in JUDGED_BY:
        texts = {name: facts[label] for name, facts in judgements.items() if label in facts}
        if not agree(list(texts.values())):
            unlike[label] = ", ".join(f"{text} in {name}" for name, text in texts.items())
    common = None
    if list(unlike) == [TEST_ATTACK]:
        common = _rung_of_all(searches)
    if common is None:
        refuse(_unlike(label, got) for label, got in unlike.items())
    return common


def _unlike(label: str, got: str) -> str:
    do = "compare those that agree"
    if label == TEST_ATTACK:
        judged_again = "`robsearch evaluate NAME --rung two-losses`"
        do += f", or judge the best trials of each search by one attack with {judged_again}"
    return refusal(f"the same {label} in all searches", got, do)


def _rung_of_all(searches: tuple[Search, ...]) -> CommonRung | None:
    """The dearest rung on which all the best trials were evaluated."""
    ladders = {}
    for search in searches:
        for best in search.bests:
            ladder = ladder_of(search.folder / "trials" / best["trial"])
            if ladder is None:
                return None
            ladders[_of_search(search, best)] = ladder
    rung = shared_rung(ladders)
    return None if rung is None else CommonRung(rung, ladders)


def _of_search(search: Search, best: pd.Series) -> str:
    return f"{search.name}/{best['trial']}"


def _judgement(search: Search) -> dict[str, str]:
    """What is known of ``JUDGED_BY``; the labels are those of any measured trial."""
    setting = search.record.setting
    facts = {label: setting[label] for label in JUDGED_BY if label in setting}
    if "data" in setting:
        facts["data set"] = setting["data"].partition("(")[0]
    # Two data sets of one name and size differ in their labels, if in anything.
    labels = labels_of_test(search.folder / "trials", sorted(search.trials["trial"]))
    if labels is not None:
        digest = hashlib.sha256(labels.astype("int64").tobytes()).hexdigest()
        facts["test labels"] = f"digest {digest[:8]}"
    return facts


def _params(search: Search) -> set[str]:
    """The names of the parameters that were suggested."""
    columns = [str(column) for column in search.trials.columns]
    return {column[len(COLUMN) :] for column in columns if column.startswith(COLUMN)}


def _differences(searches: tuple[Search, ...]) -> dict[str, dict[str, str]]:
    settings = {
        search.name: comparable(search.record.setting, _params(search)) for search in searches
    }
    differences = {}
    for label in dict.fromkeys(chain.from_iterable(settings.values())):
        texts = {}
        for name, setting in settings.items():
            if label in setting or not unknown(setting, label):
                texts[name] = setting.get(label, "-")
        if label not in OF_EACH_SEARCH and len(set(texts.values())) > 1:
            differences[label] = texts
    return differences


def _judge_notes(common: CommonRung | None) -> Iterator[str]:
    if common is not None:
        yield (
            "the searches have different test attacks: natural and robust accuracy are those of "
            f"the ladder's rung {common.name}; each search chose its best trial, and found its "
            "lambda*, under its own attack"
        )


def _notes(searches: tuple[Search, ...]) -> Iterator[str]:
    for search in searches:
        name = search.name
        setting = search.record.setting
        if len(searches) > 1 and comparable(setting, _params(search)) != setting:
            why = "recorded its first suggestion, not its space"
            yield f"{name} {why}: their recipes are not compared"
        if search.ended < search.record.trials:
            yield f"{name}: {search.ended} of {counted(search.record.trials, 'trial')} ended"
        if len(search.maximise) > 1:
            yield f"{name} seeks several metrics: the trial shown is the best in {VALUE}"
        if search.ridge.group:
            yield f"{name}: lambda* is that of the trials with {search.ridge.group}"
        for width, label in names_of(search.widths).items():
            for text in _width_notes(search, width):
                yield f"{name}, width {label}: {text}"


def _width_notes(search: Search, width: float) -> Iterator[str]:
    best = search.best(width)
    if best is None:
        why = search.all_collapsed(width)
        if why:
            yield why
        return
    lost = int(collapsed_among(seeds_of(search, best)).sum())
    if lost:
        yield f"{counted(lost, 'seed')} of {best['trial']}'s suggestion collapsed"
    if best["feasible"] is not None and not best["feasible"]:
        yield "no trial meets the constraints"


def _attack_notes(rows: pd.DataFrame) -> Iterator[str]:
    """Where the strongest figures of one width are not of one attack."""
    names = names_of(rows["width"])
    for width, name in names.items():
        of_width = rows[rows["width"] == width]
        rated = of_width[of_width["strongest/attack"].map(lambda attack: isinstance(attack, str))]
        attacks = set()
        texts = []
        for _, row in rated.iterrows():
            attack = f"{row['strongest/attack']} on {row['strongest/on']}"
            attacks.add(attack)
            texts.append(f"{attack} in {row['search']}")
        if len(attacks) > 1:
            why = f"the strongest known figures are not comparable: {', '.join(texts)}"
            yield f"width {name}: {why}"


# --- one row ---


def _row(search: Search, width: float, common: CommonRung | None) -> dict[str, Any]:
    """With rates on the common rung, or under the test attack that all share."""
    best = search.best(width)
    finished = search.finished[search.finished["width"] == width]
    optimum = search.ridge.optimum(width)
    shown = pd.Series(dtype=object) if best is None else best
    row = {
        "search": search.name,
        "width": float(width),
        "trials": len(finished),
        "trial": shown.get("trial"),
        "feasible": shown.get("feasible"),
        **{name: shown.get(name, math.nan) for name in ("lam", "value", *STRONGEST)},
        **(_rates_on(common, search, best) if common else _rates(search, shown)),
        "lam_star": math.nan if optimum.lam is None else optimum.lam,
        "lam_star_low": math.nan if optimum.low is None else optimum.low,
        "lam_star_high": math.nan if optimum.high is None else optimum.high,
        "lam_star_problem": optimum.censored,
        **_cost(search, width, best),
    }
    if best is None:
        return row | _seeds(finished)
    row["best_of"] = len(finished)
    row |= {f"{COLUMN}{name}": value for name, value in params_of(best).items()}
    row |= _measured(best)
    seeds = seeds_of(search, best)
    if common:
        # Of the other seeds nothing is known on the rung.
        seeds = seeds.drop(columns=TEST_ROBUST, errors="ignore")
    return row | _seeds(seeds)


def _interval(name: str, value: float, low: float, high: float) -> dict[str, float]:
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _rates(search: Search, best: pd.Series) -> dict[str, float]:
    text = search.record.setting.get("test examples", "")
    n = int(text) if text.isdigit() else 0
    columns: dict[str, float] = {}
    for name in RATES:
        share = float(best.get(name, math.nan))
        low = high = math.nan
        if n and not math.isnan(share):
            low, high = wilson(share, n, LEVEL)
        columns |= _interval(name, share, low, high)
    return columns


def _rates_on(common: CommonRung, search: Search, best: pd.Series | None) -> dict[str, float]:
    columns: dict[str, float] = {}
    for name in RATES:
        columns |= _interval(name, math.nan, math.nan, math.nan)
    if best is None:
        return columns
    rates = {NATURAL: TEST_NATURAL, common.name: TEST_ROBUST}
    for result in rung_results(common.ladders[_of_search(search, best)]):
        if result.rung in rates:
            columns |= _interval(
                rates[result.rung], result.robust_accuracy, result.low, result.high
            )
    return columns


def _measured(best: pd.Series) -> dict[str, float]:
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    columns: dict[str, float] = {}
    for name in filter(MEASURE.fullmatch, map(str, best.index)):
        mean = float(best[name])
        half = z * float(best.get(f"{name.removesuffix('mean')}se", math.nan))
        columns |= _interval(name, mean, mean - half, mean + half)
    return columns


def seeds_of(search: Search, best: pd.Series) -> pd.DataFrame:
    """The trainings of a trial's suggestion at its width: those that collapsed or miss a constraint
    too."""
    done = search.complete
    here = (done["width"] == best["width"]) & (done["number"] == best["number"])
    seeds: pd.DataFrame = done[here]
    return seeds


def _seeds(suggestion: pd.DataFrame) -> dict[str, float]:
    rates = pd.Series(dtype=float)
    if TEST_ROBUST in suggestion:
        rates = suggestion[TEST_ROBUST].dropna()
    if len(rates) < 2:
        return {"seeds": len(rates), **_interval(OVER_SEEDS, math.nan, math.nan, math.nan)}
    mean = float(rates.mean())
    t = stdtrit(len(rates) - 1, (1 + LEVEL) / 2)
    half = float(t * rates.std() / math.sqrt(len(rates)))
    return {"seeds": len(rates), **_interval(OVER_SEEDS, mean, mean - half, mean + half)}


def trained_at(search: Search, width: float) -> pd.DataFrame:
    """All searched trainings at a width as far as they got, rungs and failures included."""
    trials = search.trials
    rows: pd.DataFrame = trials[trials["control"].isna() & (trials["width"] == width)]
    return rows


def _cost(search: Search, width: float, best: pd.Series | None) -> dict[str, float]:
    searched = trained_at(search, width)
    columns = {
        "trial_seconds": math.nan if best is None else float(best["seconds"]),
        "width_seconds": float(searched["seconds"].sum()),
    }
    if "gpu_seconds" in searched and search.trials["gpu_seconds"].any():
        columns["width_gpu_seconds"] = float(searched["gpu_seconds"].sum())
    return columns


# --- what is printed ---

ABSENT = "-"
SHOWN = ("test/lipschitz/logit_ratio/mean", "test/margin/logit/mean")
"""The measures that are shown where there are several of a kind; the files have all."""


def comparison_parts(comparison: Comparison) -> Iterator[RenderableType]:
    """What ``robsearch compare`` prints: what to deploy and lambda*, what was measured, what
    differs."""
    rows = comparison.rows
    yield _strongest_table(rows)
    yield _deployed_table(rows)
    yield _measured_table(rows, comparison.measures)
    for _, row in rows.iterrows():
        params = params_of(row)
        if others_than_lam(params):
            yield Text(f"{row['trial']} of {row['search']}: {params_text(params)}")
    for problem, searches in rows.groupby("lam_star_problem", sort=False)["search"]:
        yield Text(f"lambda* of {', '.join(searches.unique())}: {problem}")
    for text in comparison.notes:
        yield Text(f"note: {text}")
    for label, texts in comparison.differences.items():
        settings = "; ".join(f"{text} in {name}" for name, text in texts.items())
        yield Text(f"{label} differs: {settings}")


def _strongest_table(rows: pd.DataFrame) -> Grid:
    def cells(row: pd.Series) -> list[str]:
        share, attack, split, n, low, high = (row[name] for name in STRONGEST)
        if pd.isna(share):
            return [ABSENT] * 5
        interval = f" {_percent(low)}..{_percent(high)}" if n else ""
        images = f"{n:,.0f} {split}" if n else split
        best_of = f"{row['best_of']:.0f}"
        return [row["trial"], _percent(share) + interval, attack, images, best_of]

    title = "The strongest known robust accuracy; intervals at 95 %"
    return _table(title, ["best trial", "robust %", "under", "images", "best of"], rows, cells)


def _deployed_table(rows: pd.DataFrame) -> Grid:
    """The trial to deploy, lambda* with its interval, and what training took."""
    gpus = "width_gpu_seconds" in rows
    seeds = bool(rows["seeds"].max() > 1)
    heads = ["best trial", "its lam", "lambda*", "one training"]
    heads.append("GPU time in all" if gpus else "trained in all")
    if seeds:
        heads.append("robust % over seeds")

    def cells(row: pd.Series) -> list[str]:
        texts = [
            ABSENT if pd.isna(row["trial"]) else row["trial"],
            _number(row["lam"]),
            _within(row, "lam_star", _number),
            duration(row["trial_seconds"]),
            duration(row["width_gpu_seconds" if gpus else "width_seconds"]),
        ]
        if seeds:
            over_seeds = f"{_within(row, OVER_SEEDS, _percent)} ({row['seeds']})"
            texts.append(ABSENT if row["seeds"] < 2 else over_seeds)
        return texts

    origins = "best on val; lambda* from the trials that were fitted"
    title = f"The trial to deploy, {origins}; intervals at 95 %"
    return _table(title, heads, rows, cells)


def _measured_table(rows: pd.DataFrame, measures: list[str]) -> Grid:
    """Rates, one Lipschitz and one margin measure of the trial to deploy, each with its
    interval."""
    shown = []
    for kind in ("lipschitz", "margin"):
        of_kind = [name for name in measures if name.startswith(f"test/{kind}/")]
        preferred = [name for name in of_kind if name in SHOWN]
        shown += (preferred or of_kind)[:1]
    heads = ["natural %", "robust %", "stability %"]
    heads += [" ".join(name.split("/")[1:-1]) for name in shown]

    def cells(row: pd.Series) -> list[str]:
        rates = [_within(row, name, _percent) for name in RATES]
        return rates + [_within(row, name, _number) for name in shown]

    return _table("The same trials on test; intervals at 95 % over test images", heads, rows, cells)


def _table(
    title: str, heads: list[str], rows: pd.DataFrame, cells: Callable[[pd.Series], list[str]]
) -> Grid:
    names = names_of(rows["width"])
    lines = []
    for _, row in rows.iterrows():
        lines.append([names[row["width"]], str(row["search"]), *cells(row)])
    return Grid(["width", "search", *heads], lines, Text(title, style="bold"), keys=2)


def _within(row: pd.Series, name: str, text: Callable[[float], str]) -> str:
    """The number, and its interval without a space, so that it wraps between the two."""
    number = row[name]
    low = row[f"{name}_low"]
    high = row[f"{name}_high"]
    if not math.isfinite(number):
        return ABSENT
    if math.isnan(low):
        return text(number)
    return f"{text(number)} {text(low)}..{text(high)}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _number(number: float) -> str:
    return f"{number:.3g}" if math.isfinite(number) else ABSENT
