"""``robsearch evaluate``: trials of a search, or weights of any origin, under one ladder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robsearch.cli.data import SETS, known_set
from robsearch.cli.looking import Json, print_json, print_parts
from robsearch.cli.options import (
    Address,
    Gpus,
    HangAfter,
    Parallel,
    PassEnv,
    Results,
    SpaceOption,
    Storage,
    Tracking,
)
from robsearch.errors import refusal, refuse, refused

if TYPE_CHECKING:
    from robsearch.search import RunOptions

WEIGHTS = "Weights of any origin"
"""The heading in the help of the options that belong to ``--weights``."""
EPS = {"linf": "8/255", "l2": "0.5"}
"""RobustBench's radii for CIFAR, which hold unless a person gives one."""


def _option(help_text: str, **more: Any) -> Any:
    return typer.Option(help=help_text, rich_help_panel=WEIGHTS, **more)


def evaluate(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[TARGET]",
            help="NAME (its best trials), NAME/TRIAL, a checkpoint's folder, or a run id",
        ),
    ] = None,
    rung: Annotated[
        str, typer.Option(help="how far to go: pgd, two-losses, apgd-ce, apgd or autoattack")
    ] = "apgd",
    top: Annotated[
        int, typer.Option(help="trials of each width, when a whole search is meant")
    ] = 1,
    space: SpaceOption = None,
    results: Results = None,
    storage: Storage = None,
    tracking: Tracking = None,
    address: Address = None,
    parallel: Parallel = None,
    gpus_per_trial: Gpus = None,
    hang_after: HangAfter = 7200.0,
    pass_env: PassEnv = None,
    as_json: Json = False,
    model: Annotated[
        list[str] | None,
        _option(
            "what builds the net, in place of TARGET: module:function, or an architecture such as "
            "'WideResNet(28, 4)'; repeat it for nets of several kinds",
        ),
    ] = None,
    weights: Annotated[
        list[Path] | None,
        _option("file with its state dict, of torch or safetensors; several are compared"),
    ] = None,
    data: Annotated[str | None, _option(f"set whose test images judge: {SETS}")] = None,
    root: Annotated[
        str | None, _option("folder or URI of the images (default: ROBSEARCH_DATA)")
    ] = None,
    eps: Annotated[
        str | None, _option("radius in pixel units, such as 8/255 (default: 8/255, in l2 0.5)")
    ] = None,
    norm: Annotated[str, _option("linf or l2")] = "linf",
    images: Annotated[
        int | None, _option("test images, the same for all nets (default: all)")
    ] = None,
    mean: Annotated[
        str | None,
        _option("for a net that does not normalise images by itself: such as 0.49,0.48,0.45"),
    ] = None,
    std: Annotated[str | None, _option("with --mean: such as 0.25,0.24,0.26")] = None,
    key: Annotated[
        str | None, _option("name in the file under which the weights are, such as ema")
    ] = None,
    out: Annotated[
        Path | None, _option("folder for tables and the page (default: ./robsearch-networks)")
    ] = None,
    title: Annotated[str | None, _option("of the paper, for RobustBench's model info")] = None,
    authors: Annotated[str | None, _option("of the paper")] = None,
    venue: Annotated[str | None, _option("of the paper, such as 'ICML 2020'")] = None,
    link: Annotated[str | None, _option("to the paper")] = None,
    architecture: Annotated[
        str | None, _option("of the nets, such as WideResNet-28-10, where robsearch does not know")
    ] = None,
    additional_data: Annotated[
        bool | None,
        _option("whether more images than the set's were trained on"),
    ] = None,
) -> None:
    """Attack trained nets harder, up to AutoAttack, and look for gradient masking: of a search
    (TARGET), or of any origin (--model, --weights, --data). Goes on where it was stopped."""
    of_search = {
        "--top": None if top == 1 else top,
        "--space": space,
        "--tracking": tracking,
        "--address": address,
        "--parallel": parallel,
        "--gpus-per-trial": gpus_per_trial,
        "--pass-env": pass_env,
    }
    about = {
        "name": title,
        "authors": authors,
        "venue": venue,
        "link": link,
        "architecture": architecture,
        "additional_data": additional_data,
    }
    of_weights = {
        "--data": data,
        "--root": root,
        "--eps": eps,
        "--norm": None if norm == "linf" else norm,
        "--images": images,
        "--mean": mean,
        "--std": std,
        "--key": key,
        "--out": out,
        **{_flag(name): value for name, value in about.items()},
    }
    if model or weights:
        _refuse_given(of_search, "--weights", "of a search")
        if target is not None:
            do = "leave one of them out"
            raise refused("TARGET or --weights", f"both, {target!r} and --weights", do)
        _refuse_missing(model, weights, data)
        assert model is not None
        assert weights is not None
        assert data is not None
        _evaluate_weights(
            model,
            weights,
            known_set(data, root),
            about,
            as_json,
            eps=_radius(eps, norm),
            norm=norm,
            rung=rung,
            images=images,
            mean=_numbers("--mean", mean),
            std=_numbers("--std", std),
            key=key,
            **({} if out is None else {"out": out}),
        )
        return
    _refuse_given(of_weights, "TARGET", "of --weights")
    if target is None:
        do = "pass the name of a search, or --model, --weights and --data"
        raise refused("what to evaluate", "neither TARGET nor --weights", do)
    from robsearch.search import RunOptions

    options = RunOptions(
        results=results,
        storage=storage,
        tracking=tracking,
        address=address,
        parallel=parallel,
        gpus_per_trial=gpus_per_trial,
        hang_after=hang_after,
        pass_env=pass_env or (),
    )
    _evaluate_trials(target, rung, top, space, options, as_json)


def _evaluate_trials(
    target: str, rung: str, top: int, space: str | None, options: RunOptions, as_json: bool
) -> None:
    from robsearch.search import evaluate as evaluate_networks
    from robsearch.search.commands.evaluate import evaluation_json, evaluation_parts
    from robsearch.search.grid import PlainTextConsole, printed

    # Standard output is for the JSON alone.
    console = PlainTextConsole(stderr=True) if as_json else printed()
    evaluation = evaluate_networks(
        target, rung=rung, top=top, space=space, options=options, console=console
    )
    if as_json:
        print_json(evaluation_json(evaluation))
    else:
        for part in evaluation_parts(evaluation):
            console.print(part, highlight=False)
    if evaluation.problems:
        raise typer.Exit(1)


def _evaluate_weights(
    model: list[str],
    weights: list[Path],
    data: Any,
    about: Mapping[str, object],
    as_json: bool,
    **settings: Any,
) -> None:
    from robsearch.search.commands.evaluate_weights import evaluate_weights
    from robsearch.search.commands.weights_output import weights_json, weights_parts, write_files

    evaluation = evaluate_weights(model[0] if len(model) == 1 else model, weights, data, **settings)
    files = write_files(evaluation, about)
    if as_json:
        print_json(weights_json(evaluation, files))
    else:
        print_parts([*weights_parts(evaluation), *(f"written: {file}" for file in files)])


# --- what the options say ---


def _flag(name: str) -> str:
    """The option for a field of RobustBench's model info."""
    return {"name": "--title", "additional_data": "--additional-data"}.get(name, f"--{name}")


def _refuse_given(options: dict[str, Any], use: str, whose: str) -> None:
    given = [name for name, value in options.items() if value is not None and value != []]
    if given:
        expected = f"no options {whose} with {use}"
        raise refused(expected, ", ".join(given), "leave them out")


def _refuse_missing(model: Any, weights: Any, data: Any) -> None:
    examples = {
        "--model": (model, "pass what builds the net, such as --model my_net:build"),
        "--weights": (weights, "pass the file with its state dict, such as --weights w.pt"),
        "--data": (data, f"pass one of {SETS}"),
    }
    refuse(
        refusal(f"{name} for nets of any origin", "none", do)
        for name, (value, do) in examples.items()
        if not value
    )


def _radius(text: str | None, norm: str) -> float:
    """``8/255`` or ``0.03``."""
    do = "pass such as 8/255 or 0.03"
    if norm not in EPS:
        raise refused(f"--norm {' or '.join(EPS)}", repr(norm), "pass one of these")
    try:
        return float(Fraction(text or EPS[norm]))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise refused("--eps as a number in pixel units", repr(text), do) from None


def _numbers(name: str, text: str | None) -> list[float] | None:
    """``0.49,0.48,0.45``."""
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        do = "write one for each channel with commas between, such as 0.49,0.48,0.45"
        raise refused(f"{name} as numbers", repr(text), do)
    return numbers
