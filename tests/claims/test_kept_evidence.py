"""RESULTS' tables are what the evidence that is kept makes of them."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path

import pandas as pd
import pytest

from robsearch.claims.images import COLUMNS, IMAGES, NUMBER, from_bits

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
EVIDENCE = runpy.run_path(str(BENCHMARKS / "evidence.py"))
KEPT = sorted(each for each in EVIDENCE["KEPT"].iterdir() if each.is_dir())
MEGABYTES = 12


def test_results_are_what_the_evidence_makes() -> None:
    results = EVIDENCE["RESULTS"].read_text()
    assert KEPT
    assert EVIDENCE["written"](results, EVIDENCE["KEPT"]) == results


@pytest.fixture(scope="module")
def section() -> str:
    """Of the first evidence, which takes seconds to judge."""
    return EVIDENCE["section"](KEPT[0])


@pytest.mark.parametrize("column", ["test_last/robust_accuracy", "lam"])
def test_one_altered_row_makes_other_tables(tmp_path: Path, section: str, column: str) -> None:
    folder = shutil.copytree(KEPT[0], tmp_path / KEPT[0].name)
    file = folder / "trials.parquet"
    trials = pd.read_parquet(file)
    trials.loc[trials.index[0], column] *= 1.5
    trials.to_parquet(file, index=False)
    assert EVIDENCE["section"](folder) != section


@pytest.mark.parametrize("folder", KEPT, ids=lambda folder: folder.name)
def test_accuracies_are_those_of_the_images(folder: Path) -> None:
    keys = ["experiment", "trial"]
    trials = pd.read_parquet(folder / "trials.parquet").set_index(keys)
    images = pd.read_parquet(folder / "images.parquet").set_index(keys)
    assert set(images.index) == set(trials.index)
    for metric in COLUMNS:
        column = images.get(f"{IMAGES}{metric}", pd.Series(dtype=object)).dropna()
        assert len(column) == len(images) or metric.startswith("test_last")
        for training, bits in column.items():
            share = from_bits(bits, images.loc[training, NUMBER]).mean()
            assert share == pytest.approx(trials.loc[training, metric], abs=1e-6)


@pytest.mark.parametrize("folder", KEPT, ids=lambda folder: folder.name)
def test_facts_say_when_and_on_what(folder: Path) -> None:
    facts = json.loads((folder / "facts.json").read_text())
    assert "written on" in facts.pop("plan")
    trials = pd.read_parquet(folder / "trials.parquet")
    assert set(facts) == set(trials["experiment"])
    for of_experiment in facts.values():
        assert of_experiment["commits"]
        assert of_experiment["days"]
        assert of_experiment["devices"]


def test_the_evidence_is_small() -> None:
    size = sum(file.stat().st_size for file in EVIDENCE["KEPT"].rglob("*") if file.is_file())
    assert size < MEGABYTES * 2**20
