"""What came of trying one thing, for a person and for a machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from robsearch.errors import counted

STYLES = {"ok": "green", "warn": "bold yellow", "fail": "bold red"}


@dataclass(frozen=True)
class Finding:
    """What came of trying one thing: what was found, and the problems, each with what to do.

    Attributes:
        what: was tried.
        result: what was found.
        problems: because of which a launch would fail.
        warnings: what a launch gets past, but a person should know.
        facts_of_node: what a node of the cluster said of itself; None of all else.
    """

    what: str
    result: str
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    facts_of_node: Mapping[str, Any] | None = None

    @property
    def ok(self) -> bool:
        """Whether a launch would get past it."""
        return not self.problems

    @property
    def level(self) -> str:
        """``ok``, ``warn`` or ``fail``."""
        if self.problems:
            return "fail"
        return "warn" if self.warnings else "ok"

    @property
    def facts(self) -> dict[str, Any]:
        """The same for a machine."""
        return {
            "what": self.what,
            "ok": self.ok,
            "level": self.level,
            "found": self.result,
            "problems": self.problems,
            "warnings": self.warnings,
            "node": self.facts_of_node,
        }


def finding_lines(findings: list[Finding]) -> Iterator[Text]:
    """One line for each finding, and one for each problem and warning."""
    for finding in findings:
        text = f"  {finding.what}"
        if finding.result:
            text += f": {finding.result}"
        yield Text.assemble((f"{finding.level:<4}", STYLES[finding.level]), text)
        for level, sentences in (("fail", finding.problems), ("warn", finding.warnings)):
            for sentence in sentences:
                yield Text.assemble("      ", (f"{level:<4}", STYLES[level]), f"  {sentence}")
    wrong = sum(not finding.ok for finding in findings)
    warned = sum(len(finding.warnings) for finding in findings)
    last = f"{wrong} of {len(findings)} have a problem" if wrong else "ready to launch"
    if warned:
        last += f", {counted(warned, 'warning')}"
    yield Text(last)
