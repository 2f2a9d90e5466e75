"""The report is one offline page that answers first, whatever state the search is in."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from markupsafe import Markup
from planted_searches import (
    STAR,
    WIDTHS,
    Search,
    bare,
    cells,
    drawn_axes,
    page,
    piece,
    searched,
    trial,
)

from robsearch import report
from robsearch.drawing.formatting import duration, number, percent, percentage_points
from robsearch.drawing.pages import environment
from robsearch.drawing.style import palette
from robsearch.laws import fit_ridge
from robsearch.report import layers as layers_module, on_test, response, training
from robsearch.report.evidence import Evidence
from robsearch.report.trials import failures


def ended(row: dict[str, Any], state: str, **changes: Any) -> dict[str, Any]:
    kept = {key: value for key, value in row.items() if not key.startswith("test")}
    return {**kept, "state": state, **changes}


@pytest.fixture(scope="module")
def planted() -> Search:
    rows = [
        trial(width, n, lam)
        for width in WIDTHS
        for n, lam in enumerate((0.5, 1.0, 2.0, 4.0, 8.0, 16.0))
    ]
    jitter = np.random.default_rng(0).normal(0, 1e-3, len(rows))
    rows = [
        {**row, "value": row["value"] + float(noise)}
        for row, noise in zip(rows, jitter, strict=True)
    ]
    rows.append(ended(trial(4.0, 6, 30.0), "PRUNED", value=0.05))
    rows.append(
        ended(
            trial(4.0, 7, 3.0),
            "FAIL",
            value=math.nan,
            best_epoch=math.nan,
            reason="<OOM> & 'worse'",
        )
    )
    rows.append(ended(trial(16.0, 6, 3.0), "RUNNING", value=math.nan))
    rows += [
        {
            **trial(width, 9, 1.0),
            "trial": f"w{width:g}-standard",
            "control": "standard",
            "lam": math.nan,
            "value": 0.02,
        }
        | {"test/robust_accuracy": 0.01}
        for width in WIDTHS
    ]
    return searched(rows)


@pytest.fixture(scope="module")
def written(planted: Search, tmp_path_factory: pytest.TempPathFactory) -> str:
    return page(planted, tmp_path_factory.mktemp("report"))


def test_it_is_one_file_that_needs_nothing_else(written: str) -> None:
    assert not re.findall(r"https?://(?!www\.w3\.org/)", written)
    assert set(re.findall(r'(\S+)="https?://', written)) == {"xmlns", "xmlns:xlink"}
    assert not re.findall(r"<script|<link|<img|\bsrc=|@import|url\((?!#)", written)


def test_a_page_with_every_piece_leaves_nothing_out(written: str) -> None:
    assert written.count("<svg") == 10
    assert "Left out" not in written


def test_every_figure_says_its_n_and_its_seeds(written: str) -> None:
    captions = [
        bare(found)
        for found in re.findall(r"<figcaption>(.*?)</figcaption>", written, flags=re.DOTALL)
    ]
    assert len(captions) == 10
    for caption in captions:
        assert "n\u00a0=\u00a0" in caption or "One net per width" in caption, caption
        assert "seed" in caption, caption


def test_the_planted_law_is_the_headline(written: str) -> None:
    law = re.search(r'<p class="law">(.*?)</p>', written)
    assert law is not None
    assert "width<sup>0.50</sup>" in law[1]
    assert written.index(law[0]) < written.index("<svg")


@pytest.mark.parametrize("width", WIDTHS)
def test_each_width_has_its_answer(written: str, width: float) -> None:
    lam, interval, near, ends = cells(written, f"{width:g}")
    low, high = map(float, interval.split(" to "))
    assert float(lam) == pytest.approx(STAR[width], rel=0.02)
    assert low < STAR[width] < high
    # 0.005 = 0.02 log(lam / lam*)^2 at lam* e^(+-1/2)
    assert [float(end) for end in near.split(" to ")] == pytest.approx(
        [STAR[width] * math.exp(-0.5), STAR[width] * math.exp(0.5)], rel=0.03
    )
    assert ends.startswith("6 done")


def test_the_law_recommends_a_lambda_one_step_beyond_the_widest_net(written: str) -> None:
    lam, interval, near, trials = cells(written, "64, not tried")
    assert interval == "–"  # two widths do not say how far others scatter
    assert float(lam) == pytest.approx(8.0, rel=0.05)  # 2 (64 / 4)^(1/2)
    assert (near, trials) == ("–", "by the law, beyond the widths searched")


def test_the_gain_is_over_the_control_in_points(written: str) -> None:
    best = cells(written.split("Best trial</th>")[1], "4")
    assert best[:2] == ["w4-002", "2"]
    assert best[3] == "43.0 ± 0.5"
    assert best[6:] == ["standard 1.0 ± 0.5", "+42.0 ± 0.7"]


def test_selection_is_said_to_be_optimistic(written: str) -> None:
    assert "selected as the maximum" in written
    assert "not read off the winner" in bare(written)


def test_reasons_are_escaped(written: str) -> None:
    assert "&lt;OOM&gt; &amp; &#39;worse&#39;" in written
    assert "<OOM>" not in written


def test_no_number_is_printed_as_nan(written: str) -> None:
    assert not re.findall(
        r"\b(nan|none|NaT|inf)\b", written.split("</style>")[1].replace("fill: none", "")
    )


def test_no_two_elements_share_an_id(written: str) -> None:
    ids = re.findall(r'\bid="([^"]*)"', written)
    assert len(ids) == len(set(ids))


def test_every_colour_of_a_figure_comes_from_the_theme(written: str) -> None:
    figures = "".join(re.findall(r"<svg.*?</svg>", written, flags=re.DOTALL))
    assert re.findall(r"(?:fill|stroke): (#\w+)", figures) == []
    assert {"var(--w0)", "var(--w1)", "var(--ink)"} <= set(re.findall(r"var\(--\w+\)", figures))


@pytest.mark.parametrize("dark", [False, True])
def test_widths_are_told_apart_by_lightness_in_order(dark: bool) -> None:
    lightness = [sum(int(color[i : i + 2], 16) for i in (1, 3, 5)) for color in palette(3, dark)]
    assert lightness == sorted(set(lightness))


def test_a_search_that_is_not_over_says_so(written: str) -> None:
    assert "1 running" in written
    assert "was not over" in written


def test_an_empty_search_gives_a_page_that_says_so(planted: Search, tmp_path: Path) -> None:
    nothing = pd.DataFrame()
    empty = replace(planted, trials=nothing, epochs=nothing, layers=nothing, ridge=fit_ridge([]))
    text = page(empty, tmp_path)
    assert "This search has no trials yet." in text
    assert "<svg" not in text
    assert "could not be made" not in text


def test_unfinished_trials_alone_give_a_page(tmp_path: Path) -> None:
    text = page(searched([ended(trial(4.0, 0, 1.0), "RUNNING", value=math.nan)]), tmp_path)
    assert "No trial has finished" in text
    assert "could not be made" not in text


def test_without_measurements_the_rest_stands(planted: Search, tmp_path: Path) -> None:
    plain_trials = planted.trials[
        [name for name in planted.trials.columns if not name.startswith("test")]
    ]
    text = page(replace(planted, trials=plain_trials), tmp_path)
    assert "Left out: no net has been measured on the test split yet." in text
    assert text.count("<svg") == 6
    assert "could not be made" not in text


def test_training_without_a_recorded_lambda_still_shows_the_ratio(planted: Search) -> None:
    told = Evidence.of(replace(planted, epochs=planted.epochs.drop(columns="train/lam")))
    assert "<svg" in training.ratio_over_epochs(told)["svg"]


def test_too_few_lambdas_give_no_law_but_the_points(tmp_path: Path) -> None:
    text = page(searched([trial(4.0, 0, 1.0), trial(4.0, 1, 2.0)]), tmp_path)
    assert "λ* is not determined" in text
    assert "No curve" in text
    assert "could not be made" not in text


def test_too_few_trials_for_a_surface_say_how_many_are_missing(tmp_path: Path) -> None:
    """A curve takes five lambdas."""
    text = page(searched([trial(4.0, 0, 1.0), trial(4.0, 1, 2.0)]), tmp_path)
    assert "too few trials: at least 3 more" in text


def test_a_broken_section_does_not_cost_the_page(planted: Search, tmp_path: Path) -> None:
    text = page(
        replace(planted, trials=planted.trials.assign(seed=[[]] * len(planted.trials))), tmp_path
    )
    assert "could not be made (TypeError" in text
    assert "width<sup>0.50</sup>" in text


def macros() -> Any:
    return environment("robsearch.report").get_template("macros.html").module


def test_templates_escape_all_but_html() -> None:
    row = macros().row("<5", [Markup("<b>&amp;</b>"), '"x"'])
    assert row.strip() == (
        '<tr><th scope="row">&lt;5</th><td><b>&amp;</b></td><td>&#34;x&#34;</td></tr>'
    )


def test_only_a_web_address_becomes_a_link() -> None:
    assert 'href="https://a.b"' in macros().link("there", "https://a.b")
    assert "href" not in macros().link("there", "javascript:alert(1)")


def test_numbers_read_well() -> None:
    assert bare(percent(0.5625, 0.005)) == "56.2 ± 0.5"
    assert (
        percent(math.nan)
        == percentage_points(math.nan)
        == number(math.nan)
        == duration(math.nan)
        == "–"
    )
    assert percentage_points(-0.012) == "−1.2"
    assert [number(value) for value in (0.05, 4.0, 12.345, 2048.0, 1e30)] == [
        "0.05",
        "4",
        "12.3",
        "2048",
        "1e30",
    ]
    assert [bare(duration(seconds)) for seconds in (64.0, 600.0, 7200.0)] == [
        "64 s",
        "10 min",
        "2.0 h",
    ]


def test_a_width_without_pruned_trials_does_not_squeeze_the_figure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [
        trial(width, number, lam)
        for width in WIDTHS
        for number, lam in enumerate((1.0, 2.0, 4.0, 8.0))
    ]
    rows.append(ended(trial(4.0, 9, 8.0), "PRUNED"))
    figures: list[Any] = []
    drawn = response.svg
    monkeypatch.setattr(
        response, "svg", lambda figure, *more: (figures.append(figure), drawn(figure, *more))[1]
    )
    response.accuracy_against_lam(Evidence.of(searched(rows)))
    main, strip = (axes.get_position().height for axes in figures[0].axes)
    assert main > 0.5
    assert main > 3 * strip


# --- what a point says, and where it leads ---


def test_a_point_says_its_trial_where_it_is_drawn(planted: Search) -> None:
    evidence = Evidence.of(planted, {"w4-000": "http://h/run"})
    drawn = response.accuracy_against_lam(evidence)["svg"]
    discs = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="6"><title>(.*?)</title>', drawn)
    told = {text.partition(":")[0]: (float(x), float(y), text) for x, y, text in discs}
    assert set(told) == {
        *evidence.finished["trial"],
        "w4-006",
    }  # the pruned one too; failed and running have no value
    assert re.fullmatch(
        r"w16-000: λ 0.5, robust 47\.\d % on validation, 46\.\d % on test", told["w16-000"][2]
    )
    # on the log axis from 0.5 to 16 each doubling of lambda is one step to the right
    across = [told[f"w16-{number:03d}"][0] for number in range(6)]
    assert np.diff(across) == pytest.approx(np.diff(across).mean(), abs=0.11)
    best, worst = told["w16-003"][1], told["w16-000"][1]
    assert best < worst  # SVG counts from the top
    uses = re.findall(r'<use xlink:href="#\w+" x="([\d.]+)" y="([\d.]+)"', drawn)
    places = [(float(x), float(y)) for x, y in uses]
    for x, y, _ in told.values():
        assert min(math.hypot(x - a, y - b) for a, b in places) < 0.2


def test_points_and_names_link_to_the_runs_that_are_known(planted: Search, tmp_path: Path) -> None:
    path = report.write(
        planted, tmp_path / "report.html", {"w4-000": "http://h/#/experiments/1/runs/ab"}
    )
    text = path.read_text(encoding="utf-8")
    links = re.findall(r'<a href="(http[^"]*)"', text)
    assert set(links) == {"http://h/#/experiments/1/runs/ab"}
    assert text.count("<title>w4-000: ") == len(links) - 1  # and one in the table of all trials
    assert not re.findall(r"<script|\bsrc=|@import|url\((?!#)", text)


def test_without_runs_points_speak_and_link_nowhere(written: str) -> None:
    assert "<title>w4-000: " in written
    assert 'target="_blank"' not in written


# --- the pieces ---


def test_the_front_goes_through_the_nets_that_no_other_beats(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rates = [(0.9, 0.3), (0.8, 0.5), (0.8, 0.4), (0.7, 0.45), (0.6, 0.6)]
    rows = [
        {
            **trial(4.0, number, 1.0 + number),
            "test/natural_accuracy": natural,
            "test/robust_accuracy": robust,
        }
        for number, (natural, robust) in enumerate(rates)
    ]
    axes = drawn_axes(on_test, on_test.natural_against_robust, searched(rows), monkeypatch)[0]
    assert axes.lines[-1].get_drawstyle() == "steps-post"  # from the most natural net left, then up
    front = axes.lines[-1].get_xydata()
    assert front.tolist() == pytest.approx(np.array([[90, 30], [80, 50], [60, 60]]))


def test_the_decomposition_joins_the_best_trials_of_the_widths(
    planted: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    panels = drawn_axes(on_test, on_test.rates_against_width, planted, monkeypatch)
    titles = [axes.get_ylabel() for axes in panels]
    assert titles == ["test natural accuracy (%)", "test stability (%)", "test robust accuracy (%)"]
    best = planted.trials.set_index("trial").loc[["w4-002", "w16-003"], "test/robust_accuracy"]
    assert panels[2].lines[0].get_xydata().tolist() == [
        [width, pytest.approx(100 * rate)] for width, rate in zip(WIDTHS, best, strict=True)
    ]


def test_layers_are_drawn_in_order_with_the_largest_singular_value_dashed(
    planted: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms, spectra = drawn_axes(
        layers_module, layers_module.norms_and_spectra, planted, monkeypatch
    )
    assert [line.get_xydata().tolist() for line in norms.lines] == [[[1, 2], [2, 4]]] * 2
    mean, largest, *_ = spectra.lines
    assert (mean.get_ydata().tolist(), largest.get_ydata().tolist()) == ([1, 2], [3, 6])
    assert norms.get_ylabel() == "operator norm, ℓ∞ (pure number)"


def test_failures_are_grouped_by_reason() -> None:
    rows = [trial(4.0, 0, 1.0)]
    rows += [
        ended(trial(4.0, n, 1.0), "FAIL", value=math.nan, reason="NaN in epoch 3\nmore")
        for n in range(1, 12)
    ]
    rows.append(ended(trial(4.0, 12, 1.0), "FAIL", value=math.nan, reason="worker died"))
    section = piece(failures, searched(rows))
    assert "12 of 13 trials failed" in bare(section)
    assert cells(section, "11")[0] == "NaN in epoch 3 ..."
    assert cells(section, "11")[1].endswith("w4-008, and 3 more")
    assert cells(section, "1") == ["worker died", "w4-012", "–"]


def test_a_search_without_failures_says_so() -> None:
    assert "No trial failed, of 1." in piece(failures, searched([trial(4.0, 0, 1.0)]))
