"""What may change for a search that goes on with other versions of the packages than before.

Only another version of the numerics keeps it from going on (``study.replaying``): the same recipe
would be another training. Versions are recorded: those of each driver in ``search.json`` and in the
report, those of each attempt at a trial in its ``attempt.json`` and in MLflow.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from pathlib import Path

from robsearch.trials.provenance import installed_versions, read_search

EFFECTS: Mapping[str, str] = {
    "python": "no number should change by it",
    "robsearch": "the recipes and the numerics are the same; CHANGELOG says what else is new",
    "torch": "trainings may differ in their last digits from those before, as they do on another "
    "processor; one that goes on in the middle is not the one that it would have been",
    "torchvision": "no number should change by it: the contents of the data are compared",
    "numpy": "the last digits of laws and measures may differ",
    "ray": "how trials are placed and begun again may change, no number",
    "optuna": "the sampler may suggest, and the pruner stop, otherwise; what was tried stays",
    "mlflow": "only the record may change",
}
"""By package, what another version of it changes."""


def version_changes(folder: Path) -> Iterator[str]:
    """What a driver of this process changes for a search, one sentence per package that has another
    version than for the driver before; nothing if that is not known.

    Args:
        folder: of the search.
    """
    drivers = read_search(folder).get("drivers", [])
    if not drivers:
        return
    before = {"python": drivers[-1].get("python"), **drivers[-1]["versions"]}
    now = {"python": platform.python_version(), **installed_versions()}
    for package, effect in EFFECTS.items():
        was = before.get(package)
        version = now.get(package)
        if was and version and was != version:
            yield f"the search goes on with {package} {version}, until now it was {was}: {effect}"
