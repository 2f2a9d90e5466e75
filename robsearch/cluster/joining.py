"""Nodes that join a cluster while jobs run there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ray.tune import Callback

from robsearch.cluster.nodes import NodeAnswer, ask_nodes, living_nodes, node_problems
from robsearch.cluster.watching import Unsaved
from robsearch.errors import InputError
from robsearch.recipe import Recipe

LOOK_SECONDS = 5.0
"""Between two looks at which nodes there are."""


class JoiningNodes(Unsaved, Callback):
    """Asks each node that joins while jobs run what ``check_nodes`` asks at the start. Where
    something is wrong it gets no jobs, which is said once.

    Until a node has answered, no job begins anywhere: a job is told once and for all which nodes it
    is not to run on. A node that does not answer in time gets no jobs either, and is asked again.
    One that was lost and comes back has a new number in Ray, so it is asked anew.

    Args:
        folder: that all nodes share.
        recipes: such as jobs will be given.
        say: prints one line.
    """

    def __init__(
        self,
        folder: Path,
        recipes: Sequence[Recipe],
        say: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._recipes = recipes
        self._say = say
        self._fit = set(living_nodes())
        self._refused: set[str] = set()
        self._silent: set[str] = set()
        self._asking: threading.Thread | None = None
        self._answers: list[NodeAnswer] = []
        self._looked = time.monotonic()

    @property
    def is_asking(self) -> bool:
        """Whether there is a node of which nothing is known."""
        return bool(living_nodes() - self._fit - self._refused - self._silent)

    @property
    def without_jobs(self) -> tuple[str, ...]:
        """Ray's numbers of the living nodes that get no jobs, now."""
        return tuple(sorted(living_nodes() - self._fit))

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called all the time by Tune: looks who has joined, and what those say that were asked."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        if self._asking and self._asking.is_alive():
            return
        answers, self._answers = self._answers, []
        for answer in answers:
            self._judge(answer)
        unknown = living_nodes() - self._fit - self._refused
        self._asking = None
        if unknown:
            # In a thread, because a node may take minutes to import torch.
            self._asking = threading.Thread(target=self._ask, args=(unknown,), daemon=True)
            self._asking.start()

    def _ask(self, nodes: set[str]) -> None:
        try:
            self._answers = ask_nodes(self._folder, self._recipes, nodes)
        except InputError:
            # The driver itself cannot write there now: its search waits for that, and so does this.
            self._answers = []

    def _judge(self, answer: NodeAnswer) -> None:
        identity = answer.node.identity
        problems = node_problems(answer, self._folder)
        if not problems:
            self._fit.add(identity)
            self._say(f"node {answer.node.label} has joined")
            return
        if answer.facts is not None:
            self._refused.add(identity)
        elif identity in self._silent:
            return
        else:
            self._silent.add(identity)
        for problem in problems:
            self._say(f"a node that joined gets no trials: {problem}")
