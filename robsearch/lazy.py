"""Packages whose names bring what they need only when they are used."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def exports(file: str) -> dict[str, tuple[str, str]]:
    """The names that a package imports under ``if TYPE_CHECKING``: by name, the module that has it
    and what it is called there.

    Args:
        file: the package's ``__file__``, which is read.
    """
    home = {}
    for block in ast.parse(Path(file).read_text(encoding="utf-8")).body:
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING":
            for line in block.body:
                if isinstance(line, ast.ImportFrom) and line.module:
                    for alias in line.names:
                        home[alias.asname or alias.name] = (line.module, alias.name)
    return home


def lazy_names(package: str, file: str) -> Callable[[str], Any]:
    """A ``__getattr__`` for a package: each of its ``exports`` is imported when it is used.

    Args:
        package: its ``__name__``.
        file: its ``__file__``.
    """
    home = exports(file)
    # once a submodule is imported, the package has it as an attribute, and asks no __getattr__
    hidden = [name for name, (module, _) in home.items() if module == f"{package}.{name}"]
    assert not hidden, f"{', '.join(hidden)}: a name of {package} is that of its submodule"

    def load(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, original = home[name]
        value = getattr(importlib.import_module(module), original)
        setattr(sys.modules[package], name, value)
        return value

    return load
