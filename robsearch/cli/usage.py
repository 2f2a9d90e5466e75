"""What typer refuses of a command line, in the words in which all else is refused."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable
from typing import Any

import typer

from robsearch.errors import InputError, refused
from robsearch.printing import echo

# Typer gives its base class of such errors no public name.
UsageError: Any = typer.BadParameter.__mro__[1]

NUMBERS = {"integer": "a whole number", "number": "a number", "float": "a number"}
"""Kinds of values, by a word of typer's message, which quotes no value."""


def run(app: Callable[..., Any]) -> int:
    """Runs the command that stands in ``sys.argv``.

    Returns:
        The exit code that it asks for.

    Raises:
        InputError: a command, an option or a value that is not there, or of another kind.
    """
    try:
        code = app(standalone_mode=False, prog_name=_program())
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # the help was shown
            return int(error.exit_code)
        if error.ctx is not None:
            echo(" ".join(error.ctx.get_usage().split()), err=True)
        raise _refusal(error) from None
    except typer.Abort:
        echo("Aborted.", err=True)
        return 1
    return code if isinstance(code, int) else 0


def _program() -> str:
    """How a person calls it: what is advised is what can be typed."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    is_module = spec is not None and spec.name == "robsearch.__main__"
    return "python -m robsearch" if is_module else "robsearch"


def _refusal(error: Any) -> InputError:
    path = " ".join(["robsearch", *_words()[:1]])
    if error.ctx is not None:
        path = error.ctx.command_path
    do = f"see `{path} --help`"
    parameter = getattr(error, "param", None)
    match type(error).__name__:
        case "NoSuchOption":
            if error.possibilities:
                do = f"use {' or '.join(sorted(error.possibilities))}"
            return refused(f"an option of `{path}`", repr(error.option_name), do)
        case "BadOptionUsage":
            return refused(f"a value behind {error.option_name}", "none", do)
        case "MissingParameter" if parameter is not None:
            about = f" ({parameter.help})" if getattr(parameter, "help", None) else ""
            return refused(f"{_name(parameter)}{about}", "none", do)
        case "BadParameter" if parameter is not None:
            kinds = [kind for word, kind in NUMBERS.items() if word in error.message]
            expected = f"{_name(parameter)} as {kinds[0]}" if kinds else _name(parameter)
            return refused(expected, _given(parameter) or error.message, do)
    commands = list(getattr(getattr(error.ctx, "command", None), "commands", ()))
    if not commands:
        return refused(f"`{path}` without more words", error.message, do)
    word = (_words()[_depth(error.ctx) :] or [""])[0]
    close = difflib.get_close_matches(word, commands)
    return refused(
        f"a command of `{path}`", repr(word), f"use {' or '.join(close) or ', '.join(commands)}"
    )


def _name(parameter: Any) -> str:
    """As the help has it: ``--trials``, or ``SPACE``."""
    is_option = parameter.param_type_name == "option"
    return str(parameter.opts[0] if is_option else parameter.metavar or parameter.name)


def _given(parameter: Any) -> str:
    """The value that a person gave, which typer's error does not have; empty if it is not
    found."""
    for i, word in enumerate(sys.argv):
        option, equals, value = word.partition("=")
        if option in parameter.opts and equals:
            return repr(value)
        if option in parameter.opts and i + 1 < len(sys.argv):
            return repr(sys.argv[i + 1])
    value = os.environ.get(str(parameter.envvar), "")
    return f"{value!r} in {parameter.envvar}" if value else ""


def _words() -> list[str]:
    return [word for word in sys.argv[1:] if not word.startswith("-")]


def _depth(context: Any) -> int:
    """How many commands stand around one."""
    return 0 if context.parent is None else 1 + _depth(context.parent)
