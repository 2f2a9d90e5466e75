"""Sources in an object store: their files are copied once to the node's cache and read from
there."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from robsearch.data.cache import cache_folder, locked, replacing
from robsearch.errors import InputError, counted, refusal, refuse

_CHUNK = 1 << 22
_PASSWORD = re.compile(r"[\w.+-]+://[^/?@:]*:[^@]*@")
_FAILURES = (OSError, ValueError, NotImplementedError)  # pyarrow's errors derive from these


def is_remote(root: str) -> bool:
    """Whether a root is a URI, such as ``s3://bucket/folder``, rather than a folder's path."""
    return "://" in root


def root_problems(root: str | None) -> list[str]:
    """What is wrong with a root, found without a connection: a password in it would end up in every
    report."""
    secret = _PASSWORD.match(root or "")
    if root is None or secret is None:
        return []
    do = "leave keys to the provider's configuration file, the environment or the machine's role"
    return [refusal("a root without a password", f"one before {root[secret.end() :]}", do)]


def local_copy(root: str, files: Sequence[str]) -> Path:
    """The folder of the node's cache with copies of ``files``, which lie below ``root``.

    A file is copied when there is no copy of its size and time of modification, under another name
    first, so that a copy is whole or not there; processes that start at once copy it once. A file
    that the source lacks is left out.

    ``root`` is whatever ``pyarrow.fs.FileSystem.from_uri`` opens:
    ``s3://bucket/folder?region=...``, ``gs://bucket/folder``, ``file:///folder``. Each node needs
    credentials of its own in the provider's usual places (a role, ``~/.aws/credentials``): workers
    inherit no secrets from the driver's environment. Tried with ``file://`` and with S3's protocol
    spoken by a local server; **not** tried against Amazon S3 or Google Cloud Storage themselves.

    Args:
        root: the URI of a folder.
        files: relative to ``root``, with forward slashes.

    Raises:
        InputError: an unknown scheme, an unreachable source, a password in ``root``, a copy cut
            short, or a cache that cannot be written.
    """
    from pyarrow.fs import FileSystem, FileType

    refuse(root_problems(root))
    name = hashlib.sha256(root.encode()).hexdigest()[:16]
    folder = cache_folder() / "sources" / name
    try:
        source, base = FileSystem.from_uri(root)
        infos = source.get_file_info([f"{base.rstrip('/')}/{file}" for file in files])
    except _FAILURES as problem:
        raise _unreachable(root, problem) from problem
    for file, info in zip(files, infos, strict=True):
        if info.type == FileType.File:
            _copy(source, info, folder / file, root)
    return folder


def _copy(source: Any, info: Any, target: Path, root: str) -> None:
    with locked(target):
        if _is_copy(target, info):
            return
        with replacing(target) as temporary:
            with temporary.open("xb") as sink:
                sink.writelines(_chunks(source, info.path, root))
            size = temporary.stat().st_size
            if size != info.size:
                do = "try again; if it persists, look at the source"
                raise InputError(refusal(f"{counted(info.size, 'byte')} of {info.path}", size, do))
            if info.mtime_ns is not None:
                os.utime(temporary, ns=(info.mtime_ns, info.mtime_ns))


def _is_copy(target: Path, info: Any) -> bool:
    """By size and time: labels that are corrected at the source can leave the size of their file as
    it was."""
    try:
        status = target.stat()
    except OSError:
        return False
    return status.st_size == info.size and info.mtime_ns in (None, status.st_mtime_ns)


def _chunks(source: Any, path: str, root: str) -> Iterator[bytes]:
    try:
        with source.open_input_stream(path, compression=None) as stream:
            while chunk := stream.read(_CHUNK):
                yield chunk
    except _FAILURES as problem:
        raise _unreachable(root, problem) from problem


def _unreachable(root: str, problem: Exception) -> InputError:
    do = (
        "check the address, the network and this machine's credentials, or copy the data and "
        "pass its folder"
    )
    expected = f"a root that opens, such as s3://, gs:// or file://, at {root}"
    return InputError(refusal(expected, problem, do))
