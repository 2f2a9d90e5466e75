"""Launch, resume, load and evaluate a search: composes Optuna's studies, Ray's cluster and MLflow's record."""

from robsearch.search.comparing import Comparison, compare
from robsearch.search.engine import launch, resume
from robsearch.search.evaluating import Evaluation, evaluate
from robsearch.search.place import Place, search_names
from robsearch.search.result import Search, load_search
from robsearch.search.workplace import Means

__all__ = [
    "Comparison",
    "Evaluation",
    "Means",
    "Place",
    "Search",
    "compare",
    "evaluate",
    "launch",
    "load_search",
    "resume",
    "search_names",
]
