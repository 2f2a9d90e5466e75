"""What the search spaces that users copy ask of their user."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
import torch
from PIL import Image

from robsearch import InputError
from robsearch.protocols import Split
from robsearch.search import ResultsStore
from robsearch.spaces.checking.first_step import Task, try_shapes
from robsearch.study import SearchRecord, open_storage
from search_spaces.imagenet import imagenet
from search_spaces.war import target


def test_war_says_that_the_thin_search_must_have_finished_a_trial(tmp_path: Path) -> None:
    storage = open_storage(None, tmp_path / "thin")
    SearchRecord("thin", "search_spaces.war:thin", (16.0,), 0, 10, "", {}).create(storage)
    with (
        ResultsStore(tmp_path).current(),
        pytest.raises(InputError, match="a finished trial of width 16 in thin, got none: run"),
    ):
        target()


def test_imagenet_takes_any_folder_and_its_transformers_fit_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("timm", reason="the extra timm is not installed")
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            folder = tmp_path / "imagenet" / split / name
            folder.mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (260, 240), (number, 2, 3)).save(folder / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    for width in imagenet.widths:
        recipe = imagenet.define(optuna.trial.FixedTrial({"lam": 6.0}), width)
        assert recipe.data.spec.shape == (3, 224, 224)
        few = Split(torch.zeros(4, 3, 224, 224, dtype=torch.uint8), torch.arange(4) % 2)
        outcome = try_shapes(Task(recipe, few))
        assert outcome.problems == ()
        assert outcome.notes == ("only its shapes were tried",)
