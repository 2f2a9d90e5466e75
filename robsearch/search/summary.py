"""What a search found, in a few lines, and where to look on."""

from __future__ import annotations

from collections.abc import Iterator

from robsearch.drawing.formatting import names_of
from robsearch.laws import Loss
from robsearch.search.options import RunOptions
from robsearch.search.result import Search
from robsearch.search.strongest import figure_of
from robsearch.study import others_than_lam, params_of, params_text


def closing_lines(search: Search, options: RunOptions) -> Iterator[str]:
    """The answer of a search in a few lines, and where the rest is."""
    yield ""
    for line in answer_lines(search):
        yield f"  {line}"
    yield search.ridge.sentence()
    yield from regret_lines(search)
    yield f"report: {search.report}"
    yield f"compare the trials: {options.command('ui', search.record)}"


def answer_lines(search: Search) -> Iterator[str]:
    """Lambda* and the best trial of each width."""
    for width, name in names_of(search.widths).items():
        optimum = search.ridge.optimum(width).text
        yield f"width {name}: {optimum}{_highest_mean(search, width)}{_best(search, width)}"


def regret_lines(search: Search) -> Iterator[str]:
    """What the lambda* of another width loses at each width, where there are several."""
    regret = search.ridge.regret
    if regret is None:
        return
    names = names_of(regret.widths)
    last = len(regret.widths) - 1
    for place, width in enumerate(regret.widths):
        losses = []
        # Of many widths the neighbours and both ends are shown.
        for other in sorted({0, last, place - 1, place + 1} & set(range(last + 1)) - {place}):
            lost = _loss_text(regret.at(width, regret.widths[other]))
            unplaced = "" if regret.placed[other] else " (not placed)"
            losses.append(f"{lost} by that of width {names[regret.widths[other]]}{unplaced}")
        if losses:
            lost = f"points lost at width {names[width]} by another width's lambda*"
            yield f"{lost}: {', '.join(losses)}"


def _loss_text(loss: Loss) -> str:
    """Points with their interval: ``0.4 [-0.2, 1.0]``."""
    # Adding 0 makes 0 of what rounds to minus 0.
    return "{} [{}, {}]".format(*(round(100 * rate, 1) + 0.0 for rate in loss))


def strongest_text(search: Search, width: float) -> str:
    """Of the best trial of a width the strongest known figure, and then what it was selected by."""
    best = search.best(width)
    chosen = search.selection(width)
    if best is None or chosen is None:
        return "no trial has finished"
    figure = figure_of(best)
    if figure is None or figure.on == "val":
        return f"{chosen.val.text}, {chosen.text}"
    return f"{figure.text}; selected on val: {chosen.val.short}, {chosen.text}"


def _highest_mean(search: Search, width: float) -> str:
    """What to take at a width whose trials do not place lambda*: a clause, or nothing."""
    regret = search.ridge.regret
    if regret is None or width not in regret.widths:
        return ""
    place = regret.widths.index(width)
    if regret.placed[place]:
        return ""
    return f", {regret.lams[place]:.3g} has the highest mean of all trials together"


def _best(search: Search, width: float) -> str:
    best = search.best(width)
    if best is None:
        why = search.all_collapsed(width)
        return f"; {why}" if why else ""
    params = params_text(others_than_lam(params_of(best)))
    with_params = f"lam {best['lam']:.3g}" + (f", {params}" if params else "")
    strongest = strongest_text(search, width)
    return f"; best trial {best['trial']} with {with_params}, {strongest}"
