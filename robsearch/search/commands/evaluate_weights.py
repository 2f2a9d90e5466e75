"""``robsearch evaluate --model --weights``: networks that another program has trained, under the
same ladder, the same checks and the same measures as those of a search; no search and no cluster is
needed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from robsearch.data import load
from robsearch.errors import count, counted, number, refuse_unless
from robsearch.measures import LOG10
from robsearch.metrics import Metrics, paired_difference, wilson
from robsearch.parts.attacks import PGD
from robsearch.protocols import Dataset, Split
from robsearch.recipe import default_measures
from robsearch.search.commands.foreign_networks import (
    Builder,
    ForeignNetwork,
    check_networks,
    folder_name,
    foreign_networks,
    model_builder,
)
from robsearch.search.commands.ladders import progress_bars
from robsearch.search.grid import PlainTextConsole
from robsearch.training.evaluation import best_device, sampled, to_device
from robsearch.trials.evaluating import Progress, evaluate_network, read_checks
from robsearch.trials.figures import draw
from robsearch.trials.files import (
    DamagedError,
    read_json,
    read_parquet,
    replacing,
    unless_damaged,
    write_json,
)
from robsearch.trials.ladder.digests import digest
from robsearch.trials.ladder.results import read_ladder, robust_by_rung
from robsearch.trials.ladder.running import RUNGS
from robsearch.trials.masking import Check
from robsearch.trials.measurement import WHOLE, Measurement, averages, finite
from robsearch.trials.selection import has_collapsed

STEPS = 20
FOLDER = Path("robsearch-networks")
"""Where the networks' folders lie, unless a person says where."""
MEASURED = "measures.json"
"""The last file of a network that is written: the averages of its measures, and what is amiss."""
MEASURED_EXAMPLES = 1000
"""Images on which measures are taken, as of a trial."""
LEVEL = 0.95

Numbers: TypeAlias = NDArray[np.float64]


class Interval(NamedTuple):
    """A number and both ends of its 95 % interval over test images; NaN for ends that there are
    not."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Quantity:
    """One line of the comparison.

    Attributes:
        name: such as ``robust accuracy, apgd`` or ``margin/logit``.
        unit: ``%``, or what a measure says.
        values: of each network.
        differences: of each network but the first, less the first, on the same images; None where
            there is nothing by image.
    """

    name: str
    unit: str
    values: tuple[Interval, ...]
    differences: tuple[Interval | None, ...]


@dataclass(frozen=True)
class EvaluatedNetwork:
    """What came of one network.

    Attributes:
        network: with its weights.
        folder: where its tables and figures lie.
        ladder: one row per test image.
        checks: the signs of gradient masking that were looked for.
        test: one row per test image: rates, and a column for each measure.
        metrics: the averages of all measures, under their names in MLflow.
        notes: what a reader must know.
    """

    network: ForeignNetwork
    folder: Path
    ladder: pa.Table
    checks: list[Check]
    test: pa.Table
    metrics: Metrics
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of the network."""
        return self.network.name


@dataclass(frozen=True)
class WeightsEvaluation:
    """Networks side by side, on the same images.

    Attributes:
        networks: in the order in which they were given.
        data: the name of the data set, in small letters.
        images: how many of its test images.
        of: how many there are.
        attack: the lowest rung; its eps and norm hold for all.
        rung: how far the ladder went.
        quantities: what is compared.
        out: the folder of all.
    """

    networks: tuple[EvaluatedNetwork, ...]
    data: str
    images: int
    of: int
    attack: PGD
    rung: str
    quantities: tuple[Quantity, ...]
    out: Path

    @property
    def ladders(self) -> dict[str, pa.Table]:
        """By the networks' names."""
        return {evaluated.name: evaluated.ladder for evaluated in self.networks}

    @property
    def checks(self) -> dict[str, list[Check]]:
        """By the networks' names."""
        return {evaluated.name: evaluated.checks for evaluated in self.networks}


def evaluate_weights(
    models: str | Builder | Sequence[str | Builder],
    weights: str | Path | Sequence[str | Path],
    data: Dataset,
    *,
    eps: float = 8 / 255,
    norm: str = "linf",
    rung: str = "apgd",
    images: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    key: str | None = None,
    out: Path = FOLDER,
    console: Console | None = None,
) -> WeightsEvaluation:
    """Attacks networks of any origin up to a rung of the ladder on ``test``, looks for gradient
    masking, and measures margins and Lipschitz estimates.

    It runs in this process, on the first GPU if there is one. What an earlier call finished is not
    done again. The files of weights are read and not run.

    Args:
        models: what builds the net, or one for each file of ``weights``: ``module:name`` or
            ``WideResNet(28, 4)`` as text, a robsearch architecture, or a function without arguments
            that returns a net or an architecture.
        weights: files with state dicts.
        data: whose ``test`` judges.
        eps: radius of the ball, in pixel units.
        norm: ``linf`` or ``l2``.
        rung: how far to go, as in ``evaluate``.
        images: how many test images, the same for all; None for all.
        mean: with ``std``, one number for each channel: images are normalised so before the net.
        std: see ``mean``.
        key: the name under which the weights are in the file, if it is no customary one.
        out: folder for what is written, one folder in it for each network.
        console: where progress is shown.

    Raises:
        InputError: an argument that does not fit, a network that cannot be built or judged, or
            weights that do not fit it, before anything is attacked.
    """
    pairs = _pairs(models, weights)
    refuse_unless(
        number("eps", eps, "give it in pixel units, such as 8/255", above=0),
        (rung in RUNGS, f"--rung out of {', '.join(RUNGS)}", repr(rung), "pass one of these"),
        count("--images", 1 if images is None else images, "leave it out for all"),
    )
    pgd = PGD(eps=eps, step_size=eps / 4, steps=STEPS, norm=norm)  # type: ignore[arg-type]
    networks = foreign_networks(pairs, data.spec, mean, std, key)
    device = best_device()
    whole = load(data)["test"]
    test = to_device(sampled(whole, images).split, device)
    digests = check_networks(networks, test, data.spec, device)
    folders = {}
    for network, text in zip(networks, digests, strict=True):
        # Another attack has another folder, because the checks are of one attack.
        folders[network.name] = out / folder_name(network.name, digest(text, pgd))
    evaluated = []
    with progress_bars(list(folders), console or PlainTextConsole(stderr=True)) as update:
        for network in networks:
            network.model.to(device)
            folder = folders[network.name]
            folder.mkdir(parents=True, exist_ok=True)
            for progress in _run(network.model, test, pgd, rung, folder):
                update(network.name, progress)
            evaluated.append(_evaluated(network, folder))
            network.model.cpu()
    return WeightsEvaluation(
        tuple(evaluated),
        data=type(data).__name__.lower(),
        images=len(test.labels),
        of=len(whole.labels),
        attack=pgd,
        rung=rung,
        quantities=tuple(_quantities(evaluated, rung)),
        out=out,
    )


def _pairs(
    models: str | Builder | Sequence[str | Builder], weights: str | Path | Sequence[str | Path]
) -> list[tuple[Builder, Path]]:
    """What builds each network, and its weights."""
    several = [models] if isinstance(models, str) or not isinstance(models, Sequence) else models
    files = [weights] if isinstance(weights, str | Path) else weights
    got = f"{counted(len(several), '--model')} and {len(files)} --weights"
    refuse_unless(
        (
            bool(files) and len(several) in (1, len(files)),
            "--weights, with one --model for all or one for each",
            got,
            "pass such as --model my_net:build --weights a.pt --weights b.pt",
        )
    )
    builders: list[Builder] = [
        model_builder(model) if isinstance(model, str) else model for model in several
    ]
    if len(builders) == 1:
        builders *= len(files)
    return [(builder, Path(file)) for builder, file in zip(builders, files, strict=True)]


def _run(model: nn.Module, test: Split, pgd: PGD, rung: str, folder: Path) -> Iterator[Progress]:
    """The ladder and the checks, and then the measures; writes what a trial's folder has, too."""
    yield from evaluate_network(model, test, pgd, rung, folder)
    if unless_damaged(_measured, folder / MEASURED) is None:
        yield Progress(1.0, "measuring")
        measurement = Measurement(model, pgd, default_measures(pgd), MEASURED_EXAMPLES)
        tables = measurement.tables({"test": test})
        for name, table in tables.items():
            with replacing(folder / f"{name}.parquet") as unfinished:
                pq.write_table(table, unfinished)
        metrics, infinite = finite(averages(tables))
        problems = [f"{name} left out: {text}" for name, text in measurement.problems.items()]
        write_json(folder / MEASURED, {"metrics": metrics, "problems": [*problems, *infinite]})
    draw(folder)


def _measured(file: Path) -> tuple[Metrics, list[str]]:
    content = read_json(file)
    if isinstance(content, dict) and content.keys() == {"metrics", "problems"}:
        return content["metrics"], content["problems"]
    raise DamagedError(file, "is not what robsearch writes there")


def _evaluated(network: ForeignNetwork, folder: Path) -> EvaluatedNetwork:
    """What the network's folder has."""
    ladder = read_ladder(folder)
    metrics, problems = _measured(folder / MEASURED)
    notes = [*_natural_notes(ladder), *problems]
    test = read_parquet(folder / "test.parquet")
    return EvaluatedNetwork(
        network, folder, ladder, read_checks(folder), test, metrics, tuple(notes)
    )


def _natural_notes(ladder: pa.Table) -> Iterator[str]:
    """The commonest mistake with a net from elsewhere leaves no other trace than this."""
    counts = np.bincount(ladder["label"].to_numpy())
    natural = float(ladder["natural"].to_numpy().mean())
    commonest = float(counts.max() / counts.sum())
    if has_collapsed(natural, commonest):
        yield (
            f"natural accuracy is {natural:.1%}, about that of one class for all images: "
            "does the net need --mean and --std, or has it its classes in another order?"
        )


# --- side by side ---


def _quantities(networks: Sequence[EvaluatedNetwork], rung: str) -> Iterator[Quantity]:
    """Accuracy on each rung, stability, the measures by image, and Lipschitz bounds of the whole
    network."""
    robust = [
        {name: images for name, _, images in robust_by_rung(network.ladder)} for network in networks
    ]
    rungs = ["natural", *RUNGS]
    for name in rungs[: rungs.index(rung) + 1]:
        if all(name in images for images in robust):
            title = "natural accuracy" if name == "natural" else f"robust accuracy, {name}"
            yield _of_shares(title, [images[name] for images in robust])
    stability = [network.test["stability"].to_numpy() > 0.5 for network in networks]
    yield _of_shares("stability", stability)
    schema = networks[0].test.schema
    for field in schema:
        if field.metadata and all(field.name in other.test.column_names for other in networks):
            unit = field.metadata.get(b"unit", b"").decode()
            columns = [other.test[field.name].to_numpy().astype(float) for other in networks]
            yield _of_numbers(field.name, "" if unit == "1" else unit, columns)
    yield from _bounds(networks)


def _bounds(networks: Sequence[EvaluatedNetwork]) -> Iterator[Quantity]:
    """Lipschitz bounds of whole networks; a logarithm only where the bound itself is no number."""
    by_image = set(networks[0].test.column_names)
    for name in networks[0].metrics:
        shared = all(name in other.metrics for other in networks)
        is_bound = name.startswith("lipschitz/") and name.count("/") == 1
        plain = name.removesuffix(WHOLE[LOG10])
        repeats = plain != name and all(plain in other.metrics for other in networks)
        if shared and is_bound and name not in by_image and not repeats:
            values = [Interval(other.metrics[name]) for other in networks]
            yield Quantity(name, "", tuple(values), (None,) * (len(values) - 1))


def _of_shares(name: str, images: Sequence[NDArray[np.bool_]]) -> Quantity:
    """In per cent: Wilson's interval of each share, and that of paired differences."""
    n = len(images[0])
    first = images[0]
    values = []
    differences: list[Interval | None] = []
    for right in images:
        share = float(right.mean())
        values.append(_per_cent(share, *wilson(share, n, LEVEL)))
    for right in images[1:]:
        ahead = int((right & ~first).sum())
        behind = int((first & ~right).sum())
        ends = paired_difference(ahead, behind, n, LEVEL)
        differences.append(_per_cent((ahead - behind) / n, *ends))
    return Quantity(name, "%", tuple(values), tuple(differences))


def _per_cent(share: float, low: float, high: float) -> Interval:
    return Interval(100 * share, 100 * low, 100 * high)


def _of_numbers(name: str, unit: str, columns: Sequence[Numbers]) -> Quantity:
    """Means over the images that were measured, which are the same for all networks, with normal
    intervals."""
    values = [_mean(column) for column in columns]
    differences = [_mean(column - columns[0]) for column in columns[1:]]
    return Quantity(name, unit, tuple(values), tuple(differences))


def _mean(column: Numbers) -> Interval:
    known = column[~np.isnan(column)]
    mean = float(known.mean()) if len(known) else math.nan
    if len(known) < 2:
        return Interval(mean)
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    half = z * float(known.std(ddof=1)) / math.sqrt(len(known))
    return Interval(mean, mean - half, mean + half)
