"""The studies that a search consists of."""

from __future__ import annotations

from robsearch.spaces import Control, Define, Space
from robsearch.study import SearchRecord, Storage, Study


def studies_of(space: Space, record: SearchRecord, storage: Storage, epochs: int) -> list[Study]:
    """One study per width, and one per width and control."""
    defines = [(None, space.define), *((control.__name__, _as_define(control)) for control in space.controls)]
    planned = -(-record.trials // len(space.widths))
    return [
        Study(storage, record.name, width, control, define, trials=planned, epochs=epochs, seed=record.seed)
        for control, define in defines
        for width in space.widths
    ]


def _as_define(control: Control) -> Define:
    return lambda trial, width: control(width)
