"""The studies that are shipped, by paper and preset; a preset may be several designs, each judged
on its own."""

from __future__ import annotations

from collections.abc import Mapping

from robsearch.claims.experiment import PaperStudy
from robsearch.errors import refused
from robsearch.papers.margins.experiments import PRESETS as MARGINS
from robsearch.papers.norms import experiments as norms
from robsearch.papers.regularization import experiments as regularization
from robsearch.papers.war import presets as war
from robsearch.spaces.references import referred

Designs = Mapping[str, PaperStudy]
PRESETS: Mapping[str, Mapping[str, PaperStudy | Designs]] = {
    "war": war.PRESETS,
    "norms": norms.PRESETS,
    "margins": MARGINS,
    "regularization": regularization.PRESETS,
}


def designs(
    paper: str,
    preset: str,
    design: str | None = None,
) -> Designs:
    """The studies of a preset, by the suffix of their names; ``module:name`` is a study of one's
    own.

    Args:
        paper: whose claims are tested.
        preset: of the paper.
        design: the one of the preset that is meant; None for all.

    Raises:
        InputError: no such paper, preset, design or study.
    """
    studies = _studies(paper, preset)
    if design is None:
        return studies
    if design not in studies:
        names = ", ".join(studies).strip(", ") or "none: it is one design"
        do = "pass one of these, or leave it out"
        raise refused(f"--design out of {names}", repr(design), do)
    return {design: studies[design]}


def _studies(paper: str, preset: str) -> Designs:
    if ":" in paper:
        how = "give it the properties experiments and claims, and the methods tables and figures"
        return {"": referred(paper, PaperStudy, "a study", "my_studies:width", how)}  # type: ignore[type-abstract]
    if paper not in PRESETS:
        do = "or pass module:name of a study of your own"
        raise refused(f"a paper out of {', '.join(PRESETS)}", repr(paper), do)
    presets = PRESETS[paper]
    if preset not in presets:
        expected = f"--preset out of {', '.join(presets)}"
        raise refused(expected, repr(preset), "pass one of these")
    studies = presets[preset]
    if isinstance(studies, Mapping):
        return studies
    return {"": studies}
