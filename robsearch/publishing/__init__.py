"""What a publication takes from a search or a validation: tables, figures, and evidence that anyone
can compute them from again."""

from __future__ import annotations

from robsearch.publishing.archive import Checked, verify
from robsearch.publishing.paper import write_paper

__all__ = ["Checked", "verify", "write_paper"]
