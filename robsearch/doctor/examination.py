"""What is tried out on the machine of the driver, and on the cluster as a whole."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import torch

from robsearch import cluster
from robsearch.data import load
from robsearch.data.cache import cache_folder
from robsearch.doctor.finding import Finding
from robsearch.doctor.nodes import examine_nodes
from robsearch.errors import InputError, StorageAwayError, counted, refusal, refused
from robsearch.search import RunOptions
from robsearch.search.capacity import capacity, description, own_cpus
from robsearch.search.preflight import check_writable
from robsearch.search.recording import driver_gpus
from robsearch.spaces import Space, check, load_space
from robsearch.study import SearchRecord, open_storage
from robsearch.tracking import check_tracking, experiment_of, sqlite_file
from robsearch.trials.paths import without_password

PROBE = "robsearch-doctor"
SECRET = re.compile(r"pass|secret|token|key|credential", re.IGNORECASE)
"""Names of a URL's parameters whose values are not to be shown."""


def examine(
    options: RunOptions | None = None, space: Space | str | None = None, connect: bool = False
) -> list[Finding]:
    """Tries out everything; nothing that fails keeps the rest from being tried.

    Args:
        options: where a launch would keep its results, and run.
        space: that a launch would search, or its reference; its recipes and its data are tried too.
        connect: also join the Ray cluster, or start one here, for its room; each node of one that
            is joined is a finding of its own (``robsearch.doctor.nodes``). Without it nothing is
            started.
    """
    options = options or RunOptions()
    # A space that is sound is put in here, so that the cluster is asked for room for it.
    sound: list[Space] = []
    of_nodes: list[Finding] = []
    checks: dict[str, Callable[[], str]] = {
        "results": lambda: _results(options),
        "storage": lambda: _storage(options),
        "tracking": lambda: _tracking(options.uri()),
        "data cache": _cache,
    }
    if space is not None:
        checks["space and data"] = lambda: _space(space, sound)
    checks["cluster"] = lambda: _cluster(options, connect, sound, of_nodes)
    checks["GPUs here"] = lambda: _gpus(options, sound)
    with options.store.current():
        findings = [_finding(what, check, options) for what, check in checks.items()]
    return [*findings, *of_nodes]


def _finding(what: str, check: Callable[[], str], options: RunOptions) -> Finding:
    try:
        return Finding(what, _hidden(check(), options))
    except InputError as error:
        problems = error.problems
    except Exception as error:  # the other checks are made all the same
        got = f"{type(error).__name__}: {_first_line(error)}"
        problems = (refusal("it to work", got, "see what it names"),)
    return Finding(what, "", tuple(_hidden(problem, options) for problem in problems))


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _hidden(text: str, options: RunOptions) -> str:
    """The text without the user names, passwords and tokens of the URLs that are in use."""
    for url in (options.storage, options.store.storage, options.uri()):
        for secret in _secrets(url or ""):
            text = text.replace(secret, "***")
    return text


def _secrets(url: str) -> set[str]:
    parts = urlsplit(url)
    login = "" if without_password(url) == url else url.partition("://")[2].rpartition("@")[0]
    secrets = {login, login.partition(":")[2], parts.password or ""}
    secrets |= {value for name, value in parse_qsl(parts.query) if SECRET.search(name)}
    return {*secrets, *map(unquote, secrets)} - {""}


# --- places ---


def _results(options: RunOptions) -> str:
    folder = options.store.results
    nearest = _existing(folder)
    check_writable(nearest)
    free = shutil.disk_usage(nearest).free / 2**30
    state = "is writable" if nearest == folder else "can be made"
    return f"{folder} {state}, {free:.0f} GiB free"


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that exists: to try out is not to make."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def _storage(options: RunOptions) -> str:
    """Makes a record and deletes it again, in a journal of its own where journals are used."""
    url, name = options.store.storage, f"{PROBE}-{uuid.uuid4().hex[:8]}"
    if url and _to_be_made(url):
        return f"{url} will be made"
    try:
        # A journal has to be tried on the disk on which it would lie.
        parent = None if url else _existing(options.store.results)
        with tempfile.TemporaryDirectory(prefix=f".{PROBE}-", dir=parent) as folder:
            storage = open_storage(url, Path(folder))
            SearchRecord(name, "doctor:none", (), 0, 0, "", {}).create(storage)
            storage.delete_study(storage.get_study_id_from_name(name))
    except InputError:
        raise
    except StorageAwayError as error:
        raise InputError(str(error)) from error
    except Exception as error:
        got = f"{type(error).__name__}: {_first_line(error)}"
        do = "check its permissions, or choose another --storage URL or --results folder"
        raise refused("an Optuna storage that can be written", got, do) from error
    what = without_password(url) if url else "a journal in each search's folder"
    return f"{what} can be written"


def _tracking(uri: str) -> str:
    check_tracking(uri)
    store = without_password(uri)
    if _to_be_made(uri):
        return f"{store} will be made"
    try:
        experiment_of(uri, PROBE, "")
    except Exception as error:
        do = (
            "check its address and credentials (MLFLOW_TRACKING_USERNAME, _PASSWORD, _TOKEN), "
            "or pass --tracking"
        )
        expected = f"an MLflow store that answers at {store}"
        raise refused(expected, _first_line(error), do) from error
    return f"{store} answers"


def _to_be_made(url: str) -> bool:
    """Whether it is a sqlite file that is not there yet; refuses one that could not be made, or
    written."""
    file = sqlite_file(url)
    if file is None:
        return False
    if not file.exists():
        check_writable(_existing(file.parent))
        return True
    if not os.access(file, os.W_OK):
        do = "change its permissions, or choose another"
        raise refused(f"a writable {file}", "a read-only one", do)
    return False


def _cache() -> str:
    """Each node has one; this is the driver's."""
    folder = cache_folder()
    try:
        check_writable(_existing(folder))
    except InputError as error:
        do = "set ROBSEARCH_CACHE to a folder on a local disk with room that you may write"
        raise refused(f"a writable cache {folder}", "one that is not", do) from error
    nowhere = "no folder: ROBSEARCH_DATA is not set, so a data set without root= is Digits"
    return f"{folder}; images are read from {os.environ.get('ROBSEARCH_DATA') or nowhere}"


# --- what is trained, and where ---


def _space(space: Space | str, sound: list[Space]) -> str:
    space = load_space(space) if isinstance(space, str) else space
    draws = check(space, needs_data=True)
    sound.append(space)
    data = []
    for dataset in dict.fromkeys(draw.recipe.resolved_data for draw in draws):
        sizes = ", ".join(f"{name} {len(split.labels):,}" for name, split in load(dataset).items())
        data.append(f"{type(dataset).__name__} ({sizes})")
    widths, suggestions = counted(len(space.widths), "width"), counted(len(draws), "suggestion")
    return f"{widths}, {suggestions} drawn; {', '.join(data)}"


def _cluster(
    options: RunOptions, connect: bool, sound: list[Space], of_nodes: list[Finding]
) -> str:
    address = cluster.check_address(options.address)
    where = f"Ray at {address}" if options.address else "a Ray of its own on this machine"
    if not connect and options.address:
        return f"{where} answers"
    if not connect:
        return f"{where}, {counted(os.cpu_count() or 1, 'CPU')} (--connect tries to start it)"
    cpus = own_cpus(options, sound[0]) if sound else options.parallel
    with cluster.connected(options.address, cpus):
        text = description()
        if options.address or cluster.node_count() > 1:
            of_nodes += examine_nodes(options.store.results, sound)
            text += ", and the driver alone talks to storage and MLflow"
        for space in sound:
            # Without the limit that was asked for, to tell how much room there is.
            at_once, _ = capacity(replace(options, parallel=None), space)
            text += f", room for {counted(at_once, 'trial')} at once"
    return f"{where}: {text}"


def _gpus(options: RunOptions, sound: list[Space]) -> str:
    """Uses each once: a driver or a build of PyTorch that does not fit shows only then."""
    gpus, version = driver_gpus(), torch.__version__
    if not torch.cuda.is_available():
        if gpus:
            do = "install a PyTorch built for this driver's CUDA (nvidia-smi shows the version)"
            got = f"PyTorch {version} that sees none"
            raise refused(f"PyTorch to see {gpus}", got, do)
        if options.address:
            return "none: trials train on the CPU, unless the cluster has some"
        if widths := _widths_on_gpus(sound):
            do = "pass --address of a cluster that has some, or change the space's resources"
            raise refused(f"GPUs for widths {widths}", f"none on {platform.node()}", do)
        return "none: trials train on the CPU"
    for number in range(torch.cuda.device_count()):
        try:
            torch.ones(1, device=f"cuda:{number}").add(1).item()
        except RuntimeError as error:
            do = "see nvidia-smi: it may be in use exclusively, or unknown to this build of PyTorch"
            expected = f"cuda:{number} to add two numbers"
            raise refused(expected, _first_line(error), do) from error
    names = gpus or torch.cuda.get_device_name()
    return f"{torch.cuda.device_count()} work: {names}, PyTorch {version}"


def _widths_on_gpus(spaces: list[Space]) -> str:
    widths = []
    for space in spaces:
        if space.resources is not None:
            widths += [width for width in space.widths if space.resources(width).gpus > 0]
    return ", ".join(f"{width:g}" for width in widths)
