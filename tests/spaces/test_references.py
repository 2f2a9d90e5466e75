"""Where a space comes from: the reference under which another process finds it, or the words that
there is none."""

import os
import subprocess
import sys
from pathlib import Path

import made_spaces
import pytest
from made_spaces import make

from robsearch import InputError
from robsearch.search.engine import how_to_resume, unnamed
from robsearch.search.resuming import load_recorded
from robsearch.spaces import load_space
from robsearch.spaces.references import import_root, reference_of
from robsearch.trials.files import write_json

TESTS = os.path.dirname(made_spaces.__file__)


def test_a_space_is_referred_to_by_the_name_that_holds_it():
    """Each of them is called ``s`` by its own function."""
    assert made_spaces.short.reference == "made_spaces:short"
    assert made_spaces.long.reference == "made_spaces:long"
    assert load_space(made_spaces.long.reference) is made_spaces.long


def test_a_space_that_no_module_holds_has_no_reference_and_that_is_said():
    nameless = make(4)
    assert nameless.reference is None
    assert unnamed(nameless) == "<made_spaces:s, defined in a notebook or a function>"
    with pytest.raises(
        InputError, match="pass it: --space MODULE:NAME on the command line, or space="
    ):
        load_space(unnamed(nameless))
    assert "robsearch.resume('my search', space=...)" in how_to_resume(nameless, "my search")
    assert "`robsearch resume 'my search'`" in how_to_resume(nameless, "my search")


def test_a_space_held_elsewhere_than_where_it_was_made_is_found():
    sys.modules[__name__].held_here = make(5)
    assert sys.modules[__name__].held_here.reference == f"{__name__}:held_here"
    assert reference_of(object(), "made_spaces") is None


SCRIPT = """
import sys; sys.path.insert(0, {tests!r})
from made_spaces import make
mine = make(2)
if __name__ == "__main__":
    print(mine.reference)
"""


def test_a_space_of_a_script_is_referred_to_by_the_scripts_name(tmp_path, monkeypatch):
    (tmp_path / "my_script.py").write_text(SCRIPT.format(tests=TESTS))
    done = subprocess.run(
        [sys.executable, "my_script.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "my_script:mine", done.stderr
    monkeypatch.syspath_prepend(tmp_path)
    assert load_space("my_script:mine").widths == (4, 8)


LAUNCHES = """
import robsearch
from made_spaces import make
mine = make(2)
robsearch.launch(mine)
"""


def test_a_module_that_launches_when_it_is_imported_is_refused(tmp_path, monkeypatch):
    (tmp_path / "unguarded.py").write_text(LAUNCHES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InputError, match="expected not to launch a search while 'unguarded' is imported"
    ) as error:
        load_space("unguarded:mine")
    assert 'put it under `if __name__ == "__main__":`' in str(error.value)
    assert not (tmp_path / "robsearch-results").exists()


def test_a_space_is_found_again_from_another_folder(tmp_path, monkeypatch):
    """The folder that it was imported from is remembered, of a package and of a script too."""
    project = tmp_path / "project"
    (project / "my_spaces").mkdir(parents=True)
    (project / "my_spaces" / "__init__.py").touch()
    (project / "my_spaces" / "mine.py").write_text(
        "from made_spaces import make\nfound_again = make(2)\n"
    )
    folder = tmp_path / "results" / "s"
    folder.mkdir(parents=True)
    write_json(folder / "search.json", {"project": str(project), "imports_from": str(project)})
    monkeypatch.setattr(sys, "path", list(sys.path))
    space = load_recorded("my_spaces.mine:found_again", folder)
    assert space.reference == "my_spaces.mine:found_again"
    assert import_root(space.reference) == import_root("my_spaces:x") == project
    assert import_root("made_spaces:short") == Path(TESTS).resolve()
    assert import_root("no_such_module:x") is None


def test_a_space_that_is_not_found_here_names_the_folder_of_the_launch(tmp_path):
    (tmp_path / "search.json").write_text('{"project": "/elsewhere/project"}')
    with pytest.raises(InputError, match="the search was launched in /elsewhere/project: cd there"):
        load_recorded("no_such_module:space", tmp_path)
