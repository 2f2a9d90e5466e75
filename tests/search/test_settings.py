"""The setting of a search tells its space: what is searched by its range, everything else by its
value."""

from small_spaces import recipe

from robsearch import MART, SGD, TRADES, Fixed, space
from robsearch.search.settings import recipe_settings
from robsearch.spaces import check, more_draws


@space(widths=(4, 8))
def four(trial, width):
    objective = {"trades": TRADES(), "mart": MART()}[
        trial.suggest_categorical("objective", ["trades", "mart"])
    ]
    optimiser = SGD(lr=trial.suggest_float("lr", 0.01, 1.0, log=True), weight_decay=1e-4)
    lam = Fixed(trial.suggest_float("lam", 0.5, 32.0, log=True))
    return recipe(
        width,
        lam,
        objective=objective,
        optimiser=optimiser,
        epochs=trial.suggest_int("epochs", 2, 4),
    )


def told(of):
    draws = check(of, needs_data=True)
    return recipe_settings([*draws, *more_draws(of, 4)], seed=0)


def test_what_is_searched_is_its_range_and_the_rest_its_value():
    facts = told(four)
    assert facts["range of lr"] == "0.01 to 1, log"
    assert facts["range of objective"] == "one of 'trades', 'mart'"
    assert facts["optimiser"].startswith("SGD(lr=searched, momentum=0.9, weight_decay=0.0001,")
    assert facts["objective"] == "MART() or TRADES(label_smoothing=0.0)"
    assert (facts["lambda"], facts["length"]) == (
        "Fixed(value=searched)",
        "searched epochs, batches of 50",
    )
    assert facts["model"] == "MLP(width=by width, depth=1)"
    assert "BCE on adversarial images + lambda * " in facts["minimised"]


def test_what_the_width_sets_is_told_so_and_what_is_searched_too():
    @space(widths=(4, 8))
    def by_width(trial, width):
        lr = trial.suggest_float("lr", 0.01, 1.0, log=True)
        lam = Fixed(trial.suggest_float("lam", 0.5, 32.0, log=True) / width)
        return recipe(
            width, lam, optimiser=SGD(lr=lr, weight_decay=1e-4 * width), batch_size=int(100 / width)
        )

    facts = told(by_width)
    assert facts["optimiser"].startswith("SGD(lr=searched, momentum=0.9, weight_decay=by width,")
    assert (facts["lambda"], facts["length"]) == (
        "Fixed(value=searched)",
        "4 epochs, batches of by width",
    )


def test_a_space_that_searches_lambda_alone_has_its_recipe():
    @space(widths=(4,))
    def lam(trial, width):
        return recipe(width, trial.suggest_float("lam", 0.5, 32.0, log=True))

    facts = told(lam)
    assert "searched" not in "".join(text for label, text in facts.items() if label != "lambda")
    assert facts["test examples"] == "849"
