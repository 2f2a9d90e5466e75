"""Whether a search may go on with a space: every recorded suggestion is replayed through it. No Ray
in here."""

import dataclasses
import json
import platform
import sys
import types
from importlib.metadata import version

import begun_searches
import optuna
import pytest
from command_processes import in_this_process
from named_parts import Flip, by_functions
from small_spaces import recipe, standard

from robsearch import AtLeast, Digits, InputError, Rung, Space, identity
from robsearch.identity import NUMERICS, legacy_digest, numerics_since
from robsearch.search.results_store import note_driver
from robsearch.search.resuming import check_unchanged
from robsearch.search.scheduling import scheduler_of, studies_of
from robsearch.search.settings import (
    changed_settings,
    constraints,
    rungs,
    space_settings,
    with_later,
)
from robsearch.search.upgrading import EFFECTS, version_changes
from robsearch.study import SearchRecord, open_storage
from robsearch.trials.provenance import PACKAGES, write_attempt


def define(trial, width):
    return recipe(width, trial.suggest_float("lam", 0.5, 32.0, log=True))


def longer(trial, width):
    return recipe(width, trial.suggest_float("lam", 0.5, 32.0, log=True), epochs=6)


def wider_range(trial, width):
    return recipe(width, trial.suggest_float("lam", 0.5, 64.0, log=True))


def one_more(trial, width):
    lam = trial.suggest_float("lam", 0.5, 32.0, log=True)
    return recipe(width, lam, batch_size=trial.suggest_categorical("batch", [25, 50]))


def renamed(trial, width):
    return recipe(width, trial.suggest_float("strength", 0.5, 32.0, log=True))


def other_images(trial, width):
    return recipe(width, trial.suggest_float("lam", 0.5, 32.0, log=True), data=Digits(train=101))


def judged_harder(trial, width):
    made = define(trial, width)
    return dataclasses.replace(made, eval_attack=dataclasses.replace(made.eval_attack, eps=0.2))


def plain_object(trial, width):
    return dataclasses.replace(define(trial, width), augment=Flip(0.5))


def raises(trial, width):
    raise KeyError("no such preset")


def shorter(full):
    return dataclasses.replace(full, epochs=2)


def shortest(full):
    return dataclasses.replace(full, epochs=1)


def other_standard(width):
    return dataclasses.replace(standard(width), epochs=3)


def other_control(width):
    return dataclasses.replace(standard(width), epochs=2)


other_standard.__name__ = "standard"
BEGUN = Space(define, (4, 8), controls=(standard,))


class Begun:
    """A search of which two suggestions at each width and all controls were begun, and nothing was
    trained."""

    def __init__(self, folder, space=BEGUN, record_controls=True):
        self.folder, self.storage = folder / "s", open_storage(None, folder / "s")
        controls = (
            tuple(control.__name__ for control in space.controls) if record_controls else None
        )
        known = {
            "maximise": space.maximise,
            "per_trial": space.per_trial,
            "trainings": space.trainings,
        }
        known |= {"identity": "a" * 32, "controls": controls}
        if record_controls:  # as robsearch 0.2 does
            known |= {"subject_to": constraints(space), "fidelity": rungs(space)}
        self.record = SearchRecord(
            "s", "m:n", space.widths, 0, 4, "sqlite:///m.db", space_settings(space), **known
        )
        self.record.create(self.storage)
        for study in scheduler_of(space, self.record, self.storage, full=recipe(4)).counts_of:
            for _ in range(1 if study.stage.control else 2):
                suggestion = study.ask()
                attempt = self.folder / "trials" / suggestion.trial / "a1"
                attempt.mkdir(parents=True)
                write_attempt(attempt, 1, suggestion.recipe)

    def said(self, space):
        with pytest.raises(InputError) as error:
            check_unchanged(self.storage, self.record, space, self.folder)
        (problem,) = error.value.problems
        return problem


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    return Begun(tmp_path_factory.mktemp("begun"))


def test_the_same_space_goes_on_and_nothing_is_written(begun):
    journal = (begun.folder / "optuna.journal").read_bytes()
    check_unchanged(begun.storage, begun.record, BEGUN, begun.folder)
    assert (begun.folder / "optuna.journal").read_bytes() == journal


def row(text, what):
    """The cells of one row of the table."""
    (line,) = [line for line in text.splitlines() if line.strip().startswith(what)]
    return [cell.strip() for cell in line.strip().split("  ") if cell.strip()]


@pytest.mark.parametrize(
    ("changed", "what", "was", "now"),
    [
        (longer, "epochs", "4", "6"),
        (wider_range, "range of lam", "0.5 to 32, log", "0.5 to 64, log"),
        (one_more, "recipe", "one", "expected a value of 'batch' from"),
        (renamed, "recipe", "one", "expected a value of 'strength' from"),
        (other_images, "data.train", "100", "101"),
        (judged_harder, "eval_attack.eps", "0.1", "0.2"),
        (raises, "recipe", "one", "KeyError: 'no such preset'"),
    ],
)
def test_a_changed_space_is_refused_with_what_was_and_what_is(begun, changed, what, was, now):
    said = begun.said(dataclasses.replace(BEGUN, define=changed))
    cells = row(said, what)
    assert (cells[0], cells[1]) == (what, was)
    assert cells[2].startswith(now)
    assert cells[3] == "w4-000, w4-001 and 2 more"
    assert "@space(..., learn_from=('s',))" in said


def test_changed_controls_are_refused(begun):
    said = begun.said(dataclasses.replace(BEGUN, controls=()))
    assert row(said, "controls")[1:] == ["standard", "none"]
    said = begun.said(dataclasses.replace(BEGUN, controls=(other_standard,)))
    assert row(said, "epochs") == ["epochs", "4", "3", "w4-standard-000, w8-standard-000"]


def test_what_counts_for_the_whole_search_is_compared_too(begun):
    changed = dataclasses.replace(
        BEGUN, widths=(4, 16), replicates=3, subject_to=(AtLeast("val/natural_accuracy", 0.5),)
    )
    said = begun.said(changed)
    assert row(said, "widths")[1:] == ["4, 8", "4, 16"]
    assert row(said, "trainings")[1:] == ["1", "3"]
    assert row(said, "subject_to")[1:] == ["none", "val/natural_accuracy >= 0.5"]


def test_a_changed_rung_is_refused(tmp_path):
    begun = Begun(tmp_path, Space(define, (4,), fidelity=(Rung("scout", shorter, keep=0.5),)))
    said = begun.said(Space(define, (4,), fidelity=(Rung("scout", shortest, keep=0.5),)))
    assert row(said, "epochs") == ["epochs", "2", "1", "w4-scout-000, w4-scout-001"]


LADDER = Space(define, (4,), fidelity=(Rung("a", shortest, keep=0.5), Rung("b", shorter, keep=0.5)))


@pytest.mark.parametrize(
    ("fidelity", "now"),
    [
        ((), "none"),
        (LADDER.fidelity[:1], "a (keep 0.5)"),
        (LADDER.fidelity[::-1], "b (keep 0.5), a (keep 0.5)"),
        ((Rung("scout", shortest, keep=0.5), LADDER.fidelity[1]), "scout (keep 0.5), b (keep 0.5)"),
        ((Rung("a", shortest, keep=0.25), LADDER.fidelity[1]), "a (keep 0.25), b (keep 0.5)"),
    ],
)
def test_other_rungs_are_refused(tmp_path, fidelity, now):
    begun = Begun(tmp_path, LADDER)
    check_unchanged(begun.storage, begun.record, LADDER, begun.folder)
    said = begun.said(dataclasses.replace(LADDER, fidelity=fidelity))
    assert row(said, "fidelity")[1:] == ["a (keep 0.5), b (keep 0.5)", now]


def test_rungs_that_come_later_are_refused(begun):
    said = begun.said(dataclasses.replace(BEGUN, fidelity=LADDER.fidelity[:1]))
    assert row(said, "fidelity")[1:] == ["none", "a (keep 0.5)"]


def test_what_0_1_did_not_record_is_read_from_the_facts_for_the_report(tmp_path):
    limited = dataclasses.replace(LADDER, subject_to=(AtLeast("val/natural_accuracy", 1 / 3),))
    begun = Begun(tmp_path, limited, record_controls=False)
    check_unchanged(begun.storage, begun.record, limited, begun.folder)
    said = begun.said(dataclasses.replace(limited, subject_to=(), fidelity=LADDER.fidelity[:1]))
    assert row(said, "subject to")[1:] == ["val/natural_accuracy >= 0.333333", "none"]
    assert row(said, "rungs below")[1:] == ["a (50 % go on), b (50 % go on)", "a (50 % go on)"]


def test_a_constraint_counts_with_all_its_digits(tmp_path):
    limited = dataclasses.replace(BEGUN, subject_to=(AtLeast("val/natural_accuracy", 0.5),))
    begun = Begun(tmp_path, limited)
    stricter = dataclasses.replace(
        limited, subject_to=(AtLeast("val/natural_accuracy", 0.5000001),)
    )
    assert row(begun.said(stricter), "subject_to")[2] == "val/natural_accuracy >= 0.5000001"


def test_the_order_of_widths_controls_and_constraints_does_not_count(tmp_path):
    goals = (AtLeast("val/natural_accuracy", 0.5), AtLeast("val/stability", 0.1))
    first = dataclasses.replace(BEGUN, controls=(standard, other_control), subject_to=goals)
    begun = Begun(tmp_path, first)
    second = dataclasses.replace(
        first, widths=(8, 4), controls=(other_control, standard), subject_to=goals[::-1]
    )
    check_unchanged(begun.storage, begun.record, second, begun.folder)


def test_controls_that_were_not_recorded_are_those_that_were_trained(tmp_path):
    begun = Begun(tmp_path, record_controls=False)
    check_unchanged(begun.storage, begun.record, BEGUN, begun.folder)
    said = begun.said(dataclasses.replace(BEGUN, controls=()))
    assert row(said, "controls")[1] == "standard"


def test_other_contents_of_the_same_data_set_are_refused(begun, monkeypatch):
    monkeypatch.setattr(
        "robsearch.study.suggestions.content_digests", lambda data: {"all": "0123456789abcdef"}
    )
    said = begun.said(BEGUN)
    assert "other images or labels in Digits (contents 0123456789abcdef, not " in said


def test_functions_are_the_same_in_a_search_that_goes_on(tmp_path):
    begun = Begun(tmp_path, by_functions)
    check_unchanged(begun.storage, begun.record, by_functions, begun.folder)


def test_a_class_that_moved_is_said_with_the_way_to_keep_its_name(tmp_path, monkeypatch):
    space = Space(plain_object, (4,))
    begun = Begun(tmp_path, space)
    monkeypatch.setitem(sys.modules, "elsewhere", types.SimpleNamespace(Flip=Flip))
    monkeypatch.setattr(Flip, "__module__", "elsewhere")
    said = begun.said(space)
    assert (
        "a class has moved (`digest_name = 'its_old_module:Name'` in the class keeps its name)"
        in said
    )
    assert "Flip object" not in said
    monkeypatch.setattr(Flip, "digest_name", "named_parts:Flip", raising=False)
    check_unchanged(begun.storage, begun.record, space, begun.folder)


def test_digests_of_format_1_are_compared_as_they_were_made(tmp_path, monkeypatch):
    with monkeypatch.context() as old:
        old.setattr("robsearch.recipe.digest", legacy_digest)
        begun = Begun(tmp_path)
    assert row(begun.said(BEGUN), "numerics")[1:3] == [
        "version 1",
        f"version {NUMERICS}: {numerics_since(1)}",
    ]
    assert not [
        line for line in begun.said(BEGUN).splitlines() if line.strip().startswith("recipe")
    ]
    assert row(begun.said(dataclasses.replace(BEGUN, define=longer)), "epochs")[1:3] == ["4", "6"]


def test_other_numerics_are_refused_and_said_but_what_was_trained_can_be_judged(begun, monkeypatch):
    changes = {**identity.NUMERICS_CHANGES, 3: "steps are taken backwards"}
    monkeypatch.setattr(identity, "NUMERICS_CHANGES", changes)
    monkeypatch.setattr(identity, "NUMERICS", 3)
    monkeypatch.setattr("robsearch.study.replaying.NUMERICS", 3)
    assert row(begun.said(BEGUN), "numerics")[1:3] == [
        "version 2",
        "version 3: steps are taken backwards",
    ]
    (study, *_) = studies_of(BEGUN, begun.record, begun.storage)
    assert all(study.suggestion_of(training).recipe for training in study.recorded())


def test_other_versions_of_packages_are_said_each_with_what_may_change(begun):
    note_driver(begun.folder, begun.record)
    assert list(version_changes(begun.folder)) == []
    note = begun.folder / "search.json"
    facts = json.loads(note.read_text())
    # As a driver of another machine left it; the last one counts.
    facts["drivers"][0]["versions"] = {"optuna": "5.1.0", "ray": "2.61.0"}
    facts["drivers"].append({**facts["drivers"][0], "python": "3.10.2"})
    facts["drivers"][1]["versions"] = {"optuna": version("optuna"), "ray": "2.59.0", "jax": "1"}
    note.write_text(json.dumps(facts))
    python, ray = version_changes(begun.folder)
    is_now = platform.python_version()
    assert python.startswith(f"the search goes on with python {is_now}, until now it was 3.10.2: ")
    assert ray.startswith(f"the search goes on with ray {version('ray')}, until now it was 2.59.0")
    note_driver(begun.folder, begun.record)
    assert list(version_changes(begun.folder)) == []
    note.write_text("{")
    assert list(version_changes(begun.folder)) == []


def test_every_package_whose_version_is_recorded_has_its_effect():
    assert EFFECTS.keys() == {"python", *PACKAGES}


def test_another_sampler_or_pruner_may_go_on_and_is_said(begun):
    record = begun.record
    assert changed_settings(record, BEGUN) == {}
    other = dataclasses.replace(
        BEGUN, sampler=optuna.samplers.RandomSampler(), pruner=optuna.pruners.NopPruner()
    )
    check_unchanged(begun.storage, begun.record, other, begun.folder)
    changed = changed_settings(record, other)
    assert changed == {"sampler": "RandomSampler", "pruner": "NopPruner"}
    on = with_later(record, changed)
    assert on.setting["sampler"] == "TPESampler, the default; then RandomSampler"
    assert changed_settings(on, other) == {}


def test_the_command_line_prints_what_has_changed_as_a_table(tmp_path, capsys):
    begun_searches.begun(tmp_path)
    assert in_this_process(tmp_path, "resume", "s", "--space", "small_spaces:pair") == 2
    lines = capsys.readouterr().err.splitlines()
    head = next(i for i, line in enumerate(lines) if line.endswith("got another one:"))
    assert lines[head + 1].split() == ["what", "was", "is", "trials"]
    assert any(line.split()[:1] == ["widths"] for line in lines[head + 2 :])


@dataclasses.dataclass(frozen=True)
class Named:
    """Digits whose classes have names: a dictionary has no hash."""

    train: int = 100
    names: dict = dataclasses.field(default_factory=lambda: {0: "nought"})

    @property
    def spec(self):
        return Digits(train=self.train).spec

    def read(self):
        return Digits(train=self.train).read()


def test_a_data_set_without_a_hash_goes_on(tmp_path):
    def named(trial, width):
        return dataclasses.replace(BEGUN.define(trial, width), data=Named())

    space = dataclasses.replace(BEGUN, define=named)
    begun = Begun(tmp_path, space)
    check_unchanged(begun.storage, begun.record, space, begun.folder)
