"""Paths and URIs as a person gives them, and as they may be shown to others."""

from __future__ import annotations

import os
import re
from pathlib import Path

from robsearch.errors import refused

PARAMETERS = re.compile(r"\w+=[^&/]*(&\w+=[^&/]*)*")
"""What may stand behind the ``?`` of a sqlite URI."""
LOGIN = re.compile(r"(?<!/)//(?:[^/\s]*@|[^/\s:]*:(?!\d+(?:[/\s?#]|$))\S*@)")
"""User name and password of a URL, also a password with an ``@`` or a ``/`` in it. A sqlite URL has
three or four slashes and no user, and the path of any URL may have an ``@``."""
DATABASE = re.compile(r"(postgres|mysql|mariadb|mssql|oracle|redis)\w*(\+\w+)?://", re.IGNORECASE)
"""How the URL of a database server begins: its password may hold anything, up to the last ``@``."""

QUERY = re.compile(r"(?<=\S)\?([^\s?#]*=[^\s?#]*)")
"""What stands behind a URL's ``?``."""
PLAIN_NAME = re.compile(r"[\w-]+")
"""What surely is the name of a folder."""
SECRET = re.compile(
    r"[\w.-]*(password|passwd|passphrase|secret|token|credentials?|signature)|pwd|pass|sig|"
    r"[\w.-]*(api|access|account|private)[_-]?key(id|_id)?",
    re.IGNORECASE,
)
"""Names of a URL's parameters whose values nobody else may see. ``sslkey`` is a path."""


def absolute(folder: str | Path) -> Path:
    """A folder as an absolute path; a ``~`` is the home, also where the shell left it."""
    return Path(os.path.expanduser(folder)).absolute()


def is_name(text: str) -> bool:
    """Whether a text can be the name of a folder in another one: no path, and not that folder or
    the one above."""
    # Each look asks it of each trial.
    if PLAIN_NAME.fullmatch(text):
        return True
    return text not in ("", ".", "..") and Path(text).name == text and "\0" not in text


def stays_inside(path: Path, folder: Path) -> bool:
    """Whether a path, all links followed, lies in a folder."""
    return path.resolve().is_relative_to(folder.resolve())


def check_sqlite_uri(uri: str, option: str) -> None:
    """Refuses a sqlite URI whose path is cut off at a ``?``, because a file elsewhere would be
    opened.

    Args:
        uri: as it was given; of other kinds nothing is said.
        option: the name of the option that takes it.

    Raises:
        InputError: says how to write it.
    """
    _, mark, behind = uri.partition("?")
    if uri.startswith("sqlite") and mark and not PARAMETERS.fullmatch(behind):
        do = "in a sqlite URI write %3F for ? and %25 for %"
        raise refused(f"a sqlite URI for {option}", repr(uri), do)


def without_password(text: str) -> str:
    """A URL, or a message that quotes URLs, without user names and passwords, and without those of
    its parameters that are secrets by their names."""
    text = QUERY.sub(_without_secrets, text)
    if DATABASE.match(text):
        scheme, _, rest = text.partition("://")
        return f"{scheme}://{rest.rpartition('@')[2]}"
    return LOGIN.sub("//", text)


def _without_secrets(query: re.Match[str]) -> str:
    kept = [each for each in query[1].split("&") if not SECRET.fullmatch(each.partition("=")[0])]
    return f"?{'&'.join(kept)}" if kept else ""
