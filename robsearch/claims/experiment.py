"""An experiment: named arms at several widths, every seed in each of them, run as a search of
ordinary trials."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, runtime_checkable

import optuna
import pandas as pd
import pyarrow as pa

from robsearch.claims.claim import Claim, Evidence
from robsearch.claims.images import with_images
from robsearch.data import load
from robsearch.recipe import Recipe
from robsearch.search import Search
from robsearch.search.tables import tables_of
from robsearch.spaces import Space
from robsearch.study import COLUMN
from robsearch.trials.measurement import WHOLE
from robsearch.trials.pricing import attack_gradients, gradients_per_image, operations

if TYPE_CHECKING:
    from robsearch.drawing.style import Drawing

ARM = "arm"
Findings = Mapping[str, Evidence]
"""The evidence of the experiments that have been run, by their names."""


class Arm(Protocol):
    """One way of training that an experiment compares with others."""

    @property
    def name(self) -> str:
        """What Optuna's storage and MLflow keep of it."""
        ...


A = TypeVar("A", bound="Arm | str")


@dataclass(frozen=True)
class Experiment(Generic[A]):
    """Every arm is trained at every width with every seed. Seeds are paired: see ``Space.paired``.

    Attributes:
        name: of the search, behind the study's own.
        arms: what is compared: strings, or objects with a ``name``.
        widths: at which.
        seeds: trainings of each arm and width.
        recipe: from (arm, width, what earlier experiments found) to what is trained.
        by_replicate: whether ``recipe`` is asked for each replicate apart, and sees only what
            earlier experiments found in that replicate: what it chooses, each replicate chooses
            for itself, so that intervals over seeds hold the noise of choosing too.
        seeds_of: name of the earlier experiment whose seeds these are: replicate r has the same
            images, first weights and order of the data. None: fresh seeds.
    """

    name: str
    arms: tuple[A, ...]
    widths: tuple[float, ...]
    seeds: int
    recipe: Callable[[A, float, Findings], Recipe]
    by_replicate: bool = False
    seeds_of: str | None = None

    @property
    def trainings(self) -> int:
        """How many there are in all."""
        return len(self.arms) * len(self.widths) * self.seeds

    @property
    def arm_names(self) -> list[str]:
        """What is stored of the arms."""
        return [arm if isinstance(arm, str) else arm.name for arm in self.arms]

    def recipe_of(
        self,
        arm: str,
        width: float,
        findings: Findings,
        replicate: int = 0,
    ) -> Recipe:
        """The recipe of the arm of that name; the replicate matters only to ``by_replicate``."""
        place = self.arm_names.index(arm)
        if self.by_replicate:
            findings = of_replicate(findings, replicate)
        return self.recipe(self.arms[place], width, findings)

    def space(self, findings: Findings) -> Space:
        """The same as a search space: a grid over the arms, paired replicates, and nothing is ever
        pruned."""

        def define(trial: Any, width: float) -> Recipe:
            # Optuna keeps only text of an arm: its name, under which it is found again.
            arm = trial.suggest_categorical(ARM, self.arm_names)
            return self.recipe_of(str(arm), width, findings, trial.replicate)

        # A grid and no pruning: every arm is tried once at each width, and trained to its end.
        return Space(
            define,
            self.widths,
            replicates=self.seeds,
            paired=True,
            sampler=optuna.samplers.GridSampler({ARM: self.arm_names}),
            pruner=optuna.pruners.NopPruner(),
        )

    def evidence(self, search: Search, findings: Findings) -> Evidence:
        """What a finished search of it says; trainings that failed are missing.

        Beside what the search knows of a trial there are ``gradients``, the gradient evaluations of
        one image, and ``operations``, the floating-point operations, of a whole training and of the
        attacks on ``val`` that choose its best epoch; and which images of ``test`` are right
        (``claims.images``).
        """
        trials = search.trials[search.trials["state"] == "COMPLETE"]
        trials = trials.assign(
            experiment=self.name,
            arm=trials[f"{COLUMN}{ARM}"],
            seed=trials["replicate"].fillna(0).astype(int),
        )
        trials = self._with_costs(_with_layers(trials, search), findings)
        trials = with_images(trials, search.folder / "trials")
        trials = trials.sort_values([ARM, "width", "seed"], key=self._order, ignore_index=True)
        of_trial = trials.set_index("trial")
        epochs = search.epochs.drop(columns="seed", errors="ignore")
        names = of_trial[["experiment", "arm", "seed"]]
        epochs = epochs.join(names, on="trial", how="inner")
        lengths = epochs["trial"].map(of_trial["recipe_epochs"].astype(float))
        # An epoch's numbers are means over it, so they stand at its middle.
        progress = (epochs["epoch"] - 0.5) / lengths
        return Evidence(trials, epochs.assign(progress=progress))

    def _order(self, column: pd.Series) -> pd.Series:
        """Arms stand as they were named, not as they came to be trained."""
        return column.map(self.arm_names.index) if column.name == ARM else column

    def _with_costs(self, trials: pd.DataFrame, findings: Findings) -> pd.DataFrame:
        # Counting the operations of a net takes a moment, so it is done once for all its seeds.
        trials = trials.assign(gradients=0.0, operations=0.0)
        for (arm, width), rows in trials.groupby([ARM, "width"]):
            first = int(rows["seed"].iloc[0])
            recipe = self.recipe_of(str(arm), float(str(width)), findings, first)
            gradients = _gradients_per_epoch(recipe) * rows["epochs"]
            per_gradient = operations(recipe.model, recipe.data.spec)
            trials.loc[rows.index, "gradients"] = gradients
            trials.loc[rows.index, "operations"] = gradients * per_gradient
        return trials


def pooled(findings: Findings) -> Evidence:
    """The evidence of all experiments as one."""
    parts = zip(*findings.values(), strict=True)
    return Evidence(*map(pd.concat, parts))


def by_experiment(evidence: Evidence) -> Findings:
    """What ``pooled`` has put together, by experiment again."""
    trials, epochs = evidence
    return {
        str(name): Evidence(rows, epochs[epochs["experiment"] == name])
        for name, rows in trials.groupby("experiment", sort=False)
    }


def of_replicate(findings: Findings, replicate: int) -> Findings:
    """The rows of one replicate; an experiment that has fewer replicates keeps none."""
    return {
        name: Evidence(*(frame[frame["seed"] == replicate] for frame in evidence))
        for name, evidence in findings.items()
    }


def recipes_experiment(
    name: str,
    recipes: Mapping[str, Recipe],
    width: float,
    seeds: int,
) -> Experiment[str]:
    """An experiment at one width whose arms are recipes, whatever was found before; by name."""
    arms = tuple(recipes)
    return Experiment(name, arms, (width,), seeds, lambda arm, width, findings: recipes[arm])


@runtime_checkable
class PaperStudy(Protocol):
    """What ``validate`` runs: the experiments of one paper in their order, and the claims they
    decide."""

    @property
    def claims(self) -> tuple[Claim, ...]:
        """Judged on the evidence of all experiments together."""
        ...

    @property
    def experiments(self) -> tuple[Experiment[Any], ...]:
        """Each may look at what those before it found."""
        ...

    def tables(self, findings: Findings) -> Mapping[str, pd.DataFrame]:
        """What a reader wants beside the verdicts, by caption; numbers in the units that the
        columns name."""
        ...

    def figures(self, findings: Findings) -> Sequence[Drawing]:
        """Pictures for the page; their colours are those of the widths of the first experiment."""
        ...


def _with_layers(trials: pd.DataFrame, search: Search) -> pd.DataFrame:
    """Also ``layer/MEASURE/LAYER/mean`` and ``.../std`` of every layer that was measured; over its
    own values."""
    measured = tables_of(search.folder / "trials", "layers", list(trials["trial"]))
    if not measured:
        return trials
    rows = pa.concat_tables(measured.values(), promote_options="default")
    rows = rows.select(["trial", "measure", "layer", "mean", "std"]).to_pandas()
    # Figures of the whole net stand among the averages of the trial already.
    rows = rows[~rows["layer"].isin(WHOLE)]
    table = rows.pivot(index="trial", columns=["measure", "layer"], values=["mean", "std"])
    names = [f"layer/{measure}/{layer}/{statistic}" for statistic, measure, layer in table.columns]
    table.columns = pd.Index(names)
    return trials.join(table, on="trial")


def _gradients_per_epoch(recipe: Recipe) -> float:
    """Gradient evaluations of one epoch, and of the attack on ``val`` after it."""
    splits = load(recipe.resolved_data)
    train = gradients_per_image(recipe) * len(splits["train"].labels)
    val = attack_gradients(recipe.resolved_eval_attack) * len(splits["val"].labels)
    return float(train + val)
