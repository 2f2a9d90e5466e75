"""What is installed is what is in the tree: the wheel works outside of the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("robsearch", "search_spaces")


def in_tree() -> set[str]:
    """The files of the packages that git knows or would take, as they are named in a wheel."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", *PACKAGES],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}


@pytest.mark.slow
def test_a_wheel_has_all_files_and_works_outside_of_the_checkout(tmp_path: Path) -> None:
    """The packages that it depends on are those of this environment; that they are all declared,
    README's first command shows in continuous integration, which begins with an empty one."""
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, ROOT]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("robsearch-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if name.startswith(PACKAGES)}
    assert {name for name in inside if ".dist-info/" not in name} == in_tree()

    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False)
    (site,) = environment.glob("lib/python*/site-packages")
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel]
    subprocess.run(install, check=True)
    # A path file brings what lies in a folder, and not the path files there: nothing of the
    # checkout, to which the editable installation is one.
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])
    outside = tmp_path / "outside"
    outside.mkdir()
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    program = [environment / "bin" / "python", "-P", "-m", "robsearch"]
    words = [*program, "check", "search_spaces.quickstart:digits"]
    checked = subprocess.run(
        words, cwd=outside, env=clean, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert "search_spaces.quickstart:digits is ready to launch: 3 widths" in checked.stdout
    where = [*program[:-2], "-c", "import robsearch; print(robsearch.__file__)"]
    located = subprocess.run(where, cwd=outside, env=clean, capture_output=True, text=True)
    assert Path(located.stdout.strip()).is_relative_to(environment)
