"""Where figures come from: which machine, device, versions and code made each attempt at a trial.

    NAME/search.json                    whose folder this is: the search's identity, and each driver
                                        that it had
    NAME/trials/w4-017/a2/attempt.json  what the process of the second attempt ran on, and the
                                        recipe it was given

A worker writes the second when it begins; what was launched on another day, from other code, stays
told apart.
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robsearch.trials.files import DamagedError, read_json, write_json
from robsearch.trials.loading import attempts
from robsearch.trials.variables import needed_environment

if TYPE_CHECKING:
    from robsearch.recipe import Recipe

SEARCH, ATTEMPT = "search.json", "attempt.json"
PACKAGES = ("robsearch", "torch", "torchvision", "numpy", "ray", "optuna", "mlflow")
PROGRAM_SECONDS = 10
NOT_BYTE_CODE = ":(top,exclude,glob)**/__pycache__/**"
"""Python itself leaves byte code beside what it imports, and not every project ignores it."""

Facts = dict[str, Any]

OF_SEARCH = ("name", "identity", "space", "project", "code", "imports_from", "folder")
OF_PROCESS = {"node": str, "versions": dict, "commit": str, "clean": bool | None}
OF_ATTEMPT = {"attempt": int, "device": str, "recipe": dict}
"""What the files have, and of which type it is; what else they hold is damage."""


def process_facts(code: Path) -> Facts:
    """What this process runs on.

    Args:
        code: the folder from which the space is imported, or, of a notebook's, the one in which the
            driver runs.

    Returns:
        ``node``, ``pid``, ``python``, ``versions`` (of packages), ``code``, ``commit`` and
        ``clean``: whether the working tree had no changes, None if that is not known. ``commit``
        says ``not in a git repository`` or ``unknown`` where there is none. Plain JSON.
    """
    commit, clean = code_of(code)
    return {
        "node": platform.node(),
        "pid": os.getpid(),
        "python": platform.python_version(),
        "versions": installed_versions(),
        "code": str(code),
        "commit": commit,
        "clean": clean,
    }


def installed_versions() -> dict[str, str]:
    """The version of each package that a number may depend on; those that are not installed are
    left out."""
    return dict(_versions())


@cache
def _versions() -> Mapping[str, str]:
    """Looked up once, as a process loads a package once: a look parses the package's metadata."""
    versions = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions


@cache
def code_of(project: Path) -> tuple[str, bool | None]:
    """The commit of a folder, and whether its tree was clean: looked up once, as a process loads
    its code once."""
    commit = _git(project, "rev-parse", "--short=12", "HEAD")
    if commit is not None:
        changes = _git(project, "status", "--porcelain", "--", ":/", NOT_BYTE_CODE)
        return commit, None if changes is None else not changes
    # A repository without a commit, or a folder that is not there, says nothing of the code.
    inside = _git(project, "rev-parse", "--is-inside-work-tree")
    return ("not in a git repository" if inside is None and project.exists() else "unknown"), None


def device_name() -> str:
    """The device that this process trains on, such as ``NVIDIA H100 80GB HBM3`` or the name of the
    processor."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{_processor()}, {torch.get_num_threads()} threads"


def write_attempt(attempt: Path, number: int, recipe: Recipe) -> None:
    """Writes ``attempt.json`` into an attempt's own folder, before it trains.

    Raises:
        OSError: there is no room, or the folder cannot be written.
    """
    search = read_search(attempt.parents[2])
    # An older driver wrote no code folder, and a notebook has neither.
    code = Path(search.get("code") or search.get("project") or Path.cwd())
    facts = {
        "search": search.get("identity"),
        "attempt": number,
        "started": time.time(),
        **process_facts(code),
        "device": device_name(),
        "recipe": recipe.flat(),
    }
    write_json(attempt / ATTEMPT, facts)


def read_attempts(trial: Path) -> list[Facts]:
    """What is known of each attempt at a trial, in their order; damaged files are left out."""
    of_each = [_read(attempt / ATTEMPT) for attempt in reversed(attempts(trial))]
    return [facts for facts in of_each if _has(facts, OF_ATTEMPT | OF_PROCESS)]


def read_search(folder: Path) -> Facts:
    """``search.json`` of a search's folder, without what is damaged; empty if there is none that
    can be read."""
    content = _read(folder / SEARCH)
    if not content:
        return {}
    facts: Facts = {name: content[name] for name in OF_SEARCH if _has(content, {name: str})}
    drivers = content["drivers"] if _has(content, {"drivers": list}) else []
    facts["drivers"] = [driver for driver in drivers if _has(driver, OF_PROCESS)]
    return facts


def commit_text(facts: Mapping[str, Any]) -> str:
    """A commit as people read it: ``46df4b065def``, with ``and changes`` where the tree was not
    clean."""
    return f"{facts['commit']} and changes" if facts.get("clean") is False else str(facts["commit"])


def versions_text(facts: Mapping[str, Any]) -> str:
    """Versions as people read them: ``robsearch 0.2.0, torch 2.14.1``."""
    return ", ".join(f"{name} {text}" for name, text in facts["versions"].items())


def _read(file: Path) -> Facts:
    with suppress(DamagedError):  # nothing depends on it
        content = read_json(file)
        if isinstance(content, dict):
            return content
    return {}


def _has(facts: Any, types: Mapping[str, Any]) -> bool:
    """Whether something has all of these facts, each of its type."""
    return isinstance(facts, dict) and all(
        name in facts and isinstance(facts[name], kind) for name, kind in types.items()
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _git(folder: Path, *words: str) -> str | None:
    return output_of("git", "-C", str(folder), *words)


def output_of(*words: str) -> str | None:
    """What a program prints that sees no secret of this process's environment; None if it is not
    there, fails, or takes too long."""
    with suppress(OSError, subprocess.SubprocessError):
        text = subprocess.check_output(
            words,
            env=needed_environment(),
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=PROGRAM_SECONDS,
        )
        return text.strip()
    return None
