"""The only door to MLflow: one experiment per search, one flat run per trial, one run for the search itself."""

import logging
import os

# Read by mlflow when it is imported. Its own retries would hold a dead server's requests for minutes; ours go on.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines for every run that ends
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")

from robsearch.tracking.beside import BESIDE, default_uri, exact, found_again, opened, sqlite_file, to_remember
from robsearch.tracking.exporting import opener_of, save_model
from robsearch.tracking.models import Promoted, check_model_names, register
from robsearch.tracking.sending import STATUS
from robsearch.tracking.spool import undelivered
from robsearch.tracking.store import (
    SEARCH_ID,
    TRIAL,
    check_tracking,
    experiment_exists,
    experiment_of,
    experiment_page,
    run_pages,
    served,
    shown,
    trial_of_run,
    ui_command,
)
from robsearch.tracking.tracker import Tracker
from robsearch.tracking.view import publish_view

for _name in ("alembic", "mlflow.store.db.utils", "mlflow.store.model_registry.abstract_store"):
    logging.getLogger(_name).setLevel(logging.WARNING)

__all__ = [
    "BESIDE",
    "SEARCH_ID",
    "STATUS",
    "TRIAL",
    "Promoted",
    "Tracker",
    "check_model_names",
    "check_tracking",
    "default_uri",
    "exact",
    "experiment_exists",
    "experiment_of",
    "experiment_page",
    "found_again",
    "opened",
    "opener_of",
    "publish_view",
    "register",
    "run_pages",
    "save_model",
    "served",
    "shown",
    "sqlite_file",
    "to_remember",
    "trial_of_run",
    "ui_command",
    "undelivered",
]
