"""Tries out what a launch needs before anything is trained: places, record, cluster, GPUs, data.

Each is tried as a launch would use it, by the same functions; nothing is left behind, and no password is repeated.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import torch
from rich.text import Text

from robsearch import cluster
from robsearch.data import load
from robsearch.data.cache import cache_folder
from robsearch.errors import InputError, refusal
from robsearch.search import Means
from robsearch.search.preflight import check_space, check_writable
from robsearch.search.recording import driver_gpus
from robsearch.search.workplace import cpus_of_own, has, room
from robsearch.spaces import Space, load_space
from robsearch.study import SearchRecord, open_storage, without_password
from robsearch.tracking import check_tracking, experiment_of, sqlite_file
from robsearch.wording import counted

PROBE = "robsearch-doctor"
SECRET = re.compile(r"pass|secret|token|key|credential", re.IGNORECASE)
"""Names of a URL's parameters whose values are not to be shown."""


@dataclass(frozen=True)
class Finding:
    """What came of trying one thing: what was found, and the problems, each with what to do."""

    what: str
    found: str
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether a launch would get past it."""
        return not self.problems

    @property
    def facts(self) -> dict[str, Any]:
        """The same for a machine."""
        return {"what": self.what, "ok": self.ok, "found": self.found, "problems": self.problems}


def examine(means: Means | None = None, space: Space | str | None = None, connect: bool = False) -> list[Finding]:
    """Tries out everything; nothing that fails keeps the rest from being tried.

    Args:
        means: where a launch would keep its results, and run.
        space: that a launch would search, or its reference; its recipes and its data are tried too.
        connect: also join the Ray cluster, or start one here, for its room and to see that its nodes share the
            results folder. Without it nothing is started.
    """
    means = means or Means()
    known: list[Space] = []  # so that the cluster can be asked for room for the space
    trials: list[tuple[str, Callable[[], str]]] = [
        ("results", lambda: _results(means)),
        ("storage", lambda: _storage(means)),
        ("tracking", lambda: _tracking(means.uri())),
        ("data cache", _cache),
    ]
    if space is not None:
        trials.append(("space and data", lambda: _space(space, known)))
    trials.append(("cluster", lambda: _cluster(means, connect, known)))
    trials.append(("GPUs here", lambda: _gpus(means, known)))
    with means.place.current():
        return [_tried(what, attempt, means) for what, attempt in trials]


def finding_lines(findings: list[Finding]) -> Iterator[Text]:
    """One line for each finding, and one for each problem."""
    for finding in findings:
        mark = ("ok     ", "green") if finding.ok else ("PROBLEM", "bold red")
        yield Text.assemble(mark, f"  {finding.what}: {finding.found}" if finding.ok else f"  {finding.what}")
        for problem in finding.problems:
            yield Text(f"         {problem}")
    wrong = sum(not finding.ok for finding in findings)
    yield Text(f"{wrong} of {len(findings)} have a problem" if wrong else "ready to launch")


def _tried(what: str, attempt: Callable[[], str], means: Means) -> Finding:
    try:
        return Finding(what, _hidden(attempt(), means))
    except InputError as error:
        problems = error.problems
    except Exception as error:  # a doctor that breaks down at the first illness helps nobody
        first_line = str(error).strip().partition("\n")[0]
        problems = (refusal("it to work", f"{type(error).__name__}: {first_line}", "see what it names"),)
    return Finding(what, "", tuple(_hidden(problem, means) for problem in problems))


def _hidden(text: str, means: Means) -> str:
    """The text without the user names, passwords and tokens of the URLs that are in use."""
    for url in (means.storage, means.place.storage, means.uri()):
        for secret in _secrets(url or ""):
            text = text.replace(secret, "***")
    return text


def _secrets(url: str) -> set[str]:
    parts = urlsplit(url)
    login = "" if without_password(url) == url else url.partition("://")[2].rpartition("@")[0]
    found = {login, login.partition(":")[2], parts.password or ""}
    found |= {value for name, value in parse_qsl(parts.query) if SECRET.search(name)}
    return {each for one in found for each in (one, unquote(one)) if each}


# -- places ----------------------------------------------------------------------------------------------------


def _results(means: Means) -> str:
    folder = means.place.results
    there = _existing(folder)
    check_writable(there)
    free = shutil.disk_usage(there).free / 2**30
    return f"{folder} {'is writable' if there == folder else 'can be made'}, {free:.0f} GiB free"


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that exists: to try out is not to make."""
    return next(one for one in (folder, *folder.parents) if one.exists())


def _storage(means: Means) -> str:
    """Makes a record and deletes it again, in a journal of its own where journals are used."""
    url, name = means.place.storage, f"{PROBE}-{uuid.uuid4().hex[:8]}"
    if url and _to_be_made(url):
        return f"{url} will be made"
    try:
        near = None if url else _existing(means.place.results)
        with tempfile.TemporaryDirectory(prefix=f".{PROBE}-", dir=near) as at:
            storage = open_storage(url, Path(at))
            SearchRecord(name, "doctor:none", (), 0, 0, "", {}).create(storage)
            storage.delete_study(storage.get_study_id_from_name(name))
    except InputError:
        raise
    except Exception as error:
        got = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        do = "check its permissions, or choose another --storage URL or --results folder"
        raise InputError(refusal("an Optuna storage that can be written", got, do)) from error
    return f"{without_password(url)} can be written" if url else "a journal in each search's folder can be written"


def _tracking(uri: str) -> str:
    check_tracking(uri)
    shown = without_password(uri)
    if _to_be_made(uri):
        return f"{shown} will be made"
    try:
        experiment_of(uri, PROBE, "")
    except Exception as error:
        got = str(error).strip().partition("\n")[0]
        do = "check its address and credentials (MLFLOW_TRACKING_USERNAME, _PASSWORD, _TOKEN), or pass --tracking"
        raise InputError(refusal(f"an MLflow store that answers at {shown}", got, do)) from error
    return f"{shown} answers"


def _to_be_made(url: str) -> bool:
    """Whether it is a sqlite file that is not there yet; refuses one that could not be made, or written."""
    if (file := sqlite_file(url)) is None:
        return False
    if file.exists() and not os.access(file, os.W_OK):
        raise InputError(refusal(f"a writable {file}", "a read-only one", "mend its permissions, or choose another"))
    if not file.exists():
        check_writable(_existing(file.parent))
    return not file.exists()


def _cache() -> str:
    """Each node has one; this is the driver's."""
    folder = cache_folder()
    try:
        check_writable(_existing(folder))
    except InputError as error:
        do = "set ROBSEARCH_CACHE to a folder on a local disk with room that you may write"
        raise InputError(refusal(f"a writable cache {folder}", "one that is not", do)) from error
    root = os.environ.get("ROBSEARCH_DATA")
    return f"{folder}; images are read from {root or 'no folder: ROBSEARCH_DATA is not set, so only Digits are there'}"


# -- what is trained, and where --------------------------------------------------------------------------------


def _space(space: Space | str, known: list[Space]) -> str:
    space = load_space(space) if isinstance(space, str) else space
    draws = check_space(space)
    known.append(space)
    told = []
    for dataset in dict.fromkeys(draw.recipe.data for draw in draws):
        sizes = ", ".join(f"{split} {len(part.labels):,}" for split, part in load(dataset).items())
        told.append(f"{type(dataset).__name__} ({sizes})")
    return f"{counted(len(space.widths), 'width')}, {counted(len(draws), 'suggestion')} drawn; {', '.join(told)}"


def _cluster(means: Means, connect: bool, known: list[Space]) -> str:
    found = cluster.check_address(means.address)
    where = f"Ray at {found}" if means.address else "a Ray of its own on this machine"
    if not connect:
        cores = os.cpu_count()
        return (
            f"{where} answers"
            if means.address
            else f"{where}, {counted(cores or 1, 'CPU')} (--connect tries to start it)"
        )
    with cluster.connected(means.address, cpus_of_own(means, known[0]) if known else means.parallel):
        got = has()
        if cluster.node_count() > 1:
            check_writable(means.place.results)
            cluster.check_shared(means.place.results)
            got += ", which share the results folder"
        for space in known:
            at_once, _ = room(replace(means, parallel=None), space)
            got += f", room for {counted(at_once, 'trial')} at once"
    return f"{where}: {got}"


def _gpus(means: Means, known: list[Space]) -> str:
    """Uses each once: a driver or a build of PyTorch that does not fit shows only then."""
    seen, version = driver_gpus(), torch.__version__
    if not torch.cuda.is_available():
        if seen:
            do = "install a PyTorch built for this driver's CUDA (nvidia-smi shows the version)"
            raise InputError(refusal(f"PyTorch to see {seen}", f"PyTorch {version} that sees none", do))
        if not means.address and (wants := _widths_on_gpus(known)):
            do = "pass --address of a cluster that has some, or change the space's resources"
            raise InputError(refusal(f"GPUs for widths {wants}", f"none on {platform.node()}", do))
        return "none: trials train on the CPU" + (", unless the cluster has some" if means.address else "")
    for number in range(torch.cuda.device_count()):
        try:
            torch.ones(1, device=f"cuda:{number}").add(1).item()
        except RuntimeError as error:
            do = "see nvidia-smi: it may be in use exclusively, or unknown to this build of PyTorch"
            got = str(error).strip().partition("\n")[0]
            raise InputError(refusal(f"cuda:{number} to add two numbers", got, do)) from error
    return f"{torch.cuda.device_count()} work: {seen or torch.cuda.get_device_name()}, PyTorch {version}"


def _widths_on_gpus(known: list[Space]) -> str:
    wants = [width for space in known if space.resources for width in space.widths if space.resources(width).gpus > 0]
    return ", ".join(f"{width:g}" for width in wants)
