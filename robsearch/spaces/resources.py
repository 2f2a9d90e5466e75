"""What one training takes of a cluster."""

from __future__ import annotations

from dataclasses import dataclass

from robsearch.errors import kind_problems, refuse, refuse_unless


@dataclass(frozen=True)
class Resources:
    """CPUs and GPUs of one training, as Ray counts them, all on one node.

    With several GPUs, or ``workers``, as many processes train one model together: each takes its
    share of every batch. What cannot be shared out (measuring a trial) is done by one of them
    alone.

    Attributes:
        cpus: of each process, above 0; may be a fraction.
        gpus: 0 or more; a share below 1 lies on one GPU, and above 1 each process has a whole one.
        workers: processes that train one model together on CPUs; with GPUs there are as many as
            GPUs.

    Raises:
        InputError: all fields that do not fit, at once.
    """

    cpus: float = 1
    gpus: float = 0
    workers: int = 1

    def __post_init__(self) -> None:
        refuse(kind_problems(self, "Resources"))
        countable = self.gpus <= 1 or self.gpus % 1 == 0
        fits = self.workers == 1 or (
            self.workers > 1 and self.workers % 1 == 0 and self.gpus in (0, self.workers)
        )
        refuse_unless(
            (self.cpus > 0, "cpus above 0", self.cpus, "1 is the default"),
            (
                self.gpus >= 0 and countable,
                "gpus as a share of one or a whole number",
                self.gpus,
                "such as 0.25, 1 or 2",
            ),
            (
                fits,
                "workers from 1, or one for each GPU",
                self.workers,
                "leave it out: it is for training on CPUs",
            ),
        )

    @property
    def processes(self) -> int:
        """How many train one model together."""
        return max(self.workers, int(self.gpus))
