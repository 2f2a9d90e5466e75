"""Ladders of trials, written by hand."""

import pyarrow as pa

from robsearch.trials.ladder.files import described


def made(
    broken_by: list[str | None], data: str = "digits", eps: float = 0.1, rungs=("pgd", "apgd")
) -> pa.Table:
    """A ladder by hand; an image that is wrong to begin with is ``wrong``."""
    columns = {
        "index": range(len(broken_by)),
        "label": [0] * len(broken_by),
        "natural": [by != "wrong" for by in broken_by],
        "broken_by": pa.array([None if by == "wrong" else by for by in broken_by], pa.string()),
    }
    own = {"natural": ["natural"], "pgd": ["pgd"], "apgd": ["apgd-ce", "apgd-t"]}
    own["autoattack"] = ["fab-t", "square"]
    facts = {
        "data": data,
        "attack": {"eps": eps},
        "seed": 0,
        "rungs": {name: own[name] for name in ("natural", *rungs)},
        "seconds": {
            "natural": 0.5,
            "pgd": 1.0,
            "apgd-ce": 10.0,
            "apgd-t": 20.0,
            "fab-t": 30.0,
            "square": 40.0,
        },
    }
    return described(pa.table({name: pa.array(values) for name, values in columns.items()}), facts)
