"""Plurals and articles of what is counted or named in a message."""

from __future__ import annotations


def counted(number: float, noun: str) -> str:
    """``1 trial``, ``3 trials``, ``2 processes``, ``0.5 GPUs``."""
    text = f"{int(number):,}" if number == int(number) else f"{number:g}"
    return f"{text} {noun if number == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """``trials``, ``processes``, ``measures``."""
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


def a(noun: str) -> str:
    """``a PGD``, ``an Objective``, ``an MLP``: letters that are read one by one count by their names."""
    letters = noun[:2].isupper()
    vowel = noun[:1] in "AEFHILMNORSX" if letters else noun[:1].lower() in "aeio" or noun[:2].lower() in ("un", "ul")
    return f"{'an' if vowel and not noun.lower().startswith('uni') else 'a'} {noun}"
