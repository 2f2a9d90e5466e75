"""``robsearch validate``: the experiments of a paper as searches, then a verdict for each of its claims."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from robsearch.claims.experiment import ARM, Experiment, Found, Study
from robsearch.claims.form import Evidence, Verdict, judge
from robsearch.claims.page import Page, write
from robsearch.errors import InputError, refusal
from robsearch.identity import mismatch
from robsearch.report.canvas import Drawing
from robsearch.search import Means, Place, Search, launch, load_search, resume, search_names
from robsearch.search.belonging import is_search
from robsearch.search.preflight import check_names
from robsearch.search.workplace import in_place
from robsearch.selection import collapsed_among
from robsearch.study import COLUMN
from robsearch.tracking import Tracker
from robsearch.wording import counted

SEEDS_APART = 100
"""Experiments of one study have seeds of their own, so that what was chosen in one is tested on fresh ones."""
VERDICTS = "verdicts.json"
RESUMED_BY = "<an experiment of `robsearch validate`, which goes on when it is called again>"


@dataclass(frozen=True)
class Validation:
    """A paper's claims, judged.

    Attributes:
        name: of the validation; its searches are called ``NAME-EXPERIMENT``.
        folder: where the verdicts, the tables and the page lie.
        verdicts: one for each claim.
        found: the evidence, by experiment.
        tables: what else the study shows, by caption.
    """

    name: str
    folder: Path
    verdicts: tuple[Verdict, ...]
    found: Found
    tables: Mapping[str, pd.DataFrame]
    figures: Sequence[Drawing]


@in_place
def validate(
    study: Study, name: str, *, seed: int = 0, means: Means | None = None, console: Console | None = None
) -> Validation | None:
    """Runs what has not been run of a study, judges its claims, and writes everything down.

    Trainings that an earlier call with this name has finished are not done again.

    Args:
        study: the experiments and the claims of one paper.
        name: of the validation.
        seed: every training's derives from it.
        means: where and how much.
        console: where progress is shown.

    Returns:
        The validation, or None where an experiment was stopped before its end: the same call goes on. Trainings that
        failed, or could not be judged on ``test``, are missing from the evidence; a seed that lacks one is left out of
        what is compared with it.

    Raises:
        InputError: everything that is wrong with the study, the options or the places.
    """
    means, console = replace(means or Means(), models=False), console or Console()
    check_names(name, *(f"{name}-{each.name}" for each in study.experiments), place=means.place)
    _check_free(study, name, means.place)
    found: dict[str, Evidence] = {}
    for number, experiment in enumerate(study.experiments):
        search = _run(experiment, f"{name}-{experiment.name}", seed * SEEDS_APART + number, found, means, console)
        if search.stopped or not _over(experiment, search):
            return None
        found[experiment.name] = experiment.evidence(search, found)
    validation = judged(study, name, found, means.place.folder(name))
    _tell(validation, study, means, console)
    return validation


def _check_free(study: Study, name: str, place: Place) -> None:
    """Refuses the name of a search, whose report would be written over, and of another study's validation."""
    folder, do = place.folder(name), "choose another --name"
    if name in search_names(place) or is_search(folder):
        raise InputError(refusal("the name of a validation", f"{name!r}, which is a search's", do))
    if (folder / VERDICTS).exists():
        known = [each["claim"] for each in json.loads((folder / VERDICTS).read_text())]
        if known != (claims := [claim.name for claim in study.claims]):
            got = f"verdicts on {', '.join(known)} in {folder}"
            raise InputError(refusal(f"a validation of {', '.join(claims)} under the name {name!r}", got, do))


def judged(study: Study, name: str, found: Found, folder: Path) -> Validation:
    """The verdicts on what has been found and judged on ``test``; nothing is trained or written."""
    found = {each: Evidence(trials[_tested(trials)], epochs) for each, (trials, epochs) in found.items()}
    evidence = Evidence(*(pd.concat(frames) for frames in zip(*found.values(), strict=True)))
    return Validation(
        name, folder, tuple(judge(study.claims, evidence)), found, study.tables(found), study.figures(found)
    )


def _run(experiment: Experiment, name: str, seed: int, found: Found, means: Means, console: Console) -> Search:
    space = experiment.space(found)
    if name not in search_names(means.place):
        return launch(space, name=name, seed=seed, means=means, console=console, resumed_by=RESUMED_BY)
    search = load_search(name, means.results, means.storage)
    if problems := list(_differences(experiment, search, seed, found)):
        do = "choose another --name, or the plan and the --seed that it was begun with"
        raise InputError(*(refusal(f"{name} with {asked}", got, do) for asked, got in problems))
    trained = search.trials[search.trials["state"] == "COMPLETE"]
    if _over(experiment, search) and _tested(trained).all():
        return search
    return resume(name, space=space, means=means, console=console)


def _differences(experiment: Experiment, search: Search, seed: int, found: Found) -> Iterator[tuple[str, object]]:
    """What is asked for and what there is, where an existing search is of another plan."""
    record = search.record
    if record.trials != experiment.trainings:
        yield counted(experiment.trainings, "training"), record.trials
    if record.seed != seed:
        yield f"seed {seed}", record.seed
    if record.widths != experiment.widths:
        yield f"widths {experiment.widths}", record.widths
        return
    for row in search.trials.dropna(subset=["recipe"]).to_dict("records"):
        arm, width = str(row[f"{COLUMN}{ARM}"]), float(row["width"])
        if arm not in experiment.arms:
            yield f"arms {', '.join(experiment.arms)}", arm
            return
        recipe = replace(experiment.recipe(arm, width, found), seed=int(row["seed"]))
        if why := mismatch(str(row["recipe"]), recipe.resolved):
            yield f"the recipe of arm {arm!r} at width {width:g}", f"{why}, in {row['trial']}"
            return


def _over(experiment: Experiment, search: Search) -> bool:
    """Whether every arm was tried at every width; what fails is tried once, and is missing from the evidence."""
    tried = search.trials.drop_duplicates(["width", "number"])
    asked = len(experiment.arms) * len(experiment.widths)
    return len(tried) >= asked and not (search.trials["suggestion"] == "RUNNING").any()


def _tested(trials: pd.DataFrame) -> pd.Series:
    """Whether each training was judged on ``test``."""
    return trials.reindex(columns=["test/robust_accuracy"])["test/robust_accuracy"].notna()


def _tell(validation: Validation, study: Study, means: Means, console: Console) -> None:
    """The verdicts into the folder, and to the MLflow run of the last search that they rest on."""
    folder = validation.folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / VERDICTS).write_text(json.dumps(as_json(validation.verdicts), indent=1))
    for part, frame in zip(("trials", "epochs"), zip(*validation.found.values(), strict=True), strict=True):
        pd.concat(frame).to_parquet(folder / f"{part}.parquet")
    last = load_search(f"{validation.name}-{study.experiments[-1].name}", means.results, means.storage)
    write(_page(validation, study, last), folder / "report.html")
    uri, results = means.uri(last.record.tracking), means.place.results
    tracker = Tracker(uri, last.name, results, last.record.identity, patient=True)
    tracker.tag("search", {f"robsearch.verdict.{each.claim.name}": each.answer for each in validation.verdicts})
    for file in (folder / VERDICTS, folder / "report.html"):
        tracker.artifact("search", file, "claims")
    if unsent := tracker.close():
        console.print(
            f"note: {counted(unsent, 'record')} did not reach MLflow; the same command delivers what waits",
            soft_wrap=True,
        )


def _page(validation: Validation, study: Study, last: Search) -> Page:
    searches = [f"{validation.name}-{experiment.name}" for experiment in study.experiments]
    trainings = [
        f"{len(trials := validation.found[each.name].trials)} of {each.trainings} in {each.name} "
        + f"({counted(each.seeds, 'seed')})"
        + (f", {bad} of them collapsed" if (bad := int(collapsed_among(trials).sum())) else "")
        for each in study.experiments
    ]
    setting = {"searches": ", ".join(searches), "trainings": "; ".join(trainings), **last.setting}
    widths = study.experiments[0].widths
    return Page(
        validation.name,
        ", ".join(searches),
        validation.verdicts,
        validation.tables,
        validation.figures,
        widths,
        setting,
    )


def as_json(verdicts: tuple[Verdict, ...]) -> list[dict[str, Any]]:
    """Verdicts as plain data; an end of an interval that is not finite is None."""
    return [
        {
            "claim": each.claim.name,
            "sentence": each.claim.sentence,
            "source": each.claim.source,
            "answer": each.answer,
            "p_holm": each.p_holm,
            "seeds": each.seeds,
            "needed": each.needed,
            "reason": each.reason,
            "change": each.claim.change,
            "parts": [
                {
                    "what": part.effect.what,
                    "unit": part.effect.unit,
                    "delta": part.effect.delta,
                    "mean": _finite(part.found.mean),
                    "low": _finite(part.found.low),
                    "high": _finite(part.found.high),
                    "p": part.found.p,
                    "per_seed": list(part.effect.per_seed),
                }
                for part in each.parts
            ],
        }
        for each in verdicts
    ]


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
