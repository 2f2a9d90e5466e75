"""The constants by which functions decide, read from the functions themselves: the smallest effect
that matters, a border, a factor."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import math
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from robsearch.identity import digest, former_home, module_name

ENGINE = ("robsearch.claims", "robsearch.laws", "robsearch.trials.selection")
"""Where functions are followed beside the package of a study: they judge the claims of all."""


def constants_of(roots: Iterable[object], owner: type) -> Mapping[str, Mapping[str, Any]]:
    """By function, what its code holds that may decide.

    These are constants that it reads, by their names; floating-point numbers that stand in it, as
    ``numbers`` and without their signs; the defaults of its own parameters, and of the fields of
    dataclasses that it makes. Functions that it calls are followed within its package and in what
    judges all claims; methods where they are those of ``owner``.

    Args:
        roots: functions, methods or partials; anything else has no code and is passed over.
        owner: the class of the study.
    """
    reader = _Reader(owner)
    for root in roots:
        reader.follow(root)
    return {name: reader.constants[name] for name in sorted(reader.constants)}


def arguments_of(function: object) -> Mapping[str, Any]:
    """What a partial was made with but for functions, as plain data, by name or by position."""
    if not isinstance(function, functools.partial):
        return {}
    positional = {str(position): item for position, item in enumerate(function.args)}
    given = {**positional, **function.keywords}
    return {
        name: plain(item)
        for name, item in given.items()
        if _is_constant(item) or _is_dataclass_object(item)
    }


def plain(value: Any) -> Any:
    """Numbers, texts and what is made of them, as in JSON; a digest of anything else.

    Raises:
        InputError: something in it has no lasting name.
    """
    if _is_scalar(value):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        return [plain(item) for item in value]
    return digest(value)


class _Reader:
    """Follows functions, each once."""

    def __init__(self, owner: type) -> None:
        self.constants: dict[str, dict[str, Any]] = {}
        self._owner = owner
        self._seen: set[int] = set()
        # An id is another object's when the first one is gone, so those that were read are kept.
        self._followed: list[object] = []

    def follow(self, value: object) -> None:
        """Into whatever has code."""
        if isinstance(value, functools.partial):
            for part in (value.func, *value.args, *value.keywords.values()):
                self.follow(part)
        elif isinstance(value, types.MethodType):
            self.follow(value.__func__)
        elif isinstance(value, property):
            self.follow(value.fget)
        elif hasattr(value, "__wrapped__"):
            # What a cache or another decorator of functools is around.
            self.follow(value.__wrapped__)
        elif isinstance(value, types.FunctionType) and id(value) not in self._seen:
            self._seen.add(id(value))
            self._followed.append(value)
            self._read(value)

    def _read(self, function: types.FunctionType) -> None:
        codes = list(_codes(function.__code__))
        names = dict.fromkeys(name for code in codes for name in code.co_names)
        known = {**function.__globals__, **_closure(function)}
        read = {name: known[name] for name in (*names, *_closure(function)) if name in known}
        self._keep(_name(function), dict(_constants(function, codes, read)))
        called = (*read.values(), *(getattr(self._owner, name, None) for name in names))
        for value in called:
            if _is_near(value, function):
                self.follow(value)

    def _keep(self, name: str, constants: dict[str, Any]) -> None:
        """Functions that are made anew by another have one name, and each its own constants."""
        if not constants:
            return
        number = 1
        numbered = name
        while self.constants.get(numbered, constants) != constants:
            number += 1
            numbered = f"{name} {number}"
        self.constants[numbered] = constants


def _constants(
    function: types.FunctionType,
    codes: Iterable[types.CodeType],
    read: Mapping[str, object],
) -> Iterator[tuple[str, Any]]:
    for name, value in read.items():
        if _is_constant(value):
            yield name, plain(value)
        elif isinstance(value, type) and dataclasses.is_dataclass(value):
            defaults = _field_defaults(value)
            if defaults and not _is_in(value.__module__, ENGINE):
                yield name, defaults
    # Other versions of Python keep a minus apart from its number, and small whole numbers apart
    # from both.
    numbers = {abs(item) for code in codes for item in code.co_consts if isinstance(item, float)}
    if numbers:
        yield "numbers", plain(sorted(numbers))
    parameters = inspect.signature(function).parameters.values()
    defaults = {each.name: each.default for each in parameters if _is_constant(each.default)}
    if defaults:
        yield "defaults", plain(defaults)


def _field_defaults(kind: Any) -> Mapping[str, Any]:
    """Of a dataclass; but of fields of a later time, whose defaults change nothing."""
    return {
        field.name: plain(field.default)
        for field in dataclasses.fields(kind)
        if _is_constant(field.default) and not field.metadata.get("robsearch.later")
    }


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Of a function, and of what is defined within it."""
    yield code
    for item in code.co_consts:
        if isinstance(item, types.CodeType):
            yield from _codes(item)


def _closure(function: types.FunctionType) -> dict[str, object]:
    enclosed: dict[str, object] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # nothing has been put into it yet
            enclosed[name] = cell.cell_contents
    return enclosed


def _is_near(value: object, caller: types.FunctionType) -> bool:
    """Whether it is of the caller's package, or of what judges all claims."""
    function = value.fget if isinstance(value, property) else value
    module = getattr(function, "__module__", None) or ""
    package = caller.__module__.rpartition(".")[0] or caller.__module__
    return _is_in(module, (package, *ENGINE))


def _is_in(module: str, packages: Iterable[str]) -> bool:
    return any(module == each or module.startswith(f"{each}.") for each in packages)


def _is_scalar(value: object) -> bool:
    # In JSON there is no number that is not finite.
    is_finite = isinstance(value, float) and math.isfinite(value)
    return value is None or is_finite or isinstance(value, bool | int | str)


def _is_constant(value: object) -> bool:
    """Whether a value is a number or text, or is made of these alone."""
    if isinstance(value, Mapping):
        return all(map(_is_constant, value.values()))
    if isinstance(value, tuple | list | set | frozenset):
        return all(map(_is_constant, value))
    return value is not None and (_is_scalar(value) or isinstance(value, float))


def _is_dataclass_object(value: object) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _name(function: types.FunctionType) -> str:
    return f"{former_home(module_name(function.__module__))}:{function.__qualname__}"
