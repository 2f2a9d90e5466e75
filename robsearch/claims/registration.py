"""What a study says before anything is trained: kept with a digest, so that a reader sees what was
planned and what differs from it."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from robsearch.claims.claim import Evidence, judge
from robsearch.claims.experiment import Experiment, PaperStudy
from robsearch.errors import InputError, counted
from robsearch.identity import content_hash, digest, module_name, recorded_fields
from robsearch.trials.files import read_json, write_json

REGISTRATION = "registration.json"
ENTRIES: Mapping[str, str] = {
    "claims": "claim",
    "experiments": "experiment",
    "study": "field",
    "recipes": "a recipe of",
    "constants": "constant",
}
"""The parts of a plan that are told entry by entry, and what an entry is called."""
LATER_PARTS: Mapping[str, str] = {
    "study": "the fields of the study",
    "recipes": "the recipes of all arms",
    "constants": "the constants by which claims are judged and lambda is chosen",
}
"""The parts that registrations of former versions lack, in words."""


@dataclass(frozen=True)
class Registration:
    """A plan as it was written down.

    Attributes:
        digest: of the plan, which any change of what the plan holds changes.
        written: the day, in UTC.
        trained: trainings that were there already.
        plan: see ``plan_of``.
    """

    digest: str
    written: str
    trained: int
    plan: Mapping[str, Any]

    def sentence(self) -> str:
        """When it was written, in words."""
        after = f"after {counted(self.trained, 'training')}"
        when = "before any training" if self.trained == 0 else after
        return f"digest {self.digest}, written on {self.written}, {when}"


def register(study: PaperStudy, seed: int, folder: Path, trained: int) -> Registration:
    """The registration in a validation's folder; it is written over until something was trained."""
    file = folder / REGISTRATION
    if file.exists() and trained > 0:
        return Registration(**read_json(file))
    plan = plan_of(study, seed)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    registration = Registration(content_hash(plan), today, trained, plan)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(file, asdict(registration))
    return registration


def plan_of(study: PaperStudy, seed: int) -> dict[str, Any]:
    """What decides how a study is trained and judged, as far as it is known before anything is
    found.

    The claims with what would change our mind; the experiments with their arms, widths and seeds;
    the fields of the study; a digest of the recipe of each arm at each width, and of the first one
    with both judges; and the constants in capitals of the modules that judge the claims and make
    the recipes. What the code does with them is not in the plan: the commit of each training tells
    it.
    """
    first = study.experiments[0]
    recipe = first.recipe_of(first.arm_names[0], first.widths[0], {}).resolved
    claims = {
        claim.name: {
            "sentence": claim.sentence,
            "change": claim.change,
            "least_seeds": claim.least_seeds,
            "primary": claim.primary,
        }
        for claim in study.claims
    }
    experiments = {
        experiment.name: {
            "arms": experiment.arm_names,
            "widths": list(experiment.widths),
            "seeds": experiment.seeds,
            "seeds_of": experiment.seeds_of,
            "by_replicate": experiment.by_replicate,
        }
        for experiment in study.experiments
    }
    return {
        "claims": claims,
        "experiments": experiments,
        "seed": seed,
        "recipe": digest(recipe),
        "chosen by, on val": repr(recipe.eval_attack),
        "judged by, on test": repr(recipe.test_attack),
        "study": dict(_fields(study)),
        "recipes": {each.name: dict(_recipes(each)) for each in study.experiments},
        "constants": _constants(study),
    }


def _fields(study: PaperStudy) -> Iterator[tuple[str, Any]]:
    """Of a study that is a dataclass, as shipped ones are."""
    if not dataclasses.is_dataclass(study):
        return
    for field in recorded_fields(study):
        try:
            yield field.name, _plain(getattr(study, field.name))
        except InputError:  # such as a lambda
            yield field.name, "has no lasting name"


class _NeededFindingsError(Exception):
    """A recipe depends on what is found."""


class _Unfound(Mapping[str, Evidence]):
    """Findings that are to come: whoever looks at one of them learns that it is not known."""

    def __getitem__(self, experiment: str) -> Evidence:
        raise _NeededFindingsError(experiment)

    def __iter__(self) -> Iterator[str]:
        raise _NeededFindingsError

    def __len__(self) -> int:
        # Not empty, which means a dry run, where anything stands for what will be chosen.
        return 1


def _recipes(experiment: Experiment[Any]) -> Iterator[tuple[str, str]]:
    """A digest for each arm and width."""
    for arm in experiment.arm_names:
        for width in experiment.widths:
            yield f"{arm}, width {width:g}", _recipe(experiment, arm, width)


def _recipe(experiment: Experiment[Any], arm: str, width: float) -> str:
    try:
        return digest(experiment.recipe_of(arm, width, _Unfound()).resolved)
    except _NeededFindingsError:
        pass
    # Of what will be chosen a dry run has something in its place; the rest is as it will be.
    try:
        recipe = experiment.recipe_of(arm, width, {})
    except Exception:  # a study of one's own need not have a dry run
        return "depends on what is found"
    return f"{digest(recipe.resolved)}, but for what is found"


def _constants(study: PaperStudy) -> dict[str, Any]:
    """The numbers in capitals in the modules of the functions that judge the claims and make the
    recipes, by module and name."""
    functions = [judge, *(claim.effects for claim in study.claims)]
    functions += [experiment.recipe for experiment in study.experiments]
    names = {type(study).__module__, *(_unwrapped(each).__module__ for each in functions)}
    constants = {}
    for module in sorted(names):
        for name, value in sorted(vars(sys.modules[module]).items()):
            if name.isupper() and _has_number(value):
                constants[f"{module_name(module)}:{name}"] = _plain(value)
    return constants


def _unwrapped(function: Any) -> Any:
    return function.func if isinstance(function, functools.partial) else function


def _has_number(value: object) -> bool:
    """Whether a value is a number, or plain data with a number in it."""
    if isinstance(value, Mapping):
        return any(map(_has_number, value.values()))
    if isinstance(value, tuple | list):
        return any(map(_has_number, value))
    return isinstance(value, int | float)


def _plain(value: Any) -> Any:
    """Numbers, texts and what is made of them, as in JSON; a digest of anything else.

    Raises:
        InputError: something in it has no lasting name.
    """
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        return [_plain(item) for item in value]
    # In JSON there is no number that is not finite.
    is_finite = isinstance(value, float) and math.isfinite(value)
    if value is None or is_finite or isinstance(value, int | str):
        return value
    return digest(value)


def comparison(registration: Registration, study: PaperStudy, seed: int) -> str:
    """What differs from what was registered, and what a former version did not register."""
    differing = "; ".join(differences(registration, study, seed)) or "nothing"
    lacking = [words for part, words in LATER_PARTS.items() if part not in registration.plan]
    if not lacking:
        return differing
    return f"{differing}; a former version registered the plan, without {', '.join(lacking)}"


def differences(registration: Registration, study: PaperStudy, seed: int) -> Iterator[str]:
    """What is not as it was registered, in words; parts that a former version did not register are
    passed over."""
    plan = json.loads(json.dumps(plan_of(study, seed)))
    before = _flat(registration.plan)
    now = _flat({part: plan[part] for part in plan if part in registration.plan})
    for name in sorted(before.keys() | now.keys()):
        if name not in now:
            yield f"{name} was registered and is gone"
        elif name not in before:
            yield f"{name} was not registered"
        elif before[name] != now[name]:
            yield f"{name} differs from what was registered"


def _flat(plan: Mapping[str, Any]) -> dict[str, object]:
    """What has entries by their names, everything else as it is."""
    flat: dict[str, object] = {}
    for name, value in plan.items():
        if name in ENTRIES:
            flat |= {f"{ENTRIES[name]} {entry}": what for entry, what in value.items()}
        else:
            flat[name] = value
    return flat
