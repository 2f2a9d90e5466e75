"""A notebook of the documentation, run in kernels of its own.

As a program, it runs a notebook again and keeps what it shows."""

import copy
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ANOTHER_DAY = "another-day"
"""The tag of the cell at which a kernel is started anew; it runs the first cell before."""
SECONDS = 900
HOME = "/home/you"
"""What a reader sees in place of the folder in which it ran."""


def executed(notebook: Path, folder: Path) -> nbformat.NotebookNode:
    """A notebook with what its cells give, run in a folder.

    What libraries say on standard error is left out.
    """
    whole = nbformat.read(notebook, as_version=4)
    code = [cell for cell in whole.cells if cell.cell_type == "code"]
    tags = [cell.metadata.get("tags", []) for cell in code]
    place = next(index for index, each in enumerate(tags) if ANOTHER_DAY in each)
    first = copy.deepcopy(code[0])
    for cells in (code[:place], [first, *code[place:]]):
        part = nbformat.v4.new_notebook(cells=cells, metadata=whole.metadata)
        where = {"metadata": {"path": str(folder)}}
        NotebookClient(part, timeout=SECONDS, kernel_name="python3", resources=where).execute()
    for cell in code:
        cell.outputs = _in_one([each for each in cell.outputs if each.get("name") != "stderr"])
        cell.metadata.pop("execution", None)
    return whole


def _in_one(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """With lines that were printed one after the other in one output."""
    merged: list[nbformat.NotebookNode] = []
    for output in outputs:
        if merged and output.output_type == merged[-1].output_type == "stream":
            merged[-1].text += output.text
        else:
            merged.append(output)
    return merged


def text_of(cell: nbformat.NotebookNode, kind: str = "text/html") -> str:
    """What a cell shows of one kind, or prints (``stdout``)."""
    if kind == "stdout":
        return "".join(each.text for each in cell.outputs if each.output_type == "stream")
    shown = [each.data for each in cell.outputs if "data" in each]
    return "".join(data[kind] for data in shown if kind in data)


if __name__ == "__main__":
    file = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as made:
        done = executed(file, Path(made))
        written = nbformat.writes(done).replace(str(Path(made).resolve()), HOME)
    file.write_text(written + "\n")
