"""Paths as a person gives them, on the command line or in a URI."""

from __future__ import annotations

import os
import re
from pathlib import Path

from robsearch.errors import InputError, refusal

PARAMETERS = re.compile(r"\w+=[^&/]*(&\w+=[^&/]*)*")
"""What may stand behind the ``?`` of a sqlite URI."""


def absolute(folder: str | Path) -> Path:
    """A folder as an absolute path; a ``~`` is the home, also where the shell left it."""
    return Path(os.path.expanduser(folder)).absolute()


def check_sqlite_uri(uri: str, option: str) -> None:
    """Refuses a sqlite URI whose path is cut off at a ``?``, because a file elsewhere would be opened.

    Args:
        uri: as it was given; of other kinds nothing is said.
        option: the name of the option that takes it.

    Raises:
        InputError: says how to write it.
    """
    _, mark, behind = uri.partition("?")
    if uri.startswith("sqlite") and mark and not PARAMETERS.fullmatch(behind):
        do = "in a sqlite URI write %3F for ? and %25 for %"
        raise InputError(refusal(f"a sqlite URI for {option}", repr(uri), do))
