"""Mending the journal of a search: what is damaged is left out, and what the trials' folders know
is noted again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from robsearch.errors import InputError, counted, refused
from robsearch.printing import echo
from robsearch.search.budgets import DRIVEN
from robsearch.search.options import RunOptions
from robsearch.search.recording import ASKED, DROPPED_TAG
from robsearch.search.results_store import ResultsStore, check_folder
from robsearch.search.resuming import load_recorded
from robsearch.spaces import Space, derived_by
from robsearch.study import (
    COLUMN,
    DROP,
    JOURNAL,
    Examined,
    FolderTrial,
    Rebuilding,
    SearchRecord,
    TrialEnd,
    examine,
    lacks_facts,
    living_owner,
    owner_text,
    place_of,
    recorded_studies,
    replace_journal,
    trials_of,
)
from robsearch.study.lease import EXPIRE_SECONDS, LOOK_SECONDS
from robsearch.training.costs import cost_of
from robsearch.trials.loading import read_history
from robsearch.trials.run_facts import RunFacts, read_run

ENDED = ("COMPLETE", "PRUNED", "FAIL")
SHOWN = 20
"""Damaged lines that are named; the others are counted."""


@dataclass(frozen=True)
class Repair:
    """What can be done for a journal, or was.

    Attributes:
        damaged: its damaged lines, from 1.
        repeated: how many of its lines repeat others.
        lost: how many studies and suggestions were made by lines that are lost.
        rebuilt: trials that are noted again as their folders have them.
        problems: why others of which a folder knows more are not, by name.
        noted: what else is noted again, from a ``run.json``.
        lost_attributes: what lines began to write of the search itself, and nothing else knows.
        copy: the journal as it was; None where nothing was changed.
    """

    damaged: tuple[int, ...]
    repeated: int
    lost: int
    rebuilt: tuple[str, ...]
    problems: dict[str, str]
    noted: tuple[str, ...] = ()
    lost_attributes: tuple[str, ...] = ()
    copy: Path | None = None

    @property
    def whole(self) -> bool:
        """Whether there is nothing to do."""
        damaged = self.damaged or self.repeated or self.lost
        return not (damaged or self.rebuilt or self.problems or self.noted)


class _Attribute(NamedTuple):
    """An attribute of the search's own study that is noted again, and what it says in words."""

    key: str
    value: Any
    text: str


class _FolderFacts(NamedTuple):
    """What a trial's folder says: its ``run.json``, and how it ended."""

    facts: RunFacts
    end: TrialEnd

    @property
    def text(self) -> str:
        return "begun, to be continued" if self.end.state == "RUNNING" else self.end.state


def repair(
    name: str,
    options: RunOptions | None = None,
    *,
    apply: bool = False,
    space: Space | str | None = None,
    say: Callable[[str], None] = echo,
) -> Repair:
    """Says what is damaged in a search's journal and what can be done, and does it if ``apply``.

    What is damaged is left out, and so are lines that repeat others. Trials whose begin, parameters
    or end the journal lost are noted again from their folders, and so is what it lost of the search
    itself: which trials are dropped, and the total. The journal as it was is kept beside the new
    one.

    Args:
        name: of the search.
        options: where it is kept.
        apply: whether to write; else nothing is changed.
        space: the space or its reference, if it cannot be imported under the one that was recorded.
        say: prints one line.

    Raises:
        InputError: there is no such search, it is in a database, a living driver holds it, or
            nothing in the journal says what search it is.
    """
    options = options or RunOptions()
    store = options.store
    if store.storage is not None:
        got = "one in a database"
        do = "leave out --storage (ROBSEARCH_STORAGE); a database is mended by its own tools"
        raise refused("a search whose decisions are in a journal", got, do)
    store.check(name)
    folder = store.folder(name)
    examined = examine(folder / JOURNAL)
    _refuse_while_driven(examined, name, store, apply, say)
    record = _record_of(examined, name, folder)
    check_folder(folder, record)
    _say_all(_damage_lines(examined), say)
    trials = dict(_to_rebuild(examined, record, folder / "trials"))
    rebuilding = Rebuilding(examined, record)
    noted = list(_to_note(examined, record, folder))
    _restore_attributes(rebuilding, noted, say)
    lost_attributes = list(_lost_attributes(examined, record, noted))
    _say_all(lost_attributes, say)
    loaded, rebuilt, problems = _rebuild(rebuilding, record, folder, trials, space)
    for trial in rebuilt:
        say(f"{trial}: noted again as its folder has it: {trials[trial].text}")
    for trial, problem in problems.items():
        say(f"{trial}: not noted again, though its folder has it ({trials[trial].text}): {problem}")
    damaged = tuple(damage.line for damage in examined.damages)
    repeated = sum(last - first + 1 for first, last, _ in examined.repeated)
    lost = len(examined.missing) + len(examined.unmade)
    texts = tuple(attribute.text for attribute in noted)
    plan = Repair(damaged, repeated, lost, tuple(rebuilt), problems, texts, tuple(lost_attributes))
    reference = "" if space is None or isinstance(space, Space) else space
    if plan.whole:
        say(f"the journal of {name} is whole: there is nothing to repair")
    elif not apply:
        words = ["repair", name, "--apply", *(["--space", reference] if reference else [])]
        say(f"nothing is changed yet; `{store.command(*words)}` does it, and keeps a copy")
    else:
        records = rebuilding.records(loaded)
        copy = replace_journal(folder, records)
        say(f"repaired; the journal as it was is {copy}")
        say(f"go on with: {store.command('resume', name)}")
        return replace(plan, copy=copy)
    return plan


def _refuse_while_driven(
    examined: Examined, name: str, store: ResultsStore, apply: bool, say: Callable[[str], None]
) -> None:
    owner = living_owner(examined.storage, name)
    if owner is None:
        return
    if owner["alive"] or (apply and _is_written(store.folder(name) / JOURNAL, say)):
        do = f"end it first: `{store.command('stop', name)}`, or Ctrl-C"
        raise refused(f"no driver of {name!r} at work", f"the one {owner_text(owner)}", do)


def _say_all(lines: Iterable[str], say: Callable[[str], None]) -> None:
    for line in lines:
        say(line)


def _is_written(journal: Path, say: Callable[[str], None]) -> bool:
    """Whether a driver elsewhere lives, which adds to its journal every few seconds: a damaged one
    cannot be opened to watch its lease."""
    say(f"waiting up to {EXPIRE_SECONDS:g} s to see whether the journal's driver still lives")
    before = journal.stat().st_size
    end = time.monotonic() + EXPIRE_SECONDS
    while time.monotonic() < end:
        time.sleep(LOOK_SECONDS)
        if journal.stat().st_size != before:
            return True
    return False


def _record_of(examined: Examined, name: str, folder: Path) -> SearchRecord:
    try:
        return SearchRecord.load(examined.storage, name)
    except InputError as error:
        got = f"one of which no whole line does, in {folder}"
        do = "restore the journal from a backup, or launch a new search"
        raise refused(f"a journal that says what {name!r} is", got, do) from error


def _damage_lines(examined: Examined) -> Iterator[str]:
    damages = examined.damages
    for damage in damages[:SHOWN]:
        yield f"line {damage.line} {damage.what}"
    if len(damages) > SHOWN:
        yield f"and {counted(len(damages) - SHOWN, 'damaged line')} more"
    for first, last, earlier in examined.repeated:
        until = earlier + last - first
        yield f"lines {first} to {last} repeat lines {earlier} to {until}: they are left out"
    if examined.missing:
        missing = counted(len(examined.missing), "suggestion")
        yield f"of {missing} the line is lost that made it"
    for study in examined.unmade:
        yield f"the line is lost that made the study {study}"


# --- what stands in attributes of the search's own study ---


def _own_attributes(examined: Examined, record: SearchRecord) -> tuple[int, dict[str, Any]]:
    """Optuna's number of the search's own study, and what could be read of its attributes."""
    study = examined.storage.get_study_id_from_name(record.name)
    return study, examined.storage.get_study_user_attrs(study)


def _to_note(examined: Examined, record: SearchRecord, folder: Path) -> Iterator[_Attribute]:
    """What the journal does not say of drops and the total, and a ``run.json`` does.

    The journal is written first: what it says otherwise is newer than the file.
    """
    _, attributes = _own_attributes(examined, record)
    for trial in sorted((folder / "trials").glob("*")):
        facts = read_run(trial) if trial.is_dir() else None
        why = facts.tags.get(DROPPED_TAG) if facts else None
        key = f"{DROP}{trial.name}"
        if why and key not in attributes:
            yield _Attribute(key, why, f"{trial.name} as dropped: {why}")
    facts = read_run(folder)
    asked = facts.tags.get(ASKED, "") if facts else ""
    if asked.isdecimal() and int(asked) > record.trials:
        stored = {**attributes["search"], "trials": int(asked)}
        yield _Attribute("search", stored, f"{counted(int(asked), 'trial')} as the total")


def _restore_attributes(
    rebuilding: Rebuilding, attributes: Sequence[_Attribute], say: Callable[[str], None]
) -> None:
    for attribute in attributes:
        rebuilding.restore_attribute(attribute.key, attribute.value)
        say(f"noted again, as its run.json has it: {attribute.text}")


def _lost_attributes(
    examined: Examined, record: SearchRecord, noted: Sequence[_Attribute]
) -> Iterator[str]:
    """What damaged lines began to write of the search itself and is not noted again, with what
    stands in."""
    search_study, attributes = _own_attributes(examined, record)
    drops = {attribute.key for attribute in noted if attribute.key != "search"}
    lost = [each for each in examined.lost_attributes if each.study in (None, search_study)]
    # A line that is cut before it says which was that of a drop which no other line began.
    unnamed = len(drops - {each.key for each in lost})
    total = max([record.trials, *(each.value["trials"] for each in noted if each.key == "search")])
    budgets = [f"--{name.replace('_', '-')} {hours:g}" for name, hours in record.budgets.items()]
    stays = f"{counted(total, 'trial')} and {', '.join(budgets) or 'no budget'}"
    do = f"the search has {stays} now; give again what is not as you left it"
    for each in lost:
        if each.key in drops:
            continue
        if each.key == DRIVEN and DRIVEN in attributes:
            continue  # it is written every half minute
        if each.key is None and unnamed:
            unnamed -= 1
            continue
        if each.key is not None:
            what = f'"{each.key}" of the search, which is lost'
        elif each.study is not None:
            what = "an attribute of the search, and is cut before its name"
        else:
            what = "an attribute of a study, and is cut before its name"
        may_be = "" if each.key else " (it may have been a drop, a total or a budget)"
        yield f"line {each.line} began to write {what}{may_be}: {do}"


# --- trials of which their folders know more ---


def _to_rebuild(
    examined: Examined, record: SearchRecord, trials: Path
) -> Iterator[tuple[str, _FolderFacts]]:
    """The trials that have ended by their folders, and not in the storage, or of which the storage
    lacks the begin or parameters."""
    states: dict[str, str] = {}
    suggestions = {}
    untold = set()
    for stage, _, of_study in recorded_studies(examined.storage, record.name):
        of_all = len(record.widths) if stage.width is None else 1
        members = record.trainings if stage.deciding else of_all
        for suggestion in of_study:
            begun = trials_of(suggestion)
            for trial in begun:
                states[trial.trial] = trial.state
                suggestions[trial.trial] = suggestion
            over = len(begun) == members and all(trial.state != "RUNNING" for trial in begun)
            if over and suggestion.state.name == "RUNNING":
                untold.add(begun[-1].trial)
    for folder in sorted(trials.glob("*")):
        name = folder.name
        facts = read_run(folder) if folder.is_dir() else None
        if facts is None:
            continue
        end = _end(facts, folder)
        unended = states.get(name) == "RUNNING" and end.state != "RUNNING"
        behind = unended or name in untold
        params = list(_suggested(facts))
        if name not in states or behind or lacks_facts(suggestions[name], params, end):
            yield name, _FolderFacts(facts, end)


def _rebuild(
    rebuilding: Rebuilding,
    record: SearchRecord,
    folder: Path,
    trials: Mapping[str, _FolderFacts],
    space: Space | str | None,
) -> tuple[Space | None, list[str], dict[str, str]]:
    if not trials:
        return None, [], {}
    try:
        if not isinstance(space, Space):
            space = load_recorded(space or record.space, folder)
        loaded = derived_by(space, record.derivation)
    except InputError as error:
        return None, [], dict.fromkeys(trials, "; ".join(error.problems))
    rebuilt = []
    problems = {}
    for name, (facts, end) in trials.items():
        place = place_of(loaded, name)
        if place is None:
            problems[name] = f"{loaded.title} has no trial of that name"
            continue
        try:
            trial = FolderTrial(*place, _suggested(facts), end)
            rebuilding.rebuild(loaded, trial, folder / "trials" / name)
        except InputError as error:
            problems[name] = "; ".join(error.problems)
        except Exception as error:  # whatever the user's space leads to
            problems[name] = f"the space failed: {type(error).__name__}: {error}"
        else:
            rebuilt.append(name)
    return loaded, rebuilt, problems


def _suggested(facts: RunFacts) -> dict[str, Any]:
    params = {}
    for name, value in facts.params.items():
        if name.startswith(COLUMN):
            params[name.removeprefix(COLUMN)] = value
    return params


def _end(facts: RunFacts, folder: Path) -> TrialEnd:
    """How a trial ended; it runs if it has not, or if its epochs are lost."""
    history = [*read_history(folder), *facts.unsaved]
    if facts.state not in ENDED or (facts.state != "FAIL" and not history):
        return TrialEnd("RUNNING", history, "", {})
    cost = cost_of(history, {}, {})
    spent = {"seconds": cost.seconds}
    if facts.started is not None and facts.ended is not None:
        spent["wall_seconds"] = max(facts.ended - facts.started, cost.seconds)
    if cost.gpu_seconds:
        spent["gpu_seconds"] = cost.gpu_seconds
    reason = facts.tags.get("robsearch.reason", "no reason given")
    return TrialEnd(facts.state, history, reason, spent)
