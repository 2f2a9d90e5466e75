"""What a study says before anything is trained: kept with a digest, so that a reader sees what was
planned and what differs from it."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from robsearch.claims.experiment import PaperStudy
from robsearch.errors import counted
from robsearch.identity import content_hash, digest
from robsearch.trials.files import read_json, write_json

REGISTRATION = "registration.json"


@dataclass(frozen=True)
class Registration:
    """A plan as it was written down.

    Attributes:
        digest: of the plan, which any change of it changes.
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
    """The claims with what would change our mind, the experiments with their arms, widths and
    seeds, and the recipe of the first arm with both judges."""
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
    }


def differences(registration: Registration, study: PaperStudy, seed: int) -> Iterator[str]:
    """What is not as it was registered, in words."""
    before = _flat(registration.plan)
    now = _flat(json.loads(json.dumps(plan_of(study, seed))))
    for name in sorted(before.keys() | now.keys()):
        if name not in now:
            yield f"{name} was registered and is gone"
        elif name not in before:
            yield f"{name} was not registered"
        elif before[name] != now[name]:
            yield f"{name} differs from what was registered"


def _flat(plan: Mapping[str, Any]) -> dict[str, object]:
    """Claims and experiments each by name, everything else as it is."""
    flat: dict[str, object] = {}
    for name, value in plan.items():
        if isinstance(value, Mapping):
            flat |= {f"{name.removesuffix('s')} {each}": what for each, what in value.items()}
        else:
            flat[name] = value
    return flat
