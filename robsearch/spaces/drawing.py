"""More suggestions of a space than ``check`` looks at: they show what of a recipe is searched."""

from __future__ import annotations

from collections.abc import Iterator

from optuna.samplers import RandomSampler

from robsearch.spaces.asking import asked
from robsearch.spaces.checking import DRAWS, Draw
from robsearch.spaces.definition import Space
from robsearch.spaces.scratch import scratch_study

MORE = 8
"""With those of ``check`` eleven: both of two choices are among them in all but one of a thousand spaces."""


def more_draws(space: Space, width: float) -> Iterator[Draw]:
    """Suggestions at one width beside those of ``check``, the same every time; without those that the space refuses."""
    study = scratch_study(RandomSampler(seed=DRAWS), metrics=len(space.maximise))
    for _ in range(MORE):
        trial = study.ask()
        try:
            recipe = asked(space.define, trial, width)
        except Exception:  # ``check`` has tried the space: this suggestion will fail as a trial, with its reason
            continue
        kept = study.get_trials()[-1]
        yield Draw(width, kept.params, kept.distributions, recipe)
