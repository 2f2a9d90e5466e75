"""``run.json``: what the record in MLflow needs of a run, and nothing else stores.

    NAME/run.json                  of the search's own run
    NAME/trials/w4-017/run.json    of a trial's

Everything else that MLflow shows (curves, measures, tables, figures, attempts) is read from the
files beside it. The driver writes it when a run begins and ends, and whenever one of these facts
changes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robsearch.metrics import Metrics
from robsearch.printing import printable
from robsearch.trials.files import DamagedError, read_json, unless_damaged, write_json
from robsearch.trials.paths import without_password

RUN = "run.json"


@dataclass(frozen=True)
class RunFacts:
    """Of one run; texts are kept without passwords, and printable: MLflow's own commands print
    them.

    Attributes:
        name: what MLflow's table of runs shows.
        state: RUNNING, COMPLETE, PRUNED, FAIL or INTERRUPTED.
        started: Unix seconds; None if it is not known.
        ended: Unix seconds; None while it runs.
        params: flat; of a trial its recipe and what was suggested.
        tags: such as the reason of a failure, or why a measure is missing.
        metrics: what it took (``costs.Cost.metrics``).
        data: the data set, as the fields of an ``mlflow.entities.Dataset``.
        unsaved: the last epochs of a trial that ended before they were saved, as on a full disk.
    """

    name: str
    state: str = "RUNNING"
    started: float | None = None
    ended: float | None = None
    params: dict[str, str | float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    data: dict[str, str] | None = None
    unsaved: list[Metrics] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("params", "tags"):
            shown = {
                key: printable(without_password(value)) if isinstance(value, str) else value
                for key, value in getattr(self, name).items()
            }
            object.__setattr__(self, name, shown)


TYPES: dict[str, Any] = {
    "name": str,
    "state": str,
    "started": int | float | None,
    "ended": int | float | None,
    "params": dict,
    "tags": dict,
    "metrics": dict,
    "data": dict | None,
    "unsaved": list,
}
"""Of which type each fact is, if the file has it; another type is damage."""


def read_run(folder: Path) -> RunFacts | None:
    """What a folder's ``run.json`` says; None without one or, with a warning, if it is damaged."""
    return unless_damaged(_facts, folder / RUN, "what else is known of the run stands in for it")


def write_run(folder: Path, facts: RunFacts) -> None:
    """Writes ``run.json``, whole or not at all.

    Raises:
        OSError: there is no room, or the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / RUN, dataclasses.asdict(facts))


def _facts(file: Path) -> RunFacts:
    content: Any = read_json(file)
    if not isinstance(content, dict) or "name" not in content:
        raise DamagedError(file, "does not have the facts of a run")
    # Another version may have written more facts, or fewer.
    facts = {name: content[name] for name in TYPES if name in content}
    for name, value in facts.items():
        if not isinstance(value, TYPES[name]):
            raise DamagedError(file, f"has {value!r} as {name}")
    return RunFacts(**facts)
