"""A storage that is away for a while, or whose disk is full: what was asked of it is asked again
until it answers.

What fails with an error of the connection, or of a lock, may have been done all the same: its
answer was lost. Optuna's attributes, values of epochs and parameters may be written twice. A trial
that was made, and the end of a trial, are looked for before they are written again: there is one
writer, the driver that holds the lease, so what was not there before is its own. A study is refused
that is there already; of the names of leases it might be another driver's.

What finds no room was not done, in a journal (``journal.WholeLines``) as in a database.
"""

from __future__ import annotations

import errno
import math
import threading
import time
from collections.abc import Callable, Container, Sequence
from typing import Any, NamedTuple, TypeVar

from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy  # in the signatures of BaseStorage
from optuna.trial import FrozenTrial, TrialState

from robsearch.errors import StorageAwayError, counted, refusal
from robsearch.trials.disk import is_full

T = TypeVar("T")

FIRST_WAIT = 0.1
LONGEST_WAIT = 2.0
"""Seconds between two tries: twice as long each time. Short, so that the lease is renewed before
another driver looks at it."""
NEWS_SECONDS = 1.0
"""A storage that answers again within this time was never said to be away."""
LASTING = ("no such table", "no such column", "syntax error", "readonly database")
"""What no patience mends, in errors that are of the kind of a lost connection."""
FULL = "disk is full"
"""What sqlite says where it finds no room."""


class _ConnectionLostError(Exception):
    """What was asked may have been done, or not. No error of SQLAlchemy's: for those Optuna makes a
    trial up to five times."""


class _Outage(NamedTuple):
    """What keeps a storage from answering: in words, and for how many seconds that is waited
    for."""

    what: str
    over: str
    patience: float


class PatientStorage(BaseStorage):
    """A storage that asks again while its database is away, or while the disk is full under it.

    Args:
        storage: Optuna's.
        patience: seconds for which a database that is away is tried again; infinity for as long as
            it takes.
        say: prints one line: that the storage is away, and that it is back.
        disk_patience: seconds for which it is tried again where the disk is full.
    """

    def __init__(
        self,
        storage: BaseStorage,
        patience: float,
        say: Callable[[str], None] = lambda _: None,
        disk_patience: float = 0.0,
    ) -> None:
        self._storage = storage
        self._away = _Outage("the storage is away", "the storage is back", patience)
        full = "the disk is full under the storage"
        self._full = _Outage(full, "the storage has room again", disk_patience)
        self._say = say
        self._lock = threading.Lock()
        self._failing: set[int] = set()
        self._since = 0.0
        self._known: _Outage | None = None
        self._given_up = threading.Event()
        self._end = math.inf
        if isinstance(self._backend, RDBStorage):
            _translate_errors(self._backend)

    @property
    def _backend(self) -> Any:
        """As Optuna's cache has it: ``storage.add_finished`` writes to it. Of a journal it is the
        file."""
        return getattr(self._storage, "_backend", self._storage)

    @property
    def away(self) -> bool:
        """Whether it was said to be away, and has not answered since."""
        return self._known is not None

    def give_up(self) -> None:
        """From now on nothing is tried again, what is being tried included."""
        self._given_up.set()

    def end(self, seconds: float) -> None:
        """In so many seconds it gives up: a driver that ends has no time for more."""
        self._end = time.monotonic() + seconds

    # --- trying again ---

    def _ask(self, ask: Callable[[], T], ask_again: Callable[[], T] | None = None) -> T:
        """What ``ask`` gives; ``ask_again`` is called instead once it may have been done.

        Raises:
            StorageAwayError: the storage was away for longer than the patience.
            OSError: the disk was full for longer than the patience with it.
        """
        wait = FIRST_WAIT
        while True:
            begun = time.monotonic()
            try:
                answer = ask()
            except _ConnectionLostError as error:
                self._note_failure(error, begun, self._away)
                self._given_up.wait(wait)
                wait = min(2 * wait, LONGEST_WAIT)
                ask = ask_again or ask
            except OSError as error:
                if not is_full(error):
                    raise
                self._note_failure(error, begun, self._full)
                self._given_up.wait(wait)
                wait = min(2 * wait, LONGEST_WAIT)
            else:
                if self._failing:
                    self._note_answer()
                return answer

    def _note_failure(self, error: Exception, begun: float, outage: _Outage) -> None:
        now = time.monotonic()
        with self._lock:
            if not self._failing:
                self._since = begun
            self._failing.add(threading.get_ident())
            lasts = now - self._since
            is_news = lasts >= NEWS_SECONDS and self._known is None
            if is_news:
                self._known = outage
        is_over = self._given_up.is_set() or now >= self._end
        if lasts >= outage.patience or is_over:
            with self._lock:
                self._failing.discard(threading.get_ident())
            if outage is self._full:
                # The driver knows its folder, and says it in one sentence.
                raise error
            expected = "a storage that answers"
            if not is_over:
                expected += f" within {outage.patience:g} s (--storage-patience)"
            do = "what had ended is kept; see to the database"
            raise StorageAwayError(refusal(expected, str(error), do)) from error
        if is_news:
            until = "until it is back"
            if math.isfinite(outage.patience):
                until = f"for {counted(round(outage.patience), 'second')}"
            self._say(f"{outage.what} ({error}): trainings go on, and it is tried again {until}")

    def _note_answer(self) -> None:
        with self._lock:
            self._failing.discard(threading.get_ident())
            known = None if self._failing else self._known
            if known:
                self._known = None
        if known:
            away = counted(round(time.monotonic() - self._since), "second")
            self._say(f"{known.over} after {away}")

    # --- what is not written twice ---

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        """As Optuna's.

        Raises:
            DuplicatedStudyError: there is one of that name, also if its making's answer was lost.
        """
        return self._ask(lambda: self._storage.create_new_study(directions, study_name))

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Makes a trial, once."""
        before = {trial._trial_id for trial in self.get_all_trials(study_id, deepcopy=False)}

        def create() -> int:
            return self._storage.create_new_trial(study_id, template_trial)

        def ask_again() -> int:
            trials = self._storage.get_all_trials(study_id, deepcopy=False)
            made = [trial._trial_id for trial in trials if trial._trial_id not in before]
            return made[0] if made else create()

        return self._ask(create, ask_again)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Tells a trial, once."""

        def write() -> bool:
            return self._storage.set_trial_state_values(trial_id, state, values)

        def ask_again() -> bool:
            try:
                return write() or self._storage.get_trial(trial_id).state == state
            except UpdateFinishedTrialError:
                # Not the cached one, which is as it was before.
                ended = self._backend.get_trial(trial_id)
                if ended.state != state or (values is not None and ended.values != list(values)):
                    raise
                return True

        return self._ask(write, ask_again)

    # --- what may be written twice ---

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        """As Optuna's; a database refuses the second row without a word."""
        self._ask(
            lambda: self._storage.set_trial_param(
                trial_id, param_name, param_value_internal, distribution
            )
        )

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        """As Optuna's."""
        self._ask(
            lambda: self._storage.set_trial_intermediate_value(trial_id, step, intermediate_value)
        )

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """As Optuna's."""
        self._ask(lambda: self._storage.set_trial_user_attr(trial_id, key, value))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """As Optuna's."""
        self._ask(lambda: self._storage.set_trial_system_attr(trial_id, key, value))

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """As Optuna's."""
        self._ask(lambda: self._storage.set_study_user_attr(study_id, key, value))

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """As Optuna's."""
        self._ask(lambda: self._storage.set_study_system_attr(study_id, key, value))

    def delete_study(self, study_id: int) -> None:
        """As Optuna's."""
        self._ask(lambda: self._storage.delete_study(study_id))

    # --- what is only read ---

    def get_study_id_from_name(self, study_name: str) -> int:
        """As Optuna's."""
        return self._ask(lambda: self._storage.get_study_id_from_name(study_name))

    def get_study_name_from_id(self, study_id: int) -> str:
        """As Optuna's."""
        return self._ask(lambda: self._storage.get_study_name_from_id(study_id))

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """As Optuna's."""
        return self._ask(lambda: self._storage.get_study_directions(study_id))

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """As Optuna's."""
        return self._ask(lambda: self._storage.get_study_user_attrs(study_id))

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """As Optuna's."""
        return self._ask(lambda: self._storage.get_study_system_attrs(study_id))

    def get_all_studies(self) -> list[FrozenStudy]:
        """As Optuna's."""
        return self._ask(self._storage.get_all_studies)

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        """As Optuna's."""
        ask = self._storage.get_trial_id_from_study_id_trial_number
        return self._ask(lambda: ask(study_id, trial_number))

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """As Optuna's."""
        return self._ask(lambda: self._storage.get_trial(trial_id))

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """As Optuna's."""
        return self._ask(lambda: self._storage.get_all_trials(study_id, deepcopy, states))


def _translate_errors(database: RDBStorage) -> None:
    """Has SQLAlchemy raise ``_ConnectionLostError`` where a connection is lost or locked, and the
    system's error where the disk is full.

    Optuna makes every error of SQLAlchemy's one about "exceeding max length".
    """
    from sqlalchemy import event, exc

    def translate(context: Any) -> None:
        error = context.sqlalchemy_exception
        connection = isinstance(error, exc.OperationalError | exc.InterfaceError)
        text = " ".join(str(context.original_exception).split())
        if connection and FULL in text:
            raise OSError(errno.ENOSPC, text) from context.original_exception
        if (connection or context.is_disconnect) and not any(word in text for word in LASTING):
            kind = type(context.original_exception).__name__
            raise _ConnectionLostError(f"{kind}: {text}") from context.original_exception

    event.listen(database.engine, "handle_error", translate)
