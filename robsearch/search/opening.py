"""Where to look once a search has run: the closing lines, and the MLflow UI."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

from robsearch.laws import Optimum
from robsearch.search.result import Search
from robsearch.search.workplace import Means
from robsearch.study import SearchRecord
from robsearch.tracking import check_tracking, experiment_of, experiment_page, ui_command


def closing_lines(search: Search, means: Means) -> Iterator[str]:
    """The answer of a search in a few lines, and where the rest is."""
    yield ""
    for width in search.widths:
        yield f"  {optimum_text(search.ridge.optimum(width))}{_best(search, width)}"
    yield search.ridge.sentence()
    yield f"report: {search.report}"
    yield f"compare the trials: {_ui_invocation(search.name, means)}"


def optimum_text(optimum: Optimum) -> str:
    """Lambda* at one width, with its interval, or the plain words that it is not determined."""
    if optimum.lam is None:
        return f"width {optimum.width:g}: lambda* not determined"
    estimate = f"lambda* = {optimum.lam:.3g} [{optimum.low:.3g}, {optimum.high:.3g}]"
    return f"width {optimum.width:g}: {estimate}" + (f" ({optimum.censored})" if optimum.censored else "")


def _best(search: Search, width: float) -> str:
    best = search.best(width)
    if best is None:
        return ""
    return f"; best trial {best['trial']} with lam {best['lam']:.3g}, val robust {best['value']:.1%}"


def _ui_invocation(name: str, means: Means) -> str:
    options = {"--results": means.results, "--storage": means.storage, "--tracking": means.tracking}
    given = " ".join(f"{option} {value}" for option, value in options.items() if value)
    return f"robsearch ui {name} {given}".rstrip()


def serve(name: str | None, port: int, means: Means) -> int:
    """Runs the MLflow server on a search's store until it is stopped; for a served store, only says where it is."""
    remembered = SearchRecord.load(means.place.open(name), name).tracking if name else None
    uri = means.uri(remembered)
    check_tracking(uri)
    served = uri.startswith(("http://", "https://"))
    address = uri if served else f"http://127.0.0.1:{port}"
    print(f"MLflow UI: {experiment_page(address, experiment_of(uri, name))}", flush=True)
    if served:
        return 0
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    try:
        return subprocess.run(ui_command(uri, port), env={**os.environ, **quiet}, check=False).returncode
    except KeyboardInterrupt:
        return 0
