"""Digests are for ever: the same in every process, wherever a class lives, whatever fields come
later."""

import dataclasses
import functools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from named_parts import (
    UNNAMED,
    Climbing,
    Flip,
    Grainy,
    Noisy,
    brighter,
    by_functions,
    by_lambda,
)
from optuna.trial import FixedTrial
from small_spaces import recipe
from torchvision.transforms import v2

import robsearch
from robsearch import InputError, Recipe, check, identity
from robsearch.identity import (
    LATER,
    canonical,
    content_hash,
    digest,
    legacy_digest,
    mismatch,
    numerics_of,
    numerics_since,
    type_name,
)
from search_spaces.lambda_by_width import cifar10
from search_spaces.quickstart import recipe as quickstart

LEAVES = json.loads((Path(__file__).parent / "support" / "files" / "digests.json").read_text())
"""Hash by source: what stands here was published and must not change."""


def evaluated(source: str) -> object:
    return eval(source, {name: getattr(robsearch, name) for name in robsearch.__all__})


@pytest.mark.parametrize(("source", "published"), LEAVES.items())
def test_a_published_digest_of_a_leaf_stays(source, published):
    assert content_hash(evaluated(source)) == published


def test_a_published_digest_of_a_recipe_stays():
    published = (
        (quickstart(16, 2.0), "04245df84f5269dd", "fb2f0ba846ddcfbd"),
        (quickstart(64, 0.0, robsearch.Standard()), "feed02d78fbff5fb", "62ded71d42d010fc"),
        (cifar10.define(FixedTrial({"lam": 6.0}), 4), "5659ce3cbd733165", "afecd46eea05038b"),
    )
    for made, former, now in published:
        # The derived judge changed once; what was recorded before is derived as it was.
        assert dataclasses.replace(made, derivation=1).digest == f"2.2-{former}"
        assert made.digest == f"2.2-{now}"
    # With the judge that it is given, a recipe has one digest under both rules.
    given = dataclasses.replace(quickstart(16, 2.0), eval_attack=robsearch.PGD(eps=0.15))
    assert given.digest == dataclasses.replace(given, derivation=1).digest == "2.2-b21f71b17355c9b8"


def test_every_leaf_that_robsearch_ships_has_a_published_digest():
    shipped = {getattr(robsearch, name) for name in robsearch.__all__}
    shipped = {
        kind for kind in shipped if isinstance(kind, type) and dataclasses.is_dataclass(kind)
    }
    no_leaves = {
        "Comparison",
        "Folder",
        "NpzImages",  # its digest has the content of a file: see tests/data/test_data_mixed.py
        "RunOptions",
        "Point",
        "Pretrained",  # its digest has the content of a file: see tests/parts/test_pretrained.py
        "Recipe",
        "Resources",
        "Rung",
        "Search",
        "Space",
        "Epoch",
    }
    no_leaves |= {"AtLeast", "ByCost", "Equal", "Weighted"}  # how a space is searched
    published = {type(evaluated(source)).__name__ for source in LEAVES}
    assert {kind.__name__ for kind in shipped} - no_leaves == published


def test_the_digest_of_format_1_is_still_known():
    """What robsearch 0.1.0 recorded for the first recipe of the quickstart."""
    same, other = (dataclasses.replace(quickstart(16, lam), derivation=1) for lam in (2.5, 2.6))
    assert legacy_digest(same.resolved) == "c838ae720ea9f2bc"
    assert mismatch("c838ae720ea9f2bc", same.resolved) is None
    assert mismatch("c838ae720ea9f2bc", other.resolved) == "another recipe"


CODE = """
import sys; sys.path[:0] = ["tests/support", "."]
from optuna.trial import FixedTrial
from named_parts import by_functions
print(by_functions.define(FixedTrial({"lam": 2.0}), 4).digest)
"""


def test_functions_partials_and_plain_objects_have_one_digest_in_every_process():
    elsewhere = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=True
    )
    assert elsewhere.stdout.strip() == by_functions.define(FixedTrial({"lam": 2.0}), 4).digest
    assert check(by_functions)


def test_what_functions_and_objects_hold_counts():
    half, most = (functools.partial(brighter, by=by) for by in (0.5, 0.9))
    assert digest(half) != digest(most)
    assert digest(Flip(0.5)) == digest(Flip(0.5)) != digest(Flip(0.9))
    assert digest(v2.RandomHorizontalFlip(0.5)) == digest(v2.RandomHorizontalFlip(0.5))
    assert digest(v2.RandomHorizontalFlip(0.5)) != digest(v2.RandomHorizontalFlip(0.9))
    small, large = (v2.Compose([v2.RandomCrop(8, padding=padding)]) for padding in (1, 2))
    assert digest(small) != digest(large)
    assert digest(Flip(0.5).__call__) == digest(Flip(0.5).__call__) != digest(Flip(0.9).__call__)


def test_a_private_setting_of_a_torch_module_counts():
    assert digest(Grainy(0.1)) == digest(Grainy(0.1)) != digest(Grainy(0.2))
    assert digest(torch.nn.Sequential(Grainy(0.1))) != digest(torch.nn.Sequential(Grainy(0.2)))


def test_what_pickle_keeps_by_a_name_or_a_table_has_a_lasting_name():
    assert identity.reference(torch.relu) == "torch:relu"
    assert digest(torch.relu) == digest(torch.relu) != digest(torch.tanh)
    assert digest(functools.partial(torch.clamp, min=0)) != digest(
        functools.partial(torch.clamp, min=1)
    )
    assert digest(re.compile("a")) == digest(re.compile("a")) != digest(re.compile("b"))
    two = [np.array([Noisy(eps), None], dtype=object) for eps in (0.1, 0.1)]
    assert digest(two[0]) == digest(two[1]) != digest(np.array([Noisy(0.2), None], dtype=object))
    assert digest(torch.ones(2, dtype=torch.bfloat16)) != digest(torch.ones(2))
    assert digest(torch.eye(2).to_sparse()) == digest(torch.eye(2))


@pytest.mark.parametrize("kind", UNNAMED)
def test_what_has_no_lasting_name_is_refused_with_its_place(kind):
    with pytest.raises(
        InputError, match=r"expected Recipe\.augment.* to be (importable|something)"
    ):
        dataclasses.replace(recipe(4), augment=UNNAMED[kind]).digest  # noqa: B018


def test_check_refuses_a_lambda():
    with pytest.raises(
        InputError, match=r"expected Recipe\.augment to be importable by its name"
    ) as error:
        check(by_lambda)
    assert all("<lambda>" in problem for problem in error.value.problems)


def test_equal_numbers_are_one_number():
    assert recipe(8, lam=2).digest == recipe(8.0, lam=2.0).digest
    assert digest(np.float64(0.5)) == digest(0.5)
    assert digest((np.int64(3), np.float32(0.5))) == digest((3, 0.5))
    assert digest([1, 2]) == digest((1.0, 2.0))
    assert digest(-0.0) == digest(0)
    assert digest(True) != digest(1)
    assert digest("1") != digest(1)
    assert digest(float("inf")) != digest("inf")
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 2, "b": 1})
    assert digest(torch.ones(2)) == digest(torch.ones(2)) != digest(torch.zeros(2))


def test_a_class_may_move_house(monkeypatch):
    before = digest(robsearch.PGD()), digest(Noisy())
    monkeypatch.setattr(robsearch.PGD, "__module__", "robsearch.elsewhere")
    monkeypatch.setattr(Noisy, "__module__", "elsewhere")
    assert (digest(robsearch.PGD()), digest(Noisy())) == before


def test_a_function_may_move_house():
    """``margin`` lived in robsearch.attacks.losses when these digests were recorded."""
    moved = recipe(4, attack=Climbing(), eval_attack=robsearch.PGD())
    assert canonical(Climbing()) == [
        "object",
        "named:Climbing",
        {"loss": ["function", "robsearch.attacks.losses:margin"]},
    ]
    assert digest(Climbing()) == "2.2-eb22308458319df0"
    assert moved.flat()["attack.loss"] == "robsearch.attacks.losses:margin"


@pytest.mark.parametrize(
    ("leaf", "recorded"),
    [
        (robsearch.OwnLoss(robsearch.PGD(), "margin"), "93d671925631dbb9"),
        (robsearch.WeightPerturbation(), "7a1614b09ba6e8e4"),
        (robsearch.NormDecay(), "2a15250f15be2ff8"),
        (robsearch.EMA(), "c732f9b42cf17015"),
        (robsearch.Halving(), "07683c535e565d0c"),
    ],
)
def test_a_digest_of_format_1_names_the_module_of_its_time(leaf, recorded):
    assert legacy_digest(leaf) == recorded


def test_classes_of_one_name_in_two_modules_are_two():
    here, there = (dataclasses.make_dataclass("Net", [("width", int)]) for _ in range(2))
    here.__module__, there.__module__ = "nets", "other_nets"
    assert digest(here(4)) != digest(there(4))


def test_no_two_classes_of_robsearch_share_a_stable_name():
    kinds = {getattr(robsearch, name) for name in robsearch.__all__}
    names = [type_name(kind) for kind in kinds if isinstance(kind, type)]
    assert len(set(names)) == len(names)


def with_fields(**later):
    fields = [("eps", float, dataclasses.field(default=0.1))]
    fields += [(name, object, made) for name, made in later.items()]
    made = dataclasses.make_dataclass("Grown", fields, frozen=True)
    made.digest_name = "tests:Grown"
    return made


def test_a_field_that_comes_later_counts_when_it_is_not_at_its_default():
    before = digest(with_fields()(eps=0.2))
    grown = with_fields(momentum=dataclasses.field(default=0.0, metadata=LATER))
    assert digest(grown(eps=0.2)) == before
    assert digest(grown(eps=0.2, momentum=0.0)) == before
    assert digest(grown(eps=0.2, momentum=0.9)) != before
    listed = with_fields(drops=dataclasses.field(default_factory=tuple, metadata=LATER))
    assert digest(listed(eps=0.2)) == before
    unmarked = with_fields(momentum=dataclasses.field(default=0.0))
    assert digest(unmarked(eps=0.2)) != before


def test_a_changed_default_of_a_class_is_another_recipe():
    weaker, stronger = (
        dataclasses.make_dataclass("Changed", [("eps", float, dataclasses.field(default=eps))])
        for eps in (0.1, 0.2)
    )
    assert digest(weaker()) != digest(stronger())


def test_the_resolved_judgement_counts():
    weak = quickstart(16, 2.0)
    assert weak.resolved.digest == weak.digest
    other = dataclasses.replace(weak, eval_attack=robsearch.PGD(eps=0.15, steps=50))
    assert other.digest != weak.digest


def test_other_numerics_are_another_identity_and_the_reason_is_said(monkeypatch):
    recorded = recipe(4).digest
    changes = {**identity.NUMERICS_CHANGES, 3: "steps are taken backwards"}
    monkeypatch.setattr(identity, "NUMERICS_CHANGES", changes)
    monkeypatch.setattr(identity, "NUMERICS", 3)
    assert recipe(4).digest == recorded.replace("2.2-", "2.3-")
    assert mismatch(recorded, recipe(4).resolved) is None
    assert mismatch(recorded, recipe(8).resolved) == "another recipe"
    assert numerics_since(numerics_of(recorded)) == "steps are taken backwards"
    assert (
        numerics_since(numerics_of(legacy_digest(recipe(4).resolved)))
        == f"{changes[2]}; steps are taken backwards"
    )
    assert numerics_since(numerics_of(recipe(4).digest)) == ""
    assert "a newer robsearch" in numerics_since(numerics_of(recorded.replace("2.2-", "2.4-")))
    assert "format 3" in mismatch("3.1-0123456789abcdef", recipe(4).resolved)
    assert "does not know" in mismatch("no digest", recipe(4).resolved)


def test_the_flat_view_holds_no_addresses():
    flat = by_functions.define(FixedTrial({"lam": 2.0}), 4).flat()
    assert flat["learning_rate"] == "named_parts:halved"
    assert not [value for value in flat.values() if "0x" in str(value)]
    assert isinstance(by_functions.define(FixedTrial({"lam": 2.0}), 4), Recipe)
