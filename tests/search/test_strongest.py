"""The strongest known figure: which it is, how its attack is called, and how good the best of many
looks by chance."""

import numpy as np
import pandas as pd
import pytest
from compared_searches import search, trial

from robsearch import PGD, AutoAttack, TwoLosses, compare
from robsearch.search.strongest import attack_name, optimism, strongest

SETTING = {
    "test attack": str(PGD(eps=0.1, steps=20)),
    "test examples": "400",
    "evaluation attack": str(PGD(eps=0.1, steps=10)),
    "validation examples": "100",
}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (str(PGD(eps=0.1, steps=20)), "PGD-20"),
        (str(PGD(eps=0.1, steps=7, restarts=3)), "PGD-7 with 3 restarts"),
        (str(TwoLosses(steps=10)), "PGD-10 on cross-entropy, then on the margin"),
        (
            str(TwoLosses(steps=20, restarts=2)),
            "PGD-20 with 2 restarts on cross-entropy, then on the margin",
        ),
        (str(AutoAttack(eps=0.1)), "AutoAttack"),
        (str(AutoAttack(eps=0.1, attacks=("apgd-ce", "apgd-t"))), "APGD-T"),
        ("<module.OwnAttack object>", "OwnAttack"),
    ],
)
def test_an_attack_is_called_by_a_short_name(text, name):
    assert attack_name(text) == name


def test_the_figure_on_test_leads_and_that_on_val_stands_in():
    known = {"value": 0.8, "best_epoch": 3, "test/robust_accuracy": 0.5, "test/epoch": 3}
    figure = strongest(None, known, SETTING)
    assert figure.text == "robust 50.0% [45.1%, 54.9%] under PGD-20 on 400 test images"
    figure = strongest(None, {"value": 0.8}, SETTING)
    assert figure.text == "robust 80.0% [71.1%, 86.7%] under PGD-10 on 100 val images"
    assert strongest(None, {}, SETTING) is None
    assert (
        strongest(None, {"value": 0.8}, {}).text
        == "robust 80.0% under the evaluation attack on val"
    )


@pytest.mark.parametrize("spread", [0.0, 0.02, 0.04])
def test_the_best_of_40_trials_on_1000_images_is_too_good_by_what_is_said(spread):
    draw, errors, said = np.random.default_rng(0), [], []
    for _ in range(300):
        true = 0.5 + spread * draw.standard_normal(40)
        seen = draw.binomial(1000, true) / 1000
        errors.append(seen.max() - true[seen.argmax()])
        said.append(optimism(list(seen), 1000))
    assert np.mean(said) == pytest.approx(np.mean(errors), abs=0.003)  # 3.4, 2.0 and 1.4 points
    assert optimism([0.5], 1000) == optimism([0.5, 0.6], 0) == 0.0


def test_figures_of_different_attacks_are_not_compared_without_a_word(tmp_path):
    def judged(name, attack):
        figure = {
            "strongest/robust_accuracy": 0.5,
            "strongest/attack": attack,
            "strongest/on": "test",
        }
        return search(tmp_path, name, [trial(4, 0, 0.3, **figure)], widths=(4,))

    one, same, other = (
        judged("one", "PGD-20"),
        judged("same", "PGD-20"),
        judged("other", "AutoAttack"),
    )
    assert compare(one, same).notes == ()
    assert compare(one, other).notes == (
        "width 4: the strongest known figures are not comparable: PGD-20 on test in one, "
        "AutoAttack on test in other",
    )
    assert pd.isna(compare(one, same).rows["strongest/n"]).all()
