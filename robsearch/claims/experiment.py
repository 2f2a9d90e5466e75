"""An experiment: named arms at several widths, every seed in each of them, run as a search of ordinary trials."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import optuna
import pandas as pd
import pyarrow as pa

from robsearch.claims.form import Claim, Evidence
from robsearch.data import load
from robsearch.measurement import WHOLE
from robsearch.pricing import attack_gradients, gradients_per_image, operations
from robsearch.recipe import Recipe
from robsearch.search import Search
from robsearch.search.frames import tables_of
from robsearch.spaces import Space
from robsearch.study import COLUMN

if TYPE_CHECKING:
    from robsearch.report.canvas import Drawing

ARM = "arm"
COSTS = ("gradients", "operations")
"""Columns of the evidence: gradient evaluations of one image, and floating-point operations, of a whole training and
of the attacks on ``val`` that choose its best epoch."""

Found = Mapping[str, Evidence]
"""What the experiments before have found, by their names."""


@dataclass(frozen=True)
class Experiment:
    """Every arm is trained at every width with every seed. Seeds are paired: see ``Space.paired``.

    Attributes:
        name: of the search, behind the study's own.
        arms: what is compared, such as the lambdas of a grid.
        widths: at which.
        seeds: trainings of each arm and width.
        recipe: from (arm, width, what earlier experiments found) to what is trained.
    """

    name: str
    arms: tuple[str, ...]
    widths: tuple[float, ...]
    seeds: int
    recipe: Callable[[str, float, Found], Recipe]

    @property
    def trainings(self) -> int:
        """How many there are in all."""
        return len(self.arms) * len(self.widths) * self.seeds

    def space(self, found: Found) -> Space:
        """The same as a search space: a grid over the arms, paired replicates, and nothing is ever pruned."""

        def define(trial: optuna.Trial, width: float) -> Recipe:
            return self.recipe(str(trial.suggest_categorical(ARM, list(self.arms))), width, found)

        return Space(
            define,
            self.widths,
            replicates=self.seeds,
            paired=True,
            sampler=optuna.samplers.GridSampler({ARM: list(self.arms)}),
            pruner=optuna.pruners.NopPruner(),
        )

    def evidence(self, search: Search, found: Found) -> Evidence:
        """What a finished search of it says; trainings that failed are missing."""
        done = search.trials[search.trials["state"] == "COMPLETE"]
        trials = done.assign(
            experiment=self.name, arm=done[f"{COLUMN}{ARM}"], seed=done["replicate"].fillna(0).astype(int)
        )
        trials = with_layers(trials, search).assign(**dict.fromkeys(COSTS, 0.0))
        for (arm, width), own in trials.groupby([ARM, "width"]):
            gradients, each = self._cost(str(arm), float(str(width)), found)
            trials.loc[own.index, COSTS[0]] = gradients * own["epochs"]
            trials.loc[own.index, COSTS[1]] = gradients * own["epochs"] * each
        trials = trials.sort_values([ARM, "width", "seed"], key=self._ordered, ignore_index=True)
        keys = trials.set_index("trial")[["experiment", "arm", "seed"]]
        epochs = search.epochs.drop(columns=["seed"], errors="ignore").join(keys, on="trial", how="inner")
        of_recipe = epochs["trial"].map(trials.set_index("trial")["recipe_epochs"].astype(float))
        return Evidence(trials, epochs.assign(progress=(epochs["epoch"] - 0.5) / of_recipe))

    def _ordered(self, column: pd.Series) -> pd.Series:
        """Arms as they were named, not as they came to be trained."""
        return column.map(self.arms.index) if column.name == ARM else column

    def _cost(self, arm: str, width: float, found: Found) -> tuple[float, float]:
        """Gradient evaluations of one epoch and of the attack on ``val`` after it, and operations of each."""
        recipe = self.recipe(arm, width, found)
        train, val = (len(load(recipe.data)[name].labels) for name in ("train", "val"))
        gradients = gradients_per_image(recipe) * train + attack_gradients(recipe.resolved_eval_attack) * val
        return float(gradients), operations(recipe.model, recipe.data.spec)


@runtime_checkable
class Study(Protocol):
    """What ``validate`` runs: the experiments of one paper in their order, and the claims they decide."""

    @property
    def claims(self) -> tuple[Claim, ...]:
        """Judged on the evidence of all experiments together."""
        ...

    @property
    def experiments(self) -> tuple[Experiment, ...]:
        """Each may look at what those before it found."""
        ...

    def tables(self, found: Found) -> Mapping[str, pd.DataFrame]:
        """What a reader wants beside the verdicts, by caption; numbers in the units that the columns name."""
        ...

    def figures(self, found: Found) -> Sequence[Drawing]:
        """Pictures for the page; their colours are those of the widths of the first experiment."""
        ...


def with_layers(trials: pd.DataFrame, search: Search) -> pd.DataFrame:
    """Also ``layer/MEASURE/LAYER/mean`` and ``.../std`` of every layer that was measured; over its own values."""
    measured = tables_of(search.folder / "trials", "layers", list(trials["trial"]))
    if not measured:
        return trials
    every = pa.concat_tables(measured.values(), promote_options="default")
    rows = every.select(["trial", "measure", "layer", "mean", "std"]).to_pandas()
    table = rows[~rows["layer"].isin(WHOLE)].pivot(index="trial", columns=["measure", "layer"], values=["mean", "std"])
    table.columns = pd.Index(["/".join(("layer", *names, statistic)) for statistic, *names in table.columns])
    return trials.join(table, on="trial")
