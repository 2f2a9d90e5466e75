"""Objects by reference: ``module:name``, as the command line and the storage name spaces and studies."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from robsearch.errors import InputError, refusal

T = TypeVar("T")


def referred(reference: str, kind: type[T], noun: str, example: str, how: str) -> T:
    """The object that ``module:name`` refers to, on the import path or in the current folder.

    Args:
        reference: such as ``search_spaces.quickstart:digits``.
        kind: what it must be.
        noun: what it is called in refusals.
        example: of a reference.
        how: to make one.

    Raises:
        InputError: no such module, or it has no such object; lists those it has.
    """
    module_name, _, name = reference.partition(":")
    if not module_name or not name:
        raise InputError(refusal(f"{noun} as module:name", repr(reference), f"such as {example}"))
    module = _module(module_name)
    found = getattr(module, name, None)
    if isinstance(found, kind) and not isinstance(found, type):
        return found
    objects = {key: value for key, value in vars(module).items() if not isinstance(value, type)}
    known = sorted(key for key, value in objects.items() if isinstance(value, kind))
    got = f"{name!r} is a {type(found).__name__}" if hasattr(module, name) else f"it has no {name!r}"
    has = f"use one of {', '.join(known)}" if known else how
    raise InputError(refusal(f"a {kind.__name__} in {module_name}", got, has))


def _module(name: str) -> ModuleType:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        got = f"no module named {error.name!r} on the import path or in {Path.cwd()}"
        raise InputError(refusal(f"an importable module {name!r}", got, "check the spelling or cd there")) from error
    except Exception as error:
        got = f"{type(error).__name__}: {error}"
        raise InputError(refusal(f"an importable module {name!r}", got, "mend the module")) from error
