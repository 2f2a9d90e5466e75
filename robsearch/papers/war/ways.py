"""The ways of choosing lambda at a wide net under wrong labels, each with what it reached and cost
in every replicate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

import pandas as pd

from robsearch.claims.claim import Evidence
from robsearch.claims.images import IMAGES, NUMBER
from robsearch.papers.war.choices import ON_VAL, second_lam, with_val
from robsearch.papers.war.claims import GRID, LAST, LAW, ORACLE, ROBUST, THIN, best_of_complete

WAYS = "ways"
BETWEEN = "between"
LAWFUL = "law"
STATIC = "static WAR"
DYNAMIC = "WAR"
DECAYED = "thin lambda, weight decay"
EARLY = "thin lambda, early stopping"
TWO = "two wide trainings"
FIXED_THIN = "thin lambda, one for all"
FIXED_ORACLE = "full search, one for all"
SENTENCES: Mapping[str, str] = {
    THIN: "the thin net's best lambda",
    FIXED_THIN: "the lambda that is best for thin nets on average over replicates",
    EARLY: "the thin net's best lambda, the epoch that is best on val",
    DECAYED: "the thin net's best lambda, with or without weight decay, the better on val",
    TWO: "the thin net's best lambda and three times that, the better on val",
    STATIC: "the lambda at which two probes of half a training have the thin net's ratio",
    DYNAMIC: "the controller, at the thin net's ratio over training, frozen at the drop",
    LAW: "a power law through the thinner nets",
    ORACLE: "all lambdas of the grid, the best on val",
    FIXED_ORACLE: "the lambda that is best for wide nets on average over replicates",
}
"""What each way does, in the order in which they are shown."""
COSTS = ("gradients", "operations", "seconds")
COLUMNS = (
    "seed",
    "arm",
    "width",
    "robust",
    "natural",
    "stability",
    "lam",
    "trainings",
    *COSTS,
    "experiment",
    "trial",
    "column",
)
"""Of ``ways_frame``; the images come to them."""
Row = Mapping[str, Any]
"""Of one training, by column."""


class Net(NamedTuple):
    """The wide net that a way returns.

    Attributes:
        row: of its training.
        trainings: of the wide net that it took; two probes count as one.
        searches: whether the thin net was searched for it.
        column: of its robust accuracy on ``test``.
    """

    row: Row
    trainings: int
    searches: bool = True
    column: str = LAST


@dataclass(frozen=True)
class Replicate:
    """What was trained in one replicate.

    Attributes:
        thin: trainings of the thinnest net in the grid, by lambda.
        wide: of the widest.
        chosen: of the widest with what the replicate chose, by arm.
        lams: of the grid.
    """

    thin: Mapping[float, Row]
    wide: Mapping[float, Row]
    chosen: Mapping[str, Row]
    lams: tuple[float, ...]

    @classmethod
    def of(
        cls,
        trials: pd.DataFrame,
        thin: float,
        wide: float,
        lams: tuple[float, ...],
    ) -> Replicate:
        """From the rows of its trainings."""
        rows: list[Row] = [dict(row) for _, row in trials.iterrows()]
        grid = [row for row in rows if row["experiment"] == GRID]
        return cls(
            thin={row["lam"]: row for row in grid if row["width"] == thin},
            wide={row["lam"]: row for row in grid if row["width"] == wide},
            chosen={row["arm"]: row for row in rows if row["experiment"] in (WAYS, LAWFUL)},
            lams=lams,
        )

    def nets(self, thin_lam: float, wide_lam: float) -> Iterator[tuple[str, Net]]:
        """Each way that was trained, with its net.

        Args:
            thin_lam: the best lambda of thin nets on average over replicates.
            wide_lam: of wide nets.
        """
        lam = _best(self.thin.values())["lam"]
        if lam in self.wide:
            at_thin = self.wide[lam]
            yield THIN, Net(at_thin, 1)
            yield EARLY, Net(at_thin, 1, column=ROBUST)
            second = second_lam(lam, self.lams)
            if second in self.wide:
                yield TWO, Net(_best([at_thin, self.wide[second]]), 2)
            if DECAYED in self.chosen:
                yield DECAYED, Net(_best([at_thin, self.chosen[DECAYED]]), 2)
        for way, trainings in ((STATIC, 2), (DYNAMIC, 1), (LAW, 1)):
            if way in self.chosen:
                yield way, Net(self.chosen[way], trainings)
        number = len(self.wide)
        yield ORACLE, Net(_best(self.wide.values()), number, searches=False)
        if thin_lam in self.wide:
            yield FIXED_THIN, Net(self.wide[thin_lam], 1)
        if wide_lam in self.wide:
            yield FIXED_ORACLE, Net(self.wide[wide_lam], number, searches=False)

    def cost(self, net: Net, unit: str) -> float:
        """Of choosing and training, in one of ``COSTS``, without the widths between."""
        cost = net.trainings * fmean(row[unit] for row in self.wide.values())
        if net.searches:
            cost += sum(row[unit] for row in self.thin.values())
        return cost


def ways_frame(evidence: Evidence, thin: float, wide: float) -> pd.DataFrame:
    """One row per way and replicate; none where a width of the grid was not measured.

    A way is judged by the net that it returns, also by one that has collapsed: that it collapses is
    what a user would see of it. No way chooses such a net where it has another, for it is worse on
    ``val``.

    Columns: ``seed``, ``arm`` (the way), ``width``, ``robust``, ``natural``, ``stability`` (shares,
    on ``test``), ``lam``, ``trainings`` (of the wide net), what choosing and training cost
    (``gradients`` of one image, ``operations``, ``seconds``), which net it is (``experiment``,
    ``trial`` and ``column``, that of its robust accuracy), and, where they are known, the images of
    ``robust`` (``claims.images``). The law costs in every replicate what the widths between cost on
    average in those in which they were trained.
    """
    trials = with_val(evidence).dropna(subset=[ON_VAL, LAST])
    grid = trials[trials["experiment"] == GRID]
    if not {thin, wide} <= set(grid["width"]):
        return pd.DataFrame(columns=list(COLUMNS))
    between = trials[trials["experiment"] == BETWEEN]
    between_costs = between.groupby("seed")[list(COSTS)].sum().mean()
    fixed = [
        float(best_of_complete(grid[grid["width"] == width], "lam", ON_VAL))
        for width in (thin, wide)
    ]
    lams = tuple(sorted(grid["lam"].unique()))
    rows = []
    for seed, of_seed in trials.groupby("seed"):
        replicate = Replicate.of(of_seed, thin, wide, lams)
        if not (replicate.thin and replicate.wide):
            continue
        for way, net in replicate.nets(*fixed):
            split = net.column.split("/")[0]
            costs = {unit: replicate.cost(net, unit) for unit in COSTS}
            if way == LAW:
                costs = {unit: cost + between_costs[unit] for unit, cost in costs.items()}
            rows.append(
                {
                    "seed": seed,
                    "arm": way,
                    "width": wide,
                    "robust": net.row[net.column],
                    "natural": net.row[f"{split}/natural_accuracy"],
                    "stability": net.row[f"{split}/stability"],
                    "lam": net.row["lam"],
                    "trainings": net.trainings,
                    **costs,
                    "experiment": net.row["experiment"],
                    "trial": net.row["trial"],
                    "column": net.column,
                    f"{IMAGES}robust": net.row.get(f"{IMAGES}{net.column}"),
                    NUMBER: net.row.get(NUMBER),
                }
            )
    frame = pd.DataFrame(rows, columns=None if rows else list(COLUMNS))
    return frame.sort_values("arm", key=lambda arms: arms.map(list(SENTENCES).index), kind="stable")


def _best(rows: Iterable[Row]) -> Row:
    """The best training on ``val``; of equal ones the first."""
    return max(rows, key=lambda row: row[ON_VAL])
