"""``robsearch validate``, from the plan to the verdicts, on real trainings; and what it refuses."""

from __future__ import annotations

import io
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient
from rich.console import Console
from typer.testing import CliRunner

from robsearch import cli
from robsearch.claims.claim import Evidence
from robsearch.claims.experiment import Experiment, Findings, _gradients_per_epoch
from robsearch.claims.planning import plan
from robsearch.claims.running import judge_study, validate
from robsearch.claims.terminal import table_lines
from robsearch.data import Digits, load
from robsearch.drawing.style import Drawing
from robsearch.errors import InputError
from robsearch.measures import GlobalBound, KLGradient, LogitMargin
from robsearch.papers.presets import designs
from robsearch.papers.war import WidthStudy, digits_recipe
from robsearch.parts.attacks import PGD, AutoAttack
from robsearch.parts.models import MLP
from robsearch.parts.objectives import Standard
from robsearch.parts.optimisers import SGD, Piecewise
from robsearch.protocols import Split
from robsearch.recipe import Recipe
from robsearch.search import RunOptions, load_search
from robsearch.tracking import default_uri
from robsearch.training.evaluation import best_device
from robsearch.training.trainer import train
from robsearch.trials import pricing
from robsearch.trials.pricing import gradients_per_image, operations

EPS = 0.03
BASE = Recipe(
    model=MLP(width=4, depth=1),
    data=Digits(train=100),
    attack=PGD(eps=EPS, step_size=0.02, steps=1, start="gaussian"),
    test_attack=AutoAttack(eps=EPS, attacks=("apgd-ce",), batch_size=1000),
    optimiser=SGD(lr=0.5),
    learning_rate=Piecewise((0.5, 0.75), 0.1),
    epochs=5,
    batch_size=50,
    measures=(LogitMargin(), KLGradient(EPS, steps=1), GlobalBound("layer")),
    measured_examples=20,
)
TINY = WidthStudy((4.0, 8.0, 16.0), (1.0, 4.0, 16.0), BASE, seeds=3, arm_seeds=1, control_seeds=0)
WITH_CONTROLS = replace(TINY, arm_seeds=2, control_seeds=1)


def test_a_plan_counts_its_trainings_and_measures_an_epoch() -> None:
    planned = plan(WITH_CONTROLS)
    assert [(one.experiment.name, one.experiment.trainings) for one in planned] == [
        ("grid", 27),
        ("arms", 14),
        ("constants", 8),
        ("normalised", 6),
        ("retuned", 36),
    ]
    assert all(one.cost.training > 0 for one in planned)
    assert all(one.cost.judging > 0 for one in planned)


def test_a_plan_measures_large_nets_on_fewer_images_but_on_sixteen_at_least(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(pricing.AFFORDED, best_device().type, 6e11)
    assert pricing._fewer(BASE) == BASE.data
    # 67.7 million weights, 6 operations each, 3 gradients of each image.
    large = replace(BASE, data=Digits(train=500), model=MLP(width=8192, depth=2))
    assert (
        pricing._fewer(large)
        == Digits(train=int(6e11 / (6 * 8192 * (64 + 8192 + 10) * 3)))
        == Digits(train=492)
    )
    assert pricing._fewer(replace(BASE, model=MLP(width=65536, depth=2))) == Digits(train=16)


def test_judging_costs_two_epochs_on_test_and_one_on_as_many_training_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    epoch, clock = next(iter(train(BASE))), [0.0]
    monkeypatch.setattr(pricing.time, "perf_counter", lambda: clock[0])

    def takes_a_second_per_image(model: object, split: Split, attack: object) -> None:
        assert attack == AutoAttack(eps=1e-6, attacks=("apgd-ce",), batch_size=1000)
        clock[0] += len(split.labels)

    monkeypatch.setattr(pricing, "judge", takes_a_second_per_image)
    assert pricing._judging_seconds(BASE, load(BASE.data), epoch) == pytest.approx(2 * 849 + 100)


def test_seeds_are_paired_between_arms_and_differ_between_experiments(tmp_path: Path) -> None:
    from robsearch.study import SearchRecord, Study, open_storage

    storage, seeds = open_storage(None, tmp_path), dict[str, set[int]]()
    for name, seed in (("grid", 0), ("arms", 1)):
        space = TINY.experiments[0].space({})
        SearchRecord(name, space.title, space.widths, seed, 27, "", {}).create(storage)
        stages = space.stages()
        studies = [
            Study(storage, name, space, stage, trials=3, full=BASE, seed=seed) for stage in stages
        ]
        found = [study.ask() for study in studies for _ in range(2)]
        assert all(one is not None for one in found)
        seeds[name] = {one.recipe.seed for one in found if one}
    assert len(seeds["grid"]) == len(seeds["arms"]) == 1
    assert seeds["grid"] != seeds["arms"]


def test_what_a_training_costs_by_hand() -> None:
    assert gradients_per_image(digits_recipe(100, 0.0, 1)) == 10 + 2
    assert gradients_per_image(Recipe(model=MLP(width=4), data=Digits(), objective=Standard())) == 1
    # Training of 100 images, then PGD-10 on the cross-entropy and on the margin on the 848 of val.
    in_an_epoch = _gradients_per_epoch(digits_recipe(100, 0.0, 1))
    assert in_an_epoch == 12 * 100 + (10 + 10) * 848
    # Two hidden layers: 64 w + w w + 10 w multiply-adds, two operations each, and three passes.
    assert operations(MLP(width=16, depth=2), Digits().spec) == 3 * 2 * (
        64 * 16 + 16 * 16 + 10 * 16
    )


def test_the_papers_preset_halves_the_learning_rate_from_epoch_75_on() -> None:
    (study,) = designs("war", "paper").values()
    rate = study.base.learning_rate
    assert [rate(epoch / 100) for epoch in (0, 74, 75, 76, 99)] == pytest.approx(
        [1, 1, 0.5, 0.25, 0.5**25]
    )
    assert study.base.optimiser.weight_decay == 2e-4


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_study_runs_as_trials_and_the_same_call_does_nothing_twice(
    two_cpus: None, uri: str, tmp_path: Path
) -> None:
    options = RunOptions(results=tmp_path, parallel=1)
    found = validate(TINY, "tiny", options=options)
    assert found is not None
    assert [verdict.claim.name for verdict in found.verdicts] == [
        "H1",
        "H1a",
        "H1b",
        "H2",
        "H3",
        "H4",
        "H5",
    ]
    assert set(found.findings["arms"].trials["arm"]) == {way.name for way in TINY.ways}
    h4 = found.verdicts[5]
    assert "no assay sensitivity" in h4.reason or h4.reason.startswith("1 seed")
    first, grid = found.verdicts[0], found.findings["grid"]
    assert len(grid.trials) == 27
    assert first.seeds == 3
    for _, own in grid.trials.groupby("seed"):  # `seed` is the replicate here
        names = set(own["trial"])
        seeds = (
            load_search("tiny-grid", tmp_path).trials.set_index("trial").loc[list(names), "seed"]
        )
        assert seeds.nunique() == 1
    written = json.loads((tmp_path / "tiny" / "verdicts.json").read_text())
    assert [each["answer"] for each in written] == [verdict.answer for verdict in found.verdicts]
    assert written[0]["parts"][0]["per_seed"] == list(first.parts[0].effect.per_seed)
    page = (tmp_path / "tiny" / "report.html").read_text()
    assert page.count("<svg") == 4
    assert all(verdict.claim.sentence in page for verdict in found.verdicts)
    assert "before any training" in page
    client = MlflowClient(default_uri(tmp_path))
    experiment = client.get_experiment_by_name("tiny-arms")
    (run,) = client.search_runs([experiment.experiment_id], "tags.`robsearch.kind` = 'search'")
    assert run.data.tags["robsearch.verdict.H1"] == first.answer
    longer = replace(BASE, epochs=6)
    journals = {file: file.stat().st_mtime for file in tmp_path.glob("tiny-*/*.log")}
    again = validate(TINY, "tiny", options=options)
    assert again is not None
    assert again.verdicts[0].parts == first.parts
    others = {
        "tiny-grid with 9 trainings, got 27": (replace(TINY, seeds=1), 0),
        "tiny-grid with seed 100, got 0": (TINY, 1),
        r"widths \(4.0, 8.0, 32.0\), got \(4.0, 8.0, 16.0\)": (
            replace(TINY, widths=(4.0, 8.0, 32.0)),
            0,
        ),
        "arms lam 1, lam 4, lam 8, got lam 16": (replace(TINY, lams=(1.0, 4.0, 8.0)), 0),
        "the recipe of arm 'lam .*' at width .*, got another recipe, in w": (
            replace(TINY, base=longer),
            0,
        ),
    }
    for told, (study, seed) in others.items():
        with pytest.raises(InputError, match=told):
            validate(study, "tiny", seed=seed, options=options)
    assert {file: file.stat().st_mtime for file in tmp_path.glob("tiny-*/*.log")} == journals


class OneDiverges:
    """A study without claims, of two arms: one whose weights overflow in its first step, and one
    that trains."""

    claims = ()
    experiments = (
        Experiment(
            "pair", ("trains", "diverges"), (4.0,), 2, lambda arm, width, found: DIVERGING[arm]
        ),
    )

    def tables(self, findings: Findings) -> dict[str, pd.DataFrame]:
        return {}

    def figures(self, findings: Findings) -> list[Drawing]:
        return []


DIVERGING = {"trains": BASE, "diverges": replace(BASE, optimiser=SGD(lr=1e30))}


@pytest.mark.slow
def test_trainings_that_fail_are_missing_and_are_not_waited_for(
    two_cpus: None, uri: str, tmp_path: Path
) -> None:
    options = RunOptions(results=tmp_path, parallel=1)
    found = validate(OneDiverges(), "pair", options=options)
    assert found is not None
    assert list(found.findings["pair"].trials["arm"]) == ["trains", "trains"]
    search = load_search("pair-pair", tmp_path)
    assert sorted(search.trials["state"]) == ["COMPLETE", "COMPLETE", "FAIL", "FAIL"]
    tried = set(search.trials["trial"])
    judged = search.folder / "trials" / found.findings["pair"].trials["trial"][0] / "test.json"
    judged.unlink()
    assert validate(OneDiverges(), "pair", options=options) is not None
    assert judged.exists()
    assert set(load_search("pair-pair", tmp_path).trials["trial"]) == tried


def test_what_was_not_judged_on_test_is_no_evidence(tmp_path: Path) -> None:
    trials = pd.DataFrame(
        {"experiment": "pair", "seed": [0, 1], "test/robust_accuracy": [0.5, math.nan]}
    )
    found = {"pair": Evidence(trials, trials[["experiment"]])}
    assert list(
        judge_study(OneDiverges(), "pair", found, tmp_path).findings["pair"].trials["seed"]
    ) == [0]


def test_a_table_that_is_too_wide_breaks_between_words_and_never_inside_one() -> None:
    tables = {"ways": pd.DataFrame({"way": ["full search"], "robust": ["56.52 [56.05, 56.99]"]})}
    for width in (60, 17):
        console = Console(width=width, file=io.StringIO(), highlight=False)
        console.print(*table_lines(tables))
        assert {"full", "search", "56.52", "[56.05,", "56.99]"} <= set(
            console.file.getvalue().split()
        )


def test_tables_are_judged_from_the_command_line(tmp_path: Path) -> None:
    rows = ["width,epoch,train_nat_loss,train_rob_loss,test_nat_acc,test_rob_acc"]
    rows += [
        f"{w},{e},{2 * w**-0.5},{1 + 2 * w**-0.5},0.8,0.5" for w in (1, 4, 16) for e in range(10)
    ]
    file = tmp_path / "logs.csv"
    file.write_text("\n".join(rows))
    said = CliRunner().invoke(cli.app, ["validate", "war", "--from-table", str(file)])
    assert said.exit_code == 0
    assert "ratio = 2.00 width^b" in said.output
    assert "1 seed, and a verdict takes at least 3" in said.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nothing"], "a paper out of war, norms, margins, regularization"),
        (["war", "--preset", "imagenet"], "--preset out of digits, fashion, cifar10, paper"),
        (["war", "--design", "clear"], "--design out of clean, noise, 1000"),
        (["norms", "--from-table", "x.csv"], "war with --from-table"),
        (["robsearch.parts.models:MLP"], "a PaperStudy in robsearch.parts.models"),
        (["robsearch.papers.war.experiments:WidthStudy"], "'WidthStudy' is a type"),
        (["war", "--name", "a/b"], "a name that can be a folder"),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(
    arguments: list[str],
    told: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["robsearch", "validate", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    assert told in capsys.readouterr().err
