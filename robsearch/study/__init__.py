"""The only door to Optuna: storage, one driver per search, suggestions, pruning, warm start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robsearch.lazy import lazy_names

if TYPE_CHECKING:
    from optuna.storages import BaseStorage as Storage

    from robsearch.study.dropping import DROP, drop_trial, dropped_trials
    from robsearch.study.ending import ask_to_end, asked_to_end, prune_interrupted
    from robsearch.study.failures import Failures, failures_of
    from robsearch.study.importance import (
        EVALUATORS,
        LEAST,
        RESAMPLES,
        Importance,
        importances,
    )
    from robsearch.study.journal import (
        JOURNAL,
        DamagedJournalError,
        Examined,
        examine,
        repair_journal,
        replace_journal,
    )
    from robsearch.study.lease import (
        Lease,
        LeaseWatch,
        ask_to_stop,
        delete_leases,
        living_owner,
        owner_text,
        seconds_since_renewal,
    )
    from robsearch.study.other_searches import (
        Distributions,
        dropped_suggestions,
        finished_observations,
        number,
        observations_of_other_widths,
        read_as,
        warm_start,
    )
    from robsearch.study.param_ranges import ParamRange, range_tried, recorded_ranges
    from robsearch.study.params import (
        COLUMN,
        is_number,
        others_than_lam,
        params_of,
        params_text,
        plain_name,
        value_text,
    )
    from robsearch.study.patience import PatientStorage, waiting_for_storage
    from robsearch.study.rebuilding import FolderTrial, Rebuilding, lacks_facts, place_of
    from robsearch.study.record import (
        SearchRecord,
        delete_search,
        discard_half_made,
        note_folder,
        noted_folder,
        record_names,
    )
    from robsearch.study.recorded import (
        RecordedTrial,
        recorded_studies,
        recorded_trials,
        trials_of,
    )
    from robsearch.study.replaying import Change, range_text, recorded_controls, replay
    from robsearch.study.storage import open_storage, study_names, to_be_made
    from robsearch.study.suggestions import Study, Suggestion, TrialEnd, observations_of
    from robsearch.study.width_sampler import Observation, WidthSampler
else:
    __getattr__ = lazy_names(__name__, __file__)


__all__ = [
    "COLUMN",
    "DROP",
    "EVALUATORS",
    "JOURNAL",
    "LEAST",
    "RESAMPLES",
    "Change",
    "DamagedJournalError",
    "Distributions",
    "Examined",
    "Failures",
    "FolderTrial",
    "Importance",
    "Lease",
    "LeaseWatch",
    "Observation",
    "ParamRange",
    "PatientStorage",
    "Rebuilding",
    "RecordedTrial",
    "SearchRecord",
    "Storage",
    "Study",
    "Suggestion",
    "TrialEnd",
    "WidthSampler",
    "ask_to_end",
    "ask_to_stop",
    "asked_to_end",
    "delete_leases",
    "delete_search",
    "discard_half_made",
    "drop_trial",
    "dropped_suggestions",
    "dropped_trials",
    "examine",
    "failures_of",
    "finished_observations",
    "importances",
    "is_number",
    "lacks_facts",
    "living_owner",
    "note_folder",
    "noted_folder",
    "number",
    "observations_of",
    "observations_of_other_widths",
    "open_storage",
    "others_than_lam",
    "owner_text",
    "params_of",
    "params_text",
    "place_of",
    "plain_name",
    "prune_interrupted",
    "range_text",
    "range_tried",
    "read_as",
    "record_names",
    "recorded_controls",
    "recorded_ranges",
    "recorded_studies",
    "recorded_trials",
    "repair_journal",
    "replace_journal",
    "replay",
    "seconds_since_renewal",
    "study_names",
    "to_be_made",
    "trials_of",
    "value_text",
    "waiting_for_storage",
    "warm_start",
]
