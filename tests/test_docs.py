"""README and docs/: their code runs, their commands exist, their links lead somewhere, and the site
builds without a network."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer.main

from robsearch.cli import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
README = ROOT / "README.md"
TUTORIAL = DOCS / "tutorial.md"
COMMANDS = DOCS / "reference" / "commands.md"
SKIPPED = "not run: "
LATER = "run after the tutorial"
MOST_SKIPPED = 3
BLOCK = re.compile(
    r"^(?:<!-- (?P<note>.*?) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.M | re.S
)
FILE = re.compile(r"# (?P<name>\w+\.py)\n")


class Block(NamedTuple):
    """A block of code in a page, and what a comment before it says of how it is tested."""

    kind: str
    text: str
    note: str

    @property
    def file(self) -> str:
        """The name that a reader is to save it under."""
        named = FILE.match(self.text)
        return named["name"] if named else ""


def blocks(page: Path, kind: str) -> list[Block]:
    every = [
        Block(each["kind"], each["text"], each["note"] or "")
        for each in BLOCK.finditer(page.read_text())
    ]
    return [block for block in every if block.kind == kind]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def command_lines(page: Path) -> Iterator[list[str]]:
    """The words behind ``robsearch`` of each command in a page: in blocks, indented, and quoted."""
    text = page.read_text()
    lines = [line for block in blocks(page, "sh") for line in block.text.splitlines()]
    lines += re.findall(r"^    (robsearch .*)$", text, re.M)
    # A quoted command may be broken over two lines.
    lines += [" ".join(each.split()) for each in re.findall(r"`(robsearch [^`]+)`", text)]
    for line in lines:
        for command in re.split(r"&&|\|\|?|;", line):
            words = shlex.split(command, comments=True)
            if words and Path(words[0]).name == "robsearch":
                yield words[1:]


def unknown_in(words: list[str]) -> list[str]:
    """What the program does not know of a command line, by its own description of itself."""
    command: Any = typer.main.get_command(app)
    rest = list(words)
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        if rest[0] not in command.commands and rest[0] != "COMMAND":
            return [f"the command {rest[0]}"]
        command = command.commands.get(rest.pop(0), command)
        if not hasattr(command, "commands"):
            break
    known = {"--help", "-h", "--version", "-V"}
    known.update(name for each in command.params for name in (*each.opts, *each.secondary_opts))
    asked = {word.partition("=")[0] for word in rest if re.match(r"--?[a-zA-Z]", word)}
    return [f"{command.name} {option}" for option in sorted(asked - known)]


@pytest.mark.parametrize("page", [README, *PAGES], ids=name_of)
def test_commands_and_options_exist(page: Path) -> None:
    unknown = [each for words in command_lines(page) for each in unknown_in(words)]
    assert unknown == []


def test_a_command_that_does_not_exist_is_seen() -> None:
    assert unknown_in(["lanch", "x"]) == ["the command lanch"]
    assert unknown_in(["launch", "x", "--trails", "3"]) == ["launch --trails"]
    assert unknown_in(["data", "prepare", "cifar10", "--root", "/x"]) == []


def test_every_command_has_a_section_with_its_options() -> None:
    text = COMMANDS.read_text()
    with_section = set(re.findall(r"^### `robsearch ([a-z]+(?: prepare)?)", text, re.M))
    with_options = set(re.findall(r"^```\{options\} (.*)$", text, re.M))
    assert with_section == set(every_command())
    assert with_options == with_section - {"new"}  # which has no options


def every_command() -> Iterator[str]:
    program: Any = typer.main.get_command(app)
    for name, command in program.commands.items():
        inner = getattr(command, "commands", None)
        yield from [f"{name} {each}" for each in inner] if inner else [name]


@pytest.mark.parametrize("page", [README, *PAGES], ids=name_of)
def test_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert missing == []


@pytest.mark.parametrize("page", [README, *PAGES], ids=name_of)
def test_files_that_are_named_exist(page: Path) -> None:
    text = page.read_text()
    files = re.findall(r"`((?:benchmarks|deploy|docs|search_spaces|tests)/[\w./-]+)`", text)
    files += re.findall(r"`([A-Z]+\.md|CITATION\.cff)`", text)
    missing = [file for file in files if not (ROOT / file).exists()]
    assert missing == []


def test_named_tests_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (DOCS / "reproducibility.md").read_text())
    assert len(named) > 10
    missing = [test for file, test in named if f"def {test}(" not in (ROOT / file).read_text()]
    assert missing == []


def test_the_readme_can_be_read_in_five_minutes() -> None:
    assert len(README.read_text().split()) < 1000


def test_few_blocks_are_not_run_and_each_says_why() -> None:
    notes = [block.note for page in [README, *PAGES] for block in blocks(page, "python")]
    assert set(notes) - {"", LATER} == {note for note in notes if note.startswith(SKIPPED)}
    skipped = [note.removeprefix(SKIPPED) for note in notes if note.startswith(SKIPPED)]
    assert len(skipped) <= MOST_SKIPPED
    assert all(len(reason.split()) > 3 for reason in skipped)


def with_code(pages: list[Path]) -> list[Path]:
    return [page for page in pages if any(not block.note for block in blocks(page, "python"))]


@pytest.mark.parametrize(
    "page", with_code([README, *(page for page in PAGES if page != TUTORIAL)]), ids=name_of
)
def test_the_python_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROBSEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    unnamed = [block for block in blocks(page, "python") if not block.note and not block.file]
    module = f"page_{page.stem.replace('-', '_').lower()}"
    (tmp_path / f"{module}.py").write_text("\n\n".join(block.text for block in unnamed))
    names = [module]
    for block in blocks(page, "python"):
        if block.file:
            (tmp_path / block.file).write_text(block.text)
            names.append(Path(block.file).stem)
    for name in names:
        # Pages use the same names for their files.
        sys.modules.pop(name, None)
        importlib.import_module(name)
        sys.modules.pop(name)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_tutorial_leads_from_images_to_tables(tmp_path: Path) -> None:
    """As a reader follows it, with six trials in place of 24."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "ROBSEARCH_CACHE": str(tmp_path / "cache"),
    }
    every = BLOCK.finditer(TUTORIAL.read_text())
    steps = [Block(each["kind"], each["text"], each["note"] or "") for each in every]
    for step in steps:
        if step.file:
            (tmp_path / step.file).write_text(step.text)
            continue
        if step.kind == "sh":
            text = step.text.replace("--trials 24", "--trials 6").replace(
                "--trials 6\n", "--trials 3\n"
            )
            command = ["bash", "-euo", "pipefail", "-c", text]
        else:
            command = [sys.executable, "-c", step.text]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, stdin=subprocess.DEVNULL)
    assert (tmp_path / "robsearch-results" / "first" / "report.html").exists()
    for page in PAGES:
        for block in blocks(page, "python"):
            if block.note == LATER:
                command = [sys.executable, "-c", block.text]
                subprocess.run(command, cwd=tmp_path, env=environment, check=True)


@pytest.mark.slow
def test_the_site_builds_without_a_warning_or_a_network(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", DOCS, tmp_path]
    subprocess.run(command, check=True)
    pages = {str(page.relative_to(DOCS).with_suffix(".html")) for page in PAGES}
    assert pages <= {str(page.relative_to(tmp_path)) for page in tmp_path.rglob("*.html")}
    commands = (tmp_path / "reference" / "commands.html").read_text()
    assert "--or-resume" in commands
    python = (tmp_path / "reference" / "python.html").read_text()
    assert "arXiv 1901.08573" in python
    outside = re.findall(
        r"<(?:script|link|img)[^>]+(?:src|href)=\"https?://[^\"]*", commands + python
    )
    assert outside == []
