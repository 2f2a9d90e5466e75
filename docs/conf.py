"""How Sphinx builds these pages: ``sphinx-build -W docs BUILD``, without a network."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from typer.main import get_command

from robsearch import cli

project = "robsearch"
author = "the robsearch authors"
release = importlib.metadata.version("robsearch")

exclude_patterns = ["_build"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
html_theme = "furo"
html_title = f"robsearch {release}"
html_show_sourcelink = False
html_copy_source = False

# Links to headings, as the pages use them.
myst_heading_anchors = 3

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_use_ivar = True
napoleon_use_rtype = False


class Options(Directive):
    """A list of a command's options, as the program itself describes them."""

    required_arguments = 1
    final_argument_whitespace = True
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        """The list."""
        command: Any = get_command(cli.app)
        for word in self.arguments[0].split():
            command = command.commands[word]
        options = [each for each in command.params if each.opts[0].startswith("-")]
        return [nodes.definition_list("", *map(_item, options))]


def _item(option: Any) -> nodes.definition_list_item:
    names = ", ".join((*option.opts, *option.secondary_opts))
    term = nodes.term("", "", nodes.literal(text=names))
    definition = nodes.definition("", nodes.paragraph(text=option.help or ""))
    return nodes.definition_list_item("", term, definition)


class Notebook(Directive):
    """A notebook as it was saved: its text, its code and what its cells showed. Nothing is run."""

    required_arguments = 1
    final_argument_whitespace = True
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        """The cells in their order."""
        file = Path(__file__).parent / self.arguments[0]
        self.state.document.settings.env.note_dependency(str(file))
        shown: list[nodes.Node] = []
        for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                text = nodes.container()
                self.state.nested_parse(StringList(source.splitlines()), 0, text)
                shown.append(text)
                continue
            shown.append(nodes.literal_block(source, source, language="python"))
            shown += [_output(output) for output in cell["outputs"]]
        return shown


def _output(output: dict[str, Any]) -> nodes.Node:
    if "data" not in output:
        text = "".join(output["text"])
        return nodes.literal_block(text, text, language="text")
    data = output["data"]
    if "image/png" in data:
        image = f'<img alt="" src="data:image/png;base64,{data["image/png"].strip()}">'
        return nodes.raw("", image, format="html")
    if "text/html" in data:
        return nodes.raw("", "".join(data["text/html"]), format="html")
    text = "".join(data["text/plain"])
    return nodes.literal_block(text, text, language="text")


def setup(app: Sphinx) -> None:
    """Makes the directives known."""
    app.add_directive("options", Options)
    app.add_directive("notebook", Notebook)
