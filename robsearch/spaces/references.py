"""Objects by reference: ``module:name``, as the command line and the storage name spaces and
studies."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from robsearch.errors import InputError, a, described_error, refused
from robsearch.identity import module_name

_IMPORTING: ContextVar[str | None] = ContextVar(
    "module that is being imported for a reference", default=None
)

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
    module, name = module_of(reference, noun, example)
    thing = getattr(module, name, None)
    if isinstance(thing, kind) and not isinstance(thing, type):
        return thing
    got = f"it has no {name!r}"
    if hasattr(module, name):
        got = f"{name!r} is {a(type(thing).__name__)}"
    things = {key: value for key, value in vars(module).items() if not isinstance(value, type)}
    names = sorted(key for key, value in things.items() if isinstance(value, kind))
    do = f"use one of {', '.join(names)}" if names else how
    raise refused(f"{a(kind.__name__)} in {module.__name__}", got, do)


def module_of(reference: str, noun: str, example: str) -> tuple[ModuleType, str]:
    """The module that ``module:name`` is in, on the import path or in the current folder, and the
    name, which it need not have.

    Args:
        reference: such as ``search_spaces.quickstart:digits``.
        noun: what it is called in refusals.
        example: of a reference.

    Raises:
        InputError: another kind of text, or no such module.
    """
    module_name, _, name = reference.partition(":")
    # A file's path, as a shell completes it, is meant as the module in it.
    is_path = module_name.endswith(".py") or "/" in module_name
    if not module_name or not name or is_path:
        do = f"pass such as {example}"
        if is_path:
            dotted = ".".join(Path(module_name).with_suffix("").parts).strip("./")
            do = f"write a module with dots, and what it has: {dotted}:{name or 'NAME'}"
        raise refused(f"{noun} as module:name", repr(reference), do)
    return _module(module_name), name


def reference_of(thing: object, module: str) -> str | None:
    """The reference under which another process finds this very object; None if no module holds it.

    An object of the script that runs is found under the script's name: see
    ``refuse_while_importing``.

    Args:
        thing: such as a space.
        module: where it is looked for first, before all other modules that are loaded.
    """
    for name in dict.fromkeys([module, "__main__", *sorted(sys.modules)]):
        namespace = getattr(sys.modules.get(name), "__dict__", {})
        for key, value in list(namespace.items()):
            if value is thing and not key.startswith("_"):
                importable = module_name(name)
                return None if importable == "__main__" else f"{importable}:{key}"
    return None


def import_root(reference: str) -> Path | None:
    """The folder from which the module of a reference was imported: on another day it must be on
    the import path.

    None for what is not imported in this process, or not from a file.
    """
    name = reference.partition(":")[0]
    module = sys.modules.get("__main__" if module_name("__main__") == name else name)
    file = getattr(module, "__file__", None)
    if file is None:
        return None
    path = Path(file).resolve()
    depth = name.count(".") + (path.stem == "__init__")
    return path.parents[depth]


def refuse_while_importing(what: str) -> None:
    """Refuses what a module must not do while it is imported for one of its objects.

    Args:
        what: is refused, such as ``to launch a search``.

    Raises:
        InputError: a reference is being looked up.
    """
    if (module := _IMPORTING.get()) is not None:
        do = (
            'put it under `if __name__ == "__main__":`, so that the module can be imported for '
            "its spaces"
        )
        raise refused(f"not {what} while {module!r} is imported", "a call in the module's body", do)


@contextmanager
def _importing(name: str) -> Iterator[None]:
    token = _IMPORTING.set(name)
    try:
        yield
    finally:
        _IMPORTING.reset(token)


def _module(name: str) -> ModuleType:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        with _importing(name):
            return importlib.import_module(name)
    except InputError as error:
        problems = [f"in module {name!r}: {problem}" for problem in error.problems]
        raise InputError(*problems) from error
    except Exception as error:
        got = described_error(error)
        do = "correct the module"
        if isinstance(error, ModuleNotFoundError):
            got = f"no module named {error.name!r} on the import path or in {Path.cwd()}"
            do = "check the spelling or cd there"
            if not f"{name}.".startswith(f"{error.name}."):
                do = f"{name} imports it: install it, or correct the import"
        raise refused(f"an importable module {name!r}", got, do) from error
