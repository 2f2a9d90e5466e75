"""``robsearch evaluate`` as a user sees it: real local Ray, a real sqlite MLflow, tiny nets on real
digits."""

import json

import pytest
from mlflow import MlflowClient
from small_spaces import pair, recipe
from typer.testing import CliRunner

import robsearch
from robsearch import InputError, RunOptions, cli
from robsearch.search.commands.promote import promote
from robsearch.search.commands.targets import Target, find_target
from robsearch.study import JOURNAL
from robsearch.tracking import TRIAL
from robsearch.trials.ladder.results import read_ladder, rung_results

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
IMAGES = len(recipe(4).data.read()["test"].labels)


@pytest.fixture(scope="module")
def options(two_cpus, pair_options):
    return pair_options


@pytest.fixture(scope="module")
def search(pair_search):
    return pair_search


@pytest.fixture(scope="module")
def evaluated(search, options):
    return robsearch.evaluate("pair", rung="apgd-ce", options=options)


def runs_of(options):
    client = MlflowClient(options.uri())
    found = client.search_runs([client.get_experiment_by_name("pair").experiment_id])
    return {run.data.tags[TRIAL]: run for run in found}


def ask(options, *words):
    return CliRunner().invoke(
        cli.app, ["evaluate", *words, "--results", str(options.results), "--parallel", "2"]
    )


def test_the_finalists_of_a_search_are_the_best_of_each_width(search, evaluated):
    done = search.trials[search.trials["control"].isna() & (search.trials["state"] == "COMPLETE")]
    best = done.loc[done.groupby("width")["value"].idxmax(), "trial"]
    assert {one.trial for one in evaluated.finalists} == set(best)
    assert not evaluated.problems


def test_the_lowest_rung_agrees_with_the_test_figures_and_no_rung_is_above_the_one_before(
    search, evaluated
):
    rows = search.trials.set_index("trial")
    for trial, ladder in evaluated.ladders.items():
        found = rung_results(ladder)
        shares = [standing.robust_accuracy for standing in found]
        assert [standing.rung for standing in found] == ["natural", "pgd", "two-losses", "apgd-ce"]
        assert shares[0] == pytest.approx(rows.loc[trial, "test/natural_accuracy"])
        assert shares[1] == pytest.approx(rows.loc[trial, "test/robust_accuracy"], abs=0.02)
        assert shares == sorted(shares, reverse=True)
        assert found[0].n == len(ladder) == IMAGES


def test_the_figures_are_recorded_in_the_trials_runs(options, evaluated):
    runs = runs_of(options)
    for trial, ladder in evaluated.ladders.items():
        last = rung_results(ladder)[-1]
        metrics = runs[trial].data.metrics
        assert metrics["ladder/apgd-ce/robust_accuracy"] == pytest.approx(last.robust_accuracy)
        ladders = {name for name in metrics if name.startswith("ladder/")}
        assert ladders == {
            f"ladder/{rung}/robust_accuracy" for rung in ("natural", "pgd", "two-losses", "apgd-ce")
        }
        assert (
            last.low < last.robust_accuracy < last.high
        )  # as `standings` of the table among the artifacts has it
        files = {
            file.path
            for file in MlflowClient(options.uri()).list_artifacts(
                runs[trial].info.run_id, "tables"
            )
        }
        assert "tables/ladder.parquet" in files
        assert runs[trial].info.status == "FINISHED"


def test_the_strongest_figure_leads_wherever_the_search_is_looked_at_afterwards(
    search, options, evaluated
):
    after, runs = robsearch.load_search("pair", options.results), runs_of(options)
    note = runs["search"].data.tags["mlflow.note.content"].replace("\\", "")
    for trial, ladder in evaluated.ladders.items():
        last, figure = rung_results(ladder)[-1], after.strongest(trial)
        before = search.strongest(trial)
        assert (before.attack, before.on, before.n) == ("PGD-20", "test", IMAGES)
        assert figure.robust_accuracy == min(last.robust_accuracy, before.robust_accuracy)
        assert figure.low < figure.robust_accuracy < figure.high
        row = after.trials.set_index("trial").loc[trial]
        assert row["strongest/robust_accuracy"] == figure.robust_accuracy
        assert row["ladder/apgd-ce/robust_accuracy"] == last.robust_accuracy
        assert runs[trial].data.tags["robsearch.strongest"] == figure.text
        assert runs[trial].data.metrics["strongest/robust_accuracy"] == figure.robust_accuracy
        assert f"{figure.text}; selected on val: " in note
    others = after.trials[
        after.trials["strongest/attack"].notna() & ~after.trials["trial"].isin(evaluated.ladders)
    ]
    assert set(others["strongest/on"]) <= {"test", "val"}


def test_a_search_reads_its_ladders_back_with_the_trial_in_the_first_column(search, evaluated):
    table = search.table("ladder")
    assert table.column_names == ["trial", "index", "label", "natural", "broken_by"]
    assert set(table["trial"].to_pylist()) == set(evaluated.ladders)
    with pytest.raises(
        InputError,
        match=r"expected a measured trial with nonsense\.parquet, got coverage, histograms, ",
    ):
        search.table("nonsense")
    with pytest.raises(InputError, match=r"expected trials of this search, got w5-000"):
        search.table("test", "w5-000")


def test_asking_again_does_nothing_twice_and_prints_the_tables(
    search, options, evaluated, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "80")
    (one, *_) = evaluated.finalists
    before = {file: file.stat().st_mtime_ns for file in one.folder.rglob("ladder/*/*.parquet")}
    assert before
    result = ask(options, f"pair/{one.trial}", "--rung", "pgd")
    assert result.exit_code == 0, result.output
    assert {
        file: file.stat().st_mtime_ns for file in one.folder.rglob("ladder/*/*.parquet")
    } == before
    for words in (
        "robust accuracy on test",
        "apgd-ce",
        one.trial,
        "gradients masked?",
        "the loss has a",
    ):
        assert words in result.output
    assert max(map(len, result.output.splitlines())) <= 80


def test_whoever_only_looks_leaves_the_journal_as_it_was(search, options, evaluated, tmp_path):
    before = (search.folder / JOURNAL).read_bytes()
    looks = [["status", "pair"], ["report", "pair"], ["compare", "pair", "--out", str(tmp_path)]]
    for words in [*looks, ["check", "small_spaces:pair"], ["doctor", "small_spaces:pair"]]:
        run = CliRunner().invoke(cli.app, [*words, "--results", str(options.results)])
        assert run.exit_code == 0, run.output
    assert ask(options, "pair", "--rung", "apgd-ce").exit_code == 0
    best = search.best(4)["trial"]
    promote(f"pair/{best}", name="looked at", space=pair, options=options)
    assert (search.folder / JOURNAL).read_bytes() == before


def test_to_look_for_a_search_makes_no_database(tmp_path):
    nowhere = f"sqlite:///{tmp_path}/no.db"
    for words in (["status"], ["status", "s"], ["evaluate", "s"], ["report", "s"]):
        CliRunner().invoke(cli.app, [*words, "--results", str(tmp_path), "--storage", nowhere])
    CliRunner().invoke(
        cli.app, ["evaluate", "0" * 32, "--results", str(tmp_path)]
    )  # perhaps a run's id
    assert not list(tmp_path.iterdir())


def test_another_checkpoint_has_a_ladder_of_its_own_and_leaves_the_run_alone(
    search, options, evaluated
):
    (one, *_) = evaluated.finalists
    before = runs_of(options)[one.trial].data.metrics
    checkpoint = max(one.folder.glob("a1/epoch-*"))
    assert ask(options, str(checkpoint), "--rung", "pgd").exit_code == 0
    assert len(read_ladder(one.folder / f"at-{checkpoint.name}")) == IMAGES
    assert runs_of(options)[one.trial].data.metrics == before


def test_a_network_that_cannot_be_evaluated_is_named_and_the_others_are_evaluated(
    search, options, evaluated
):
    control = search.folder / "trials" / "w4-standard-000"
    kept = {file: file.read_bytes() for file in control.glob("a*/epoch-*/state.pt")}
    for file in kept:
        file.unlink()
    result = ask(options, "pair/w4-standard-000", "--rung", "pgd")
    for file, content in kept.items():
        file.write_bytes(content)
    assert result.exit_code == 1
    assert "w4-standard-000: not evaluated: FileNotFoundError: no valid checkpoint" in " ".join(
        result.output.split()
    )


def test_a_target_is_a_name_a_trial_a_folder_or_a_run(search, options):
    trial = search.folder / "trials" / "w4-000"
    checkpoint = min(trial.glob("a1/epoch-*"))
    found = {
        text: find_target(str(text), options)[0]
        for text in ("pair", "pair/w4-000", search.folder, trial)
    }
    assert list(found.values()) == [
        Target("pair"),
        Target("pair", "w4-000"),
        Target("pair"),
        Target("pair", "w4-000"),
    ]
    elsewhere = RunOptions()
    target, there = find_target(str(checkpoint), elsewhere)
    assert target == Target("pair", "w4-000", int(checkpoint.name[6:]))
    assert there.results == search.folder.parent
    runs = runs_of(options)
    which = search.record.identity  # a run says of which search of that name it is
    assert find_target(runs["w8-001"].info.run_id, options)[0] == Target(
        "pair", "w8-001", identity=which
    )
    assert find_target(runs["search"].info.run_id, options)[0] == Target("pair", identity=which)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["pair", "--rung", "fgsm"],
            "expected --rung out of pgd, two-losses, apgd-ce, apgd, autoattack, got 'fgsm'",
        ),
        (["pair", "--top", "0"], "expected --top of at least 1, got 0"),
        (["pair/w5-000"], "expected a finished trial, got w5-000: finished are w4-000"),
        (["nosuch"], "expected the name of a search, got 'nosuch'"),
        (["0" * 32], "expected the run of a trial in sqlite"),
        (["/"], "expected a path inside a search's results, got /"),
    ],
)
def test_a_target_that_is_none_is_refused_before_anything_starts(search, options, words, message):
    result = ask(options, *words)
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)


def test_the_checks_are_kept_beside_the_ladder(evaluated):
    for one in evaluated.finalists:
        checks = json.loads((one.folder / "masking.json").read_text())
        assert [check["name"] for check in checks] == [
            check.name for check in evaluated.checks[one.trial]
        ]
        assert (one.folder / "figures" / "ladder.png").stat().st_size > 1000
