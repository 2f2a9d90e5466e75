"""The only door to MLflow: one experiment per search, one flat run per trial, one run for the
search itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robsearch.lazy import lazy_names

if TYPE_CHECKING:
    from robsearch.tracking.beside import (
        BESIDE,
        default_uri,
        exact,
        found_again,
        may_have_runs,
        opened,
        sqlite_file,
        to_remember,
    )
    from robsearch.tracking.exporting import opener_of, save_model
    from robsearch.tracking.models import Promoted, check_model_names, register
    from robsearch.tracking.projection import SEARCH, RunRecord
    from robsearch.tracking.store import (
        SEARCH_ID,
        TRIAL,
        check_tracking,
        delete_experiment,
        experiment_exists,
        experiment_of,
        experiment_page,
        run_pages,
        runs_of_search,
        served,
        trial_of_run,
        ui_command,
    )
    from robsearch.tracking.tracker import Tracker
    from robsearch.tracking.view import publish_view
else:
    __getattr__ = lazy_names(__name__, __file__)

__all__ = [
    "BESIDE",
    "SEARCH",
    "SEARCH_ID",
    "TRIAL",
    "Promoted",
    "RunRecord",
    "Tracker",
    "check_model_names",
    "check_tracking",
    "default_uri",
    "delete_experiment",
    "exact",
    "experiment_exists",
    "experiment_of",
    "experiment_page",
    "found_again",
    "may_have_runs",
    "opened",
    "opener_of",
    "publish_view",
    "register",
    "run_pages",
    "runs_of_search",
    "save_model",
    "served",
    "sqlite_file",
    "to_remember",
    "trial_of_run",
    "ui_command",
]
