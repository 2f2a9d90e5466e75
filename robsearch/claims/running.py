"""``robsearch validate``: the experiments of a paper as searches, then a verdict for each of its
claims."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from robsearch.claims.claim import Evidence, Part, Verdict, judge, named_parts
from robsearch.claims.experiment import ARM, Experiment, Findings, PaperStudy, pooled
from robsearch.claims.figures import forest
from robsearch.claims.page import REPORT, Validation, write
from robsearch.claims.registration import Registration, comparison, register
from robsearch.drawing.style import Drawing
from robsearch.errors import InputError, count, counted, refusal, refuse_unless, refused
from robsearch.identity import mismatch
from robsearch.search import (
    ResultsStore,
    RunOptions,
    Search,
    launch,
    load_search,
    resume,
    search_names,
)
from robsearch.search.grid import PlainTextConsole
from robsearch.search.options import in_store, waits_for_storage
from robsearch.search.preflight import check_names
from robsearch.search.recording import Recorder
from robsearch.search.results_store import is_search
from robsearch.search.syncing import begin_old_search
from robsearch.study import COLUMN
from robsearch.tracking import SEARCH, Tracker
from robsearch.trials.selection import collapsed_among

SEEDS_APART = 100
"""Experiments of one study have seeds of their own, so that what was chosen in one is tested on
fresh ones."""
VERDICTS = "verdicts.json"
RESUMED_BY = "<an experiment of `robsearch validate`, which goes on when it is called again>"
TESTED = "test/robust_accuracy"


@in_store
@waits_for_storage
def validate(
    study: PaperStudy,
    name: str,
    *,
    seed: int = 0,
    options: RunOptions | None = None,
    console: Console | None = None,
) -> Validation | None:
    """Runs what has not been run of a study, judges its claims, and writes everything down.

    Trainings that an earlier call with this name has finished are not done again.

    Args:
        study: the experiments and the claims of one paper.
        name: of the validation.
        seed: every training's derives from it.
        options: where and how much.
        console: where progress is shown.

    Returns:
        The validation, or None where an experiment was stopped before its end: the same call goes
        on. Trainings that failed, or could not be judged on ``test``, are missing from the
        evidence; a seed that lacks one is left out of what is compared with it.

    Raises:
        InputError: everything that is wrong with the study, the options or the places.
    """
    # The best net of each width is no result here, so none is exported.
    options = replace(options or RunOptions(), models=False)
    console = console or PlainTextConsole()
    searches = _search_names(study, name)
    refuse_unless(count("--seed", seed, "pass 0 or more", least=0))
    check_names(name, store=options.store)
    check_names(*searches, store=options.store)
    _check_free(study, name, options.store)
    registration = _registered(study, name, searches, seed, options)
    findings: dict[str, Evidence] = {}
    numbers = {experiment.name: number for number, experiment in enumerate(study.experiments)}
    for number, experiment in enumerate(study.experiments):
        # Fresh seeds for each experiment that does not ask for another's: what one chose, the next
        # does not judge on the same nets.
        its_seed = seed * SEEDS_APART + numbers[experiment.seeds_of or experiment.name]
        search = _run(experiment, searches[number], its_seed, findings, options, console)
        if search.stopped or not _is_over(experiment, search):
            return None
        findings[experiment.name] = experiment.evidence(search, findings)
    validation = judge_study(study, name, findings, options.store.folder(name))
    differs = comparison(registration, study, seed)
    plan = {"plan": registration.sentence(), "what differs from the plan": differs}
    _publish(validation, study, plan, options, console)
    return validation


def _registered(
    study: PaperStudy,
    name: str,
    searches: Sequence[str],
    seed: int,
    options: RunOptions,
) -> Registration:
    """The plan as it was written down before anything was trained, or, of a validation that a
    former version began, now."""
    folders = [options.store.folder(each) / "trials" for each in searches]
    trained = sum(len(list(folder.glob("*"))) for folder in folders)
    return register(study, seed, options.store.folder(name), trained)


def judge_study(
    study: PaperStudy,
    name: str,
    findings: Findings,
    folder: Path,
) -> Validation:
    """The verdicts on what was found and judged on ``test``; nothing is trained or written."""
    tested = {}
    for experiment, (trials, epochs) in findings.items():
        tested[experiment] = Evidence(trials[_is_tested(trials)], epochs)
    verdicts = tuple(judge(study.claims, pooled(tested)))
    figures = [*_effects(verdicts), *study.figures(tested)]
    # A table of an experiment of which nothing was judged has no rows, and then not even heads.
    tables = {caption: frame for caption, frame in study.tables(tested).items() if not frame.empty}
    return Validation(name, folder, verdicts, tested, tables, figures)


def _effects(verdicts: Sequence[Verdict]) -> Iterator[Drawing]:
    """One picture of all effects, if there are any."""
    parts = named_parts(verdicts)
    if parts:
        caption = (
            "What each claim says is above 0, with 95 % intervals over seeds. The grey dash is the "
            "smallest effect that matters."
        )
        yield forest(parts, "Effects", caption)


def _search_names(study: PaperStudy, name: str) -> list[str]:
    return [f"{name}-{experiment.name}" for experiment in study.experiments]


def _check_free(study: PaperStudy, name: str, store: ResultsStore) -> None:
    """Refuses the name of a search, whose report would be written over, and of another study's
    validation."""
    folder = store.folder(name)
    do = "choose another --name"
    if name in search_names(store) or is_search(folder):
        raise refused("the name of a validation", f"{name!r}, which is a search's", do)
    if not (folder / VERDICTS).exists():
        return
    verdicts = json.loads((folder / VERDICTS).read_text())
    written = [verdict["claim"] for verdict in verdicts]
    claims = [claim.name for claim in study.claims]
    # A later version may judge more claims on the same trainings.
    if not set(written) <= set(claims):
        expected = f"a validation of {', '.join(claims)} under the name {name!r}"
        got = f"verdicts on {', '.join(written)} in {folder}"
        raise refused(expected, got, do)


def _run(
    experiment: Experiment[Any],
    name: str,
    seed: int,
    findings: Findings,
    options: RunOptions,
    console: Console,
) -> Search:
    space = experiment.space(findings)
    if name not in search_names(options.store):
        return launch(
            space,
            name=name,
            seed=seed,
            options=options,
            console=console,
            resumed_by=RESUMED_BY,
        )
    # What was trained under other settings would be other evidence than the claims ask for.
    search = load_search(name, options.results, options.storage)
    differences = list(_differences(experiment, search, seed, findings))
    if differences:
        do = "choose another --name, or the plan and the --seed that it was begun with"
        raise InputError(*(refusal(f"{name} with {asked}", got, do) for asked, got in differences))
    # Resuming also measures what was trained and not judged on test.
    trained = search.trials[search.trials["state"] == "COMPLETE"]
    if _is_over(experiment, search) and _is_tested(trained).all():
        return search
    return resume(name, space=space, options=options, console=console)


def _differences(
    experiment: Experiment[Any],
    search: Search,
    seed: int,
    findings: Findings,
) -> Iterator[tuple[str, object]]:
    """What is asked for and what there is, where an existing search is of another plan."""
    record = search.record
    if record.trials != experiment.trainings:
        yield counted(experiment.trainings, "training"), record.trials
    if record.seed != seed:
        yield f"seed {seed}", record.seed
    if record.widths != experiment.widths:
        yield f"widths {experiment.widths}", record.widths
        return
    for trial in search.trials.dropna(subset=["recipe"]).to_dict("records"):
        arm = str(trial[f"{COLUMN}{ARM}"])
        width = float(trial["width"])
        if arm not in experiment.arm_names:
            yield f"arms {', '.join(experiment.arm_names)}", arm
            return
        replicate = 0 if pd.isna(trial["replicate"]) else int(trial["replicate"])
        recipe = experiment.recipe_of(arm, width, findings, replicate)
        recipe = replace(recipe, seed=int(trial["seed"]), derivation=record.derivation)
        why = mismatch(str(trial["recipe"]), recipe.resolved)
        if why:
            yield f"the recipe of arm {arm!r} at width {width:g}", f"{why}, in {trial['trial']}"
            return


def _is_over(experiment: Experiment[Any], search: Search) -> bool:
    """Whether every arm was tried at every width; what fails is tried once, and is missing from the
    evidence."""
    tried = search.trials.drop_duplicates(["width", "number"])
    expected = len(experiment.arms) * len(experiment.widths)
    is_running = search.trials["suggestion"] == "RUNNING"
    return len(tried) >= expected and not is_running.any()


def _is_tested(trials: pd.DataFrame) -> pd.Series:
    """Whether each training was judged on ``test``."""
    return trials.reindex(columns=[TESTED])[TESTED].notna()


def _publish(
    validation: Validation,
    study: PaperStudy,
    plan: Mapping[str, str],
    options: RunOptions,
    console: Console,
) -> None:
    """The verdicts into the folder, and to the MLflow run of the last search that they rest on."""
    folder = validation.folder
    folder.mkdir(parents=True, exist_ok=True)
    verdicts = json.dumps(as_json(validation.verdicts), indent=1)
    (folder / VERDICTS).write_text(verdicts)
    for part, frame in pooled(validation.findings)._asdict().items():
        frame.to_parquet(folder / f"{part}.parquet")
    searches = _search_names(study, validation.name)
    last = load_search(searches[-1], options.results, options.storage)
    trainings = "; ".join(_trainings(validation, study))
    setting = {"searches": ", ".join(searches), "trainings": trainings, **plan, **last.setting}
    write(validation, len(study.experiments[0].widths), setting)
    tracker = Tracker(
        options.uri(last.record.tracking),
        last.name,
        options.store.results,
        last.record.identity,
        patient=True,
    )
    recorder = Recorder(tracker, last.folder / "trials", last.record)
    begin_old_search(recorder, last.record, options)
    answers: dict[str, str] = {
        f"robsearch.verdict.{verdict.claim.name}": verdict.answer for verdict in validation.verdicts
    }
    copies = last.folder / "claims"
    copies.mkdir(exist_ok=True)
    for file in (VERDICTS, REPORT):
        shutil.copy(folder / file, copies)
    recorder.tag(SEARCH, answers)
    if tracker.close():
        console.print(
            "note: the verdicts did not reach MLflow; the same command delivers them",
            soft_wrap=True,
        )


def _trainings(validation: Validation, study: PaperStudy) -> Iterator[str]:
    """What each experiment has of the trainings that it planned."""
    for experiment in study.experiments:
        trials = validation.findings[experiment.name].trials
        of_all = f"{len(trials)} of {experiment.trainings} in {experiment.name}"
        text = f"{of_all} ({counted(experiment.seeds, 'seed')})"
        collapsed = int(collapsed_among(trials).sum())
        if collapsed:
            text += f", {collapsed} of them collapsed"
        yield text


def as_json(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Verdicts as plain data; an end of an interval that is not finite is None."""
    return [
        {
            "claim": verdict.claim.name,
            "sentence": verdict.claim.sentence,
            "source": verdict.claim.source,
            "answer": verdict.answer,
            "p_holm": verdict.p_holm,
            "seeds": verdict.seeds,
            "p_below_holm": verdict.p_below_holm,
            "needed": verdict.needed,
            "needed_range": verdict.needed_range,
            "reason": verdict.reason,
            "change": verdict.claim.change,
            "parts": [_part_as_json(part) for part in verdict.parts],
        }
        for verdict in verdicts
    ]


def _part_as_json(part: Part) -> dict[str, Any]:
    effect, estimate = part
    # JSON has no infinity.
    ends: dict[str, float | None] = {}
    for end in ("mean", "low", "high"):
        number = getattr(estimate, end)
        ends[end] = number if math.isfinite(number) else None
    return {
        "what": effect.what,
        "unit": effect.unit,
        "delta": effect.delta,
        **ends,
        "p": estimate.p,
        "per_seed": list(effect.per_seed),
    }
