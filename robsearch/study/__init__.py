"""The only door to Optuna: storage, one driver per search, suggestions, pruning, warm start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robsearch.lazy import lazy_names

if TYPE_CHECKING:
    from optuna.storages import BaseStorage as Storage

    from robsearch.study.dropping import drop_trial, dropped_trials
    from robsearch.study.ending import ask_to_end, asked_to_end, prune_interrupted
    from robsearch.study.failures import Failures, failures_of
    from robsearch.study.lease import (
        Lease,
        LeaseWatch,
        ask_to_stop,
        living_owner,
        owner_text,
        seconds_since_renewal,
    )
    from robsearch.study.other_searches import (
        Distributions,
        finished_observations,
        number,
        observations_of_other_widths,
        read_as,
        warm_start,
    )
    from robsearch.study.params import COLUMN, is_number, others_than_lam, params_of, params_text
    from robsearch.study.record import SearchRecord, delete_search, discard_half_made, record_names
    from robsearch.study.recorded import RecordedTrial, recorded_trials, trials_of
    from robsearch.study.replaying import Change, range_text, recorded_controls, replay
    from robsearch.study.storage import (
        JOURNAL,
        open_storage,
        repair_journal,
        study_names,
        to_be_made,
    )
    from robsearch.study.suggestions import Study, Suggestion, observations_of
    from robsearch.study.width_sampler import Observation, WidthSampler
else:
    __getattr__ = lazy_names(__name__, __file__)


__all__ = [
    "COLUMN",
    "JOURNAL",
    "Change",
    "Distributions",
    "Failures",
    "Lease",
    "LeaseWatch",
    "Observation",
    "RecordedTrial",
    "SearchRecord",
    "Storage",
    "Study",
    "Suggestion",
    "WidthSampler",
    "ask_to_end",
    "ask_to_stop",
    "asked_to_end",
    "delete_search",
    "discard_half_made",
    "drop_trial",
    "dropped_trials",
    "failures_of",
    "finished_observations",
    "is_number",
    "living_owner",
    "number",
    "observations_of",
    "observations_of_other_widths",
    "open_storage",
    "others_than_lam",
    "owner_text",
    "params_of",
    "params_text",
    "prune_interrupted",
    "range_text",
    "read_as",
    "record_names",
    "recorded_controls",
    "recorded_trials",
    "repair_journal",
    "replay",
    "seconds_since_renewal",
    "study_names",
    "to_be_made",
    "trials_of",
    "warm_start",
]
