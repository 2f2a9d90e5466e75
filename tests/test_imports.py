"""Importing robsearch does no work: what a process was told about variables, warnings and logging
stays as it was."""

import subprocess
import sys

CODE = """
import importlib, logging, os, pkgutil, warnings
import alembic, matplotlib, mlflow, mlflow.tracking._tracking_service.utils, optuna, ray, torch
import ray.tune, ray.train, ray.train.torch, mlflow.pytorch, mlflow.system_metrics, torchvision
import mlflow.system_metrics.metrics.gpu_monitor, optuna.storages._rdb.models, sqlalchemy, sklearn
import matplotlib.figure, matplotlib.backends.backend_agg, pandas, scipy.stats, pyarrow, rich, typer

def state():
    loggers = {
        name: (logger.level, len(logger.filters), len(logger.handlers), logger.disabled)
        for name, logger in logging.root.manager.loggerDict.items()
        if isinstance(logger, logging.Logger)
        and name.split(".")[0] in ("optuna", "ray", "mlflow", "matplotlib", "alembic", "torch")
    }
    loggers["root"] = (logging.root.level, len(logging.root.filters), len(logging.root.handlers))
    return dict(os.environ), list(warnings.filters), loggers, dict(matplotlib.rcParams)

before = state()
import robsearch
for module in pkgutil.walk_packages(robsearch.__path__, "robsearch."):
    importlib.import_module(module.name)
changed = [
    {name: (old.get(name), new[name]) for name in new if old.get(name) != new[name]}
    if isinstance(new, dict)
    else [each for each in new if each not in old]
    for old, new in zip(before, state())
]
# A logger that an import makes has no level, filter or handler of its own.
changed[2] = {name: is_now for name, (was, is_now) in changed[2].items() if any(is_now)}
assert not any(changed), changed
"""


def test_an_import_sets_no_variable_no_filter_and_no_level_of_any_logger():
    words = [sys.executable, "-c", CODE]
    done = subprocess.run(words, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
