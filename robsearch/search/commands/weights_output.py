"""What ``robsearch evaluate --weights`` says: on a terminal, as JSON, as a page, and in the form of
RobustBench's model info."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from robsearch.errors import counted, refused
from robsearch.report.networks import network_page
from robsearch.search.commands.evaluate_weights import (
    EvaluatedNetwork,
    Interval,
    Quantity,
    WeightsEvaluation,
)
from robsearch.search.commands.ladders import ladder_table, masking_tables, rank_flips
from robsearch.search.grid import Grid
from robsearch.trials.files import make_way, replacing
from robsearch.trials.ladder.results import NATURAL, rank_reversals, rung_results

PAGE = "report.html"
ROBUSTBENCH = "robustbench.json"
SIGNIFICANT = 3


# --- on a terminal ---


def weights_parts(evaluation: WeightsEvaluation) -> Iterator[RenderableType]:
    """The networks side by side, the ladder, the signs of gradient masking, and what a reader must
    know."""
    yield _comparison(evaluation)
    yield ladder_table(evaluation.ladders, {}, head="weights")
    yield from masking_tables(evaluation.checks)
    yield from rank_flips(evaluation.ladders)
    for evaluated in evaluation.networks:
        for text in evaluated.notes:
            yield Text(f"note: {evaluated.name}: {text}")


def _comparison(evaluation: WeightsEvaluation) -> Grid:
    title = f"{setting_line(evaluation)}; intervals at 95 % over images"
    return Grid(
        heads(evaluation), rows(evaluation), Text(title, style="bold"), left=frozenset({""})
    )


def setting_line(evaluation: WeightsEvaluation) -> str:
    """``100 of 649 test images of digits, linf, eps 0.1``."""
    of = "" if evaluation.images == evaluation.of else f" of {evaluation.of:,}"
    attack = evaluation.attack
    images = counted(evaluation.images, "test image")
    if of:
        images = f"{evaluation.images:,}{of} test images"
    return f"{images} of {evaluation.data}, {attack.norm}, eps {eps_text(attack.eps)}"


def heads(evaluation: WeightsEvaluation) -> list[str]:
    """Of the comparison's columns: each network, and each but the first less the first."""
    first, *others = (evaluated.name for evaluated in evaluation.networks)
    return ["", first, *others, *(f"{name} less {first}" for name in others)]


def rows(evaluation: WeightsEvaluation) -> list[list[str]]:
    """The comparison as text."""
    table = []
    for quantity in evaluation.quantities:
        title = f"{quantity.name}, {quantity.unit}" if quantity.unit else quantity.name
        cells = [_text(value, quantity) for value in quantity.values]
        cells += [_text(value, quantity, "+") for value in quantity.differences]
        table.append([title, *cells])
    return table


def _text(interval: Interval | None, quantity: Quantity, sign: str = "") -> str:
    """The number and its interval without a space, so that it wraps between the two."""
    if interval is None or not math.isfinite(interval.value):
        return "-"

    def number(value: float, sign: str = "") -> str:
        if quantity.unit == "%":
            return f"{value:{sign}.1f}"
        return f"{value:{sign}.{SIGNIFICANT}g}"

    text = number(interval.value, sign)
    if math.isfinite(interval.low):
        text += f" {number(interval.low, sign)}..{number(interval.high, sign)}"
    return text


# --- for machines ---


def weights_json(evaluation: WeightsEvaluation, files: list[Path]) -> dict[str, Any]:
    """All of it, as JSON has it."""
    attack = evaluation.attack
    first = evaluation.networks[0].name
    compared = []
    for quantity in evaluation.quantities:
        names = [evaluated.name for evaluated in evaluation.networks]
        less_first = dict(zip(names[1:], quantity.differences, strict=True))
        compared.append(
            {
                "name": quantity.name,
                "unit": quantity.unit,
                "values": {
                    name: value._asdict()
                    for name, value in zip(names, quantity.values, strict=True)
                },
                "less_first": {
                    name: value and value._asdict() for name, value in less_first.items()
                },
            }
        )
    return {
        "data": evaluation.data,
        "images": evaluation.images,
        "of": evaluation.of,
        "eps": attack.eps,
        "norm": attack.norm,
        "rung": evaluation.rung,
        "first": first,
        "networks": [_network_json(evaluated) for evaluated in evaluation.networks],
        "compared": compared,
        "rank_flips": [str(flip) for flip in rank_reversals(evaluation.ladders)],
        "files": files,
    }


def _network_json(evaluated: EvaluatedNetwork) -> dict[str, Any]:
    saved = evaluated.network.saved
    return {
        "name": evaluated.name,
        "weights": saved.file,
        "sha256": saved.sha256,
        "key": saved.key,
        "architecture": evaluated.network.architecture,
        "folder": evaluated.folder,
        "rungs": [result._asdict() for result in rung_results(evaluated.ladder)],
        "checks": [check._asdict() for check in evaluated.checks],
        "measures": evaluated.metrics,
        "notes": evaluated.notes,
    }


# --- files ---


def write_files(evaluation: WeightsEvaluation, about: Mapping[str, object]) -> list[Path]:
    """Writes the page, and for each network RobustBench's model info.

    Args:
        evaluation: what is written down.
        about: of ``robustbench_info``.

    Returns:
        The files.

    Raises:
        InputError: the folder cannot be written.
    """
    files = []
    try:
        for evaluated in evaluation.networks:
            file = evaluated.folder / ROBUSTBENCH
            info = robustbench_info(evaluation, evaluated, about)
            with replacing(file) as unfinished:
                unfinished.write_text(json.dumps(info, indent=2) + "\n")
            files.append(file)
        page = evaluation.out / PAGE
        make_way(page)
        page.write_text(_page(evaluation), encoding="utf-8")
    except OSError as error:
        do = "pass another folder with --out"
        raise refused(f"to write in {evaluation.out}", error.strerror or error, do) from error
    return [page, *files]


def robustbench_info(
    evaluation: WeightsEvaluation, evaluated: EvaluatedNetwork, about: Mapping[str, object]
) -> dict[str, object]:
    """A network as RobustBench describes one in ``model_info/DATASET/NORM/NAME.json`` (arXiv
    2010.09670): numbers are texts, accuracies are in per cent with two decimals.

    What is not known is left out: ``autoattack_acc`` below the rung ``autoattack``, and whatever
    ``about`` has at None.

    Args:
        evaluation: of which the network is one.
        evaluated: the network.
        about: what only its authors know: ``link``, ``name``, ``authors``, ``additional_data``,
            ``venue``, ``architecture``.
    """
    shares = {result.rung: result.robust_accuracy for result in rung_results(evaluated.ladder)}
    footnotes = []
    if evaluation.images < evaluation.of:
        footnotes.append(f"On {evaluation.images:,} of {evaluation.of:,} test images.")
    info: dict[str, object] = {
        "link": about.get("link"),
        "name": about.get("name"),
        "authors": about.get("authors"),
        "additional_data": about.get("additional_data"),
        "dataset": evaluation.data,
        "venue": about.get("venue"),
        "architecture": about.get("architecture") or evaluated.network.architecture or None,
        "eps": eps_text(evaluation.attack.eps),
        "clean_acc": f"{100 * shares[NATURAL]:.2f}",
    }
    if "autoattack" in shares:
        info["autoattack_acc"] = f"{100 * shares['autoattack']:.2f}"
        # RobustBench's own figure is of the ensemble alone, and so it may be a little higher.
        footnotes.append("Robust accuracy is the worst case over PGD-20 and AutoAttack.")
    info["footnote"] = " ".join(footnotes) or None
    return {name: value for name, value in info.items() if value is not None}


def eps_text(eps: float) -> str:
    """As the field writes it: ``8/255`` for whole steps of a pixel, else a decimal number."""
    share = Fraction(eps).limit_denominator(255)
    pixels = share * 255
    if pixels.denominator == 1 and float(share) == eps and f"{eps:g}" != f"{eps:.3g}":
        return f"{pixels.numerator}/255"
    return f"{eps:g}"


def _page(evaluation: WeightsEvaluation) -> str:
    networks = []
    for evaluated in evaluation.networks:
        saved = evaluated.network.saved
        facts = {
            "weights": str(saved.file),
            "SHA-256": saved.sha256,
            "found under": saved.key or "the file itself",
            "architecture": evaluated.network.architecture or "of a function that was passed",
            "tables and figures": str(evaluated.folder),
        }
        rungs = rung_results(evaluated.ladder)
        networks.append(
            {
                "name": evaluated.name,
                "facts": facts,
                "rungs": rungs,
                "checks": evaluated.checks,
                "notes": evaluated.notes,
            }
        )
    flips = [str(flip) for flip in rank_reversals(evaluation.ladders)]
    return network_page(
        setting=setting_line(evaluation),
        heads=heads(evaluation),
        rows=rows(evaluation),
        networks=networks,
        flips=flips,
    )
