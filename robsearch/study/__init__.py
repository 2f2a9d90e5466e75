"""The only door to Optuna: storage, one driver per search, suggestions, pruning, adoption."""

from optuna.storages import BaseStorage as Storage

from robsearch.study.lease import Lease, ask_to_stop, living_owner
from robsearch.study.storage import (
    JOURNAL,
    SearchRecord,
    open_storage,
    record_names,
    repair_journal,
    without_password,
)
from robsearch.study.suggestions import Study, Suggestion, recorded_trials, trial_label

__all__ = [
    "JOURNAL",
    "Lease",
    "SearchRecord",
    "Storage",
    "Study",
    "Suggestion",
    "ask_to_stop",
    "living_owner",
    "open_storage",
    "record_names",
    "recorded_trials",
    "repair_journal",
    "trial_label",
    "without_password",
]
