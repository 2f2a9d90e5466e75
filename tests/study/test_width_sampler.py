import copy
import math

import numpy as np
import optuna
import pytest
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import TrialState

from robsearch.errors import InputError
from robsearch.study.width_sampler import (
    Observation,
    WidthSampler,
    observations_in,
    with_few_widths,
)

LOW, HIGH = 0.5, 64.0


def crest(width):
    return 3 * (width / 16) ** 0.4


def value(width, lam, optimum=crest):
    """0.7 at the crest; half a point less at a factor of 2 from it."""
    return 0.7 - 0.01 * math.log(lam / optimum(width)) ** 2


def told(widths, n=9, sd=0.004, optimum=crest):
    random = np.random.default_rng(0)
    return [
        Observation(
            w, {"lam": float(lam)}, (value(w, lam, optimum) + sd * random.standard_normal(),)
        )
        for w in widths
        for lam in np.geomspace(LOW, HIGH, n)
    ]


def study(sampler, direction="maximize"):
    return optuna.create_study(direction=direction, sampler=sampler)


def asked(in_study, name="lam"):
    trial = in_study.ask()
    return trial, trial.suggest_float(name, LOW, HIGH, log=True)


# --- what it borrows ---


def test_trials_with_other_categorical_choices_are_not_borrowed_whenever_the_choice_comes():
    """TRADES is best at 2, MART at 30; the mean of both would be tried for each."""
    at = {"TRADES": 2.0, "MART": 30.0}
    thin = [
        Observation(
            one.width,
            {**one.params, "objective": name},
            (one.values[0] - 0.1 * (name == "MART"),),
            choices={"objective": name},
        )
        for name in at
        for one in told((16, 64), optimum=lambda _, star=at[name]: star)
    ]
    for name, star in at.items():
        in_study = study(WidthSampler(seed=0).with_siblings(256, lambda: thin))
        in_study.enqueue_trial({"objective": name})
        trial = in_study.ask()
        trial.suggest_categorical("objective", list(at))
        lam = trial.suggest_float("lam", LOW, HIGH, log=True)
        assert abs(math.log(lam / star)) < math.log(1.5)
    _, lam = asked(
        study(WidthSampler(seed=0).with_siblings(256, lambda: thin))
    )  # asked for before the choice
    assert abs(math.log(lam / at["TRADES"])) < math.log(1.5)


def test_the_first_wide_trial_lies_near_the_law_of_the_thin_ones_where_tpe_has_to_guess():
    thin = told((16, 32, 64))
    ours = [
        asked(study(WidthSampler(seed=seed).with_siblings(256, lambda: thin)))[1]
        for seed in range(10)
    ]
    tpe = [asked(study(TPESampler(seed=seed)))[1] for seed in range(10)]
    assert max(abs(math.log(lam / crest(256))) for lam in ours) < math.log(2)
    assert max(abs(math.log(lam / crest(256))) for lam in tpe) > math.log(4)


def test_trials_of_other_widths_leave_less_to_search_at_this_one():
    """After one trial of its own, suggestions scatter less than without siblings."""
    here = [Observation(256, {"lam": 8.0}, (0.69,))]

    def scatter(siblings):
        drawn = [
            asked(study(WidthSampler(seed=s).with_siblings(256, lambda: siblings + here)))[1]
            for s in range(12)
        ]
        return np.std(np.log(drawn))

    assert scatter(told((16, 32, 64), sd=0.001)) < 0.7 * scatter([])


def test_without_a_law_the_own_trials_decide():
    crests = {16: 3.0, 32: 30.0, 64: 1.5, 256: 25.0}
    seen = told(tuple(crests), optimum=crests.get, sd=0.002)
    drawn = [
        asked(study(WidthSampler(seed=s).with_siblings(256, lambda: seen)))[1] for s in range(10)
    ]
    assert abs(np.median(np.log(drawn)) - math.log(25)) < math.log(2)


# --- what every sampler promises ---


def test_alone_it_optimises_a_study():
    alone = study(WidthSampler(seed=0))
    alone.optimize(
        lambda trial: value(16, trial.suggest_float("lam", LOW, HIGH, log=True)), n_trials=15
    )
    assert alone.best_params["lam"] == pytest.approx(crest(16), rel=0.3)
    assert near(alone) >= 6


def near(optimised):
    """How many of the last nine suggestions lie within a factor of 3 of the crest."""
    return sum(
        abs(math.log(trial.params["lam"] / crest(16))) < math.log(3)
        for trial in optimised.trials[-9:]
    )


def test_alone_it_minimises_a_study_that_minimises():
    alone = study(WidthSampler(seed=0), direction="minimize")
    alone.optimize(
        lambda trial: -value(16, trial.suggest_float("lam", LOW, HIGH, log=True)), n_trials=15
    )
    assert alone.best_params["lam"] == pytest.approx(crest(16), rel=0.3)
    assert near(alone) >= 6


def test_the_same_seed_and_history_give_the_same_suggestions_and_another_seed_others():
    def run(seed):
        one = study(WidthSampler(seed=seed))
        one.optimize(
            lambda trial: value(16, trial.suggest_float("lam", LOW, HIGH, log=True)), n_trials=8
        )
        return [trial.params["lam"] for trial in one.trials]

    assert run(1) == run(1) != run(2)


def test_a_bound_sampler_goes_on_with_the_same_random_numbers_and_leaves_the_first_unbound():
    sampler = WidthSampler(seed=0)
    bound = sampler.with_siblings(16, list)
    twin = copy.deepcopy(sampler).with_siblings(16, list)
    assert [asked(study(bound))[1] for _ in range(3)] == [asked(study(twin))[1] for _ in range(3)]
    assert sampler._siblings is None
    assert bound._random is sampler._random


def test_reseeding_changes_what_is_drawn():
    one, other = (study(WidthSampler(seed=0)) for _ in range(2))
    other.sampler.reseed_rng()
    assert [asked(one)[1] for _ in range(4)] != [asked(other)[1] for _ in range(4)]


def test_trials_that_run_at_a_time_differ():
    parallel = study(
        WidthSampler(seed=0).with_siblings(
            256, lambda: told((16, 32)) + observations_in(parallel.trials, 256)
        )
    )
    lams = [asked(parallel)[1] for _ in range(8)]
    assert len(set(lams)) >= 6
    assert all(LOW <= lam <= HIGH for lam in lams)


def test_running_trials_count_finished_ones_count_more_failed_ones_do_not():
    one = study(None)
    states = {TrialState.COMPLETE: 0.6, TrialState.FAIL: None, TrialState.PRUNED: None}
    for state, result in states.items():
        trial, _ = asked(one)
        trial.report(0.3, step=1)
        trial.report(0.2, step=2)
        one.tell(trial, result, state=state)
    asked(one)
    assert [seen.values for seen in observations_in(one.trials, 4)] == [(0.6,), (0.3,), ()]


def test_every_suggestion_lies_inside_the_range_also_when_other_widths_had_another_one():
    far = [
        Observation(w, {"lam": float(lam)}, (0.6 + 0.01 * math.log(lam),))
        for w in (1, 2)
        for lam in (0.01, 0.1, 200, 1000)
    ]
    inside = study(
        WidthSampler(seed=0).with_siblings(4, lambda: far + observations_in(inside.trials, 4))
    )
    for _ in range(6):
        trial, lam = asked(inside)
        assert LOW <= lam <= HIGH
        inside.tell(trial, value(4, lam))


@pytest.mark.parametrize(
    ("suggest", "allowed"),
    [
        (lambda trial: trial.suggest_float("lam", -3.0, 5.0), lambda x: -3 <= x <= 5),
        (
            lambda trial: trial.suggest_float("lam", 0.0, 1.0, step=0.25),
            lambda x: x in (0, 0.25, 0.5, 0.75, 1),
        ),
        (lambda trial: trial.suggest_int("lam", 1, 100, log=True), lambda x: x in range(1, 101)),
        (lambda trial: trial.suggest_int("lam", -4, 4, step=2), lambda x: x in (-4, -2, 0, 2, 4)),
        (lambda trial: trial.suggest_float("lam", 2.0, 2.0), lambda x: x == 2),
        (lambda trial: trial.suggest_int("lam", 3, 3), lambda x: x == 3),
    ],
)
def test_any_number_can_be_searched_on_its_own_scale(suggest, allowed):
    of_kind = study(WidthSampler(seed=0))
    for _ in range(6):
        trial = of_kind.ask()
        x = suggest(trial)
        assert allowed(x)
        of_kind.tell(trial, -abs(x - 1))


def test_a_choice_is_refused():
    with pytest.raises(InputError, match="lam to be a number"):
        study(WidthSampler(seed=0)).ask().suggest_categorical("lam", [1.0, 2.0])


def test_a_width_that_is_not_positive_is_refused():
    with pytest.raises(InputError, match="positive and finite"):
        WidthSampler().with_siblings(0, list)


def test_the_parameter_is_named_and_every_other_one_is_left_to_the_inner_sampler():
    def others(sampler):
        trial = study(sampler).ask()
        return trial.suggest_float("lr", 0, 1), trial.suggest_categorical("kind", ["a", "b"])

    assert others(WidthSampler("beta", inner=RandomSampler(seed=3))) == others(
        RandomSampler(seed=3)
    )
    seen = [
        Observation(w, {"beta": lam, "lam": 1.0}, (value(w, lam),))
        for w in (16, 32, 64)
        for lam in np.geomspace(LOW, HIGH, 9)
    ]
    _, beta = asked(study(WidthSampler("beta", seed=0).with_siblings(256, lambda: seen)), "beta")
    assert beta == pytest.approx(crest(256), rel=0.5)


def test_a_relative_inner_sampler_works_beside_it():
    both = study(
        WidthSampler(inner=TPESampler(multivariate=True, n_startup_trials=2, seed=0), seed=0)
    )
    both.optimize(
        lambda trial: (
            value(16, trial.suggest_float("lam", LOW, HIGH, log=True))
            - trial.suggest_float("lr", 0, 1) * trial.suggest_float("wd", 0, 1)
        ),
        n_trials=8,
    )
    assert "lam" not in both.sampler.infer_relative_search_space(both, both.trials[-1])
    assert {"lr", "wd"} <= set(both.sampler.infer_relative_search_space(both, both.trials[-1]))


def test_values_that_are_not_finite_are_left_out():
    odd = [
        Observation(16, {"lam": 1.0}, (math.nan,)),
        Observation(16, {"lam": 2.0}, (math.inf,)),
        Observation(16, {"lr": 2.0}, (0.5,)),
    ]
    _, lam = asked(study(WidthSampler(seed=0).with_siblings(16, lambda: odd)))
    assert LOW <= lam <= HIGH


# --- many trials ---


def test_thousands_of_trials_at_as_many_widths_are_told_apart_at_twenty():
    many = [Observation(float(w), {"lam": 2.0}, (0.5,)) for w in np.geomspace(2, 64, 3000)]
    few = with_few_widths(many, 8.0)
    assert len({seen.width for seen in few}) == 19  # 8 is not among them
    assert len(few) == 3000
    assert (
        max(abs(math.log(moved.width / seen.width)) for moved, seen in zip(few, many, strict=True))
        < 0.1
    )
    own = with_few_widths([*many, Observation(8.0, {"lam": 2.0}, (0.5,))], 8.0)
    assert own[-1].width == 8.0
    assert len({seen.width for seen in own}) == 20
    assert with_few_widths(many[:20], 8.0) == many[:20]


def test_a_suggestion_from_thousands_of_widths_lies_near_the_law():
    """Told apart, their covariance would take gigabytes."""
    many = told(np.geomspace(16, 64, 3000), n=1)
    many = [
        each._replace(params={"lam": lam}, values=(value(each.width, lam),))
        for each, lam in zip(many, spread(3000), strict=True)
    ]
    lam = asked(study(WidthSampler(seed=0).with_siblings(256, lambda: many)))[1]
    assert abs(math.log(lam / crest(256))) < math.log(2)


def spread(n):
    return np.exp(np.random.default_rng(0).uniform(math.log(LOW), math.log(HIGH), n)).tolist()
