"""The house rules that a reader cannot see in one file: imports point down, one door per library, small modules.

Imports are read from the source, wherever they stand: inside a function an import only comes later, and under
``TYPE_CHECKING`` it still is knowledge of what lies above. Each rule is also shown to fail on a source that breaks it.
"""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import robsearch

ROOT = Path(__file__).parents[1]

LAYERS = (
    {"__main__"},
    {"cli", "search_spaces"},
    {"robsearch", "doctor", "claims"},  # the public names: `from robsearch import PGD`
    {"search"},
    {"report"},
    {"study", "cluster", "tracking"},
    {
        "trial",
        "checkpoints",
        "spaces",
        "testing",
        "recipe",
        "trainer",
        "evaluation",
        "figures",
        "ladder",
        "masking",
        "measurement",
        "learner",
        "steps",
        "memory",
        "rehearsal",
        "pricing",
        "disk",
        "saving",
        "provenance",
        "loading",
        "files",
    },
    {
        "attacks",
        "averaging",
        "stopping",
        "objectives",
        "penalties",
        "perturbation",
        "laws",
        "schedules",
        "optimisers",
        "models",
        "data",
        "measures",
    },
    {"layers"},
    {"modes", "operators"},
    {"draws", "resources", "ranks", "batching", "references", "paths", "costs", "naming", "selection", "child"},
    {"identity", "kinds"},
    {"protocols", "errors", "wording"},
)
"""From the top down; a part is a module of robsearch or one of its packages, with all that is in it."""

PEERS = LAYERS[6]
"""The one layer whose parts build on each other: one run."""

DOORS = {
    "ray": {"cluster"},
    "mlflow": {"tracking"},
    "optuna": {"study", "spaces", "search_spaces", "claims"},  # an experiment is a space
}
MODULE_LINES, FUNCTION_LINES = 300, 40
VAGUE = {"utils", "common", "core", "base", "manager", "config"}

Rule = Callable[["Sources"], list[str]]
Sources = Mapping[str, str]
"""Source by path, such as ``robsearch/laws/ridge.py``."""


def sources() -> Sources:
    files = (file for top in ("robsearch", "search_spaces") for file in sorted((ROOT / top).rglob("*.py")))
    return {file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8") for file in files}


# --- reading ---


def imports(path: str, source: str) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of all that a source imports: ``from a import b`` is ``a.b``."""
    here = Path(path).with_suffix("").parts
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            stem = [*here[: len(here) - node.level], *filter(None, [node.module])] if node.level else [node.module]
            yield from ((node.lineno, ".".join([*map(str, stem), alias.name])) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
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
        path: "search_spaces" if name[0] == "search_spaces" else "robsearch" if name[1] == "__init__" else name[1]
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
    return [f"{name} stands in no layer" for name in sorted(set(parts(files).values()) - set().union(*LAYERS))]


def upward(files: Sources) -> list[str]:
    depth = {name: i for i, layer in enumerate(LAYERS) for name in layer}
    return [
        f"{where}: {name} imports {other}"
        for where, name, other in links(files)
        if not depth[name] < depth[other] and not {name, other} <= PEERS
    ]


def cycles(files: Sources) -> list[str]:
    graph: dict[str, set[str]] = {}
    for _, name, other in links(files):
        graph.setdefault(other, set()).add(name)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        ring = error.args[1][1:]
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


def too_long(files: Sources) -> list[str]:
    """With docstrings: whoever reads the code reads them too."""
    found = []
    for path, source in files.items():
        lines = len(source.splitlines())
        found += [f"{path}: {lines} lines"] if lines > MODULE_LINES else []
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                found += [f"{path}:{node.lineno}: {node.name}, {lines} lines"] if lines > FUNCTION_LINES else []
    return found


def vague(files: Sources) -> list[str]:
    return [path for path in files if VAGUE & {piece.strip("_") for piece in Path(path).with_suffix("").parts}]


RULES = (strangers, upward, cycles, back_doors, too_long, vague)
LONG_BODY = "\n    pass" * 40

BYSTANDERS = [f"robsearch/{name}.py" for layer in LAYERS for name in layer - {"robsearch", "search_spaces"}]
"""Empty modules, so that `from robsearch import models` names one."""

BREAKS = [
    (strangers, {"robsearch/helpers.py": ""}, "helpers stands in no layer"),
    (upward, {"robsearch/report/page.py": "from robsearch.search import Search"}, "report imports search"),
    (upward, {"robsearch/study/a.py": "def f():\n    import robsearch.search.engine"}, "a.py:2: study imports search"),
    (
        upward,
        {"robsearch/recipe.py": "if TYPE_CHECKING:\n    from robsearch.study import Study"},
        "recipe imports study",
    ),
    (upward, {"robsearch/attacks.py": "from robsearch.objectives import TRADES"}, "attacks imports objectives"),
    (upward, {"robsearch/attacks.py": "from .objectives import TRADES"}, "attacks imports objectives"),
    (upward, {"robsearch/data/sets.py": "from ..models import MLP"}, "data imports models"),
    (upward, {"robsearch/data/sets.py": "from robsearch import models"}, "data imports models"),
    (upward, {"robsearch/cluster.py": "from robsearch.tracking import Tracker"}, "cluster imports tracking"),
    (upward, {"robsearch/modes.py": "import robsearch.attacks as a"}, "modes imports attacks"),
    (upward, {"robsearch/protocols.py": "from robsearch.errors import InputError"}, "protocols imports errors"),
    (upward, {"robsearch/trainer.py": "from robsearch import PGD"}, "trainer imports robsearch"),
    (upward, {"robsearch/search/a.py": "import_module('search_spaces.quickstart')"}, "search imports search_spaces"),
    (
        cycles,
        {
            "robsearch/recipe.py": "from robsearch.trainer import train",
            "robsearch/trainer.py": "def f():\n    from robsearch.recipe import Recipe",
        },
        "recipe imports trainer imports recipe",
    ),
    (back_doors, {"robsearch/trial.py": "import ray.train"}, "trial.py:1: trial imports ray.train"),
    (back_doors, {"robsearch/search/a.py": "from mlflow import MlflowClient"}, "search imports mlflow.MlflowClient"),
    (back_doors, {"robsearch/recipe.py": "def f():\n    from optuna import Trial"}, "recipe imports optuna.Trial"),
    (back_doors, {"search_spaces/a.py": "importlib.import_module('ray')"}, "search_spaces imports ray"),
    (too_long, {"robsearch/a.py": "\n" * 301}, "a.py: 301 lines"),
    (too_long, {"robsearch/a.py": f"\ndef f():{LONG_BODY}"}, "a.py:2: f, 41 lines"),
    (too_long, {"robsearch/a.py": f"class A:\n  async def f():{LONG_BODY}"}, "a.py:2: f, 41 lines"),
    (vague, {"robsearch/report/_utils.py": ""}, "robsearch/report/_utils.py"),
    (vague, {"robsearch/core/laws.py": ""}, "robsearch/core/laws.py"),
]

KEEPS = {
    "robsearch/__init__.py": "from robsearch.search import launch",
    "robsearch/cli/__init__.py": "from robsearch.search import launch",
    "robsearch/search/__init__.py": "from robsearch.search.engine import launch\nfrom robsearch.report import write",
    "robsearch/search/engine.py": "from .table import watched",
    "robsearch/search/table.py": "from ..study import Study\nimport rich.table",
    "robsearch/report/__init__.py": "from .answer import answer",
    "robsearch/report/answer.py": "from robsearch import laws",
    "robsearch/laws.py": "import numpy",
    "robsearch/cluster.py": "from ray import tune",
    "robsearch/study/__init__.py": "import optuna",
    "robsearch/trainer.py": f"from robsearch.recipe import Recipe\ndef f():{LONG_BODY[:-9]}",
    "robsearch/recipe.py": "import raytracing",
    "robsearch/tracking.py": "import mlflow",
    "search_spaces/basement.py": "import optuna\nfrom robsearch import PGD",
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_its_rules(rule: Rule) -> None:
    assert rule(sources()) == []


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
    done = subprocess.run([sys.executable, "-c", f"{code}\n{LOADED}"], capture_output=True, text=True, check=True)
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
