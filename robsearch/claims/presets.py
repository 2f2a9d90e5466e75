"""The studies that are shipped, by paper and preset; a preset may be several designs, each judged on its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from robsearch.claims import margins, norms, regularization, war_presets
from robsearch.claims.experiment import Study
from robsearch.errors import InputError, refusal
from robsearch.references import referred

Designs = Mapping[str, Study]


def _one(study: Callable[[], Study]) -> Callable[[], Designs]:
    return lambda: {"": study()}


PRESETS: dict[str, dict[str, Callable[[], Designs]]] = {
    "war": dict(war_presets.PRESETS),
    "norms": {name: _one(study) for name, study in norms.PRESETS.items()},
    "margins": {name: _one(study) for name, study in margins.PRESETS.items()},
    "regularization": {name: _one(study) for name, study in regularization.PRESETS.items()},
}


def designs(paper: str, preset: str) -> Designs:
    """The studies of a preset, by the suffix of their names; ``module:name`` is a study of one's own.

    Raises:
        InputError: no such paper, preset or study.
    """
    if ":" in paper:
        how = "give it the properties experiments and claims, and the methods tables and figures"
        return {"": referred(paper, Study, "a study", "my_studies:width", how)}  # type: ignore[type-abstract]
    if paper not in PRESETS:
        do = "or pass module:name of a study of your own"
        raise InputError(refusal(f"a paper out of {', '.join(PRESETS)}", repr(paper), do))
    if preset not in PRESETS[paper]:
        raise InputError(refusal(f"--preset out of {', '.join(PRESETS[paper])}", repr(preset), "pass one of these"))
    return PRESETS[paper][preset]()
