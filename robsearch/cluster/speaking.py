"""What a worker warns of reaches the person who watches: it travels with the job's next report."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import Any

from robsearch.trial import Report


def speaking(reports: Iterator[Report]) -> Generator[Report]:
    """The reports, each with the warnings that robsearch gave since the one before it (``Report.said``).

    Those of other packages go where they always go.
    """
    said: list[str] = []
    with warnings.catch_warnings(), contextlib.closing(reports):  # type: ignore[type-var]  # works are generators
        elsewhere = warnings.showwarning

        def hear(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if category is UserWarning and "robsearch" in str(where[0]):
                said.append(str(message))
            else:
                elsewhere(message, category, *where, **more)

        warnings.filterwarnings("always", category=UserWarning)
        warnings.showwarning = hear
        for report in reports:
            spoken, said[:] = tuple(dict.fromkeys(said)), []
            yield replace(report, said=spoken)
