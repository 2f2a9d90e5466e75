"""What is installed is what is in the tree: the wheel, in an environment that has nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("robsearch", "search_spaces")


def in_tree() -> set[str]:
    """The files of the packages that git knows, as they are named in a wheel."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", *PACKAGES],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_wheel_has_all_files_and_works_alone_in_an_empty_environment(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, ROOT]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("robsearch-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if name.startswith(PACKAGES)}
    assert {name for name in inside if ".dist-info/" not in name} == in_tree()

    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    program = environment / "bin" / "python"
    install = [program, "-m", "pip", "install", "-q", "--no-compile", wheel]
    subprocess.run(install, check=True)
    # Nothing of the checkout is to be found.
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    outside = tmp_path / "outside"
    outside.mkdir()
    check = [environment / "bin" / "robsearch", "check", "search_spaces.quickstart:digits"]
    checked = subprocess.run(
        check, cwd=outside, env=clean, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert "search_spaces.quickstart:digits is ready to launch: 3 widths" in checked.stdout
