"""The one way robsearch refuses bad input: what was expected, what came, what to do."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import math
import operator
import os
import sysconfig
import types
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from traceback import walk_tb
from types import FrameType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints


class InputError(ValueError):
    """Bad input, found before any compute is spent. The command line prints it and exits with code
    2.

    Attributes:
        problems: one sentence each, all that were found, never only the first.
    """

    def __init__(self, *problems: str) -> None:
        self.problems: Sequence[str] = problems
        super().__init__("\n".join(problems))


class LeaseLostError(RuntimeError):
    """Another driver took this search over: this one must not write any more."""


class StorageAwayError(RuntimeError):
    """The database of a search was away for longer than it is waited for."""


PIXEL_UNITS = "give it in pixel units, 8/255 and not 8"
"""What to do about an eps or a step size that does not fit."""


class Condition(NamedTuple):
    """Whether something fits, and the words for a refusal if it does not."""

    fits: bool
    expected: str
    got: object
    do: str


class DiskFullError(OSError):
    """There is no room for a checkpoint, or for what the driver writes; says where, and how many
    bytes are free.

    Attributes:
        needed: bytes of what was to be written; 0 where that is not known.
    """

    def __init__(self, text: str, needed: int = 0) -> None:
        super().__init__(text)
        self.needed = needed


def refusal(expected: str, got: object, do: str) -> str:
    """The house's sentence for one problem: ``expected ..., got ...: ...``.

    What came may be a library's message of several lines, or quote a whole tensor: it is one line
    of bounded length.
    """
    lines = map(str.strip, f"{got}".splitlines())
    return f"expected {expected}, got {shortened(' '.join(filter(None, lines)))}: {do}"


class TakenNameError(InputError):
    """There is a search of that name, which there was not when it was looked for."""


def refused(expected: str, got: object, do: str) -> InputError:
    """The error of one problem, to be raised."""
    return InputError(refusal(expected, got, do))


def refuse(problems: Iterable[str]) -> None:
    """Raises InputError with all problems, each once, if there are any."""
    distinct = dict.fromkeys(problems)
    if distinct:
        raise InputError(*distinct)


def problems_of(*conditions: tuple[bool, str, object, str]) -> list[str]:
    """A sentence for each condition that does not hold."""
    return [refusal(expected, got, do) for fits, expected, got, do in conditions if not fits]


def refuse_unless(*conditions: tuple[bool, str, object, str]) -> None:
    """Raises InputError with all conditions that do not hold."""
    refuse(problems_of(*conditions))


def number(
    name: str,
    value: Any,
    do: str,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    whole: bool = False,
) -> Condition:
    """A condition on a finite number, in words that follow from its bounds: ``eps in [0, 1)``.

    Give one lower bound; an upper one is optional. ``whole`` refuses what is no whole number.
    """
    bounds = {operator.gt: above, operator.ge: at_least, operator.lt: below, operator.le: at_most}
    # To Python a bool is a number, and True would pass for 1.
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    fits = is_whole(value) if whole else is_number and math.isfinite(value)
    if fits:
        fits = all(holds(value, bound) for holds, bound in bounds.items() if bound is not None)
    one_sided = below is None and at_most is None
    if one_sided:
        span = f"> {above:g}" if at_least is None else f">= {at_least:g}"
    else:
        start = f"({above:g}" if at_least is None else f"[{at_least:g}"
        end = f"{below:g})" if at_most is None else f"{at_most:g}]"
        span = f"in {start}, {end}"
    if whole:
        span += ", a whole number"
    elif one_sided or not is_number:
        span += ", a finite number"
    return Condition(fits, f"{name} {span}", value if isinstance(value, Real) else repr(value), do)


def count(name: str, value: Any, do: str, least: int = 1) -> Condition:
    """A condition on a whole number of things, such as steps: ``steps >= 1, a whole number``."""
    return number(name, value, do, at_least=least, whole=True)


def share(name: str, value: Any, do: str) -> Condition:
    """A condition on a number in [0, 1], such as a share of training."""
    return number(name, value, do, at_least=0, at_most=1)


def one_of(name: str, value: object, *options: str) -> Condition:
    """A condition on a word: ``norm 'linf' or 'l2'``."""
    *others, last = map(repr, options)
    expected = f"{name} {', '.join(others)} or {last}"
    return Condition(value in options, expected, repr(value), "pass one of these")


def instance_of(name: str, value: object, protocol: Any, example: str = "") -> Condition:
    """A condition on an object with a protocol's methods: ``Recipe.attack to be an Attack``.

    Args:
        name: of the field that holds it.
        value: that is judged.
        protocol: whose methods it needs.
        example: of what fits, as it is written in Python.
    """
    is_instance = not isinstance(value, type)
    if is_instance and isinstance(value, protocol):
        return _call_condition(name, value, protocol)
    kind = protocol.__name__
    expected = f"{name} to be {a(kind)}"
    missing = _missing(value, protocol)
    do = f"pass {example or a(kind)}"
    if isinstance(value, type) and not missing:
        do = f"pass an instance, {value.__name__}(...), not the class"
    elif is_instance and not isinstance(value, str | Real | tuple | list | dict | None):
        do = f"give it {', '.join(missing)}, as robsearch.protocols.{kind} says, or {do}"
    return Condition(False, expected, _one_line(value), do)


def _missing(value: object, protocol: Any) -> list[str]:
    """What a protocol asks for and an object, or the objects of a class, do not have."""
    has = {*dir(value), *getattr(value, "__dataclass_fields__", ())}
    return [name for name in _promised(protocol) if name not in has]


def _promised(protocol: Any) -> list[str]:
    """The names of a protocol's methods and properties."""
    return [name for name in vars(protocol) if name == "__call__" or not name.startswith("_")]


def _one_line(value: object) -> str:
    """An object's text; a function by its name, for its address tells nobody anything."""
    if inspect.isroutine(value):
        return f"the function {value.__qualname__}"
    return " ".join(repr(value).split())


def _call_condition(name: str, value: object, protocol: Any) -> Condition:
    """A condition on the methods of an object that has all of them: they take what they are called
    with."""
    key = (type(value), protocol)
    # Two functions, or partials of them, are of one class and take other things.
    is_leaf = dataclasses.is_dataclass(value)
    misfit = _MISFITS[key] if is_leaf and key in _MISFITS else _misfit(value, protocol)
    if is_leaf:
        _MISFITS[key] = misfit
    if misfit is None:
        return Condition(True, "", "", "")
    method, parameters, got = misfit
    return Condition(False, f"{name} with {method}({parameters})", got, "give it these parameters")


_MISFITS: dict[tuple[Any, Any], tuple[str, str, str] | None] = {}
"""By class and protocol, because recipes are made by the thousand."""


def _misfit(value: object, protocol: Any) -> tuple[str, str, str] | None:
    """The first method that does not take what a protocol says: its name, the parameters that it is
    called with, and how it was defined."""
    for method in _promised(protocol):
        declared = vars(protocol)[method]
        if inspect.isfunction(declared):
            parameters = [*inspect.signature(declared).parameters][1:]
            function: Any = value if inspect.isroutine(value) else getattr(value, method)
            if not accepts(function, len(parameters)):
                got = f"{method} = {function!r}"
                if callable(function):
                    got = f"{getattr(function, '__name__', method)}{inspect.signature(function)}"
                return method, ", ".join(parameters), got
    return None


def accepts(function: Any, count: int) -> bool:
    """Whether a function can be called with so many arguments by their order; yes if Python does
    not know."""
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    except ValueError:  # of a function that is written in C
        return True
    return True


def is_whole(value: object) -> bool:
    """An integer, also NumPy's, and no bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def kind_problems(node: Any, name: str) -> Iterator[str]:
    """The fields of robsearch's own classes in a tree that hold another kind of number than they
    are declared to."""
    if isinstance(node, tuple):
        for i, item in enumerate(node):
            yield from kind_problems(item, f"{name}[{i}]")
    elif dataclasses.is_dataclass(node) and not isinstance(node, type):
        for field, hint in _fields_and_hints(type(node)):
            value = getattr(node, field)
            # A float for a float, an int for an int: so are most of a recipe's numbers.
            if type(value) is not hint and not _is_of_kind(value, hint):
                path = f"{name}.{field}"
                if float in _kinds(hint):
                    yield refusal(f"{path} to be a number", repr(value), "pass such as 0.5")
                else:
                    yield refusal(f"{path} to be a whole number", repr(value), "pass such as 3")
            if isinstance(value, tuple) or dataclasses.is_dataclass(value):
                yield from kind_problems(value, f"{name}.{field}")


@cache
def _fields_and_hints(kind: type) -> tuple[tuple[str, Any], ...]:
    """The fields of a dataclass, each with its annotation; with Any where that is not about
    numbers."""
    hints = _hints(kind)
    fields = []
    for field in dataclasses.fields(kind):
        hint = hints.get(field.name, Any)
        fields.append((field.name, hint if _is_about_numbers(hint) else Any))
    return tuple(fields)


def _is_about_numbers(hint: Any) -> bool:
    """Whether a value may fail to be of an annotation, as ``_is_of_kind`` judges it."""
    if get_origin(hint) in (Union, types.UnionType, tuple):
        return any(map(_is_about_numbers, get_args(hint)))
    return hint is int or hint is float or hint is type(None)


@cache
def _hints(kind: type) -> dict[str, Any]:
    if kind.__module__.partition(".")[0] != "robsearch":
        return {}
    try:
        return get_type_hints(kind)
    except NameError:  # a type that only a checker of types knows
        return {}


def _kinds(hint: Any) -> set[Any]:
    """A type and all that it is made of."""
    return {hint}.union(*map(_kinds, get_args(hint)))


def _is_of_kind(value: Any, hint: Any) -> bool:
    """Whether a number, or each one in a tuple, fits its annotation; all else is not judged
    here."""
    if get_origin(hint) in (Union, types.UnionType):
        return any(_is_of_kind(value, kind) for kind in get_args(hint))
    if get_origin(hint) is tuple:
        if not isinstance(value, tuple):
            return not isinstance(value, Real)
        kinds = get_args(hint)
        if kinds[1:] == (...,):
            kinds = kinds[:1] * len(value)
        return all(map(_is_of_kind, value, kinds))
    if hint is int:
        return is_whole(value) or not isinstance(value, Real)
    # A whole number may stand for a float.
    if hint is float:
        return not isinstance(value, bool)
    return hint is not type(None) or value is None


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and those that led to it, the latest first: libraries wrap what their parts
    raise."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def own_line(error: BaseException) -> str | None:
    """``file:line`` of the innermost line that is neither of robsearch, nor of torch, nor of
    Python."""
    line = None
    here = os.path.join(os.getcwd(), "")
    for frame, number in walk_tb(error.__traceback__):
        file = _file(frame)
        if not _in_a_library(file):
            line = f"{file.removeprefix(here)}:{number}"
    return line


def described_error(error: BaseException) -> str:
    """An error with the user's line that it comes from: ``KeyError: 4 (spaces.py:12)``."""
    text = f"{type(error).__name__}: {error}"
    line = own_line(error)
    return f"{text} ({line})" if line else text


def _file(frame: FrameType) -> str:
    """Code of a script that was pickled by value does not know its file any more, but the script's
    globals do."""
    file = frame.f_code.co_filename
    return str(frame.f_globals.get("__file__", file)) if file.startswith("<dynamic") else file


def _in_a_library(file: str) -> bool:
    # Other packages lie inside the standard library's folder: a net of torchvision is worth its
    # line.
    if "site-packages" in file:
        return file.startswith(_libraries()[:2])
    return file.startswith(("<frozen", *_libraries()))


@cache
def _libraries() -> tuple[str, ...]:
    """The folders of robsearch, of torch, which is not imported for it, and of Python."""
    torch = importlib.util.find_spec("torch")
    folders = [Path(__file__).parent]
    folders += map(Path, torch.submodule_search_locations or () if torch else ())
    folders.append(Path(sysconfig.get_path("stdlib")))
    return tuple(f"{folder}{os.sep}" for folder in folders)


LONGEST_REASON = 1000
"""Characters of an error's message that are printed and recorded: it may quote a whole tensor."""


def shortened(text: str, rest: object = "") -> str:
    """A text of bounded length: what is longer ends with ``(... more in FILE)``.

    Args:
        text: such as a user's error message.
        rest: the file that has the whole; none if it is kept nowhere.
    """
    if len(text) <= LONGEST_REASON:
        return text
    more = f"more in {rest}" if rest else counted(len(text) - LONGEST_REASON, "more character")
    return f"{text[:LONGEST_REASON]} (... {more})"


def counted(number: float, noun: str) -> str:
    """``1 trial``, ``3 trials``, ``2 processes``, ``0.5 GPUs``."""
    text = f"{int(number):,}" if number == int(number) else f"{number:g}"
    return f"{text} {noun if number == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """``trials``, ``processes``, ``measures``."""
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


def a(noun: str) -> str:
    """``a PGD``, ``an Objective``, ``an MLP``: letters that are read one by one count by their
    names."""
    if noun[:2].isupper():
        sounds_like_vowel = noun[0] in "AEFHILMNORSX"
    else:
        start = noun.lower()
        sounds_like_vowel = start.startswith(("a", "e", "i", "o", "ul", "un"))
        sounds_like_vowel = sounds_like_vowel and not start.startswith("uni")
    return f"{'an' if sounds_like_vowel else 'a'} {noun}"
