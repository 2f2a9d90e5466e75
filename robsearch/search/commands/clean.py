"""What of a search's folder nobody needs any more: how much it is, and removing it."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from robsearch.errors import counted, refused
from robsearch.printing import echo
from robsearch.search.commands.targets import best_trials
from robsearch.search.options import RunOptions
from robsearch.search.result import Search, search_of
from robsearch.search.tables import DROPPED
from robsearch.study import Lease, LeaseWatch, Storage, living_owner, owner_text
from robsearch.trials.disk import full_behind, size_text
from robsearch.trials.files import remove
from robsearch.trials.loading import newest_checkpoint, read_test
from robsearch.trials.paths import stays_inside

RAY = "ray"
"""The folder of Ray's notes in that of a search."""


@dataclass(frozen=True)
class Leftover:
    """Files of one kind that nobody needs.

    Attributes:
        what: the kind, in words.
        files: to be removed.
        trials: of how many trials; 0 where they are of none.
    """

    what: str
    files: tuple[Path, ...]
    trials: int = 0

    def within(self, folder: Path) -> Leftover | None:
        """Without what only a link in the folder leads to: it may be another search's."""
        files = tuple(file for file in self.files if stays_inside(file.parent, folder))
        return replace(self, files=files) if files else None

    @property
    def size(self) -> int:
        """Bytes that are free afterwards: of a file with several names only if all of them go."""
        return freed_bytes(self.files)

    @property
    def line(self) -> str:
        """For a person."""
        of = f" ({counted(self.trials, 'trial')})" if self.trials else ""
        return f"{self.what}{of}: {size_text(self.size)}"


def clean(
    name: str,
    options: RunOptions | None = None,
    *,
    dry_run: bool = False,
    top: int | None = None,
    say: Callable[[str], None] = echo,
) -> list[Leftover]:
    """Removes what neither ``resume``, ``evaluate``, ``report`` nor ``promote`` needs; says of each
    kind how much it is.

    Histories, measures and tables stay. So do the best and the newest checkpoint of every trial
    that is complete, and all that there is of a trial that is to be continued or measured. Ray's
    notes and what a dead process left half written go, too. Data sets that trials share
    (``ROBSEARCH_CACHE``) are of no single search, and stay.

    Args:
        name: of the search.
        options: where it is kept.
        dry_run: whether nothing is removed.
        top: of how many trials of each width, the best by their value, weights are kept; by default
            of all that are complete. Without weights a trial is no more evaluated or promoted.
        say: prints one line.

    Returns:
        What went, or would go.

    Raises:
        InputError: there is no such search, a driver lives, or ``top`` is below 1.
    """
    options = options or RunOptions()
    options.check(top=(top, 1))
    storage, record = options.store.search(name)
    owner = living_owner(storage, name)
    # Of a driver elsewhere one look cannot tell; its lease is watched before anything goes.
    if owner is not None and owner["alive"]:
        do = f"end it first: `{options.store.command('stop', name)}`, or Ctrl-C"
        raise refused(f"no driver of {name!r}", f"the one {owner_text(owner)}", do)
    watch = LeaseWatch(storage, name)
    if not dry_run:
        watch.wait(say)
    search = search_of(options.store, storage, record)
    found_here = (leftover.within(search.folder) for leftover in _leftovers(search, top))
    leftovers = [leftover for leftover in found_here if leftover is not None]
    for leftover in leftovers:
        say(leftover.line)
    files = [file for leftover in leftovers for file in leftover.files]
    size = size_text(freed_bytes(files))
    if not leftovers:
        say(f"there is nothing to remove in {search.folder}")
    elif dry_run:
        say(f"nothing is removed yet: without --dry-run {size} in {search.folder} become free")
    else:
        _remove(files, storage, name, watch)
        say(f"removed: {size} in {search.folder} are free")
    return leftovers


def _remove(files: Iterable[Path], storage: Storage, name: str, watch: LeaseWatch) -> None:
    """Removes files while nobody else can drive the search."""
    with contextlib.ExitStack() as stack:
        is_held = False
        for file in files:
            if not is_held:
                # On a full disk a lease finds no room; neither does that of another driver.
                with contextlib.suppress(OSError):
                    stack.enter_context(_lease(storage, name, watch))
                    is_held = True
            remove(file)


def _lease(storage: Storage, name: str, watch: LeaseWatch) -> Lease:
    """The lease of the search; raises OSError where the disk is full, whatever raised that."""
    try:
        return Lease.acquire(storage, name, watch=watch)
    except Exception as error:
        full = full_behind(error)
        if full is None:
            raise
        raise full from error


def _leftovers(search: Search, top: int | None) -> Iterator[Leftover]:
    trials = search.folder / "trials"
    states = dict(zip(search.trials["trial"], search.trials["state"], strict=True))
    kept = _kept_by(search, top)
    useless: dict[Path, list[Path]] = {}
    beyond: dict[Path, list[Path]] = {}
    older: dict[Path, list[Path]] = {}
    spare: dict[Path, list[Path]] = {}
    for name, state in states.items():
        folder = trials / name
        weights = sorted(folder.glob("a*/epoch-*/state.pt"))
        if state in ("FAIL", "PRUNED"):
            useless[folder] = weights
        elif state in ("COMPLETE", DROPPED) and read_test(folder):
            if name not in kept:
                beyond[folder] = weights
                continue
            newest, superfluous = _superfluous(folder, weights)
            older[folder] = [file for file in superfluous if newest not in file.parents]
            spare[folder] = [file for file in superfluous if newest in file.parents]
    yield from _of_trials("weights of failed and pruned trials", useless)
    yield from _of_trials(
        f"weights of trials that are not among the best {top} of their width", beyond
    )
    yield from _of_trials("checkpoints in older attempts", older)
    yield from _of_trials("checkpoints that are neither the newest nor the best", spare)
    ended = [trials / name for name, state in states.items() if state != "RUNNING"]
    unfinished = [*search.folder.glob("*.tmp")]
    for folder in ended:
        unfinished += folder.rglob("*.tmp")
    if unfinished:
        yield Leftover("files that a dead process left half written", tuple(unfinished))
    notes = [file for file in (search.folder / RAY).rglob("*") if not file.is_dir()]
    if notes:
        yield Leftover("Ray's notes", tuple(notes))


def _kept_by(search: Search, top: int | None) -> set[str]:
    """Trials whose weights are kept as far as they are complete."""
    if top is None:
        return set(search.trials["trial"])
    controls = search.trials.loc[search.trials["control"].notna(), "trial"]
    return {*controls, *best_trials(search, top)}


def _superfluous(trial: Path, weights: list[Path]) -> tuple[Path, list[Path]]:
    """The attempt of a trial's newest checkpoint, and the weights of all that are neither that one
    nor the best; none where something is damaged, because each may have to stand in."""
    newest = newest_checkpoint(trial)
    if newest is None:
        return trial, []
    best = newest.best
    if newest.damaged or best.damaged:
        return trial, []
    needed = {newest.folder, best.folder}
    return newest.folder.parent, [file for file in weights if file.parent not in needed]


def _of_trials(what: str, files: dict[Path, list[Path]]) -> Iterator[Leftover]:
    all_files = tuple(file for of_trial in files.values() for file in of_trial)
    if all_files:
        yield Leftover(what, all_files, sum(map(bool, files.values())))


def freed_bytes(files: Iterable[Path]) -> int:
    """The bytes that are free once files are removed: those of one with several names only if all
    its names are among them. Files that vanish meanwhile count nothing."""
    names: Counter[tuple[int, int]] = Counter()
    freed = 0
    for file in files:
        with contextlib.suppress(OSError):
            facts = file.lstat()
            inode = (facts.st_dev, facts.st_ino)
            names[inode] += 1
            if names[inode] == facts.st_nlink:
                freed += facts.st_size
    return freed
