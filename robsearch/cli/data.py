"""``robsearch data``: the store that the trials of a node share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robsearch.errors import refused
from robsearch.printing import echo

if TYPE_CHECKING:
    from robsearch.protocols import Dataset

SETS = "digits, mnist, fashionmnist, cifar10, cifar100 or svhn"
"""The names of the sets that robsearch has."""

data_app = typer.Typer(
    help="Data sets and the store that the trials of a node share.", no_args_is_help=True
)


@data_app.command()
def prepare(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help=SETS),
    ],
    root: Annotated[
        str | None, typer.Option(help="folder or URI of the images (default: ROBSEARCH_DATA)")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="folder to build in (default: ROBSEARCH_CACHE, else ~/.cache/robsearch)"),
    ] = None,
) -> None:
    """Build the Arrow file of a set with its default splits, so that the first trial on this node
    need not."""
    import time

    from robsearch.data import arrow_file, load

    dataset = known_set(name, root)
    file = arrow_file(dataset, cache)
    before, start = file.stat().st_mtime_ns if file.exists() else None, time.perf_counter()
    splits = load(dataset, cache)
    # A file that is up to date is not written again.
    done = "checked" if file.stat().st_mtime_ns == before else "built"
    sizes = ", ".join(f"{split} {len(part.labels):,}" for split, part in splits.items())
    echo(f"{file}\n{sizes} images; {done} in {time.perf_counter() - start:.1f} s")


def known_set(name: str, root: str | None) -> Dataset:
    """The set of a name, with its default splits.

    Args:
        name: one of ``SETS``, in letters of any size.
        root: folder or URI of the images, or None.

    Raises:
        InputError: another name, or a root for a set that needs none.
    """
    from robsearch.data import CIFAR10, CIFAR100, MNIST, SVHN, Digits, FashionMNIST

    rooted = {
        kind.__name__.lower(): kind for kind in (MNIST, FashionMNIST, CIFAR10, CIFAR100, SVHN)
    }
    if name.lower() in rooted:
        return rooted[name.lower()](root=root)
    if name.lower() != "digits":
        raise refused("the name of a data set", repr(name), f"one of digits, {', '.join(rooted)}")
    if root is not None:
        raise refused("no --root for digits", root, "they come with scikit-learn")
    return Digits()
