"""The notebook of the documentation runs in kernels of its own, and a search that a cell defines
goes on in another one."""

import json
import re
from pathlib import Path

import pytest

from robsearch import load_search

pytest.importorskip("nbclient", reason="nbclient is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")

from notebooks import executed, text_of

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_notebook_shows_a_search_of_its_own_cell_and_goes_on_in_another_kernel(tmp_path):
    done = executed(NOTEBOOK, tmp_path)
    code = [cell for cell in done.cells if cell.cell_type == "code"]
    define, launch, search, law, trial, resumed, figure, claim = code
    assert define.outputs == []

    live = text_of(launch)
    assert live.startswith("<p>6 of 6 trials, elapsed")  # the last of it
    assert live.count("<tr>") == 3  # heads, and a row for each width
    printed = text_of(launch, "stdout")
    assert "search digits: 6 trials; results in" in printed
    assert "run the cell that defines it, then robsearch.resume('digits')" in printed

    assert "<b>digits</b> 6 of 6 trials ended" in text_of(search)
    assert "<b>Law</b> lambda*" in text_of(law)
    assert len(text_of(figure, "image/png")) > 10_000
    assert "<b>H1</b>" in text_of(claim)

    assert "<b>digits</b> 8 of 8 trials ended" in text_of(resumed)
    now = load_search("digits", tmp_path / "robsearch-results")
    assert now.space == "<__main__:digits, defined in a notebook or a function>"
    assert set(now.trials["state"]) <= {"COMPLETE", "PRUNED"}
    assert sorted(now.trials["trial"]) == [f"w{w}-{n:03d}" for w in (16, 64) for n in range(4)]
    row = now.trial("w16-000").row
    shown = text_of(trial)
    assert f"<td>lambda</td><td>{row['lam']:.3g}</td>" in shown
    assert f"<td>seed</td><td>{row['seed']:.0f}</td>" in shown
    assert f"<td>robust accuracy</td><td>{row['value']:.1%}</td>" in shown


def test_what_is_kept_of_it_was_run_and_tells_no_place():
    kept = json.loads(NOTEBOOK.read_text())
    code = [cell for cell in kept["cells"] if cell["cell_type"] == "code"]
    assert [bool(cell["outputs"]) for cell in code] == [False] + [True] * 7
    assert not re.search(r'"(name|output_type)": "(stderr|error)"', NOTEBOOK.read_text())
    assert set(re.findall(r"/(?:tmp|work|root|home)/\w+", NOTEBOOK.read_text())) <= {"/home/you"}
    assert NOTEBOOK.stat().st_size < 200_000
