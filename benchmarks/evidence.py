"""The trainings behind verdicts in ``RESULTS.md``, and the tables that are made of them.

    python benchmarks/evidence.py                      writes the tables in RESULTS.md anew
    python benchmarks/evidence.py --check              exit code 1 where they are not what it makes
    python benchmarks/evidence.py --keep war.wrong-labels.main --validation war-wrong-labels-main
                                                       keeps what a validation found

A validation's evidence lies in ``benchmarks/evidence/NAME``: ``trials.parquet`` (one row per
training), ``epochs.parquet`` (one row per training and epoch), ``images.parquet`` (per training one
bit per image of ``test``, for natural and for robust accuracy of its best epoch and, where that is
known, of its last) and ``facts.json`` (when, by what and on what it was trained). ``NAME`` is
``PAPER.PRESET.DESIGN``.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from robsearch.claims.claim import Evidence, Verdict, judge
from robsearch.claims.experiment import Findings, PaperStudy, by_experiment, pooled
from robsearch.claims.images import IMAGES, NUMBER, accuracy_effect
from robsearch.claims.page import estimated, why
from robsearch.claims.registration import REGISTRATION, Registration
from robsearch.claims.seeds import contrast
from robsearch.claims.statistics import estimate
from robsearch.data import load
from robsearch.metrics import APART
from robsearch.papers.presets import designs
from robsearch.papers.recipes import final
from robsearch.papers.war.claims import GRID, ORACLE, ROBUST
from robsearch.papers.war.experiments import at_width
from robsearch.papers.war.tables import percent
from robsearch.papers.war.ways import EARLY, TWO, ways_frame
from robsearch.protocols import Split
from robsearch.search import Search, load_search
from robsearch.training.evaluation import judge as judge_net
from robsearch.trials.loading import newest_checkpoint

HERE = Path(__file__).parent
KEPT = HERE / "evidence"
RESULTS = HERE / "RESULTS.md"
END = "<!-- end of evidence -->"
IDENTITY = ("experiment", "trial", "arm", "width", "seed")
TRIALS = (
    *IDENTITY,
    "lam",
    "collapsed",
    "gradients",
    "operations",
    "seconds",
    "test/robust_accuracy",
    "test/natural_accuracy",
    "test/stability",
    "test_last/robust_accuracy",
    "test_last/natural_accuracy",
    "test_last/stability",
)
EPOCHS = (
    *IDENTITY,
    "epoch",
    "progress",
    "train/natural_loss",
    "train/robust_loss",
    "train/lam",
    "val/robust_accuracy",
)
HARDER_SEEDS = 3
HARDER_IMAGES = 1000


# --- keeping ---


def keep(name: str, validation: str, results: Path) -> None:
    """Keeps what verdicts and tables are computed from, of the experiments whose trainings have all
    been tried; of others it keeps what it had.

    Args:
        name: of the evidence.
        validation: its searches are ``VALIDATION-EXPERIMENT``.
        results: the results folder.
    """
    into = KEPT / name
    into.mkdir(parents=True, exist_ok=True)
    findings = dict(findings_of(into)) if (into / "trials.parquet").exists() else {}
    facts = json.loads((into / "facts.json").read_text()) if findings else {"plan": ""}
    for experiment in study_of(name).experiments:
        search = _ended(f"{validation}-{experiment.name}", experiment.trainings, results)
        if search is None:
            continue
        trials, epochs = experiment.evidence(search, findings)
        trials = trials.dropna(subset=["test/robust_accuracy"])
        findings[experiment.name] = Evidence(trials, epochs)
        folders = [search.folder / "trials" / trial for trial in trials["trial"]]
        facts[experiment.name] = _facts(folders)
    plan = results / validation / REGISTRATION
    if plan.exists():
        facts["plan"] = Registration(**json.loads(plan.read_text())).sentence()
    trials, epochs = pooled(findings)
    _write(trials[list(TRIALS)], into / "trials.parquet")
    kept = [name for name in (*EPOCHS, *APART) if name in epochs]
    _write(_compact(epochs[kept]), into / "epochs.parquet")
    of_images = [name for name in trials.columns if name.startswith((IMAGES, NUMBER))]
    _write(trials[["experiment", "trial", *of_images]], into / "images.parquet")
    (into / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")


def _ended(name: str, trainings: int, results: Path) -> Search | None:
    """A search whose trainings have all been tried."""
    if not (results / name).exists():
        return None
    search = load_search(name, results)
    running = search.trials["state"].eq("RUNNING").any()
    return None if running or len(search.trials) < trainings else search


def _compact(epochs: pd.DataFrame) -> pd.DataFrame:
    """With single-precision numbers, which losses and rates do not outdo."""
    floats = epochs.select_dtypes("float64").columns.difference(["width", "progress"])
    return epochs.astype(dict.fromkeys(floats, "float32"))


def _write(frame: pd.DataFrame, file: Path) -> None:
    frame.to_parquet(file, index=False, compression="zstd", compression_level=19)


def _facts(folders: Iterable[Path]) -> Mapping[str, object]:
    """Days, commits, versions and devices of the attempts at an experiment's trainings."""
    days, commits, versions, devices = set(), set(), set(), set()
    for folder in folders:
        for file in folder.glob("a*/attempt.json"):
            attempt = json.loads(file.read_text())
            commits.add(attempt["commit"])
            devices.add(attempt["device"])
            versions.add(f"torch {attempt['versions']['torch']}")
            days.add(pd.Timestamp(file.stat().st_mtime, unit="s").date().isoformat())
    return {
        "days": sorted(days),
        "commits": sorted(commits),
        "versions": sorted(versions),
        "devices": sorted(devices),
    }


def attack_harder(name: str, validation: str, results: Path) -> None:
    """Attacks the net of each way by APGD on the cross-entropy and on targets, in the first
    replicates and on some images of ``test``; what is kept is rewritten after each net, so that a
    run that was killed goes on."""
    study = study_of(name)
    folder = KEPT / name
    file = folder / "harder.parquet"
    ways = ways_frame(pooled(findings_of(folder)), study.thin, study.wide)
    ways = ways[ways["seed"] < HARDER_SEEDS]
    done = pd.read_parquet(file) if file.exists() else pd.DataFrame()
    rows = done.to_dict("records")
    ended = {(row["seed"], row["arm"]) for row in rows}
    torch.set_num_threads(1)
    for way in ways.to_dict("records"):
        if (way["seed"], way["arm"]) in ended:
            continue
        trial = results / f"{validation}-{way['experiment']}" / "trials" / way["trial"]
        saved = newest_checkpoint(trial)
        assert saved is not None, trial
        state = saved.state if way["column"].startswith("test_last") else saved.best_state
        base = study.base
        model = at_width(base, study.wide, 1.0).model.build(base.data.spec)
        model.load_state_dict(state["judged"])
        test = load(replace(base.data, draw=0))["test"]
        # Evenly spaced: the first half of MNIST's test images is easier than the second.
        step = len(test.labels) // HARDER_IMAGES
        some = Split(test.images[::step], test.labels[::step])
        shares = {
            kind: judge_net(model, some, attack)["robust_accuracy"]
            for kind, attack in (
                ("two_losses", base.resolved_test_attack),
                ("apgd", final(base.attack.eps)),
            )
        }
        rows.append({"seed": way["seed"], "arm": way["arm"], **shares})
        print(rows[-1], flush=True)
        _write(pd.DataFrame(rows), file)


# --- judging ---


def study_of(name: str) -> PaperStudy:
    """The study whose evidence has this name."""
    paper, preset, *design = name.split(".")
    (study,) = designs(paper, preset, *design).values()
    return study


def findings_of(folder: Path) -> Findings:
    """What was kept, by experiment."""
    trials = pd.read_parquet(folder / "trials.parquet")
    images = pd.read_parquet(folder / "images.parquet")
    trials = trials.merge(images, on=["experiment", "trial"], how="left")
    return by_experiment(Evidence(trials, pd.read_parquet(folder / "epochs.parquet")))


def section(folder: Path) -> str:
    """What RESULTS says of one validation, as Markdown."""
    study = study_of(folder.name)
    findings = findings_of(folder)
    facts = json.loads((folder / "facts.json").read_text())
    lines = [*_what(folder.name, findings, facts), ""]
    lines += markdown(_verdict_table(judge(study.claims, pooled(findings))))
    for caption, frame in study.tables(findings).items():
        lines += ["", f"{caption}:", "", *markdown(frame)]
    if study.experiments[0].name == GRID and getattr(study, "ways", False):
        lines += ["", *_over_images(ways_frame(pooled(findings), study.thin, study.wide), findings)]
    harder = folder / "harder.parquet"
    if harder.exists():
        lines += ["", *_harder(pd.read_parquet(harder))]
    return "\n".join(lines)


def _over_images(ways: pd.DataFrame, findings: Findings) -> Iterator[str]:
    """The ways' nets at their best epoch, of which each image is known: how much wider an interval
    is that holds for other images too."""
    trials = pooled(findings).trials.set_index(["experiment", "trial"])
    nets = trials.loc[pd.MultiIndex.from_frame(ways[["experiment", "trial"]])]
    nets = nets.reset_index(drop=True).assign(arm=ways["arm"].to_numpy())
    yield "The same nets at the epoch that is best on val, with intervals over replicates, and over"
    yield "replicates and images of test:"
    yield ""
    rows = []
    for other in (ORACLE, TWO):
        for arm in ways["arm"].unique():
            if arm in (EARLY, other):  # early stopping is the thin lambda's net there
                continue
            effect = accuracy_effect(arm, nets, ROBUST, arm, other, 0.0)
            if effect.exact is None:
                continue
            over_replicates = estimate(effect.per_seed).text()
            row = {"way": arm, "less": other, "over replicates": over_replicates}
            rows.append({**row, "over replicates and images": effect.exact.text()})
    yield from markdown(pd.DataFrame(rows))


def _harder(nets: pd.DataFrame) -> Iterator[str]:
    """The ways under the attack that the verdicts rest on, and under APGD, on the same images."""
    seeds = nets["seed"].nunique()
    yield (
        f"The same nets under APGD (cross-entropy, then targets; {HARDER_IMAGES:,} images, "
        f"{seeds} replicates):"
    )
    yield ""
    attacks = {"two_losses": "PGD-20, two losses", "apgd": "APGD"}
    rows = []
    for arm, of_arm in nets.groupby("arm", sort=False):
        means = {heading: f"{100 * of_arm[kind].mean():.2f}" for kind, heading in attacks.items()}
        against = {}
        for kind, heading in attacks.items():
            paired = nets.assign(width=0.0)
            less = percent(contrast(paired, kind, str(arm), ORACLE)) if arm != ORACLE else ""
            against[f"less {ORACLE}, {heading}"] = less
        rows.append({"way": arm, **means, **against})
    yield from markdown(pd.DataFrame(rows))


def _what(
    name: str,
    findings: Findings,
    facts: Mapping[str, Any],
) -> Iterator[str]:
    """By which command, when and on what it was trained."""
    paper, preset, *design = name.split(".")
    option = f" --design {design[0]}" if design else ""
    yield f"`robsearch validate {paper} --preset {preset}{option}`. Plan: {facts['plan']}."
    yield ""
    for experiment, evidence in findings.items():
        of_it = facts[experiment]
        listed = {key: ", ".join(of_it[key]) for key in ("days", "commits", "versions", "devices")}
        yield (
            f"- {experiment}: {len(evidence.trials)} trainings, on {listed['days']} at "
            f"{listed['commits']} ({listed['versions']}; {listed['devices']})"
        )


def _verdict_table(verdicts: list[Verdict]) -> pd.DataFrame:
    rows = []
    for verdict in verdicts:
        parts = []
        for part in verdict.parts:
            unit = f" {part.effect.unit}" if part.effect.unit else ""
            parts.append(f"{part.effect.what}: {estimated(part)}{unit} (n = {part.estimate.n})")
        effects = "; ".join([*parts, why(verdict)]).removesuffix("; ")
        claim = f"{verdict.claim.name} {verdict.claim.sentence}"
        rows.append({"claim": claim, "verdict": f"**{verdict.answer}**", "effects": effects})
    return pd.DataFrame(rows)


def markdown(frame: pd.DataFrame) -> Iterator[str]:
    """A table's lines."""
    heads = list(map(str, frame.columns))
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for row in frame.astype(str).to_numpy().tolist():
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def written(results: str, kept: Path) -> str:
    """The text of RESULTS with the sections of all evidence as it makes them.

    Raises:
        SystemExit: some evidence has no section.
    """
    for folder in sorted(each for each in kept.iterdir() if each.is_dir()):
        begin = f"<!-- evidence: {folder.name} -->"
        if begin not in results:
            raise SystemExit(f"expected a line {begin} in RESULTS.md, got none: write one")
        before, rest = results.split(begin)
        _, after = rest.split(END, 1)
        results = f"{before}{begin}\n{section(folder)}\n{END}{after}"
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    parser.add_argument("--keep", metavar="NAME", help="PAPER.PRESET.DESIGN, from --validation")
    parser.add_argument("--harder", metavar="NAME", help="attacks what --keep kept by APGD, too")
    parser.add_argument("--validation", help="its name, such as war-wrong-labels-main")
    parser.add_argument("--results", type=Path, default=Path("robsearch-results"))
    options = parser.parse_args()
    if options.keep:
        keep(options.keep, options.validation, options.results)
    if options.harder:
        attack_harder(options.harder, options.validation, options.results)
    before = RESULTS.read_text()
    after = written(before, KEPT)
    if options.check:
        lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="")
        sys.exit("\n".join(lines) or 0)
    RESULTS.write_text(after)


if __name__ == "__main__":
    main()
