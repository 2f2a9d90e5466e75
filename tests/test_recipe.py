import dataclasses

import pytest
from small_spaces import recipe

from robsearch import (
    CIFAR10,
    FGSM,
    MART,
    MLP,
    PGD,
    WAR,
    AutoAttack,
    Cosine,
    Fixed,
    Halving,
    InputError,
    NormDecay,
    OwnLoss,
    Piecewise,
    Recipe,
    TwoLosses,
    Warmup,
    WorstCase,
)


def test_every_misfit_is_named_at_once():
    with pytest.raises(InputError) as error:
        Recipe(model=MLP, data="digits", epochs=0, batch_size=2.5)
    problems = error.value.problems
    assert len(problems) == 4
    assert "not the class" in problems[0]
    assert "Recipe.data to be a Dataset" in problems[1]
    assert "Recipe.epochs" in problems[2]
    assert "2.5" in problems[3]


def test_the_judge_has_the_ball_of_the_training_attack_and_20_steps_on_test():
    pgd = PGD(eps=0.1, step_size=0.03, steps=7, norm="l2", start="gaussian", restarts=2)
    made = Recipe(model=MLP(8), data=recipe(4).data, attack=pgd)
    judge = TwoLosses(eps=0.1, step_size=0.03, steps=7, norm="l2", restarts=2)
    assert made.resolved_eval_attack == judge
    assert made.resolved_test_attack == dataclasses.replace(judge, steps=20)
    longer = dataclasses.replace(made, eval_attack=dataclasses.replace(judge, steps=50))
    assert longer.resolved_test_attack.steps == 50


def test_a_judge_that_is_given_stays_what_it_is():
    judge = PGD(eps=0.1, steps=7)
    made = Recipe(model=MLP(8), data=recipe(4).data, attack=PGD(eps=0.2), eval_attack=judge)
    assert made.resolved_eval_attack == judge
    assert made.resolved_test_attack == PGD(eps=0.1, steps=20)
    both = WorstCase((judge, OwnLoss(judge)))
    given = dataclasses.replace(made, eval_attack=both, test_attack=judge)
    assert (given.resolved_eval_attack, given.resolved_test_attack) == (both, judge)
    assert dataclasses.replace(made, eval_attack=both).resolved_test_attack == both


def test_the_former_derivation_has_the_judge_of_before():
    made = Recipe(
        model=MLP(8),
        data=recipe(4).data,
        attack=PGD(eps=0.1, steps=7, start="gaussian"),
        derivation=1,
    )
    assert made.resolved_eval_attack == PGD(eps=0.1, steps=7, start="uniform")
    assert made.resolved_test_attack == PGD(eps=0.1, steps=20, start="uniform")
    given = dataclasses.replace(
        made, derivation=2, eval_attack=PGD(eps=0.1, steps=7, start="uniform")
    )
    assert made.digest == given.digest, "what is derived counts as if it had been given"
    assert made.digest != dataclasses.replace(made, derivation=2).digest
    assert made.flat() == given.flat()
    with pytest.raises(InputError, match=r"Recipe\.derivation of 1 to 2, got 3: leave it out"):
        dataclasses.replace(made, derivation=3)


def names(judge, derivation=2):
    made = Recipe(
        model=MLP(8),
        data=recipe(4).data,
        attack=PGD(eps=0.1),
        test_attack=judge,
        derivation=derivation,
    )
    return {measure.name for measure in made.resolved_measures}


def test_all_is_measured_whichever_judge_tells_its_pgd():
    pgd = PGD(eps=0.1, steps=20)
    assert {"lipschitz/logit_ratio", "lipschitz/attack_ratio", "features/change"} <= names(pgd)
    both = WorstCase((FGSM(), OwnLoss(pgd)))
    for judge in (None, TwoLosses(eps=0.1), OwnLoss(pgd), both):
        assert names(judge) == names(pgd)
    assert "features/change" not in names(AutoAttack(eps=0.1))
    assert names(both, derivation=1) == names(AutoAttack(eps=0.1)), "as searches of before have it"
    made = Recipe(model=MLP(8), data=recipe(4).data, attack=PGD(eps=0.1), test_attack=both)
    (change,) = (m for m in made.resolved_measures if m.name == "features/change")
    assert change.attack == pgd


def test_another_training_attack_brings_its_own_judgement():
    """A default that follows from another field is derived when it is used, not when the recipe is
    made."""
    base = Recipe(model=MLP(8), data=recipe(4).data, attack=PGD(eps=0.02, step_size=0.01))
    stronger = dataclasses.replace(base, attack=PGD(eps=0.2, step_size=0.05, steps=30))
    assert stronger.resolved_eval_attack == TwoLosses(eps=0.2, step_size=0.05, steps=30)
    assert stronger.resolved_test_attack == TwoLosses(eps=0.2, step_size=0.05, steps=30)
    assert (
        next(m for m in stronger.resolved_measures if m.name == "lipschitz/logit_ratio").eps == 0.2
    )
    assert stronger.flat()["test_attack.eps"] == 0.2
    kept = dataclasses.replace(stronger, eval_attack=base.resolved_eval_attack)
    assert kept.resolved_test_attack.eps == 0.02
    assert base.resolved.resolved == base.resolved


def test_the_measures_know_the_ball_of_the_test_attack():
    linf, l2 = (
        Recipe(model=MLP(8), data=recipe(4).data, attack=PGD(eps=0.1, norm=n))
        for n in ("linf", "l2")
    )
    assert next(m for m in linf.resolved_measures if m.name == "lipschitz/logit_ratio").eps == 0.1
    assert "margin/input_first_order_l2" in {m.name for m in l2.resolved_measures}
    assert not any(m.name.startswith("lipschitz") for m in l2.resolved_measures)


def test_another_attack_needs_an_evaluation_attack():
    with pytest.raises(InputError, match=r"Recipe\.eval_attack to be an Attack, got None"):
        Recipe(model=MLP(8), data=recipe(4).data, attack=lambda model, x, y, loss: x)


def test_flat_names_are_stable():
    flat = recipe(8, lam=3.5).flat()
    assert flat["model"] == "MLP"
    assert flat["model.width"] == 8
    assert flat["lam"] == 3.5
    assert flat["attack.eps"] == 0.1
    assert flat["measures"] == "LogitMargin()"
    assert "data.root" not in dataclasses.replace(recipe(8), data=CIFAR10(root="/a")).flat()


def test_the_digest_depends_on_what_is_trained_and_on_nothing_else():
    assert recipe(8).digest == recipe(8).digest
    assert recipe(8).digest != recipe(16).digest
    assert recipe(8).digest != recipe(8, lam=2.5).digest
    assert dataclasses.replace(recipe(8), seed=1).digest != recipe(8).digest
    here, there = (
        dataclasses.replace(recipe(8), data=CIFAR10(root=root)) for root in ("/here", "/there")
    )
    assert here.digest == there.digest


def test_a_warmup_keeps_its_fields_in_the_flat_view():
    flat = dataclasses.replace(recipe(8), lam=Warmup(3.5, until=0.5)).flat()
    assert flat["lam"] == "Warmup"
    assert flat["lam.until"] == 0.5
    assert dataclasses.replace(recipe(8), lam=Fixed(3.5)).flat()["lam"] == 3.5


def test_two_leaves_of_one_class_keep_their_own_names():
    flat = dataclasses.replace(
        recipe(8), penalties=(NormDecay(beta=0.1), NormDecay(beta=0.2))
    ).flat()
    assert flat["penalties.NormDecay.beta"] == 0.1
    assert flat["penalties.NormDecay2.beta"] == 0.2


def test_war_refuses_an_objective_without_a_natural_term():
    with pytest.raises(InputError, match="an objective that WAR can steer by"):
        dataclasses.replace(recipe(8), lam=WAR(target=2.0, lam_init=1.0), objective=MART())


@pytest.mark.parametrize(
    ("learning_rate", "drop"),
    [(Piecewise(drops=(0.4, 0.8)), 0.4), (Halving(start=0.6), 0.6)],
)
def test_war_freezes_where_the_learning_rate_first_drops(learning_rate, drop):
    war = WAR(target=2.0, lam_init=1.0, freeze_at="first_drop")
    made = dataclasses.replace(recipe(8), lam=war, learning_rate=learning_rate)
    given = dataclasses.replace(made, lam=dataclasses.replace(war, freeze_at=drop))
    assert learning_rate(drop) <= 0.5 < learning_rate(drop - 1e-9)
    assert made.resolved_lam == given.lam
    assert made.digest == given.digest
    assert made.flat()["lam.freeze_at"] == drop
    moved = dataclasses.replace(made, learning_rate=Piecewise(drops=(0.3,)))
    assert moved.resolved_lam.freeze_at == 0.3


def test_a_learning_rate_without_drops_freezes_nothing():
    war = WAR(target=2.0, lam_init=1.0, freeze_at="first_drop", hold=0.2)
    for rate in (Cosine(), Piecewise(drops=()), Piecewise(factor=1.0), Piecewise(drops=(0.1,))):
        with pytest.raises(InputError, match="a learning rate that drops after its hold"):
            dataclasses.replace(recipe(8), lam=war, learning_rate=rate)


def test_war_holds_while_eps_warms_up():
    war = WAR(target=2.0, lam_init=1.0, hold=0.1)
    assert dataclasses.replace(recipe(8), lam=war, eps_warmup=0.1)
    with pytest.raises(InputError, match="at least as long as eps_warmup"):
        dataclasses.replace(recipe(8), lam=war, eps_warmup=0.2)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stopper", 10),
        ("batch_norm", "none"),
        ("penalties", (1,)),
        ("measures", (1,)),
        ("measured_examples", 0),
    ],
)
def test_odd_options_are_refused(field, value):
    with pytest.raises(InputError, match=f"Recipe.{field}"):
        dataclasses.replace(recipe(8), **{field: value})
