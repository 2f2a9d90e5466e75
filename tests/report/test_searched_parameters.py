"""Importance and shape of all that was searched: on the page, from Python, and as files."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from planted_searches import STAR, WIDTHS, Search, bare, searched, trial

from robsearch.errors import InputError
from robsearch.report import PARAMETERS, is_shown, render_piece
from robsearch.report.evidence import Evidence
from robsearch.report.parameters import Parameters
from robsearch.report.plots import KINDS, OF_PARAMETERS, Plots
from robsearch.study import ParamRange

RANGES = {
    "lam": ParamRange(0.5, 32.0, is_log=True),
    "lr": ParamRange(0.003, 1.0, is_log=True),
    "objective": ParamRange(math.nan, math.nan, choices=("trades", "mart")),
}


def rows_of(each: int) -> list[dict[str, Any]]:
    """Trials that lose 2 points per squared log of lambda, 1 per squared log of the learning rate,
    and nothing by the objective."""
    rng = np.random.default_rng(0)
    rows = []
    for width in WIDTHS:
        for number in range(each):
            lam = float(np.exp(rng.uniform(math.log(0.5), math.log(32))))
            lr = float(np.exp(rng.uniform(math.log(0.003), 0)))
            objective = ("trades", "mart")[number % 2]
            row = trial(width, number, lam)
            row["value"] -= 0.01 * math.log(lr / 0.05) ** 2
            asked = {"param/lam": lam, "param/lr": lr, "param/objective": objective}
            rows.append({**row, **asked, "choices": f"objective {objective}"})
    return rows


@pytest.fixture(scope="module")
def planted() -> Search:
    return replace(searched(rows_of(16)), ranges=RANGES)


@pytest.fixture(scope="module")
def plots(planted: Search) -> Plots:
    return Plots.of(planted)


def section_of(evidence: Evidence) -> str:
    """The section, without the rest of the page."""
    assert is_shown(PARAMETERS, evidence)
    return "".join(render_piece(piece, evidence) for piece in PARAMETERS.pieces)


def words(rows: list[dict[str, Any]]) -> str:
    return bare(section_of(Evidence.of(searched(rows))))


def test_the_page_has_five_figures_of_what_was_searched(plots: Plots) -> None:
    part = section_of(plots.evidence)
    assert part.count("<svg") == 5
    assert "Left out" not in part
    for caption in re.findall(r"<figcaption>(.*?)</figcaption>", part, flags=re.DOTALL):
        assert "n\u00a0=\u00a032 finished trials" in bare(caption)
    counts = "(n\u00a0=\u00a032 suggestions). Width 4: n\u00a0=\u00a016 suggestions; Width 16:"
    assert counts in bare(part).replace("&nbsp;", "\u00a0")


def test_a_search_of_lambda_alone_has_no_such_section() -> None:
    rows = [trial(4.0, number, 2.0**number) for number in range(3)]
    lam = {"param/lam": 1.0}
    # Lambda by another name is lambda.
    named = [{**row, "param/strength": row["lam"]} for row in rows]
    chosen = [{**row, "param/arm": f"lam {row['lam']:g}"} for row in rows]
    for alone in ([{**row, **lam} for row in rows], named, chosen):
        assert not is_shown(PARAMETERS, Evidence.of(searched(alone)))


def test_importance_is_that_of_the_planted_effects(plots: Plots) -> None:
    rows = plots.tables["importance"]
    assert set(rows["evaluator"]) == {"fANOVA", "PED-ANOVA"}
    assert rows.groupby("evaluator")["width"].nunique().tolist() == [2, 2]
    together = rows[rows["width"].isna() & (rows["evaluator"] == "fANOVA")]
    assert together["parameter"].tolist() == ["lam", "lr", "objective"]
    assert together["share"].sum() == pytest.approx(1)
    assert together["n"].tolist() == [32] * 3
    panels = plots.importance().axes
    assert [tick.get_text() for tick in panels[0].get_yticklabels()] == ["λ", "lr", "objective"]


def test_a_slice_has_a_mark_for_each_suggestion(plots: Plots, planted: Search) -> None:
    axes = plots.slice().axes
    assert [panel.get_xlabel() for panel in axes] == ["λ", "lr", "objective"]
    thin, wide = (line.get_xydata() for line in axes[1].lines)
    of_width = planted.trials[planted.trials["width"] == 4.0]
    expected = np.column_stack([of_width["param/lr"], 100 * of_width["value"]])
    assert thin == pytest.approx(expected)
    assert len(wide) == 16
    assert axes[1].get_xscale() == "log"
    assert [tick.get_text() for tick in axes[2].get_xticklabels()] == ["trades", "mart"]
    # Marks of a choice lie side by side, and nearer to it than to the next.
    places = axes[2].lines[0].get_xdata()
    assert np.round(places).tolist() == [0, 1] * 8
    assert len(set(places)) == 16


def test_the_contour_is_over_the_two_most_important(plots: Plots) -> None:
    axes = plots.contour().axes
    assert [(panel.get_xlabel(), panel.get_title()) for panel in axes] == [
        ("λ", "width 4"),
        ("λ", "width 16"),
    ]
    assert axes[0].get_ylabel() == "lr"
    assert all(panel.collections for panel in axes)  # the ground
    low, high = axes[0].get_xlim()
    assert all(low < x < high for line in axes[0].lines for x in line.get_xdata())


def test_parallel_coordinates_join_what_a_suggestion_was_asked_for(
    plots: Plots, planted: Search
) -> None:
    (axes,) = plots.parallel().axes
    titles = [tick.get_text() for tick in axes.get_xticklabels()]
    assert titles == ["width", "λ", "lr", "objective", "robust\naccuracy (%)"]
    lines = axes.collections[0].get_segments()
    assert len(lines) == 32
    best = planted.trials.loc[planted.trials["value"].idxmax()]
    last = lines[-1][:, 1]  # the best lies on top
    share = math.log(best["lam"] / 0.5) / math.log(64)
    assert last[[0, 1, 4]].tolist() == pytest.approx([1.0, share, 1.0])


def test_ranks_are_those_of_a_width(plots: Plots) -> None:
    rows = plots.tables["parameters"]
    best = rows[rows["rank"] == 1].set_index("width")
    assert best["lost"].tolist() == [0, 0]
    assert best["value"].to_dict() == rows.groupby("width")["value"].max().to_dict()
    axes = plots.rank().axes
    assert [(panel.get_xlabel()[0], panel.get_ylabel()) for panel in axes] == [
        ("λ", "lr"),
        ("λ", "objective"),
    ]
    marks = sum(len(line.get_xdata()) for line in axes[0].lines)
    assert marks == 2 * 32  # each on a ground of paper


# --- what has no picture says why ---


def test_too_few_trials_are_drawn_without_an_importance() -> None:
    said = words(rows_of(4))
    assert "width 4: 4 finished suggestions, and it takes 10" in said
    assert "all widths together: 8 finished suggestions, and it takes 10" in said
    assert "there are too few trials to say which are the most important" in said
    assert "At width 4, 16 there are too few suggestions for it" in said
    assert "could not be made" not in said


def test_failed_and_pruned_trials_alone_have_no_picture() -> None:
    failed = {"state": "FAIL", "value": math.nan, "lam": math.nan}
    rows = [{**row, **failed} for row in rows_of(2)]
    rows[0] |= {"state": "PRUNED", "value": 0.2}
    assert "Left out: no trial has finished." in words(rows)
    assert "could not be made" not in words(rows)


def test_what_has_one_value_or_was_not_always_asked_for_is_named() -> None:
    rows = rows_of(10)
    for place, row in enumerate(rows):
        row["param/objective"] = "trades"
        row["param/beta"] = math.nan if place % 2 else 0.5 + place
    said = words(rows)
    assert "objective: one value only" in said
    assert "beta: not asked for in 10 of 20 suggestions" in said
    assert "could not be made" not in said


def test_equal_values_have_no_importance() -> None:
    said = words([{**row, "value": 0.5} for row in rows_of(10)])
    assert "width 4: all values are equal" in said
    assert "could not be made" not in said


def test_seeds_of_a_suggestion_count_once_by_their_mean() -> None:
    rows = rows_of(3)
    rows += [{**row, "trial": f"{row['trial']}-1", "value": row["value"] + 0.02} for row in rows]
    evidence = Evidence.of(searched(rows))
    suggestions = evidence.parameters.suggestions
    assert suggestions["n"].tolist() == [2] * 6
    assert suggestions["value"].to_numpy() == pytest.approx(
        [row["value"] + 0.01 for row in rows[:6]]
    )


def test_numbers_among_which_was_chosen_lie_on_an_axis() -> None:
    rows = [{**row, "param/batch": (64, 128, 2048)[row["number"] % 3]} for row in rows_of(3)]
    trials = Evidence.of(searched(rows)).trials
    ranges = {"batch": ParamRange(math.nan, math.nan, choices=(64, 128, 2048))}
    batch = Parameters.of(trials, trials, ranges).each[-1]
    assert (batch.choices, batch.bounds) == ((), ParamRange(64.0, 2048.0, True))


# --- from Python, and as files ---


@pytest.mark.parametrize("kind", ["slice", "law", "time-by-width", "front"])
def test_a_kind_is_a_figure_in_colours_of_its_own(plots: Plots, kind: str) -> None:
    if kind == "front":
        with pytest.raises(InputError, match="expected a search that has the figure front"):
            plots.figure(kind)
        return
    assert kind in KINDS
    figure = plots.figure(kind)
    assert isinstance(figure, Figure)
    # A page has placeholders of this form for the colours of the widths.
    colors = {str(line.get_color()) for axes in figure.axes for line in axes.lines}
    assert not {color for color in colors if color.startswith("#0500")}


@pytest.mark.parametrize(
    ("suffix", "head"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")]
)
def test_a_figure_is_a_file_by_its_suffix(
    plots: Plots, suffix: str, head: bytes, tmp_path: Path
) -> None:
    file = plots.save("contour", tmp_path / "new" / f"a{suffix}")
    assert file.read_bytes().startswith(head)


def test_what_is_no_figure_is_refused_with_those_there_are(plots: Plots, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refusal:
        plots.save("impotance", tmp_path / "a.bmp")
    kind, suffix = refusal.value.problems
    assert kind.startswith("expected a figure: importance, slice, contour, parallel, rank, law,")
    assert "ends in .png, .pdf or .svg, got" in suffix
    assert not list(tmp_path.iterdir())


def test_a_search_of_lambda_alone_has_the_law_and_no_importance() -> None:
    lams = (0.5, 1.0, 2.0, 4.0, 8.0)
    rows = [trial(width, n, lam) for width in STAR for n, lam in enumerate(lams)]
    alone = Plots.of(searched([{**row, "param/lam": row["lam"]} for row in rows]))
    assert len(alone.law().axes) == 3
    for kind in OF_PARAMETERS:
        with pytest.raises(InputError, match="got nothing beside lambda was searched"):
            alone.figure(kind)
