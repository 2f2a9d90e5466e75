"""Files that may be damaged: read and checked, or refused with the reason; written whole or not at
all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from robsearch.errors import LONGEST_REASON, shortened
from robsearch.printing import printable

T = TypeVar("T")

NO_SYNC = (errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a file system answers that cannot write a folder through to the disk."""


ERROR = "error.txt"
"""Of an attempt, or of a trial's measuring: the whole of what went wrong."""


class DamagedError(ValueError):
    """A file is not what robsearch wrote there.

    Attributes:
        file: which.
        reason: the rest of a sentence that begins with the file: ``is missing``, ``is not JSON``.
    """

    def __init__(self, file: Path, reason: str) -> None:
        self.file, self.reason = file, reason
        super().__init__(f"{file} {reason}")


def read_bytes(file: Path) -> bytes:
    """The bytes of a file.

    Raises:
        DamagedError: it is missing, empty, no regular file, or cannot be read.
    """
    try:
        regular = stat.S_ISREG(file.stat().st_mode)
        content = file.read_bytes() if regular else b""  # a pipe would keep us waiting
    except FileNotFoundError as error:
        raise DamagedError(file, "is missing") from error
    except OSError as error:
        raise DamagedError(file, f"cannot be read ({error.strerror})") from error
    if not content:
        raise DamagedError(file, "is empty" if regular else "is not a file")
    return content


def read_json(file: Path) -> Any:
    """What a JSON file holds.

    Raises:
        DamagedError: as for ``read_bytes``, or it is not JSON.
    """
    content = read_bytes(file)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DamagedError(file, "is not JSON") from error


def read_parquet(file: Path) -> pa.Table:
    """The table in a Parquet file.

    Raises:
        DamagedError: as for ``read_bytes``, or it is not Parquet.
    """
    content = read_bytes(file)
    try:
        # Not every file has checksums.
        return pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise DamagedError(file, "is not a Parquet file that can be read") from error


def arrow_table(frame: pd.DataFrame) -> pa.Table:
    """A frame as Arrow takes it: each column of one type, and texts that are UTF-8."""
    return pa.Table.from_pandas(frame.apply(of_one_type), preserve_index=False)


def of_one_type(column: pd.Series) -> pd.Series:
    """Numbers among words, as a choice of both has, become words; so does what a name that is no
    UTF-8 has in place of a character."""
    kind = pd.api.types.infer_dtype(column, skipna=True)
    if kind in ("mixed", "mixed-integer"):
        column = column.map(str, na_action="ignore")
    elif kind != "string":
        return column
    return column.map(_utf8, na_action="ignore")


def _utf8(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def unless_damaged(read: Callable[[Path], T], file: Path, then: str = "it is left out") -> T | None:
    """What ``read`` makes of a file; None where there is none, and, with a warning, where it is
    damaged.

    Args:
        read: raises ``DamagedError``.
        file: may be missing.
        then: what follows from the damage, for the warning.
    """
    if not os.path.lexists(file):
        return None
    try:
        return read(file)
    except DamagedError as error:
        warnings.warn(f"{error}: {then}", stacklevel=2)
        return None


@contextlib.contextmanager
def replacing(file: Path, is_shared: bool = False) -> Iterator[Path]:
    """A path to write to. In the end it takes the file's place, on the disk for good; after an
    error it is gone.

    Args:
        file: to be written.
        is_shared: whether several processes may write it at one time, such as a driver and whoever
            watches its search: each then has an unfinished file of its own.
    """
    process = f".{os.getpid()}" if is_shared else ""
    unfinished = file.with_name(f"{file.name}{process}.tmp")
    try:
        # An earlier process that died may have left anything under this name.
        make_way(unfinished)
        yield unfinished
        # Without this a loss of power could leave an empty file under the new name.
        sync(unfinished)
        make_way(file)
        unfinished.replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise


def write_json(file: Path, content: object) -> None:
    """Writes a JSON file, whole or not at all."""
    with replacing(file) as unfinished:
        unfinished.write_text(json.dumps(content))


def write_text(file: Path, text: str) -> None:
    """Writes a text for people, in a folder that may be missing; characters that no terminal, or no
    file, takes are escaped."""
    file.parent.mkdir(parents=True, exist_ok=True)
    make_way(file)
    file.write_text(printable(text), encoding="utf-8")


def shortened_into(text: str, file: Path) -> str:
    """A text of bounded length (``errors.shortened``); the whole of a longer one is written into a
    file, if that can be written."""
    if len(text) <= LONGEST_REASON:
        return text
    try:
        write_text(file, text)
    except OSError:
        return shortened(text)
    return shortened(text, file)


def make_way(file: Path) -> None:
    """Removes what nobody can write a file over, a folder or a pipe, and what would lead the writer
    to a file elsewhere: a link to one, or into nothing."""
    leads_elsewhere = file.is_symlink() and (file.is_file() or not file.exists())
    if file.is_dir() or file.is_fifo() or file.is_socket() or leads_elsewhere:
        remove(file)


def remove(path: Path) -> None:
    """Removes a file, a link, or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Returns when a file's bytes, or a folder's entries, are on the disk: they outlive a loss of
    power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
    finally:
        os.close(descriptor)
