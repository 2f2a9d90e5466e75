"""What is tried out on every node of a cluster, at the same time.

The driver alone talks to the storage and to MLflow, so nodes are not asked whether they reach them.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from robsearch import cluster
from robsearch.cluster import NodeAnswer
from robsearch.doctor.finding import Finding
from robsearch.errors import counted, refusal
from robsearch.search.preflight import check_writable
from robsearch.spaces import Space, suggestions
from robsearch.trials.paths import without_password

SHOWN = ("robsearch", "torch", "ray", "numpy")
"""Packages whose versions are always said; of the others only those that differ."""
CLOCK_LIMIT = 5.0
"""Seconds by which the clock of a node may differ: the times in MLflow and in logs would be in
another order."""
LOW_BYTES = 2**30
"""Free space below which a disk is about to be full."""
FULL_SHARE = 0.95
"""Of the disk with Ray's temporary folder: above it Ray writes no more objects there."""
FOLDERS = {
    "results": "the results folder",
    "temporary": "Ray's temporary folder",
    "cache": "the data cache",
}
GIB = 2**30


def examine_nodes(results: Path, spaces: list[Space]) -> list[Finding]:
    """One finding for each node of the connected cluster that can run jobs, and one for its token.

    Args:
        results: the results folder, which is made if it is not there.
        spaces: whose modules and data each node needs.

    Raises:
        InputError: the driver cannot write in the results folder.
    """
    check_writable(results)
    here = {package: cluster.installed_version(package) for package in _packages()}
    recipes = [draw.recipe for space in spaces for draw in suggestions(space)]
    answers = cluster.examine_nodes(results, list(here), recipes)
    of_nodes = [node_finding(answer, results, here) for answer in answers]
    return [_token_finding(answers), *of_nodes]


def node_finding(answer: NodeAnswer, results: Path, here: Mapping[str, str | None]) -> Finding:
    """What is said of one node.

    Args:
        answer: its own.
        results: the results folder.
        here: the versions of packages on the driver's machine.
    """
    what = f"node {answer.node.label}"
    problems = cluster.node_problems(answer, results)
    facts = answer.facts
    if facts is None:
        return Finding(what, "", tuple(problems))
    # An address with a password is nobody's to read.
    facts = {**facts, "data": facts["data"] and without_password(facts["data"])}
    problems += _missing_packages(what, facts, here)
    problems += _gpu_problems(what, answer)
    if facts["unwritable"]:
        do = "set ROBSEARCH_CACHE before `ray start` there to a folder on a local disk with room"
        expected = f"{what} to write its data cache {facts['folders']['cache']}"
        problems.append(refusal(expected, facts["unwritable"], do))
    warnings = [
        *_other_versions(what, facts, here),
        *_clock_warnings(what, answer),
        *_disk_warnings(what, facts),
        *([] if facts["result"] else _data_warnings(what, facts)),
        *_other_warnings(what, answer, facts),
    ]
    of_node = {**facts, "id": answer.node.identity, "ray_gpus": answer.node.gpus}
    of_node["clock_ahead_s"] = None if answer.skew is None else answer.skew[0]
    return Finding(what, _summary(answer, facts), tuple(problems), tuple(warnings), of_node)


def _packages() -> list[str]:
    """Those that robsearch says it needs, and itself."""
    try:
        requirements = importlib.metadata.requires("robsearch") or []
    except importlib.metadata.PackageNotFoundError:  # it is imported from a folder
        return list(SHOWN)
    needed = [text for text in requirements if "extra ==" not in text]
    names = [re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0] for text in needed]
    return list(dict.fromkeys([*SHOWN, *names]))


def _summary(answer: NodeAnswer, facts: Mapping[str, Any]) -> str:
    versions = [f"{name} {facts['versions'].get(name) or 'missing'}" for name in SHOWN]
    parts = [", ".join([f"Python {facts['python']}", *versions])]
    gpus = counted(answer.node.gpus, "GPU")
    parts.append(f"{gpus} ({'; '.join(facts['gpus'])})" if facts["gpus"] else gpus)
    if answer.skew is not None:
        parts.append(f"clock {answer.skew[0]:+.2f} s")
    free = [f"{facts['free'][key] / GIB:.0f} GiB in {FOLDERS[key]}" for key in FOLDERS]
    parts.append(f"free: {', '.join(free)}")
    if not facts["sharing"]:
        parts.append("shares the results folder")
    parts.append(f"data: {facts['result'] or facts['data'] or 'ROBSEARCH_DATA is not set'}")
    parts.append(f"token: {'there' if facts['token']['where'] else 'none'}")
    return "; ".join(parts)


def _missing_packages(
    what: str, facts: Mapping[str, Any], here: Mapping[str, str | None]
) -> Iterator[str]:
    missing = [name for name in here if here[name] and not facts["versions"][name]]
    if missing:
        versions = " ".join(f"{name}=={here[name]}" for name in missing)
        do = f"install it there as it is here ({versions})"
        yield refusal(f"{what} to have {', '.join(missing)}", "none", do)


def _other_versions(
    what: str, facts: Mapping[str, Any], here: Mapping[str, str | None]
) -> Iterator[str]:
    wanted = {"Python": platform.python_version(), **here}
    there = {"Python": facts["python"], **facts["versions"]}
    names = [name for name in wanted if there[name] and wanted[name] not in (None, there[name])]
    if names:
        expected = ", ".join(f"{name} {wanted[name]}" for name in names)
        got = ", ".join(f"{name} {there[name]}" for name in names)
        do = "install the versions of the driver there: others may train other networks"
        yield refusal(f"{what} to have {expected}", got, do)


def _gpu_problems(what: str, answer: NodeAnswer) -> Iterator[str]:
    facts = answer.facts or {}
    do = "install a PyTorch there that is built for its driver's CUDA (nvidia-smi says which)"
    if not answer.node.gpus:
        return
    expected = f"torch on {what} to use its {counted(answer.node.gpus, 'GPU')}"
    if facts["gpu_error"]:
        yield refusal(expected, facts["gpu_error"], do)
    elif len(facts["gpus"]) < answer.node.gpus:
        yield refusal(expected, len(facts["gpus"]), do)


def _clock_warnings(what: str, answer: NodeAnswer) -> Iterator[str]:
    if answer.skew is None:
        yield refusal(f"{what} to tell the time", "no answer", "run doctor again")
        return
    ahead, uncertainty = answer.skew
    if abs(ahead) - uncertainty > CLOCK_LIMIT:
        side = "ahead" if ahead > 0 else "behind"
        expected = f"the clock of {what} within {CLOCK_LIMIT:g} s of the driver's"
        do = "set both by NTP (timedatectl set-ntp true)"
        yield refusal(expected, f"one that is {abs(ahead):.0f} s {side}", do)


def _disk_warnings(what: str, facts: Mapping[str, Any]) -> Iterator[str]:
    for name, label in FOLDERS.items():
        free = facts["free"][name]
        folder = facts["folders"][name]
        is_full = name == "temporary" and free < (1 - FULL_SHARE) * facts["size"][name]
        if free < LOW_BYTES or is_full:
            expected = f"room in {label} {folder} of {what}"
            got = f"{free / GIB:.1f} of {facts['size'][name] / GIB:.0f} GiB"
            yield refusal(expected, got, "remove what is not needed there, or choose another disk")


def _data_warnings(what: str, facts: Mapping[str, Any]) -> Iterator[str]:
    """Where no space says which images are needed."""
    expected = f"{what} to see ROBSEARCH_DATA"
    do = "mount it there, or set ROBSEARCH_DATA before `ray start` there"
    if facts["data_there"] is False:
        yield refusal(expected, f"no folder {facts['data']}", do)
    elif facts["data"] is None and os.environ.get("ROBSEARCH_DATA"):
        yield refusal(expected, "none, and the driver has one", do)


def _other_warnings(what: str, answer: NodeAnswer, facts: Mapping[str, Any]) -> Iterator[str]:
    if facts["token"]["open"]:
        file = facts["token"]["where"]
        do = f"chmod 600 {file} there: who has it runs code on the cluster"
        yield refusal(f"Ray's token {file} on {what} to be its owner's alone", "readable", do)
    if len(facts["gpus"]) > answer.node.gpus:
        expected = f"Ray to use {counted(len(facts['gpus']), 'GPU')} of {what}"
        do = "start Ray there with --num-gpus, or with all of them in CUDA_VISIBLE_DEVICES"
        yield refusal(expected, f"{answer.node.gpus:g}", do)


def _token_finding(answers: list[NodeAnswer]) -> Finding:
    if cluster.asks_for_token():
        return Finding("token", "the cluster asks for one, and takes the one that is here")
    result = "the cluster asks for none"
    if all(answer.node.address.startswith("127.") for answer in answers):
        return Finding("token", f"{result}, and listens on this machine alone")
    do = "start it with RAY_AUTH_MODE=token on every node, as deploy/README.md says"
    got = "none: whoever reaches its ports runs code on it"
    warning = refusal("a token for the Ray cluster", got, do)
    return Finding("token", result, warnings=(warning,))
