"""What a person reads on a terminal is text, and never a command to the terminal.

Names, errors and tables come from users, trials, files and servers. An escape sequence among them
could clear the screen, write the clipboard or forge a line, and a bidi override could turn a
sentence round. So whatever robsearch prints goes through ``printable``: by ``echo``, by the console
of ``search.grid``, or, of what Python and libraries print by themselves, by ``keep_printable``.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import threading
import traceback
import warnings
from types import TracebackType
from typing import Any

UNPRINTABLE = re.compile(
    # Control characters but the end of a line, the lone surrogates of names that are no UTF-8, ...
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff"
    # ... and what ends lines, or turns their direction, without being seen.
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)


def printable(text: str) -> str:
    """A text in which each control character is written as Python writes it, such as ``\\x1b``;
    lines end as they did."""
    return UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def echo(text: str, err: bool = False, end: str = "\n") -> None:
    """Prints a line, or several.

    Args:
        text: of any origin.
        err: whether it belongs to standard error.
        end: what ends it, or nothing for a piece of a line.
    """
    print(printable(text), file=sys.stderr if err else sys.stdout, end=end, flush=True)


def keep_printable() -> None:
    """Makes printable what Python and libraries print of warnings, logs and uncaught errors.

    It changes the whole process, so it is for a program, and not for an import.
    """
    format_warning = warnings.formatwarning
    make_record = logging.getLogRecordFactory()

    def printable_warning(*warning: Any, **more: Any) -> str:
        return printable(format_warning(*warning, **more))

    def printable_record(*what: Any, **more: Any) -> logging.LogRecord:
        record = make_record(*what, **more)
        # What does not fit its arguments is for the handler to say.
        with contextlib.suppress(TypeError, ValueError, KeyError):
            record.msg = printable(record.getMessage())
            record.args = None
        if record.exc_info:
            # A formatter takes the text that it finds.
            record.exc_text = printable(logging.Formatter().formatException(record.exc_info))
        return record

    warnings.formatwarning = printable_warning
    logging.setLogRecordFactory(printable_record)
    sys.excepthook = _print_error
    threading.excepthook = _print_error_of_thread


def _print_error(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    echo("".join(traceback.format_exception(kind, error, trace)).rstrip("\n"), err=True)


def _print_error_of_thread(what: threading.ExceptHookArgs) -> None:
    if what.exc_type is SystemExit:
        return
    name = "?" if what.thread is None else what.thread.name
    lines = traceback.format_exception(what.exc_type, what.exc_value, what.exc_traceback)
    echo(f"error in the thread {name}:\n{''.join(lines)}".rstrip("\n"), err=True)
