"""The house rules that a reader cannot see in one file: imports point down, no circles, one door
per library.

Imports are read from the source, wherever they stand: inside a function an import only comes later,
and under ``TYPE_CHECKING`` it still is knowledge of what lies above. Each rule is also shown to
fail on a source that breaks it.
"""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import robsearch
from robsearch.study import SearchRecord, open_storage

ROOT = Path(__file__).parents[1]

LAYERS = (
    {"__main__"},
    {"cli", "search_spaces"},
    {"publishing"},
    {"robsearch", "doctor", "papers"},  # the public names: `from robsearch import PGD`
    {"claims"},
    {"search"},
    {"report"},
    {"study", "cluster", "tracking"},
    {"spaces"},
    {"testing"},
    {"trials", "laws"},
    {"training"},
    {"recipe"},
    {"parts", "measures"},
    {"network", "data", "drawing"},
    {"identity"},
    {"protocols", "errors"},
    {"metrics", "lazy", "printing"},
)
"""From the top down; a part is a module of robsearch or one of its packages, with all that is in
it."""

DOORS = {
    "ray": {"cluster"},
    "mlflow": {"tracking"},
    "optuna": {"study", "spaces", "search_spaces", "claims"},  # an experiment is a space
}
VAGUE = {"utils", "common", "core", "base", "manager", "config"}
OLD_WORDS = {
    *("Turns", "Tally", "Shelf", "tidy", "Means", "Place", "room", "Live", "Told", "Seen"),
    *("elsewhere", "learning", "Found", "standing", "meet", "again", "risen", "ranked", "own"),
    *("manner", "opening", "Patience", "speaking", "together", "_Line", "rehearsal", "Need"),
    *("packed", "Keeper", "judged", "peaked", "note", "unite", "perturbed", "margins", "Ridge"),
    *("crest", "Belief", "pull", "places", "canvas", "hover", "numerals", "markup", "sheet"),
    *("Flip", "climb", "Piece", "found", "one", "told", "takes"),
}
"""The left column of the glossary in DESIGN: names that the field's words have replaced."""
MARGINS = ("robsearch/measures/margins.py", "robsearch/papers/margins")
"""Here margins are those of examples, as the papers call them, and no padding."""

Rule = Callable[["Sources"], list[str]]
Sources = Mapping[str, str]
"""Source by path, such as ``robsearch/laws/points.py``."""


def sources(*tops: str) -> Sources:
    files = (
        file
        for top in tops or ("robsearch", "search_spaces")
        for file in sorted((ROOT / top).rglob("*.py"))
    )
    return {file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8") for file in files}


# --- reading ---


def imports(path: str, source: str) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of all that a source imports: ``from a import b`` is ``a.b``."""
    here = Path(path).with_suffix("").parts
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            stem = (
                [*here[: len(here) - node.level], *filter(None, [node.module])]
                if node.level
                else [node.module]
            )
            yield from (
                (node.lineno, ".".join([*map(str, stem), alias.name])) for alias in node.names
            )
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
            ("import_module", "__import__")
        ):
            named = node.args[0] if node.args else None
            if isinstance(named, ast.Constant):
                yield node.lineno, str(named.value)


def part(dotted: str, known: set[str]) -> str | None:
    """The part that a dotted name belongs to; None outside robsearch."""
    top, _, rest = dotted.partition(".")
    if top == "robsearch":
        return name if (name := rest.split(".")[0]) in known else "robsearch"
    return "search_spaces" if top == "search_spaces" else None


def parts(files: Sources) -> dict[str, str]:
    """The part that each file belongs to."""
    names = {path: Path(path).with_suffix("").parts for path in files}
    return {
        path: "search_spaces"
        if name[0] == "search_spaces"
        else "robsearch"
        if name[1] == "__init__"
        else name[1]
        for path, name in names.items()
    }


def links(files: Sources) -> Iterator[tuple[str, str, str]]:
    """(where, importing part, imported part) of each import from one part to another."""
    homes = parts(files)
    known = set(homes.values()) - {"robsearch", "search_spaces"}
    for path, source in files.items():
        for line, dotted in imports(path, source):
            other = part(dotted, known)
            if other is not None and other != homes[path]:
                yield f"{path}:{line}", homes[path], other


# --- the rules: each gives what breaks it ---


def strangers(files: Sources) -> list[str]:
    return [
        f"{name} stands in no layer"
        for name in sorted(set(parts(files).values()) - set().union(*LAYERS))
    ]


def upward(files: Sources) -> list[str]:
    depth = {name: i for i, layer in enumerate(LAYERS) for name in layer}
    return [
        f"{where}: {name} imports {other}"
        for where, name, other in links(files)
        if not depth[name] < depth[other]
    ]


def module(dotted: str, known: set[str]) -> str | None:
    """The module that a dotted name is in; None outside ``known``."""
    while dotted and dotted not in known:
        dotted = dotted.rpartition(".")[0]
    return dotted or None


def cycles(files: Sources) -> list[str]:
    """Between modules: a package counts as what its ``__init__`` imports."""
    names = {
        path: ".".join(Path(path).with_suffix("").parts).removesuffix(".__init__") for path in files
    }
    graph: dict[str, set[str]] = {}
    for path, source in files.items():
        for _, dotted in imports(path, source):
            other = module(dotted, set(names.values()))
            if other is not None and other != names[path]:
                graph.setdefault(names[path], set()).add(other)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        ring = error.args[1][:0:-1]
        first = ring.index(min(ring))
        return [" imports ".join([*ring[first:], *ring[: first + 1]])]
    return []


def back_doors(files: Sources) -> list[str]:
    homes = parts(files)
    return [
        f"{path}:{line}: {homes[path]} imports {dotted}"
        for path, source in files.items()
        for line, dotted in imports(path, source)
        if homes[path] not in DOORS.get(dotted.split(".")[0], {homes[path]})
    ]


def vague(files: Sources) -> list[str]:
    return [
        path
        for path in files
        if VAGUE & {piece.strip("_") for piece in Path(path).with_suffix("").parts}
    ]


def between_tests(files: Sources) -> list[str]:
    """What several tests share is in tests/support."""
    return [
        f"{path}:{line}: imports {dotted}"
        for path, source in files.items()
        for line, dotted in imports(path, source)
        if dotted.startswith("test_")
    ]


def identifiers(path: str, source: str) -> Iterator[tuple[int, str]]:
    """Line and name of all that a source names itself: modules, classes, functions, parameters,
    variables, fields."""
    yield from ((1, name) for name in Path(path).with_suffix("").parts)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.alias) and node.asname:
            yield node.lineno, node.asname


def dialect(files: Sources) -> list[str]:
    return [
        f"{path}:{line}: {name} is a word of the old dialect"
        for path, source in files.items()
        for line, name in sorted(set(identifiers(path, source)))
        if {name, name.lstrip("_")} & OLD_WORDS
        and not (name == "margins" and path.startswith(MARGINS))
    ]


RULES = (strangers, upward, cycles, back_doors, vague, dialect)

BYSTANDERS = [
    f"robsearch/{name}.py" for layer in LAYERS for name in layer - {"robsearch", "search_spaces"}
]
"""Empty modules, so that `from robsearch import models` names one."""

BREAKS = [
    (strangers, {"robsearch/helpers.py": ""}, "helpers stands in no layer"),
    (
        upward,
        {"robsearch/report/page.py": "from robsearch.search import Search"},
        "report imports search",
    ),
    (
        upward,
        {"robsearch/study/a.py": "def f():\n    import robsearch.search.engine"},
        "a.py:2: study imports search",
    ),
    (
        upward,
        {"robsearch/recipe.py": "if TYPE_CHECKING:\n    from robsearch.study import Study"},
        "recipe imports study",
    ),
    (
        upward,
        {"robsearch/data/sets.py": "from robsearch.measures import norms"},
        "data imports measures",
    ),
    (upward, {"robsearch/data/sets.py": "from ..parts import MLP"}, "data imports parts"),
    (upward, {"robsearch/data/sets.py": "from robsearch import parts"}, "data imports parts"),
    (
        upward,
        {"robsearch/cluster.py": "from robsearch.tracking import Tracker"},
        "cluster imports tracking",
    ),
    (
        upward,
        {"robsearch/network.py": "import robsearch.parts.attacks as a"},
        "network imports parts",
    ),
    (
        upward,
        {"robsearch/protocols.py": "from robsearch.errors import InputError"},
        "protocols imports errors",
    ),
    (
        upward,
        {"robsearch/training/a.py": "from robsearch import PGD"},
        "training imports robsearch",
    ),
    (
        upward,
        {"robsearch/search/a.py": "import_module('search_spaces.quickstart')"},
        "search imports search_spaces",
    ),
    (
        cycles,
        {
            "robsearch/data/a.py": "from robsearch.data.b import load",
            "robsearch/data/b.py": "def f():\n    from .a import read",
        },
        "robsearch.data.a imports robsearch.data.b imports robsearch.data.a",
    ),
    (back_doors, {"robsearch/trials/a.py": "import ray.train"}, "a.py:1: trials imports ray.train"),
    (
        back_doors,
        {"robsearch/search/a.py": "from mlflow import MlflowClient"},
        "search imports mlflow.MlflowClient",
    ),
    (
        back_doors,
        {"robsearch/recipe.py": "def f():\n    from optuna import Trial"},
        "recipe imports optuna.Trial",
    ),
    (
        back_doors,
        {"search_spaces/a.py": "importlib.import_module('ray')"},
        "search_spaces imports ray",
    ),
    (vague, {"robsearch/report/_utils.py": ""}, "robsearch/report/_utils.py"),
    (vague, {"robsearch/core/laws.py": ""}, "robsearch/core/laws.py"),
    (
        between_tests,
        {"tests/search/test_a.py": "from test_b import launched"},
        "test_a.py:1: imports test_b.launched",
    ),
    (
        dialect,
        {"robsearch/laws/crest.py": ""},
        "laws/crest.py:1: crest is a word of the old dialect",
    ),
    (
        dialect,
        {"robsearch/search/a.py": "class Search:\n    def _tidy(self): ..."},
        "a.py:2: _tidy is a word of the old dialect",
    ),
    (
        dialect,
        {"robsearch/search/a.py": "for one in rows:\n    print(one.found, key='told')"},
        "a.py:1: one is a word of the old dialect",
    ),
]

KEEPS = {
    "robsearch/__init__.py": "from robsearch.search import launch",
    "robsearch/cli/__init__.py": "from robsearch.search import launch",
    "robsearch/search/__init__.py": (
        "from robsearch.search.engine import launch\nfrom robsearch.report import write"
    ),
    "robsearch/search/engine.py": "from .progress import watched",
    "robsearch/search/progress.py": "from ..study import Study\nimport rich.table",
    "robsearch/report/__init__.py": "from .answer import answer",
    "robsearch/report/answer.py": "from robsearch import laws",
    "robsearch/laws.py": "import numpy",
    "robsearch/cluster.py": "from ray import tune",
    "robsearch/study/__init__.py": "import optuna",
    "robsearch/training/trainer.py": "from robsearch.recipe import Recipe",
    "robsearch/recipe.py": "import raytracing",
    "robsearch/tracking.py": "import mlflow",
    "search_spaces/basement.py": "import optuna\nfrom robsearch import PGD",
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_its_rules(rule: Rule) -> None:
    assert rule(sources()) == []


def test_no_test_imports_another() -> None:
    assert between_tests(sources("tests")) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_rule_finds_nothing_in_a_tidy_house(rule: Rule) -> None:
    assert rule(KEEPS) == []


@pytest.mark.parametrize(("rule", "broken", "found"), BREAKS)
def test_a_rule_finds_what_breaks_it(rule: Rule, broken: Sources, found: str) -> None:
    (got,) = rule({**dict.fromkeys(BYSTANDERS, ""), **broken})
    assert got.endswith(found)


# --- the public names ---


def test_the_public_names_are_sorted_and_there() -> None:
    assert robsearch.__all__ == sorted(set(robsearch.__all__))
    for name in robsearch.__all__:
        assert getattr(robsearch, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        robsearch.Nothing  # noqa: B018
    with pytest.raises(AttributeError, match=r"Means is now robsearch\.RunOptions"):
        robsearch.Means  # noqa: B018


def test_type_checkers_see_the_same_public_names() -> None:
    tree = ast.parse(Path(robsearch.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname: line.module for line in block.body for alias in line.names}
    assert sorted(seen) == robsearch.__all__
    for name, module in seen.items():
        assert getattr(importlib.import_module(module), name) is getattr(robsearch, name)


# --- what comes along with an import ---

HEAVY = ("torch", "ray", "optuna", "mlflow")
LOADED = f"import sys; print(*[name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"


def loaded(code: str) -> str:
    """The heavy libraries that a fresh interpreter has imported after ``code``."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{LOADED}"], capture_output=True, text=True, check=True
    )
    return done.stderr.strip()


@pytest.mark.parametrize(
    "code",
    [
        "import robsearch; robsearch.__all__",
        "from robsearch import InputError",
        "import robsearch.cli",
        *(
            f"import sys; sys.argv = {['robsearch', *words]}\nfrom robsearch.cli import main\n"
            "try: main()\nexcept SystemExit as end: assert end.code == 0"
            for words in (["--help"], ["launch", "-h"], ["--version"])
        ),
    ],
)
def test_a_look_at_robsearch_imports_nothing_heavy(code: str) -> None:
    assert loaded(code) == ""


def test_heavy_imports_would_be_seen() -> None:
    assert loaded("import robsearch; robsearch.PGD") == "torch"


LOOKS = ("torch", "ray", "mlflow", "matplotlib", "sqlalchemy")
"""What nobody waits for who only looks how a search stands."""


@pytest.mark.parametrize("words", [[], ["s"], ["s", "--json"]], ids=" ".join)
def test_status_imports_what_it_shows(words: list[str], tmp_path: Path) -> None:
    record = SearchRecord("s", "m:n", (4,), 0, 6, "", {})
    record.create(open_storage(None, tmp_path / "s"))
    argv = ["robsearch", "status", *words, "--results", str(tmp_path)]
    code = (
        f"import sys; sys.argv = {argv}\nfrom robsearch.cli import main\n"
        "try: main()\nexcept SystemExit as end: assert end.code == 0\n"
        f"print(*[name for name in {LOOKS} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "s" in done.stdout
    assert done.stderr.strip() == ""


# --- the description ---


def test_what_the_description_names_is_there() -> None:
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    package = ROOT / "robsearch"
    named = set(re.findall(r"`(?:robsearch/)?([a-z_]+(?:/[a-z_]+)*(?:/|\.py))`", text))
    assert len(named) > 20
    assert [
        name for name in sorted(named) if not any((top / name).exists() for top in (package, ROOT))
    ] == []
    tree = re.search(r"```\n(.*?)```", text, re.DOTALL)
    assert tree is not None
    for entry in package.iterdir():
        known = entry.name in ("__init__.py", "__main__.py", "lazy.py", "__pycache__")
        assert known or entry.name in tree[1], entry.name
