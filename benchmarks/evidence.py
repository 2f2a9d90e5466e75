"""The trainings behind verdicts in ``RESULTS.md``, and the tables that are made of them.

    python benchmarks/evidence.py                      writes the tables in RESULTS.md anew
    python benchmarks/evidence.py --check              exit code 1 where they are not what it makes
    python benchmarks/evidence.py --keep FOLDER        keeps what a validation found

A validation's evidence lies in ``benchmarks/evidence/NAME``: ``trials.parquet`` (one row per
training), ``epochs.parquet`` (one row per training and epoch), ``images.parquet`` (per training one
bit per image of ``test``, for natural and for robust accuracy of its best epoch) and ``facts.json``
(when, by what and on what it was trained). ``NAME`` is ``PAPER.PRESET.DESIGN``.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from robsearch.claims.claim import Evidence, Verdict, judge
from robsearch.claims.experiment import Findings, PaperStudy, pooled
from robsearch.claims.page import estimated, why
from robsearch.claims.registration import REGISTRATION
from robsearch.papers.presets import designs

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
RATES = ("natural_accuracy", "robust_accuracy")


# --- keeping ---


def keep(validation: Path, into: Path) -> None:
    """Copies what verdicts and tables are computed from, out of a validation's folder and those of
    its searches beside it."""
    into.mkdir(parents=True, exist_ok=True)
    trials = pd.read_parquet(validation / "trials.parquet")[list(TRIALS)]
    epochs = pd.read_parquet(validation / "epochs.parquet")[list(EPOCHS)]
    of_trial = epochs["trial"].isin(trials["trial"])
    _write(trials, into / "trials.parquet")
    _write(epochs[of_trial], into / "epochs.parquet")
    rows = [
        {"experiment": experiment, "trial": trial, **_bits(validation, experiment, trial)}
        for experiment, trial in trials[["experiment", "trial"]].itertuples(index=False)
    ]
    _write(pd.DataFrame(rows), into / "images.parquet")
    facts = {**_facts(validation, trials), "registration": _registration(validation)}
    (into / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")


def _write(frame: pd.DataFrame, file: Path) -> None:
    frame.to_parquet(file, index=False, compression="zstd", compression_level=19)


def _bits(validation: Path, experiment: str, trial: str) -> Mapping[str, bytes]:
    """One bit per image of ``test``, in its order, eight a byte."""
    search = validation.with_name(f"{validation.name}-{experiment}")
    images = pd.read_parquet(search / "trials" / trial / "test.parquet").sort_values("index")
    return {rate: np.packbits(images[rate].to_numpy() > 0.5).tobytes() for rate in RATES}


def _facts(validation: Path, trials: pd.DataFrame) -> Mapping[str, object]:
    """Commits, versions and days of the attempts at all trainings."""
    commits, days, versions = set(), set(), set()
    for experiment, names in trials.groupby("experiment")["trial"]:
        search = validation.with_name(f"{validation.name}-{experiment}")
        for name in names:
            for attempt in (search / "trials" / name).glob("a*/attempt.json"):
                told = json.loads(attempt.read_text())
                commits.add(told["commit"][:12])
                versions.add(f"torch {told['versions']['torch']}")
                days.add(pd.Timestamp(attempt.stat().st_mtime, unit="s").date().isoformat())
    return {
        "days": sorted(days),
        "commits": sorted(commits),
        "versions": sorted(versions),
        "hardware": f"{os.cpu_count()} CPU cores, no GPU, one thread a training",
    }


def _registration(validation: Path) -> str:
    kept = json.loads((validation / REGISTRATION).read_text())
    return f"{kept['digest']}, written on {kept['written']} after {kept['trained']} trainings"


# --- judging ---


def study_of(name: str) -> PaperStudy:
    """The study whose evidence has this name."""
    paper, preset, *design = name.split(".")
    (study,) = designs(paper, preset, *design).values()
    return study


def findings_of(folder: Path) -> Findings:
    """What was kept, by experiment."""
    trials = pd.read_parquet(folder / "trials.parquet")
    epochs = pd.read_parquet(folder / "epochs.parquet")
    return {
        str(name): Evidence(rows, epochs[epochs["experiment"] == name])
        for name, rows in trials.groupby("experiment", sort=False)
    }


def section(folder: Path) -> str:
    """What RESULTS says of one validation, as Markdown."""
    study = study_of(folder.name)
    findings = findings_of(folder)
    facts = json.loads((folder / "facts.json").read_text())
    lines = [*_what(folder.name, findings, facts), ""]
    lines += markdown(_verdict_table(judge(study.claims, pooled(findings))))
    for caption, frame in study.tables(findings).items():
        lines += ["", f"{caption}:", "", *markdown(frame)]
    return "\n".join(lines)


def _what(name: str, findings: Findings, facts: Mapping[str, object]) -> Iterator[str]:
    paper, preset, *design = name.split(".")
    option = f" --design {design[0]}" if design else ""
    counts = ", ".join(f"{len(each.trials)} in {name}" for name, each in findings.items())
    yield f"`robsearch validate {paper} --preset {preset}{option}`. Trainings: {counts}."
    told = {key: ", ".join(value) for key, value in facts.items() if isinstance(value, list)}
    yield (
        f"Trained {told['days']} at {told['commits']} ({told['versions']}; {facts['hardware']}). "
        f"Plan: {facts['registration']}."
    )


def _verdict_table(verdicts: list[Verdict]) -> pd.DataFrame:
    rows = []
    for verdict in verdicts:
        parts = []
        for part in verdict.parts:
            unit = f" {part.effect.unit}" if part.effect.unit else ""
            parts.append(f"{part.effect.what}: {estimated(part)}{unit} (n = {part.estimate.n})")
        told = "; ".join([*parts, why(verdict)]).removesuffix("; ")
        claim = f"{verdict.claim.name} {verdict.claim.sentence}"
        rows.append({"claim": claim, "verdict": f"**{verdict.answer}**", "effects": told})
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
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="of a validation")
    parser.add_argument("--name", help="PAPER.PRESET.DESIGN of what is kept")
    options = parser.parse_args()
    if options.keep:
        keep(options.keep, KEPT / options.name)
    before = RESULTS.read_text()
    after = written(before, KEPT)
    if options.check:
        lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="")
        sys.exit("\n".join(lines) or 0)
    RESULTS.write_text(after)


if __name__ == "__main__":
    main()
