"""What workers must not see: only the driver talks to MLflow and the storage."""

from __future__ import annotations

import os
import re

SECRETS = re.compile(
    r"^(MLFLOW|OPTUNA|ROBSEARCH_STORAGE|PG|MYSQL)|PASSWORD|SECRET|(?<!^RAY_AUTH_)TOKEN|CREDENTIAL|API_KEY"
)
"""Names of environment variables that workers must not see; Ray's own token they need."""


def forget_secrets() -> None:
    """Removes them from this process's environment.

    A worker inherits its node's environment, and a cluster that someone else started may have been given secrets.
    """
    for name in [name for name in os.environ if SECRETS.search(name)]:
        del os.environ[name]
