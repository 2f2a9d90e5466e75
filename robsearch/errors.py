"""The one way robsearch refuses bad input: what was expected, what came, what to do."""

from __future__ import annotations

from collections.abc import Sequence


class InputError(ValueError):
    """Bad input, found before any compute is spent. The command line prints it and exits with code 2.

    Attributes:
        problems: one sentence each, all that were found, never only the first.
    """

    def __init__(self, *problems: str) -> None:
        self.problems: Sequence[str] = problems
        super().__init__("\n".join(problems))


class LeaseLostError(RuntimeError):
    """Another driver took this search over: this one must not write any more."""


def refusal(expected: str, got: object, do: str) -> str:
    """The house's sentence for one problem: ``expected ..., got ...: ...``."""
    return f"expected {expected}, got {got}: {do}"


def refuse_unless(*checks: tuple[bool, str, object, str]) -> None:
    """Raises InputError with all (fits, expected, got, what to do) that do not fit."""
    problems = [refusal(expected, got, do) for fits, expected, got, do in checks if not fits]
    if problems:
        raise InputError(*problems)
