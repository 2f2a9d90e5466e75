"""The only door to Optuna: storage, one driver per search, suggestions, pruning, adoption."""

from optuna.storages import BaseStorage as Storage

from robsearch.study.elsewhere import Found, bring_in, found_in, left_out, seen_elsewhere
from robsearch.study.failures import Failures, failures_of
from robsearch.study.fitting import Distributions, number, read_as
from robsearch.study.lease import Lease, ask_to_stop, living_owner
from robsearch.study.params import COLUMN, others_than_lam, params_of, params_text
from robsearch.study.replaying import ANOTHER, Replayed, range_text, recorded_controls, replay
from robsearch.study.storage import (
    JOURNAL,
    SearchRecord,
    open_storage,
    record_names,
    repair_journal,
    study_names,
    to_be_made,
    without_password,
)
from robsearch.study.suggestions import Study, all_seen
from robsearch.study.trainings import Suggestion, Told, Training, order_of, recorded_trials, trainings_of
from robsearch.study.width_sampler import Seen, WidthSampler

__all__ = [
    "ANOTHER",
    "COLUMN",
    "JOURNAL",
    "Distributions",
    "Failures",
    "Found",
    "Lease",
    "Replayed",
    "SearchRecord",
    "Seen",
    "Storage",
    "Study",
    "Suggestion",
    "Told",
    "Training",
    "WidthSampler",
    "all_seen",
    "ask_to_stop",
    "bring_in",
    "failures_of",
    "found_in",
    "left_out",
    "living_owner",
    "number",
    "open_storage",
    "order_of",
    "others_than_lam",
    "params_of",
    "params_text",
    "range_text",
    "read_as",
    "record_names",
    "recorded_controls",
    "recorded_trials",
    "repair_journal",
    "replay",
    "seen_elsewhere",
    "study_names",
    "to_be_made",
    "trainings_of",
    "without_password",
]
