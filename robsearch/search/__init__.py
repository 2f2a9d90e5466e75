"""Launch, resume, load and evaluate a search: composes Optuna's studies, Ray's cluster and MLflow's
record.

Each name brings what it needs when it is used: ``status`` needs neither torch nor Ray nor MLflow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from robsearch.lazy import lazy_names

if TYPE_CHECKING:
    from robsearch.search.commands.compare import Comparison as Comparison, compare as compare
    from robsearch.search.commands.evaluate import Evaluation as Evaluation, evaluate as evaluate
    from robsearch.search.engine import launch as launch, resume as resume
    from robsearch.search.options import RunOptions as RunOptions
    from robsearch.search.result import Search as Search, load_search as load_search
    from robsearch.search.results_store import (
        ResultsStore as ResultsStore,
        search_names as search_names,
    )
else:
    __getattr__ = lazy_names(__name__, __file__)
