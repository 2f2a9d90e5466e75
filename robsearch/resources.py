"""What one training takes of a cluster."""

from __future__ import annotations

from dataclasses import dataclass

from robsearch.errors import refuse_unless


@dataclass(frozen=True)
class Resources:
    """CPUs and GPUs of one training, as Ray counts them: on one node, and either may be a fraction.

    Attributes:
        cpus: above 0.
        gpus: 0 or more; a share below 1 lies on one GPU, and above 1 only whole ones are given out.

    Raises:
        InputError: all fields that do not fit, at once.
    """

    cpus: float = 1
    gpus: float = 0

    def __post_init__(self) -> None:
        whole = self.gpus <= 1 or self.gpus % 1 == 0
        refuse_unless(
            (self.cpus > 0, "cpus above 0", self.cpus, "1 is the default"),
            (self.gpus >= 0 and whole, "gpus as a share of one or a whole number", self.gpus, "such as 0.25, 1 or 2"),
        )
