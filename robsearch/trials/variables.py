"""The environment variables that workers and child processes see: what they are known to need, and
what a user names.

Names of secrets rarely say so (``DATABASE_URL``), so nothing else is handed on.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence

from robsearch.errors import refusal, refuse, refuse_unless
from robsearch.trials.paths import without_password

PASSED = "ROBSEARCH_PASS_ENV"
"""The variable that names more, with commas between them."""

NEEDED = re.compile(
    "PATH|HOME|USER|LOGNAME|SHELL|PWD|HOSTNAME|TERM|TZ|LANG|LANGUAGE|TMPDIR|TEMP|TMP|NO_COLOR|"
    "VIRTUAL_ENV|CONDA_PREFIX|CONDA_DEFAULT_ENV|XDG_(CACHE_HOME|CONFIG_HOME|RUNTIME_DIR)|"
    "SSL_CERT_(FILE|DIR)|(REQUESTS|CURL|AWS)_CA_BUNDLE|"
    # Where images may be read from; a proxy with a password stays behind by its value.
    "(HTTPS?|NO|ALL)_PROXY|(https?|no|all)_proxy|"
    "AWS_((DEFAULT_)?REGION|PROFILE|CONFIG_FILE|ENDPOINT_URL(_S3)?)|"
    "TORCH_HOME|HF_(HOME|HUB_OFFLINE|DATASETS_CACHE)|MPL(BACKEND|CONFIGDIR)|"
    "(LOCAL_|NODE_)?RANK|(LOCAL_)?WORLD_SIZE|MASTER_(ADDR|PORT)|"
    "(ROCR|HIP)_VISIBLE_DEVICES|ZE_AFFINITY_MASK|"
    "ROBSEARCH_(DATA|RESULTS|CACHE|EMULATE_BF16|CHECK_SECONDS|PASS_ENV)|"
    # The settings of Python, Ray, CUDA and the libraries of arithmetic.
    "(LC_|LD_|DYLD_|PYTHON|RAY_|__RAY_|CUDA_|NVIDIA_|NCCL_|GLOO_|CUBLAS_|CUDNN_|PYTORCH_|TORCH_|"
    "TORCHINDUCTOR_|TRITON_|OMP_|KMP_|GOMP_|MKL_|OPENBLAS_|NUMEXPR_|MALLOC_).*"
)
"""Their names, whole."""


NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def passed_names() -> frozenset[str]:
    """The names that the user hands on."""
    return frozenset(filter(None, os.environ.get(PASSED, "").split(",")))


def check_passed() -> None:
    """Looks at ``ROBSEARCH_PASS_ENV``.

    Raises:
        InputError: something in it is not the name of a variable. One that is not set is none.
    """
    bad = sorted(name for name in passed_names() if not NAME.fullmatch(name))
    expected = f"names of environment variables in {PASSED}, with commas between them"
    do = "leave out values and spaces"
    refuse_unless((not bad, expected, ", ".join(map(repr, bad)), do))


def needed_environment() -> dict[str, str]:
    """What a process that trains may see of this one's environment.

    A variable that is needed by its name stays behind all the same where its value is a URL with a
    password, unless the user names it.
    """
    named = passed_names()
    environment = {}
    for name, value in os.environ.items():
        is_needed = NEEDED.fullmatch(name)
        if name in named or (is_needed and without_password(value) == value):
            environment[name] = value
    return environment


def keep_needed() -> None:
    """Removes everything else from this process's environment.

    A worker inherits its node's, and a cluster that someone else started may have been given
    secrets.
    """
    for name in os.environ.keys() - needed_environment().keys():
        del os.environ[name]


@contextlib.contextmanager
def passing(names: Sequence[str]) -> Iterator[None]:
    """Hands these variables on, too, from here to the end of the block.

    Raises:
        InputError: one is not the name of a variable, or none of this process's: names them all.
            ``ROBSEARCH_PASS_ENV`` has what is no name.
    """
    check_passed()
    problems = []
    for name in names:
        if not NAME.fullmatch(name):
            do = "pass --pass-env NAME, once for each, without its value"
            problems.append(refusal("the name of an environment variable", repr(name), do))
        elif name not in os.environ:
            do = f"export {name}, or leave --pass-env {name} out"
            problems.append(refusal(f"{name} in the environment, for --pass-env", "none", do))
    refuse(problems)
    if not names:
        yield
        return
    before = os.environ.get(PASSED)
    os.environ[PASSED] = ",".join(sorted({*passed_names(), *names}))
    try:
        yield
    finally:
        os.environ.pop(PASSED)
        if before is not None:
            os.environ[PASSED] = before
