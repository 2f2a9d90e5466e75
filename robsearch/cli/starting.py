"""``robsearch new``: a small file to start from, which is checked as it stands."""

from __future__ import annotations

import re
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from robsearch.errors import refuse_unless, refused
from robsearch.printing import echo

_MODULE = re.compile(r"[a-z_][a-z0-9_]*\.py", re.ASCII)


class Kind(StrEnum):
    """What a file can begin."""

    SPACE = "space"
    MODEL = "model"
    ATTACK = "attack"
    OBJECTIVE = "objective"
    LOOP = "loop"


def new(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="space, model, attack, objective or loop")
    ],
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="to write (default: my_KIND.py in this folder)"),
    ] = None,
) -> None:
    """Write a small file to start from: a space, a model, an attack, an objective or a training
    loop with its check."""
    kinds = [each.value for each in Kind]
    if kind not in kinds:
        raise refused("a kind of file to begin", repr(kind), f"use one of {', '.join(kinds)}")
    file = file or Path(f"my_{kind}.py")
    module = "use small letters, digits and _, such as my_attack.py"
    there = "choose another name, or remove it first"
    refuse_unless(
        (
            bool(_MODULE.fullmatch(file.name)),
            "the name of a Python module",
            repr(file.name),
            module,
        ),
        (file.parent.is_dir(), f"a folder {file.parent}", "none", "make it first"),
        (not file.exists(), "the name of a new file", f"{file}, which exists", there),
    )
    text = files("robsearch.cli").joinpath("templates", f"{kind}.txt").read_text(encoding="utf-8")
    text = text.replace("{file}", file.name).replace("{module}", file.stem)
    # "x": nothing is written over, whatever came between.
    with file.open("x", encoding="utf-8") as stream:
        stream.write(text)
    check = f"robsearch check {file.stem}:mine" if kind == Kind.SPACE else f"python {file.name}"
    echo(f"{file}: change it, and check it in its folder with `{check}`")
