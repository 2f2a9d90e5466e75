"""The report of a search with several metrics, constraints, seeds or rungs says so, and judges by
them."""

import re
from dataclasses import replace

import optuna
import pandas as pd
import pytest
from planted_searches import bare, cells, page, piece, searched, section, trial

from robsearch import AtLeast, load_search
from robsearch.drawing.style import PAPER
from robsearch.report import front, response
from robsearch.report.answer import answer
from robsearch.report.evidence import Evidence
from robsearch.report.trials import all_trials, setting
from robsearch.search.settings import space_settings
from robsearch.study import Observation, SearchRecord, open_storage
from search_spaces import constrained, fidelity, pareto, power_law, quickstart, replicates

NATURAL, ROBUST, STABLE = "val/natural_accuracy", "val/robust_accuracy", "val/stability"


def answered(search):
    return piece(answer, search)


# --- several metrics ---


@pytest.fixture
def several():
    """At width 4 the second trial is the most robust, the first the most natural, and the third is
    beaten by both."""
    rates = [(0.40, 0.90), (0.45, 0.80), (0.39, 0.79), (0.05, 0.30)]
    rows = [
        {**trial(4.0, n, 1.0 + n), "value": robust, NATURAL: natural}
        for n, (robust, natural) in enumerate(rates)
    ]
    made = searched(rows)
    return replace(made, widths=(4.0,), maximise=(ROBUST, NATURAL), front=made.trials.iloc[[1, 0]])


def test_the_front_is_a_table_in_order_of_the_first_metric(several, tmp_path):
    own = section(page(several, tmp_path), "front")
    rows = [
        [bare(cell) for cell in re.findall(r"<td>(.*?)</td>", row)]
        for row in re.findall(r"<tr>(.*?)</tr>", own)
    ]
    assert [row for row in rows if row] == [
        ["w4-001", "2", "45.0", "80.0"],
        ["w4-000", "1", "40.0", "90.0"],
    ]
    assert "2 trials on the front" in bare(own)


def test_the_answer_says_that_its_best_trials_are_only_the_most_robust(several):
    assert "Searched for robust accuracy and natural accuracy at once" in bare(answered(several))


def drawn(module, make, search, monkeypatch):
    figures = []
    svg = module.svg
    monkeypatch.setattr(
        module, "svg", lambda figure, *more: (figures.append(figure), svg(figure, *more))[1]
    )
    make(Evidence.of(search))
    return figures[0].axes


def test_the_front_is_joined_and_the_beaten_are_faint(several, monkeypatch):
    (axes,) = drawn(front, front.front_of_metrics, several, monkeypatch)
    beaten, joined, ahead = ([*zip(*line.get_data(), strict=True)] for line in axes.lines)
    assert joined == ahead == [(80.0, 45.0), (90.0, 40.0)]
    assert beaten == [(79.0, 39.0), (30.0, 5.0)]


def test_a_trial_far_behind_the_front_does_not_squeeze_it_and_is_counted(
    several, tmp_path, monkeypatch
):
    (axes,) = drawn(front, front.front_of_metrics, several, monkeypatch)
    assert (axes.get_xlim()[0], axes.get_ylim()[0]) == pytest.approx(
        (70, 35)
    )  # 80 - (90 - 80), 40 - (45 - 40)
    assert "outside the panels (1)" in section(page(several, tmp_path), "front")


def test_three_metrics_are_three_pairs(several, monkeypatch):
    trials = several.trials.assign(**{STABLE: [0.5, 0.6, 0.7, 0.1]})
    three = replace(
        several, trials=trials, front=trials.iloc[:3], maximise=(ROBUST, NATURAL, STABLE)
    )
    pairs = [
        (axes.get_ylabel(), axes.get_xlabel())
        for axes in drawn(front, front.front_of_metrics, three, monkeypatch)
    ]
    robust, natural, stable = "robust accuracy (%)", "natural accuracy (%)", "stability (%)"
    assert pairs == [(robust, natural), (robust, stable), (natural, stable)]


def test_one_metric_has_no_front(tmp_path):
    text = page(searched([trial(4.0, 0, 1.0)]), tmp_path)
    assert 'id="front"' not in text
    assert "#front" not in text


# --- constraints ---


@pytest.fixture
def limited():
    """Of three trials at width 4 the most robust one misses the constraint; both at width 16 miss
    it."""
    rows = [
        {**trial(width, n, lam), NATURAL: natural, "feasible": natural >= 0.9}
        for width, told in (
            (4.0, [(1.0, 0.95), (2.0, 0.85), (4.0, 0.9)]),
            (16.0, [(2.0, 0.7), (4.0, 0.8)]),
        )
        for n, (lam, natural) in enumerate(told)
    ]
    return replace(searched(rows), subject_to=(AtLeast(NATURAL, 0.9),))


def test_the_answer_names_the_constraint_and_counts_who_meets_it(limited):
    text = bare(answered(limited))
    assert "natural accuracy of at least 90 %: 2 of 5 finished trials meet this" in text
    assert "At width 16 no trial does" in text


def test_the_best_trial_is_one_that_meets_it(limited):
    best = answered(limited).split("Best trial</th>")[1]
    assert cells(best, "4")[0] in ("w4-000", "w4-002")
    assert cells(best, "16")[0] == "w16-001"


def test_those_that_miss_it_are_hollow_and_the_line_is_on_its_own_metric(limited, monkeypatch):
    main, natural, _ = drawn(response, response.accuracy_against_lam, limited, monkeypatch)
    hollow = [
        lam
        for line in main.lines
        if line.get_markerfacecolor() == PAPER and line.get_markersize() == 6.5
        for lam in line.get_xdata()
    ]
    assert sorted(hollow) == [2.0, 2.0, 4.0]
    assert [
        line.get_ydata()[0] for line in natural.lines if line.get_linestyle() == "--"
    ] == pytest.approx([90])


def test_a_constraint_on_robust_accuracy_is_a_line_in_the_main_panel(limited, monkeypatch):
    same = replace(limited, subject_to=(AtLeast(ROBUST, 0.3),))
    main, _ = drawn(response, response.accuracy_against_lam, same, monkeypatch)
    assert any(
        list(line.get_ydata()) == pytest.approx([30, 30])
        for line in main.lines
        if len(line.get_ydata()) == 2
    )


def test_all_of_a_constrained_page_can_be_made(limited, tmp_path):
    text = page(limited, tmp_path)
    assert "could not be made" not in text
    assert "misses a constraint on validation" in text


def test_no_constraint_no_word_of_it(tmp_path):
    assert "constraint" not in page(searched([trial(4.0, 0, 1.0)]), tmp_path)


@pytest.mark.parametrize("recorded", [True, False])
def test_constraints_are_read_back_from_the_record_or_an_old_setting(recorded, tmp_path):
    goals = (AtLeast(NATURAL, 0.84), AtLeast(STABLE, 0.125))
    told = space_settings(replace(constrained.digits, subject_to=goals))
    texts = tuple(map(str, goals)) if recorded else None
    record = SearchRecord("s", "m:n", (4.0,), 0, 1, "", told, subject_to=texts)
    record.create(open_storage(None, tmp_path / "s"))
    assert load_search("s", tmp_path).subject_to == goals


# --- seeds ---


@pytest.fixture
def seeded():
    """Two suggestions at width 4: values 0.40, 0.42, 0.44 (mean 42 %, deviation 2 points), and a
    lone seed of 0.43."""
    told = [(0, 0, 0.40), (0, 1, 0.42), (0, 2, 0.44), (1, 0, 0.43)]
    rows = [
        {
            **trial(4.0, number, 2.0 + number),
            "trial": f"w4-00{number}-r{replicate}",
            "value": value,
            "seed": 3 * number,
        }
        | {"seed": 10 * number + replicate, "test/robust_accuracy": value}
        for number, replicate, value in told
    ]
    return replace(searched(rows), widths=(4.0,))


def test_the_best_trial_stands_beside_the_mean_over_its_seeds(seeded):
    best = cells(answered(seeded).split("Best trial</th>")[1], "4")
    assert best[:4] == ["w4-000-r2", "2", "44.0", "42.0 ± 2.0 (3)"]


def test_the_table_has_the_mean_below_the_seeds(seeded):
    own = piece(all_trials, seeded)
    (mean,) = re.findall(r'<tr class="aside">(.*?)</tr>', own)
    told = [bare(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", mean)]
    assert told[:5] == ["mean of 3 seeds", "2", "42.0 ± 2.0", "", "42.0 ± 2.0"]
    assert own.index("w4-000-r2") < own.index("mean of 3 seeds") < own.index("w4-001-r0")


def test_the_figure_shows_mean_spread_and_each_seed(seeded, monkeypatch):
    main, _ = drawn(response, response.accuracy_against_lam, seeded, monkeypatch)
    drawn_at = {
        line.get_marker(): sorted(line.get_ydata())
        for line in main.lines
        if len(line.get_ydata()) > 1
    }
    assert drawn_at["."] == pytest.approx([40, 42, 44])
    assert drawn_at["o"] == pytest.approx([42, 43])
    (spread,) = (bar.get_segments()[0][:, 1] for bar in main.collections)
    assert list(spread) == pytest.approx([40, 44])


# --- rungs ---


@pytest.fixture
def laddered():
    """Two full trials at width 4 that four scouts chose; a scout has the highest value of all."""
    scouts = [
        {**trial(4.0, n, 1.0 + n), "trial": f"w4-scout-00{n}", "rung": "scout", "value": 0.9}
        for n in range(4)
    ]
    full = [{**trial(4.0, n, 1.0 + n), "rung": None} for n in range(2)]
    return replace(searched([*scouts, *full]), ridge=searched(full).ridge, widths=(4.0,))


def test_scouts_are_counted_in_the_answer_and_in_the_setting(laddered):
    counted = (
        "2 trials at 1 width: 2 done, 0 pruned, 0 failed. They were chosen by 4 trials of "
        "rung scout"
    )
    assert counted in bare(answered(laddered))
    assert "2 trials, 4 scouts, 0 controls" in bare(piece(setting, laddered))


def test_scouts_are_in_the_tables_of_cost_and_of_all_trials_and_in_no_figure(
    laddered, tmp_path, monkeypatch
):
    text = page(laddered, tmp_path)
    assert cells(section(text, "cost"), "4")[0] == "6"
    assert cells(section(text, "all-trials"), "w4-scout-003")[0] == "scout: done"
    assert not any(
        "scout" in figure for figure in re.findall(r"<figure>.*?</figure>", text, flags=re.DOTALL)
    )
    main, _ = drawn(response, response.accuracy_against_lam, laddered, monkeypatch)
    assert max(height for line in main.lines for height in line.get_ydata()) < 60
    assert "w4-scout" not in text.split("Best trial</th>")[1].split("</table>")[0]


# --- how it was searched ---


@pytest.mark.parametrize(
    ("space", "label", "text"),
    [
        (quickstart.digits, "searched for", "val/robust_accuracy"),
        (quickstart.digits, "sampler", "TPESampler, the default"),
        (quickstart.digits, "pruner", "MarginPruner, the default"),
        (pareto.digits, "searched for", "val/robust_accuracy, val/natural_accuracy, val/stability"),
        (pareto.digits, "pruner", "none: several metrics"),
        (constrained.digits, "subject to", "val/natural_accuracy >= 0.9"),
        (replicates.digits, "a suggestion", "3 seeds"),
        (replicates.digits, "sampler", "GridSampler"),
        (power_law.digits, "a suggestion", "one training at every width"),
        (fidelity.digits, "rungs below", "scout (25 % go on)"),
        (replace(quickstart.digits, start_with=({"lam": 6.0},)), "tried first", "{'lam': 6.0}"),
        (replace(quickstart.digits, pruner=optuna.pruners.NopPruner()), "pruner", "NopPruner"),
    ],
)
def test_the_setting_says_how_it_was_searched(space, label, text):
    assert space_settings(space)[label] == text


def test_the_setting_says_from_where_and_how_much_was_learned():
    trials = [
        Observation(16.0, {"lam": 2.0}, (0.5,), source) for source in ("thin", "thin", "old.csv")
    ]
    told = space_settings(quickstart.digits, trials)["learned from"]
    assert told == "thin (those that fit of 2), old.csv (those that fit of 1)"


def test_what_is_as_usual_is_not_mentioned():
    assert set(space_settings(quickstart.digits)) == {
        "searched for",
        "a suggestion",
        "sampler",
        "pruner",
        "allocation",
    }


def test_an_empty_search_for_several_metrics_says_so(several, tmp_path):
    empty = replace(several, trials=pd.DataFrame(), epochs=pd.DataFrame(), front=pd.DataFrame())
    text = page(empty, tmp_path)
    assert "Left out: no trial has finished." in section(text, "front")
    assert "could not be made" not in text
