"""Launch, resume and load a search: composes Optuna's studies, Ray's cluster and MLflow's record."""

from robsearch.search.engine import Means, launch, resume
from robsearch.search.result import Place, Search, load_search, search_names

__all__ = ["Means", "Place", "Search", "launch", "load_search", "resume", "search_names"]
