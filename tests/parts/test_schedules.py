"""Schedules: closed forms, and the inequalities that make WAR a negative feedback."""

import json
import math

import pytest
from hypothesis import given, strategies as st

from robsearch.errors import InputError
from robsearch.parts.schedules import WAR, Fixed, Warmup

TERMS = st.lists(st.tuples(st.floats(0, 50), st.floats(-1e-9, 50)), min_size=1, max_size=30)
LOG = st.fixed_dictionaries(
    {
        "target": st.floats(0.01, 20),
        "lam_init": st.floats(0.5, 64),
        "alpha": st.floats(0.001, 100),
        "ema": st.floats(0, 0.99),
        "lam_min": st.floats(0.001, 0.5),
        "lam_max": st.floats(64, 1000),
    }
)
PAPER = st.fixed_dictionaries(
    {
        "form": st.just("paper"),
        "target": st.floats(0.01, 20),
        "alpha": st.floats(0.001, 100),
        "lam_max": st.floats(1, 1000),
    }
)
WARS = LOG | PAPER


def follow(schedule, terms, progress=0.5):
    state = schedule.init()
    states = [state]
    for natural, robust in terms:
        state = schedule.update(state, natural, robust, progress)
        states.append(state)
    return states


def lams(schedule, terms):
    return [schedule.lam(state) for state in follow(schedule, terms)]


def test_fixed_stays():
    assert lams(Fixed(6.0), [(1.0, 2.0), (0.0, 0.0)]) == [6.0, 6.0, 6.0]


def test_warmup_is_linear_and_then_stays():
    warmup = Warmup(6.0, until=0.25)
    assert warmup.lam(warmup.init()) == 0.0
    reached = [
        warmup.lam(warmup.update(warmup.init(), 1.0, 1.0, p)) for p in (0.0, 0.125, 0.25, 0.5, 1.0)
    ]
    assert reached == [0.0, 3.0, 6.0, 6.0, 6.0]


@given(fields=WARS, terms=TERMS)
def test_war_is_never_negative_nor_above_its_cap(fields, terms):
    war = WAR(**fields)
    low = war.lam_min if war.form == "log" else 0.0
    assert all(low <= lam <= war.lam_max for lam in lams(war, terms))


@given(
    terms=st.lists(
        st.tuples(st.floats(1e-300, 1e300), st.floats(1e-300, 1e300)), min_size=1, max_size=5
    )
)
@pytest.mark.parametrize("form", ["log", "paper"])
def test_war_stays_finite_on_absurd_terms(form, terms):
    war = WAR(1.0, lam_init=1.0 if form == "log" else 0.0, form=form, alpha=1e6)
    assert all(math.isfinite(lam) for lam in lams(war, terms))


@given(zeta=st.floats(0.1, 10), robust=st.lists(st.floats(0.01, 10), min_size=1, max_size=20))
def test_war_rests_at_the_target(zeta, robust):
    """Batches whose ratio is zeta, at whatever size of the terms, leave lambda alone, from the
    first step."""
    for war in (WAR(zeta, lam_init=6.0), WAR(zeta, lam_init=6.0, ema=0.0)):
        assert lams(war, [(zeta * r, r) for r in robust]) == pytest.approx(
            [6.0] * (len(robust) + 1)
        )
    paper = WAR(zeta, form="paper")
    states = [paper.update({**paper.init(), "lam": 6.0}, zeta * r, r, 0.5) for r in robust]
    assert [paper.lam(state) for state in states] == pytest.approx([6.0] * len(robust))


@given(zeta=st.floats(0.1, 10), robust=st.floats(0.01, 10), factor=st.floats(1.1, 5))
@pytest.mark.parametrize("form", ["log", "paper"])
def test_war_raises_lambda_below_the_target_ratio_and_lowers_it_above(form, zeta, robust, factor):
    war = WAR(zeta, lam_init=1.0 if form == "log" else 0.0, form=form, alpha=0.01)
    state = {**war.init(), "lam": 1.0}
    below = war.update(state, zeta * robust / factor, robust, 0.5)
    above = war.update(state, zeta * robust * factor, robust, 0.5)
    assert war.lam(below) > 1.0 > war.lam(above)


def test_the_log_form_by_hand():
    """Ratio 1, target 4, alpha 0.5: each step multiplies lambda by (4 / 1) ** 0.5 = 2, up to the
    cap."""
    war = WAR(4.0, lam_init=3.0, alpha=0.5, lam_max=20.0)
    assert lams(war, [(2.0, 2.0)] * 4) == pytest.approx([3.0, 6.0, 12.0, 20.0, 20.0])
    war = WAR(1.0, lam_init=8.0, alpha=0.5, lam_min=3.0)
    assert lams(war, [(4.0, 1.0)] * 3) == pytest.approx([8.0, 4.0, 3.0, 3.0])


def test_the_two_averages_are_separate_and_unbiased():
    """With ema 1/2 two steps weigh 1/3 and 2/3: (1/3 * 4 + 2/3 * 1) / (1/3 * 1 + 2/3 * 4) = 2 /
    3."""
    war = WAR(1.0, lam_init=6.0, alpha=1.0, ema=0.5)
    first, second = follow(war, [(4.0, 1.0), (1.0, 4.0)])[1:]
    assert war.lam(first) == pytest.approx(6.0 / 4)
    assert war.lam(second) == pytest.approx(6.0 / 4 * 3 / 2)


def test_the_paper_form_by_hand():
    """zeta 2, alpha 0.1: 0, + 0.1 (2 - 0.5) = 0.15, + 0.1 (2 - 1) = 0.25, + 0.1 (2 - 5) < 0: 0. And
    a cap."""
    war = WAR(2.0, form="paper", alpha=0.1, lam_max=0.18)
    assert lams(WAR(2.0, form="paper"), [(1.0, 2.0), (3.0, 3.0), (5.0, 1.0)]) == pytest.approx(
        [0, 0.15, 0.25, 0]
    )
    assert lams(war, [(1.0, 2.0), (3.0, 3.0)]) == pytest.approx([0, 0.15, 0.18])


@pytest.mark.parametrize(("form", "lam"), [("log", 0.01), ("paper", 0.0)])
def test_a_robust_term_of_zero_lowers_lambda_to_its_least(form, lam):
    war = WAR(1.0, lam_init=1.0 if form == "log" else 0.0, form=form, ema=0.0)
    state = {**war.init(), "lam": 1.0}
    for _ in range(20):
        state = war.update(state, 1.0, -1e-9, 0.5)
    assert war.lam(state) == lam


def test_both_terms_are_floored():
    """0 / 0 is 1e-8 / 1e-8 = 1, and 1e-8 / 1 is the least ratio a natural term of 0 can give."""
    assert lams(WAR(1.0, lam_init=6.0), [(0.0, 0.0)] * 3) == pytest.approx([6.0] * 4)
    war = WAR(1.0, lam_init=1.0, alpha=0.1)
    assert lams(war, [(0.0, 1.0)]) == pytest.approx([1.0, 10**0.8])


@given(fields=WARS, terms=TERMS, progress=st.floats(0.5, 1))
def test_a_frozen_state_does_not_change(fields, terms, progress):
    frozen = WAR(**fields, freeze_at=0.5)
    moved = follow(frozen, terms, progress=0.49)[-1]
    assert moved != frozen.init()
    for natural, robust in terms:
        assert frozen.update(moved, natural, robust, progress) == moved


def test_held_lambda_waits_while_the_averages_are_taken():
    """Ratio 1, target 4, alpha 0.5: lambda doubles with each step from progress 0.2 on; the
    averages know the steps before."""
    war = WAR(4.0, lam_init=3.0, alpha=0.5, hold=0.2)
    state = war.init()
    reached = []
    for progress in (0.0, 0.1, 0.19, 0.2, 0.3):
        state = war.update(state, 2.0, 2.0, progress)
        reached.append(war.lam(state))
    assert reached == pytest.approx([3.0, 3.0, 3.0, 6.0, 12.0])
    assert state["weight"] == pytest.approx(1 - 0.9**5)


@given(steps=st.integers(2, 400), more=st.integers(2, 5), ratio=st.floats(0.5, 2))
def test_with_a_gain_per_progress_lambda_moves_alike_however_many_steps_there_are(
    steps, more, ratio
):
    """At a constant ratio log lambda grows by alpha * log(target / ratio) per whole training; the
    last of n steps is at progress 1 - 1 / n."""
    reached = []
    for n in (steps, more * steps):
        war = WAR(1.0, lam_init=1.0, alpha=3.0, alpha_per="progress")
        state = war.init()
        for step in range(n):
            state = war.update(state, ratio, 1.0, step / n)
        reached.append(math.log(war.lam(state)) / (1 - 1 / n))
    assert reached == pytest.approx([-3.0 * math.log(ratio)] * 2, abs=1e-9)


def test_the_paper_form_takes_a_gain_per_progress_too():
    """zeta 2, ratio 1, alpha 10: 10 (2 - 1) a training, so 2.5 after a quarter of it."""
    war = WAR(2.0, form="paper", alpha=10.0, alpha_per="progress")
    state = war.update(war.init(), 1.0, 1.0, 0.0)
    assert war.lam(war.update(state, 1.0, 1.0, 0.25)) == pytest.approx(2.5)


def test_a_target_is_interpolated_in_logs_where_asked():
    """Half-way between 4 and 1 lies their geometric mean."""
    war = WAR(((0.2, 4.0), (0.6, 1.0)), lam_init=6.0, interpolation="log")
    zetas = [war.zeta(p) for p in (0.0, 0.2, 0.4, 0.5, 0.6, 1.0)]
    assert zetas == pytest.approx([4.0, 4.0, 2.0, 2.0**0.5, 1.0, 1.0])


def test_freezing_at_the_first_drop_takes_a_recipe_to_say_where():
    war = WAR(1.0, lam_init=6.0, freeze_at="first_drop")
    with pytest.raises(InputError, match=r"use recipe\.resolved_lam"):
        war.update(war.init(), 1.0, 1.0, 0.1)


def test_the_text_of_a_war_of_before_is_what_it_was():
    assert repr(WAR(2.0, 6.0)) == (
        "WAR(target=2.0, lam_init=6.0, form='log', alpha=0.1, ema=0.9, lam_min=0.01, "
        "lam_max=100.0, freeze_at=1.0)"
    )
    assert repr(WAR(2.0, 6.0, hold=0.1)).endswith("freeze_at=1.0, hold=0.1)")


@pytest.mark.parametrize("terms", [(math.nan, 1.0), (1.0, math.inf)])
def test_a_term_that_is_not_finite_leaves_the_state_alone(terms):
    war = WAR(1.0, lam_init=6.0)
    state = war.update(war.init(), 1.0, 2.0, 0.1)
    assert war.update(state, *terms, 0.2) == state


@given(fields=WARS, terms=TERMS)
def test_the_state_survives_json_bit_for_bit(fields, terms):
    war = WAR(**fields)
    state = follow(war, terms)[-1]
    copy = json.loads(json.dumps(dict(state)))
    assert copy == state
    assert war.update(copy, 1.0, 3.0, 0.5) == war.update(state, 1.0, 3.0, 0.5)


def test_update_does_not_write_into_the_state_it_was_given():
    war = WAR(1.0, lam_init=6.0)
    state = war.init()
    war.update(state, 1.0, 2.0, 0.1)
    assert state == war.init()


def test_a_matched_target_is_interpolated_and_constant_outside():
    war = WAR(((0.2, 2.0), (0.6, 1.0), (0.8, 0.5)), lam_init=6.0)
    zetas = [war.zeta(p) for p in (0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 1.0)]
    assert zetas == pytest.approx([2.0, 2.0, 1.5, 1.0, 0.75, 0.5, 0.5])
    state = war.init()
    assert war.lam(war.update(state, 1.5, 1.0, 0.4)) == pytest.approx(6.0)
    assert (
        war.lam(war.update(state, 1.5, 1.0, 0.1)) > 6.0 > war.lam(war.update(state, 1.5, 1.0, 0.7))
    )


def test_on_a_plant_with_negative_feedback_the_ratio_settles_at_the_target():
    """A toy net whose ratio is 0.1 * lam, with noise around it: lambda must settle at zeta / 0.1 =
    15."""
    war = WAR(1.5, lam_init=3.0)
    state = war.init()
    for step in range(400):
        noise = 1.3 if step % 2 else 1 / 1.3
        state = war.update(state, 0.1 * war.lam(state) * noise, 1.0, step / 400)
    assert war.lam(state) == pytest.approx(15.0, rel=0.06)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_fixed_and_warmup_refuse(value):
    with pytest.raises(InputError, match="value"):
        Fixed(value)
    with pytest.raises(InputError) as caught:
        Warmup(value, until=0.0)
    assert len(caught.value.problems) == 2


def test_war_refuses_all_bad_fields_at_once():
    with pytest.raises(InputError) as caught:
        WAR(-1.0, lam_init=0.0, alpha=0.0, ema=1.0, lam_min=0.0, lam_max=math.inf, freeze_at=0.0)
    for field in ("target", "alpha", "ema", "lam_min", "lam_max", "freeze_at"):
        assert any(field in problem for problem in caught.value.problems), field


@pytest.mark.parametrize(
    "fields",
    [
        {"target": 1.0},
        {"target": 1.0, "lam_init": 200.0},
        {"target": 1.0, "lam_init": math.nan},
        {"target": 1.0, "lam_init": 6.0, "form": "paper"},
        {"target": (), "lam_init": 6.0},
        {"target": ((0.5, 1.0), (0.5, 2.0)), "lam_init": 6.0},
        {"target": ((0.0, 1.0), (1.5, 2.0)), "lam_init": 6.0},
        {"target": ((0.0, 0.0),), "lam_init": 6.0},
        {"target": 1.0, "lam_init": 6.0, "hold": 1.0},
        {"target": 1.0, "lam_init": 6.0, "hold": 0.5, "freeze_at": 0.5},
        {"target": 1.0, "form": "paper", "hold": 0.1},
    ],
    ids=str,
)
def test_war_refuses(fields):
    with pytest.raises(InputError):
        WAR(**fields)


def test_war_refuses_an_unknown_form(unchecked):
    with pytest.raises(InputError, match="form"):
        WAR(1.0, lam_init=6.0, form="linear")
