"""How a search is described to a person who judges its figures: its space, not one of its
suggestions, how that is searched, and what each driver ran on."""

from __future__ import annotations

import dataclasses
import platform
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from robsearch.data import load
from robsearch.data.mixed import EXTRA
from robsearch.identity import reference
from robsearch.protocols import Objective
from robsearch.recipe import ADDRESS, FOR_TRAINING, Recipe
from robsearch.spaces import Draw, Space, distributions
from robsearch.study import Observation, SearchRecord, range_text
from robsearch.trials.provenance import commit_text, versions_text

SEARCHED = "searched"
"""Stands where suggestions differ."""
BY_WIDTH = "by width"
"""Stands where only the width makes a difference."""
RANGE = "range of "
"""Begins the label of a searched parameter."""
THEN = "; then "
"""Stands between what a search was begun with and what it went on with."""
LAMBDA = "lambda"
MINIMISED = "minimised"
OTHER_FIELDS = (
    "augment",
    "penalties",
    "averaging",
    "weight_perturbation",
    "stopper",
    "batch_norm",
    "measured_epoch",
    "clip_gradient",
    "eps_warmup",
    "precision",
)
"""Fields of a recipe that are told under their own names."""
SINCE_SPACES = {LAMBDA, MINIMISED, *(name.replace("_", " ") for name in OTHER_FIELDS)}
"""Labels that a setting has only since it tells the space: before, it told the first suggestion of
the search."""
OF_RECIPES = {
    "model",
    "data",
    "training attack",
    "evaluation attack",
    "test attack",
    "objective",
    "optimiser",
    "length",
}
"""Labels that told the first suggestion then."""


# --- the recipes of a space ---


def recipe_settings(draws: Sequence[Draw], seed: int) -> dict[str, str]:
    """What a reader must know of the recipes to judge the figures.

    Args:
        draws: suggestions; those of the thinnest width show by what they differ what is searched.
        seed: of the search.
    """
    recipes = [draw.recipe for draw in draws if draw.width == draws[0].width]
    # the first draw of each width is of the same suggestion
    of_width = {draw.width: draw.recipe for draw in reversed(draws)}

    def described(field: str) -> str:
        suggestions = [getattr(recipe, field) for recipe in recipes]
        widths = [getattr(recipe, field) for recipe in of_width.values()]
        return _described(suggestions, widths)

    datasets = [load(data) for data in dict.fromkeys(recipe.resolved_data for recipe in recipes)]

    def examples(split: str) -> str:
        return _common([len(splits[split].labels) for splits in datasets if split in splits])

    settings = {
        "model": described("model"),
        "data": described("data"),
        "training examples": examples("train"),
        **({"extra examples": examples(EXTRA)} if any(EXTRA in each for each in datasets) else {}),
        "validation examples": examples("val"),
        "test examples": examples("test"),
        "training attack": described("attack"),
        "evaluation attack": described("resolved_eval_attack"),
        "test attack": described("resolved_test_attack"),
    }
    settings |= _training_settings(described, (*recipes, *of_width.values()))
    for name, distribution in distributions(draws).items():
        settings[f"{RANGE}{name}"] = range_text(distribution)
    settings["search seed"] = str(seed)
    return settings


def _training_settings(
    described: Callable[[str], str], recipes: Sequence[Recipe]
) -> dict[str, str]:
    """How the recipes train, without what a loop of a user's own does not use."""
    used = {name for name in FOR_TRAINING if any(recipe.trains_with(name) for recipe in recipes)}
    settings = {}
    loop = described("loop")
    if loop != "None":
        settings["training loop"] = loop
    if "objective" in used:
        settings["objective"] = described("objective")
        objectives = dict.fromkeys(_minimised(recipe.objective) for recipe in recipes)
        settings[MINIMISED] = " or ".join(objectives)
    settings[LAMBDA] = described("lam")
    optimiser = [described(name) for name in ("optimiser", "learning_rate") if name in used]
    if optimiser:
        settings["optimiser"] = ", ".join(optimiser)
    epochs = described("epochs")
    settings["length"] = f"{epochs} epoch{'s' * (epochs != '1')}"
    if "batch_size" in used:
        settings["length"] += f", batches of {described('batch_size')}"
    for field in OTHER_FIELDS:
        text = described(field)
        is_told = field not in FOR_TRAINING or field in used
        if is_told and text not in ("None", "()", "0.0", "fp32"):
            settings[field.replace("_", " ")] = text
    return settings


def _described(suggestions: Sequence[Any], widths: Sequence[Any]) -> str:
    """A part of the recipe as text.

    Args:
        suggestions: its values at one width; where they differ, it is ``searched``.
        widths: its values in one suggestion; where they differ, it is told ``by width``.
    """
    if _same(widths):
        return _common(suggestions)
    if _same(suggestions):
        return _common(widths, BY_WIDTH)
    first = suggestions[0]
    of_one_type = all(type(value) is type(first) for value in (*suggestions, *widths))
    if not of_one_type or not dataclasses.is_dataclass(first):
        return SEARCHED

    def described(field: str) -> str:
        of_suggestions = [getattr(value, field) for value in suggestions]
        return _described(of_suggestions, [getattr(value, field) for value in widths])

    return _fields_text(first, described)


def _common(values: Sequence[Any], differing: str = SEARCHED) -> str:
    """What the values have in common, as text, with a word for the fields in which they differ."""
    first = values[0]
    if _same(values):
        return _text(first)
    of_type: dict[type, list[Any]] = {}
    for value in values:
        of_type.setdefault(type(value), []).append(value)
    if len(of_type) > 1:
        if not any(value is None or dataclasses.is_dataclass(value) for value in values):
            return differing
        return " or ".join(sorted(_common(alike, differing) for alike in of_type.values()))
    if isinstance(first, tuple) and len(set(map(len, values))) == 1:
        texts = [_common(items, differing) for items in zip(*values, strict=True)]
        comma = "," if len(texts) == 1 else ""  # as Python writes a tuple of one
        return f"({', '.join(texts)}{comma})"
    if not dataclasses.is_dataclass(first):
        return differing

    def common(field: str) -> str:
        return _common([getattr(value, field) for value in values], differing)

    return _fields_text(first, common)


def _fields_text(part: Any, text: Callable[[str], str]) -> str:
    texts = []
    for field in dataclasses.fields(part):
        value = text(field.name)
        # As in ``sparse_repr``: a search that was recorded before the field came has no word of it.
        is_later_default = field.metadata.get("robsearch.later") and value == str(field.default)
        if field.repr and not is_later_default:
            texts.append(f"{field.name}={value}")
    return f"{type(part).__name__}({', '.join(texts)})"


def _same(values: Sequence[Any]) -> bool:
    first = values[0]
    return all(type(value) is type(first) and value == first for value in values)


def _minimised(objective: Objective) -> str:
    """The two terms in words, as ``train/natural_loss`` and ``train/robust_loss`` of the record are
    only names."""
    natural, robust = getattr(objective, "term_names", ("the first term", "the second"))
    return f"{natural} + lambda * {robust}"


def _text(value: Any) -> str:
    """A function by its name, and no addresses, which are others in every process."""
    is_function = callable(value) and not dataclasses.is_dataclass(value)
    return (is_function and reference(value)) or ADDRESS.sub("", str(value))


# --- how it is searched ---


def space_settings(space: Space, imported: Sequence[Observation] = ()) -> dict[str, str]:
    """How the space is searched: goals, constraints, sampler, pruner, allocation, and what samplers
    learn from.

    Args:
        space: that is searched.
        imported: the finished trials from elsewhere that its samplers are given.
    """
    suggestion = f"{space.replicates} seeds" if space.replicates > 1 else "one training"
    if space.per_trial == "all":
        suggestion += " at every width"
    pruner = type(space.pruner).__name__ if space.pruner else "MarginPruner, the default"
    if len(space.maximise) > 1:
        pruner = "none: several metrics"
    counts = Counter(observation.source for observation in imported)
    sources = [f"{source} (those that fit of {count})" for source, count in counts.items()]
    goals = [f"{goal.metric} >= {goal.value:g}" for goal in space.subject_to]
    below = [f"{rung.name} ({100 * rung.keep:g} % go on)" for rung in space.fidelity]
    settings = {
        "searched for": ", ".join(space.maximise),
        "subject to": ", ".join(goals),
        "a suggestion": suggestion,
        "sampler": type(space.sampler).__name__ if space.sampler else "TPESampler, the default",
        "pruner": pruner,
        "allocation": type(space.allocation).__name__,
        "learned from": ", ".join(sources),
        "tried first": "; ".join(str(dict(params)) for params in space.start_with),
        "rungs below": ", ".join(below),
    }
    return {label: text for label, text in settings.items() if text}


def changed_settings(record: SearchRecord, space: Space) -> dict[str, str]:
    """How a space is searched now, where that is no longer as it was recorded: sampler, pruner,
    allocation.

    These may change: they decide what is tried next, not what a trial is.
    """
    now = space_settings(space)
    changed = {}
    for label in ("sampler", "pruner", "allocation"):
        before = record.setting.get(label, now[label])
        if before.split(THEN)[-1] != now[label]:
            changed[label] = now[label]
    return changed


def constraints(space: Space) -> tuple[str, ...]:
    """The constraints of a space, as text with all digits: it is what ``resume`` compares."""
    return tuple(map(str, space.subject_to))


def rungs(space: Space) -> tuple[str, ...]:
    """The rungs of fidelity of a space, cheapest first, as text: it is what ``resume`` compares."""
    return tuple(f"{rung.name} (keep {float(rung.keep)!r})" for rung in space.fidelity)


# --- drivers ---


def driver_settings(facts: Mapping[str, Any]) -> dict[str, str]:
    """What a driver ran on, for the report; trials say in their folders what each attempt ran
    on."""
    return {
        "driver": f"{facts['node']}, {platform.machine()}, Python {facts['python']}",
        "versions": versions_text(facts),
        "commit": commit_text(facts),
    }


def with_later(record: SearchRecord, later: Mapping[str, str]) -> SearchRecord:
    """The record of a search that goes on with other facts than those in its setting: both are
    said, in order."""
    setting = dict(record.setting)
    for label, text in later.items():
        texts = setting[label].split(THEN) if label in setting else []
        if texts[-1:] != [text]:
            setting[label] = THEN.join([*texts, text])
    return replace(record, setting=setting)


# --- between searches ---


def comparable(setting: Mapping[str, str], searched: set[str]) -> dict[str, str]:
    """The part of a setting that tells the space.

    One that was recorded before settings did so tells one suggestion: where more than lambda was
    searched, nobody knows which of its parts are fixed.
    """
    if LAMBDA in setting or searched <= {"lam"}:
        return dict(setting)
    return {label: text for label, text in setting.items() if label not in OF_RECIPES}


def unknown(setting: Mapping[str, str], label: str) -> bool:
    """Whether a setting that lacks a label says nothing by that: it was recorded before there was
    one."""
    return LAMBDA not in setting and (label in SINCE_SPACES | OF_RECIPES or label.startswith(RANGE))


def agree(texts: Sequence[str]) -> bool:
    """Whether all may describe one thing: ``PGD(eps=searched)`` and the ``PGD(eps=0.1)`` of one
    suggestion may."""
    for text in texts:
        pattern = re.escape(text)
        for differing in (SEARCHED, re.escape(BY_WIDTH)):
            pattern = pattern.replace(differing, ".+?")
        if all(re.fullmatch(pattern, other) for other in texts):
            return True
    return not texts
