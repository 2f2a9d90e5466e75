"""Tries out what a launch needs before anything is trained: places, record, cluster, GPUs, data.

Each is tried as a launch would use it, by the same functions; nothing is left behind, and no
password is repeated.
"""

from robsearch.doctor.examination import examine
from robsearch.doctor.finding import Finding, finding_lines

__all__ = ["Finding", "examine", "finding_lines"]
