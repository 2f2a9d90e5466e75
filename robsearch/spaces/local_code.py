"""The files of a space that another machine does not have: its module, and what that imports from
beside it."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path

from robsearch.errors import refused
from robsearch.spaces.definition import load_space
from robsearch.spaces.references import import_root

MOST_BYTES = 50 * 2**20
"""Code is smaller. What is larger are data or weights, which have a place of their own."""


def local_files(reference: str) -> list[Path]:
    """The files of the top-level modules and packages that a space needs and that lie in the same
    folder as its own; of a package all files, for it may import more of them later.

    Nothing for a space that is installed: the other machine has it where it has robsearch.

    Args:
        reference: ``module:name`` of the space, which is imported.

    Returns:
        Absolute paths, all below ``import_root(reference)``.

    Raises:
        InputError: there is no such space, or its files are larger than code is.
    """
    load_space(reference)
    root = import_root(reference)
    if root is None or _is_installed(root):
        return []
    files: list[Path] = []
    loaded = {name.partition(".")[0] for name in sys.modules}
    # The other machine has robsearch of its own, for it runs there.
    for name in sorted(loaded - {"robsearch"}):
        package = root / name
        if package.is_dir() and name.isidentifier():
            files += _files_below(package)
        elif package.with_suffix(".py").is_file():
            files.append(package.with_suffix(".py"))
    sizes = {file: file.stat().st_size for file in files}
    if sum(sizes.values()) > MOST_BYTES:
        largest = max(files, key=sizes.__getitem__)
        raise refused(
            f"code of at most {MOST_BYTES >> 20} MiB beside the space {reference}",
            f"{sum(sizes.values()) >> 20} MiB, of which {largest} has {sizes[largest] >> 20}",
            "keep data and weights outside the package",
        )
    return files


def copy_code(reference: str, folder: Path) -> list[str]:
    """Copies the files of a space into a folder, below which they are imported as they were.

    Returns:
        Their paths in it, such as ``my_package/nets.py``. Raises as ``local_files``.
    """
    files = local_files(reference)
    if not files:
        return []
    root = import_root(reference)
    assert root is not None, "files without a folder"
    copied = []
    for file in files:
        path = file.relative_to(root)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / path)
        copied.append(str(path))
    return copied


def _is_installed(root: Path) -> bool:
    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    return root in {Path(sysconfig.get_path(kind)).resolve() for kind in kinds}


def _files_below(package: Path) -> list[Path]:
    """Without caches, and without hidden files, in which secrets may be."""
    return [
        file
        for file in sorted(package.rglob("*"))
        if file.is_file()
        and not any(
            part.startswith(".") or part == "__pycache__"
            for part in file.relative_to(package).parts
        )
    ]
