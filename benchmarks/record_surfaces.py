"""Records how robust accuracy answers to lambda at each width: real trainings, as tables that
samplers are judged on.

Trains with ``robsearch.train``, without Ray, one process and one thread for each training, and
writes ``benchmarks/data/{digits,fashion}.parquet``: one row per (width, lam, seed, epoch) with the
rates on the validation split, the two loss terms and the seconds of the epoch; a training's value
is its best epoch's ``val/robust_accuracy``. At one width every lambda gets the same seeds, so
curves can be compared seed by seed; three of the widths get five seeds, the others three. A
training whose loss ceased to be finite ends with a row of NaN. The file is rewritten after each
training, seed by seed: a run that was killed goes on where it was, and what it left is a table of
fewer seeds. The metadata has commit, date, versions, hardware, recipe, judge and grid.

- ``digits`` is the quickstart's recipe: 500 images, MLP of depth 2, linf eps 0.15, 60 epochs, 648
  validation images.
- ``fashion`` is a SmallCNN on Fashion-MNIST (``ROBSEARCH_DATA``), made small enough for one core:
  1,000 training and 500 validation images, linf eps 0.1, 5 attack steps, 16 epochs.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from robsearch import PGD, SGD, TRADES, FashionMNIST, Fixed, Piecewise, Recipe, SmallCNN, train
from robsearch.training.trainer import NonFiniteLossError
from search_spaces import quickstart

DATA = Path(__file__).parent / "data"
COLUMNS = {
    "val/robust_accuracy": "val/robust_accuracy",
    "val/natural_accuracy": "val/natural_accuracy",
    "val/stability": "val/stability",
    "train/natural_loss": "train/natural_loss",
    "train/robust_loss": "train/robust_loss",
    "seconds": "time/epoch_seconds",
}
"""Column by metric of the trainer."""
TYPES = {"width": "float32", "lam": "float32", "seed": "int8", "epoch": "int16"}
LIBRARIES = ("robsearch", "torch", "numpy")
Training = tuple[float, float, int]
"""Width, lambda and seed."""


def fashion(width: float, lam: float) -> Recipe:
    """Fashion-MNIST, reduced to what one core trains in a quarter of a minute at the widest net."""
    return Recipe(
        model=SmallCNN(width=width),
        data=FashionMNIST(train=1000, val=500),
        attack=PGD(eps=0.1, step_size=0.025, steps=5, start="gaussian"),
        objective=TRADES(),
        lam=Fixed(lam),
        optimiser=SGD(lr=0.05, momentum=0.9, weight_decay=5e-4),
        learning_rate=Piecewise(drops=(0.5, 0.75), factor=0.1),
        epochs=16,
        batch_size=64,
    )


@dataclass(frozen=True)
class Surface:
    """A table to record: every width with every lambda and each of its seeds.

    Attributes:
        seeds: how many at each of ``widths``.
    """

    name: str
    recipe: Callable[[float, float], Recipe]
    widths: tuple[float, ...]
    lams: tuple[float, ...]
    seeds: tuple[int, ...]

    def trainings(self) -> Iterator[Training]:
        """Seed by seed, so that a part of the table is a smaller table."""
        for seed in range(max(self.seeds)):
            for width, seeds in zip(self.widths, self.seeds, strict=True):
                if seed < seeds:
                    yield from ((width, lam, seed) for lam in self.lams)

    def quick(self) -> Surface:
        """Two widths, three lambdas, one seed, two epochs."""

        def short(width: float, lam: float) -> Recipe:
            return dataclasses.replace(self.recipe(width, lam), epochs=2)

        return Surface(self.name, short, self.widths[:2], self.lams[::4][:3], (1, 1))


def lams(n: int) -> tuple[float, ...]:
    """Evenly spaced in log lambda from 0.5 to 64."""
    return tuple(float(f"{lam:.4g}") for lam in np.geomspace(0.5, 64, n))


SURFACES = (
    Surface("digits", quickstart.recipe, (16, 32, 64, 128, 256), lams(11), (5, 3, 5, 3, 5)),
    Surface("fashion", fashion, (0.25, 0.5, 1, 2), lams(9), (5, 3, 5, 5)),
)
_ASKED: dict[str, Surface] = {}
"""By name; a forked process finds here what it cannot be sent."""


def rows(job: tuple[str, Training]) -> pd.DataFrame:
    """One training, an epoch a row."""
    torch.set_num_threads(1)
    width, lam, seed = job[1]
    recipe = dataclasses.replace(_ASKED[job[0]].recipe(width, lam), seed=seed)
    epochs = []
    try:
        for epoch in train(recipe):
            epochs.append([epoch.metrics[metric] for metric in COLUMNS.values()])  # noqa: PERF401, keeps what came before
    except NonFiniteLossError:
        epochs.append([float("nan")] * len(COLUMNS))
    frame = pd.DataFrame(epochs, columns=list(COLUMNS)).astype("float32")
    keys = pd.DataFrame(
        {"width": width, "lam": lam, "seed": seed, "epoch": np.arange(1, len(epochs) + 1)}
    )
    return pd.concat([keys.astype(TYPES), frame], axis=1)


def notes(surface: Surface) -> dict[str, str]:
    """The metadata of a file; ``recipe`` and ``judge`` are those of the first training."""
    commit = ["git", "-C", str(DATA.parent), "rev-parse", "--short=12", "HEAD"]
    recipe = surface.recipe(surface.widths[0], surface.lams[0])
    return {
        "commit": subprocess.run(commit, capture_output=True, text=True).stdout.strip(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": " ".join(f"{name} {version(name)}" for name in LIBRARIES)
        + f" python {platform.python_version()}",
        "hardware": f"{platform.machine()}, {os.cpu_count()} CPU cores, 1 thread a training",
        "recipe": json.dumps(recipe.flat()),
        "judge": repr(recipe.resolved_eval_attack),
        "grid": json.dumps(
            {"widths": surface.widths, "lams": surface.lams, "seeds": surface.seeds}
        ),
    }


def write(frame: pd.DataFrame, about: dict[str, str], path: Path) -> None:
    """Beside its name first: a killed run leaves the file of one training before."""
    ordered = frame.sort_values(["width", "lam", "seed", "epoch"]).reset_index(drop=True)
    table = pa.Table.from_pandas(ordered, preserve_index=False).replace_schema_metadata(about)
    beside = path.with_suffix(".part")
    pq.write_table(table, beside, compression="zstd", compression_level=19)
    beside.replace(path)


def known(path: Path, about: dict[str, str]) -> pd.DataFrame:
    """What was recorded before; a file of another recipe is refused."""
    if not path.exists():
        return pd.DataFrame()
    table = pq.read_table(path)
    metadata = table.schema.metadata
    judge = metadata.get(b"judge", b"PGD").decode()  # of before the file named it
    was, now = (json.loads(recipe) for recipe in (metadata[b"recipe"], about["recipe"]))
    was["judge"], now["judge"] = judge, about["judge"]
    # A field that only one of them has came with another version of robsearch, and has its default.
    if changed := sorted(name for name in was.keys() & now.keys() if was[name] != now[name]):
        sys.exit(
            f"{path}: expected trainings of the present recipe, got another {changed}. Move the "
            "file away."
        )
    return table.to_pandas()


def record(surface: Surface, folder: Path, workers: int) -> None:
    path, about = folder / f"{surface.name}.parquet", notes(surface)
    frame = known(path, about)
    done = set() if frame.empty else set(zip(frame.width, frame.lam, frame.seed, strict=True))
    left = [
        t for t in surface.trainings() if (np.float32(t[0]), np.float32(t[1]), t[2]) not in done
    ]
    print(f"{surface.name}: {len(left)} trainings to go, to {path}", flush=True)
    _ASKED[surface.name] = surface
    # The first optimiser imports torch's compiler: here, not in each of the forked processes.
    recipe = surface.recipe(surface.widths[0], surface.lams[0])
    recipe.optimiser.build(torch.nn.Linear(1, 1))
    with multiprocessing.get_context("fork").Pool(workers, maxtasksperchild=1) as pool:
        for n, found in enumerate(pool.imap(rows, [(surface.name, t) for t in left]), start=1):
            frame = pd.concat([frame, found])
            write(frame, about, path)
            width, lam, seed = found.width.iloc[0], found.lam.iloc[0], found.seed.iloc[0]
            best = found["val/robust_accuracy"].max()
            took = found.seconds.sum()
            print(
                f"{n}/{len(left)} width {width:g} lam {lam:g} seed {seed}: {best:.4f}, "
                f"{took:.1f} s",
                flush=True,
            )


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument(
        "--quick", action="store_true", help="a few short trainings, into a temporary folder"
    )
    options.add_argument(
        "--only", choices=[surface.name for surface in SURFACES], help="one of the tables"
    )
    options.add_argument("--workers", type=int, default=1, help="trainings at a time")
    options.add_argument("--out", type=Path, help="folder of the tables (default: benchmarks/data)")
    asked = options.parse_args()
    folder = asked.out or (Path(tempfile.mkdtemp()) if asked.quick else DATA)
    folder.mkdir(parents=True, exist_ok=True)
    for surface in SURFACES:
        if asked.only in (None, surface.name):
            record(surface.quick() if asked.quick else surface, folder, asked.workers)


if __name__ == "__main__":
    main()
