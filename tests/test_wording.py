"""Plurals and articles, here and in every message of the package."""

import re
from pathlib import Path

import pytest

import robsearch
from robsearch.errors import a, counted

COUNTED = (
    "trial|epoch|image|seed|record|training|suggestion|width|example|node|CPU|GPU|network|row|layer|"
    "channel|byte"
)
ALWAYS_SEVERAL = (
    "MAX_FAILURES_IN_A_ROW",
    "need.per_gpu",
    "space.replicates",
    "max(sizes)",
    "2 * least",
    "{sizes} images",
    "spec.shape}",
    "{split}",
    "LONGEST_TEXT",
    "long",
    "len(text)",
    "needed:,",
    "_free(folder)",
    "excess",
    "least * ranks",
    "{examples}",
    "TRAININGS",
    "tuple(logits.shape)",
    "now == 1",
    "_numbers()",
    "self.trials}",
    "one image",
)
"""Parts of the lines that count what is two at least, or of another kind than a whole number."""


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, "0 trials"),
        (1, "1 trial"),
        (1.0, "1 trial"),
        (0.5, "0.5 trials"),
        (1234, "1,234 trials"),
    ],
)
def test_one_is_singular(number, said):
    assert counted(number, "trial") == said


def test_the_plural_of_process():
    assert counted(2, "process") == "2 processes"


def test_the_article_is_that_of_the_word_as_it_is_read():
    assert [a(word) for word in ("Objective", "PGD", "MLP", "UNet", "uniform", "int", "str")] == [
        "an Objective",
        "a PGD",
        "an MLP",
        "a UNet",
        "a uniform",
        "an int",
        "a str",
    ]


def broken(line):
    plural = re.search(rf"\{{[^{{}}\"]*\}} ({COUNTED})s\b", line)
    return (plural and not any(part in line for part in ALWAYS_SEVERAL)) or re.search(
        r"\b[aA]n? \{\w+\.?__name__", line
    )


def test_no_message_of_the_package_puts_a_number_before_a_plural():
    files = sorted(Path(robsearch.__file__).parent.rglob("*.py"))
    lines = [
        f"{file.name}: {line.strip()}"
        for file in files
        for line in file.read_text().splitlines()
        if broken(line)
    ]
    assert lines == []
    assert broken('f"{search.record.trials} trials ended"')  # what it was
