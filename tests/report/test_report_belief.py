"""The report draws the answer over width on what all trials say together, with the trials on it."""

import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from planted_searches import STAR, WIDTHS, bare, page, piece, searched, section, trial

from robsearch.report import surface as surface_module
from robsearch.report.evidence import Evidence, LeftOutError
from robsearch.report.surface import Surface, lam_over_width

LAMS = tuple(np.geomspace(0.5, 16, 8))


def planted(widths=WIDTHS, sd=0.001, lams=LAMS):
    """The rows of test_report: lambda* is 2 at width 4 and 4 at width 16, 2 points are lost at
    lambda* times e."""
    random = np.random.default_rng(0)
    rows = [trial(width, number, float(lam)) for width in widths for number, lam in enumerate(lams)]
    return searched(
        [{**row, "value": row["value"] + sd * random.standard_normal()} for row in rows]
    )


@pytest.fixture(scope="module")
def surface():
    return Surface.of(Evidence.of(planted()))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_points_lost_are_those_planted(surface, width):
    """Half a point at e^(1/2) times lambda*, and none at lambda*; a trial's own noise is a tenth of
    a point."""
    lost = np.interp(
        np.log([STAR[width], STAR[width] * math.exp(0.5)]),
        np.log(surface.lams),
        surface.lost(width),
    )
    assert lost == pytest.approx([0, 0.5], abs=0.15)


def test_a_width_between_is_expected_between(surface):
    """The law is 2 (width / 4)^(1/2), so lambda* is 2.8 at width 8; not searched, it is less
    sure."""
    assert surface.lams[surface.lost(8.0).argmin()] == pytest.approx(math.sqrt(8), rel=0.25)
    sure = [surface.posterior.value(width, [math.sqrt(8)])[1][0] for width in (*WIDTHS, 8.0)]
    assert sure[2] > max(sure[:2])


def test_no_width_searched_is_among_those_between(surface):
    (gap,) = surface.between
    assert WIDTHS[0] < min(gap) < max(gap) < WIDTHS[1]


def test_the_noise_told_is_that_of_the_trials():
    random = np.random.default_rng(1)
    rows = [
        {**trial(4.0, 10 * i + seed, float(lam)), "seed": seed, "lam": float(lam)}
        for i, lam in enumerate(LAMS)
        for seed in range(10)
    ]
    rows = [{**row, "value": row["value"] + 0.012 * random.standard_normal()} for row in rows]
    told = Surface.of(Evidence.of(searched(rows)))
    assert told.noise == pytest.approx(1.2, rel=0.25)
    assert f"about {told.noise:.1f} points" in bare(piece(lam_over_width, searched(rows)))


def test_the_page_has_the_map_and_each_curve_and_no_second_answer(tmp_path):
    own = section(page(planted(), tmp_path))
    assert own.count("<svg") == 1
    assert "Left out" not in own
    assert [bare(word) for word in re.findall(r"<text[^>]*>(width \d+)</text>", own)] == [
        "width 4",
        "width 16",
    ]
    assert "<table" not in own


def test_lam_star_of_the_map_is_that_of_the_answer(monkeypatch):
    search = planted()
    whole, *_ = drawn(search, monkeypatch)
    marks = [line for line in whole.lines if line.get_marker() == "D"]
    assert [line.get_ydata()[0] for line in marks] == pytest.approx(
        [search.ridge.optimum(width).lam for width in WIDTHS]
    )


def drawn(search, monkeypatch):
    figures = []
    made = surface_module.svg
    monkeypatch.setattr(
        surface_module,
        "svg",
        lambda figure, *more: (figures.append(figure), made(figure, *more))[1],
    )
    lam_over_width(Evidence.of(search))
    return figures[0].axes


def test_every_trial_is_a_mark_in_the_map_and_on_its_curve(monkeypatch):
    whole, *slices = drawn(planted(), monkeypatch)
    expected = {(width, round(lam, 6)) for width in WIDTHS for lam in LAMS}
    one = [line for line in whole.lines if len(line.get_xdata()) == 1 and line.get_marker() != "D"]
    assert {(line.get_xdata()[0], round(line.get_ydata()[0], 6)) for line in one} == expected
    for axes, width in zip(slices, WIDTHS, strict=True):
        assert axes.get_title() == f"width {width:g}"
        trials = next(line for line in axes.lines if line.get_linestyle() == "None")
        assert sorted(trials.get_xdata()) == pytest.approx(sorted(LAMS))


def test_a_mark_is_paler_the_more_its_trial_lost(monkeypatch):
    """At width 4 the trials at lambda* and at 8 times lambda* lose 0 and 0.02 log(8)^2 = 8.6
    points."""
    whole, *_ = drawn(planted(sd=0.0, lams=(0.5, 1.0, 2.0, 4.0, 16.0)), monkeypatch)
    tints = {
        line.get_ydata()[0]: line.get_markerfacecolor()[3]
        for line in whole.lines
        if line.get_xdata()[0] == 4.0 and isinstance(line.get_markerfacecolor(), tuple)
    }
    assert tints[2.0] == max(surface_module.SHADES)
    assert tints[16.0] == 0.0
    assert tints[2.0] > tints[4.0] > tints[16.0]


def test_all_curves_have_one_scale(monkeypatch):
    _, *slices = drawn(planted(), monkeypatch)
    heights = [np.ptp(axes.get_ylim()) for axes in slices]
    assert heights[0] == pytest.approx(heights[1])


def test_the_law_of_the_answer_is_drawn_over_the_map(monkeypatch):
    search = planted()
    whole, *_ = drawn(search, monkeypatch)
    law = next(line for line in whole.lines if len(line.get_xdata()) == 40)
    assert list(law.get_ydata()) == pytest.approx(
        [search.ridge.law(width) for width in law.get_xdata()]
    )


def test_one_width_is_a_curve_and_says_so(monkeypatch):
    search = planted(widths=(4.0,))
    assert len(drawn(search, monkeypatch)) == 1
    told = bare(piece(lam_over_width, search))
    assert "Only one width" in told
    assert "Above" not in told


def test_seven_widths_are_seven_curves(monkeypatch):
    widths = tuple(float(2**k) for k in range(7))
    rows = [
        {**trial(4.0, n, lam), "width": width}
        for width in widths
        for n, lam in enumerate((1.0, 2.0, 4.0))
    ]
    _, *slices = drawn(replace(searched(rows), widths=widths), monkeypatch)
    assert [axes.get_title() for axes in slices] == [f"width {width:g}" for width in widths]


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([], "0 finished trials at 0 widths, and it takes 4"),
        (
            [trial(w, n, lam) for w in WIDTHS for n, lam in enumerate((1.0, 2.0))],
            "4 finished trials at 2 widths",
        ),
        ([trial(4.0, n, 1.0 + n % 2) for n in range(9)], "of 3 different λ"),
    ],
)
def test_too_few_trials_are_left_out_with_the_number_it_takes(rows, why):
    search = (
        searched(rows) if rows else replace(planted(), trials=pd.DataFrame(), epochs=pd.DataFrame())
    )
    with pytest.raises(LeftOutError, match=re.escape(why)):
        lam_over_width(Evidence.of(search))
