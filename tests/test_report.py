"""The report is one offline page that answers first, whatever state the search is in."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from robsearch import report
from robsearch.laws import Point, Ridge, fit_ridge
from robsearch.report import response
from robsearch.report.canvas import palette
from robsearch.report.evidence import Evidence
from robsearch.report.markup import html, link, tag
from robsearch.report.numerals import THIN, duration, percent, plain, points

WIDTHS = (4.0, 16.0)
STAR = {4.0: 2.0, 16.0: 4.0}
"""The planted lambda*: a law of exponent 0.5."""


@dataclass(frozen=True)
class Search:
    """What ``report.write`` needs, and nothing more."""

    trials: pd.DataFrame
    epochs: pd.DataFrame
    ridge: Ridge
    name: str = "planted"
    space: str = "search_spaces.quickstart:digits"
    widths: tuple[float, ...] = WIDTHS
    links: Mapping[str, str] = field(default_factory=lambda: {"MLflow UI": "robsearch ui planted"})
    setting: Mapping[str, str] = field(default_factory=lambda: {"attack": "PGD(eps=8/255)", "test examples": "297"})
    maximise: tuple[str, ...] = ("val/robust_accuracy",)
    front: pd.DataFrame = field(default_factory=pd.DataFrame)


def trial(width: float, number: int, lam: float) -> dict[str, Any]:
    value = 0.4 + 0.01 * width - 0.02 * math.log(lam / STAR[width]) ** 2
    return {
        "trial": f"w{width:g}-{number:03d}",
        "width": width,
        "number": number,
        "control": None,
        "lam": lam,
        "state": "COMPLETE",
        "value": value,
        "best_epoch": 2,
        "epochs": 3,
        "seconds": 60.0,
        "seed": 7,
        "reason": None,
        "test/robust_accuracy": value - 0.01,
        "test/robust_accuracy_se": 0.005,
        "test/natural_accuracy": 0.8,
        "test/stability": 0.6,
        "test_last/robust_accuracy": 0.35,
        "test/lipschitz/logit_ratio/mean": 30.0 / lam,
        "test/margin/logit/mean": 2.0,
    }


def ended(row: dict[str, Any], state: str, **changes: Any) -> dict[str, Any]:
    kept = {key: value for key, value in row.items() if not key.startswith("test")}
    return {**kept, "state": state, **changes}


def searched(rows: list[dict[str, Any]]) -> Search:
    done = [row for row in rows if row["state"] == "COMPLETE" and row["control"] is None]
    ridge = fit_ridge([Point(row["width"], row["lam"], row["value"], row["seed"]) for row in done])
    metrics = {"val/robust_accuracy": 0.3, "train/natural_loss": 1.0, "train/robust_loss": 0.2}
    epochs = [
        {"trial": row["trial"], "epoch": epoch, "train/lam": row["lam"], **metrics}
        for row in rows
        for epoch in (1, 2, 3)
    ]
    return Search(pd.DataFrame(rows), pd.DataFrame(epochs), ridge)


@pytest.fixture(scope="module")
def planted() -> Search:
    rows = [trial(width, n, lam) for width in WIDTHS for n, lam in enumerate((0.5, 1.0, 2.0, 4.0, 8.0, 16.0))]
    jitter = np.random.default_rng(0).normal(0, 1e-3, len(rows))
    rows = [{**row, "value": row["value"] + float(noise)} for row, noise in zip(rows, jitter, strict=True)]
    rows.append(ended(trial(4.0, 6, 30.0), "PRUNED", value=0.05))
    rows.append(ended(trial(4.0, 7, 3.0), "FAIL", value=math.nan, best_epoch=math.nan, reason="<OOM> & 'worse'"))
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


def page(search: Search, folder: Path) -> str:
    path = report.write(search, folder / "new" / "report.html")
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def written(planted: Search, tmp_path_factory: pytest.TempPathFactory) -> str:
    return page(planted, tmp_path_factory.mktemp("report"))


def cells(text: str, first: str) -> list[str]:
    """The cells of the first table row that begins with ``first``."""
    row = next(row for row in re.findall(r"<tr>(.*?)</tr>", text) if bare(row.split("</th>")[0]) == first)
    return [bare(cell) for cell in re.findall(r"<td>(.*?)</td>", row)]


def bare(text: str) -> str:
    return re.sub(r"<[^>]*>", "", text).replace(THIN, " ")


def test_it_is_one_file_that_needs_nothing_else(written: str) -> None:
    assert not re.findall(r"https?://(?!www\.w3\.org/)", written)
    assert set(re.findall(r'(\S+)="https?://', written)) == {"xmlns", "xmlns:xlink"}
    assert not re.findall(r"<script|<link|<img|\bsrc=|@import|url\((?!#)", written)


def test_a_page_with_every_piece_leaves_nothing_out(written: str) -> None:
    assert written.count("<svg") == 7
    assert "Left out" not in written


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


def test_the_gain_is_over_the_control_in_points(written: str) -> None:
    best = cells(written.split("Best trial</th>")[1], "4")
    assert best[:2] == ["w4-002", "2"]
    assert best[3] == "43.0 ± 0.5"
    assert best[6:] == ["standard 1.0 ± 0.5", "+42.0 ± 0.7"]


def test_selection_is_said_to_be_optimistic(written: str) -> None:
    assert "selected as the maximum" in written
    assert "not read off the winner" in bare(written)


def test_reasons_are_escaped(written: str) -> None:
    assert "&lt;OOM&gt; &amp; &#x27;worse&#x27;" in written
    assert "<OOM>" not in written


def test_no_number_is_printed_as_nan(written: str) -> None:
    assert not re.findall(r"\b(nan|none|NaT|inf)\b", written.split("</style>")[1].replace("fill: none", ""))


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
    empty = replace(planted, trials=pd.DataFrame(), epochs=pd.DataFrame(), ridge=fit_ridge([]))
    text = page(empty, tmp_path)
    assert "This search has no trials yet." in text
    assert "<svg" not in text
    assert "could not be made" not in text


def test_unfinished_trials_alone_give_a_page(tmp_path: Path) -> None:
    text = page(searched([ended(trial(4.0, 0, 1.0), "RUNNING", value=math.nan)]), tmp_path)
    assert "No trial has finished" in text
    assert "could not be made" not in text


def test_without_measurements_the_rest_stands(planted: Search, tmp_path: Path) -> None:
    plain_trials = planted.trials[[name for name in planted.trials.columns if not name.startswith("test")]]
    text = page(replace(planted, trials=plain_trials), tmp_path)
    assert "Left out: no net has been measured on the test split yet." in text
    assert text.count("<svg") == 5
    assert "could not be made" not in text


def test_training_without_a_recorded_lambda_still_shows_the_ratio(planted: Search, tmp_path: Path) -> None:
    text = page(replace(planted, epochs=planted.epochs.drop(columns="train/lam")), tmp_path)
    assert text.count("<svg") == 7
    assert "could not be made" not in text


def test_too_few_lambdas_give_no_law_but_the_points(tmp_path: Path) -> None:
    text = page(searched([trial(4.0, 0, 1.0), trial(4.0, 1, 2.0)]), tmp_path)
    assert "λ* is not determined" in text
    assert "No curve" in text
    assert "could not be made" not in text


def test_a_broken_section_does_not_cost_the_page(planted: Search, tmp_path: Path) -> None:
    text = page(replace(planted, trials=planted.trials.assign(seed=[[]] * len(planted.trials))), tmp_path)
    assert "could not be made (TypeError" in text
    assert "width<sup>0.50</sup>" in text


def test_markup_escapes_all_but_html() -> None:
    assert tag("td", "<5", tag("b", "&"), class_='"x"') == '<td class="&quot;x&quot;">&lt;5<b>&amp;</b></td>'
    assert html(html("<")) == "&lt;"


def test_only_a_web_address_becomes_a_link() -> None:
    assert 'href="https://a.b"' in link("there", "https://a.b")
    assert "href" not in link("there", "javascript:alert(1)")


def test_numbers_read_well() -> None:
    assert bare(percent(0.5625, 0.005)) == "56.2 ± 0.5"
    assert percent(math.nan) == points(math.nan) == plain(math.nan) == duration(math.nan) == "–"
    assert points(-0.012) == "−1.2"
    assert [plain(number) for number in (0.05, 4.0, 12.345, 2048.0, 1e30)] == [
        "0.05",
        "4",
        "12.3",
        "2048",
        "1e30",
    ]
    assert [bare(duration(seconds)) for seconds in (64.0, 600.0, 7200.0)] == ["64 s", "10 min", "2.0 h"]


def test_a_width_without_pruned_trials_does_not_squeeze_the_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [trial(width, number, lam) for width in WIDTHS for number, lam in enumerate((1.0, 2.0, 4.0, 8.0))]
    rows.append(ended(trial(4.0, 9, 8.0), "PRUNED"))
    figures: list[Any] = []
    drawn = response.svg
    monkeypatch.setattr(response, "svg", lambda figure, *more: (figures.append(figure), drawn(figure, *more))[1])
    response.accuracy_against_lam(Evidence.of(searched(rows)))
    main, strip = (axes.get_position().height for axes in figures[0].axes)
    assert main > 0.5
    assert main > 3 * strip
