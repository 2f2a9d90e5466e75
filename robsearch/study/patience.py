"""A storage that is away for a while, or whose disk is full: what was asked of it is asked again
until it answers.

What fails with an error of the connection, or of a lock, may have been done all the same: its
answer was lost. Optuna's attributes, values of epochs and parameters may be written twice. A trial
that was made, and the end of a trial, are looked for before they are written again: there is one
writer, the driver that holds the lease, so what was not there before is its own. A study is refused
that is there already; of the names of leases it might be another driver's.

What finds no room was not done, in a journal (``journal.WholeLines``) as in a database.

A driver waits as its user says while trials train on (``PatientStorage``). Whoever opens a storage
before that, or only looks, waits as the ``current_patience`` says, from the opening on.
"""

from __future__ import annotations

import contextlib
import errno
import math
import threading
import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple, Self, TypeVar

from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy  # in the signatures of BaseStorage
from optuna.trial import FrozenTrial, TrialState

from robsearch.errors import StorageAwayError, causes, counted, refusal
from robsearch.trials.disk import is_full

T = TypeVar("T")

FIRST_WAIT = 0.1
LONGEST_WAIT = 2.0
"""Seconds between two tries: twice as long each time. Short, so that the lease is renewed before
another driver looks at it."""
NEWS_SECONDS = 1.0
"""A storage that answers again within this time was never said to be away."""
LOOKING_SECONDS = 10.0
"""For which whoever only looks waits for a database: somebody sits before it."""
OPTION = "--storage-patience"
LASTING = ("no such table", "no such column", "syntax error", "readonly database")
"""What no patience mends, in errors that are of the kind of a lost connection."""
MISTAKES = (
    *LASTING,
    "unable to open database file",
    "does not exist",
    "authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "Name or service not known",
    "Access denied",
    "Unknown database",
)
"""The same, where a storage is opened. A driver had opened it, so it waits for all of these but the
first."""
FULL = "disk is full"
"""What sqlite says where it finds no room."""


class _ConnectionLostError(Exception):
    """What was asked may have been done, or not. No error of SQLAlchemy's: for those Optuna makes a
    trial up to five times."""


def _quiet(_: str) -> None:
    pass


@dataclass(frozen=True)
class StoragePatience:
    """How a database is waited for where nothing is trained yet, or nothing is to be.

    Attributes:
        seconds: for which it is tried again; infinity for as long as it takes.
        say: prints one line: that it is waited for, and that it is back.
        option: of the command line that sets the seconds; empty where none does.
    """

    seconds: float
    say: Callable[[str], None] = _quiet
    option: str = ""


_CURRENT: ContextVar[StoragePatience | None] = ContextVar("patience", default=None)
"""Of the call that runs, such as a launch; another thread has its own."""


def current_patience() -> StoragePatience:
    """That of the call that runs; outside of ``waiting_for_storage`` that of whoever looks."""
    return _CURRENT.get() or StoragePatience(LOOKING_SECONDS)


@contextlib.contextmanager
def waiting_for_storage(seconds: float, say: Callable[[str], None]) -> Iterator[None]:
    """Storages that are opened meanwhile are waited for as long as a driver would wait.

    Args:
        seconds: for which a database that is away is tried again.
        say: prints one line: that it is waited for, and that it is back.
    """
    token = _CURRENT.set(StoragePatience(seconds, say, OPTION))
    try:
        yield
    finally:
        _CURRENT.reset(token)


class _Outage(NamedTuple):
    """What keeps a storage from answering, in words, and for how many seconds that is waited
    for."""

    what: str
    meanwhile: str
    over: str
    expected: str
    do: str
    patience: float
    option: str = ""


class _Waiter:
    """Asks again, until a storage answers or its patience has ended, and says so once."""

    def __init__(self, away: _Outage, full: _Outage, say: Callable[[str], None]) -> None:
        self._away = away
        self._full = full
        self._say = say
        self._lock = threading.Lock()
        self._failing: set[int] = set()
        self._since = 0.0
        self._known: _Outage | None = None
        self._is_spent = False
        self._given_up = threading.Event()
        self._end = math.inf

    @property
    def away(self) -> bool:
        """Whether it was said to be away, and has not answered since."""
        return self._known is not None

    def give_up(self) -> None:
        """From now on nothing is tried again, what is being tried included."""
        self._given_up.set()

    def end(self, seconds: float) -> None:
        """In so many seconds it gives up."""
        self._end = time.monotonic() + seconds

    def ask(self, ask: Callable[[], T], ask_again: Callable[[], T] | None = None) -> T:
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
                if self._failing or self._is_spent:
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
        if lasts >= outage.patience or is_over or self._is_spent:
            with self._lock:
                self._failing.discard(threading.get_ident())
                # What is asked of it afterwards, to clear up, does not wait as long once more.
                self._is_spent = not is_over
            if outage is self._full:
                # The driver knows its folder, and says it in one sentence.
                raise error
            raise StorageAwayError(_refusal(outage, error, is_over)) from error
        if is_news:
            until = "until it is back"
            if math.isfinite(outage.patience):
                until = f"for {counted(round(outage.patience), 'second')}"
            self._say(f"{outage.what} ({error}): {outage.meanwhile} {until}")

    def _note_answer(self) -> None:
        with self._lock:
            self._is_spent = False
            self._failing.discard(threading.get_ident())
            known = None if self._failing else self._known
            if known:
                self._known = None
        if known:
            away = counted(round(time.monotonic() - self._since), "second")
            self._say(f"{known.over} after {away}")


def _refusal(outage: _Outage, error: Exception, is_over: bool) -> str:
    """What is said of a storage that does not come back in time."""
    expected = outage.expected
    if not is_over:
        expected += f" within {outage.patience:g} s"
        expected += f" ({outage.option})" if outage.option else ""
    return refusal(expected, str(error), outage.do)


class PatientStorage(BaseStorage):
    """A storage that asks again while its database is away, or while the disk is full under it.

    Args:
        storage: Optuna's; one that is patient already becomes as patient as this.
        patience: seconds for which a database that is away is tried again; infinity for as long as
            it takes.
        say: prints one line: that the storage is away, and that it is back.
        disk_patience: seconds for which it is tried again where the disk is full.
    """

    def __init__(
        self,
        storage: BaseStorage,
        patience: float,
        say: Callable[[str], None] = _quiet,
        disk_patience: float = 0.0,
    ) -> None:
        away = _Outage(
            "the storage is away",
            "trainings go on, and it is tried again",
            "the storage is back",
            "a storage that answers",
            "what had ended is kept; see to the database",
            patience,
            OPTION,
        )
        full = away._replace(
            what="the disk is full under the storage",
            over="the storage has room again",
            patience=disk_patience,
        )
        inner = storage._storage if isinstance(storage, PatientStorage) else storage
        self._wrap(inner, _Waiter(away, full, say))

    @classmethod
    def opened(
        cls, open_database: Callable[[], BaseStorage], patience: StoragePatience, name: str
    ) -> Self:
        """A database, as soon as it answers; before anything is trained, or to look.

        Args:
            open_database: opens it; is called until that succeeds.
            patience: how it is waited for, also when it is away later.
            name: of the storage, for a person.

        Raises:
            StorageAwayError: it did not answer within the patience.
        """
        away = _Outage(
            f"waiting for the storage {name}",
            "it is tried again",
            f"the storage {name} is back",
            f"the storage {name} to answer",
            "see to the database, and try again",
            patience.seconds,
            patience.option,
        )
        waiter = _Waiter(away, away._replace(patience=0.0), patience.say)
        storage = waiter.ask(lambda: _opened(open_database))
        made = cls.__new__(cls)
        made._wrap(storage, waiter)
        return made

    def _wrap(self, storage: BaseStorage, waiter: _Waiter) -> None:
        self._storage = storage
        self._waiter = waiter
        self._ask = waiter.ask
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
        return self._waiter.away

    def give_up(self) -> None:
        """From now on nothing is tried again, what is being tried included."""
        self._waiter.give_up()

    def end(self, seconds: float) -> None:
        """In so many seconds it gives up: a driver that ends has no time for more."""
        self._waiter.end(seconds)

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

    def write_once(self, write: Callable[[], None], is_written: Callable[[], bool]) -> None:
        """Has something written that Optuna has no call for, once.

        Args:
            write: all of it, or nothing where it fails.
            is_written: looks for it where the answer was lost.
        """
        self._ask(write, lambda: None if is_written() else write())

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


def _opened(open_database: Callable[[], BaseStorage]) -> BaseStorage:
    """A database that is opened; raises ``_ConnectionLostError`` where it may be opened later."""
    from sqlalchemy import exc

    try:
        return open_database()
    except Exception as error:
        for cause in causes(error):
            if isinstance(cause, exc.DBAPIError) and _may_open_later(cause):
                kind = type(cause.orig).__name__
                raise _ConnectionLostError(f"{kind}: {_text(cause.orig)}") from error
        raise


def _may_open_later(error: Any) -> bool:
    from sqlalchemy import exc

    text = _text(error.orig)
    # Of two processes that make the tables of a new database, one meets those of the other.
    if isinstance(error, exc.IntegrityError) or "already exists" in text:
        return True
    connection = isinstance(error, exc.OperationalError | exc.InterfaceError)
    return connection and not any(word in text for word in (FULL, *MISTAKES))


def _translate_errors(database: RDBStorage) -> None:
    """Has SQLAlchemy raise ``_ConnectionLostError`` where a connection is lost or locked, and the
    system's error where the disk is full.

    Optuna makes every error of SQLAlchemy's one about "exceeding max length".
    """
    from sqlalchemy import event

    if not event.contains(database.engine, "handle_error", _translate):
        event.listen(database.engine, "handle_error", _translate)


def _translate(context: Any) -> None:
    from sqlalchemy import exc

    error = context.sqlalchemy_exception
    connection = isinstance(error, exc.OperationalError | exc.InterfaceError)
    text = _text(context.original_exception)
    if connection and FULL in text:
        raise OSError(errno.ENOSPC, text) from context.original_exception
    if (connection or context.is_disconnect) and not any(word in text for word in LASTING):
        kind = type(context.original_exception).__name__
        raise _ConnectionLostError(f"{kind}: {text}") from context.original_exception


def _text(error: object) -> str:
    return " ".join(str(error).split())
