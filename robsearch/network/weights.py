"""Weights that another program has saved: read without running anything that is in the file, and
loaded into a network only where all of them fit.

A file of torch (``.pt``, ``.pth`` and any other name) is read with ``weights_only=True``, one that
ends with ``.safetensors`` by the package of that name. Inside, the weights may lie under a name of
``WRAPPERS``, and their names may begin with ``module.`` (``DataParallel``) or ``_orig_mod.``
(``torch.compile``).
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robsearch.errors import counted, refusal, refuse, refused

WRAPPERS = ("judged", "state_dict", "model_state_dict", "model", "net")
"""Under which names of a checkpoint the weights are looked for. ``judged`` is robsearch's own: of
its two sets of weights the one that is deployed, and so it comes before all others."""
PREFIXES = ("module.", "_orig_mod.")
"""What wrappers of networks put before each name."""
SAFETENSORS = ".safetensors"
SHOWN = 3
"""How many names a refusal quotes."""

_CODE = re.compile(
    r"(?:GLOBAL|[Uu]nsupported class) ([\w.]+)|(?=TorchScript|Can only|Trying to call)"
)
"""What torch says of a file that calls or makes what is no tensor, with its name if there is
one."""


class SavedWeights(NamedTuple):
    """Weights as they lie in a file.

    Attributes:
        file: where they come from.
        sha256: of the file's bytes, 64 hexadecimal digits.
        key: where in the file they are, such as ``state_dict``; empty if they are all of it.
        tensors: by their names in the file, on the CPU.
    """

    file: Path
    sha256: str
    key: str
    tensors: Mapping[str, Tensor]


def read_weights(file: Path, key: str | None = None) -> SavedWeights:
    """The weights in a file; nothing in it is run.

    Args:
        file: of torch or of safetensors.
        key: the name in the checkpoint under which the weights are; by default the one of
            ``WRAPPERS`` that is there.

    Raises:
        InputError: no such file, one that torch cannot read or that needs code, or no weights in
            it.
    """
    content = _bytes(file)
    saved = _read_safetensors(file, content) if _is_safetensors(file) else _read(file, content)
    place = ""
    if key is not None:
        if not (isinstance(saved, Mapping) and key in saved):
            raise refused(f"{key!r} in {file}", _contents(saved), "pass another --key")
        place, saved = key, saved[key]
    while not _are_weights(saved):
        inner = _wrapped(file, saved)
        place = f"{place}/{inner}" if place else inner
        saved = saved[inner]
    return SavedWeights(file, hashlib.sha256(content).hexdigest(), place, saved)


def content_sha256(file: Path) -> str:
    """The SHA-256 of a file's bytes, 64 hexadecimal digits; a file that has not changed is read
    once.

    Raises:
        InputError: no such file.
    """
    try:
        state = file.stat()
    except OSError:
        state = None
    if state is None or not file.is_file():
        _bytes(file)  # says what is wrong
    assert state is not None
    return _sha256(file, state.st_mtime_ns, state.st_size, state.st_ino)


@lru_cache(maxsize=64)
def _sha256(file: Path, *_state: int) -> str:
    return hashlib.sha256(_bytes(file)).hexdigest()


def load_weights(model: nn.Module, saved: SavedWeights) -> None:
    """Puts the weights into the network: each of its tensors, and no other.

    Raises:
        InputError: names that are missing or unexpected, or tensors of another shape or kind; the
            network may then have some of them.
    """
    tensors = _renamed(saved.tensors, model)
    expected = model.state_dict()
    refuse(_misfits(saved, tensors, expected))
    try:
        with warnings.catch_warnings():
            # Of shapes alone, on the meta device, torch says that nothing is copied.
            warnings.filterwarnings("ignore", ".*copying from a non-meta parameter")
            missing, unexpected = model.load_state_dict(tensors, strict=False)
    except Exception as error:  # a module's own way to load may raise anything
        do = "build the net that the weights are of"
        raise refused(f"weights that the net takes from {saved.file}", error, do) from error
    if missing or unexpected:
        got = " and ".join(
            f"{len(names):,} {what} ({_few(names)})"
            for what, names in (("missing", missing), ("unexpected", unexpected))
            if names
        )
        count = counted(len(expected), "tensor")
        do = "build the net that the weights are of"
        raise refused(f"the net's {count} in {saved.file}", got, do)


# --- reading ---


def _bytes(file: Path) -> bytes:
    """A pipe would keep us waiting, so only a regular file is read."""
    got = "nothing" if not file.exists() else "no regular file"
    if file.is_file():
        try:
            content = file.read_bytes()
        except OSError as error:
            got = error.strerror or "an error"
        else:
            if content:
                return content
            got = "an empty file"
    raise refused(f"a file with weights at {file}", got, "pass the path of a state dict")


def _is_safetensors(file: Path) -> bool:
    return file.suffix.lower() == SAFETENSORS


def _read(file: Path, content: bytes) -> Any:
    try:
        # torch warns of old and strange files; what matters of them is refused below.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch and pickle raise whatever the bytes lead them to
        code = _CODE.search(str(error))
        if code is not None:
            what = f" ({code[1]})" if code[1] else ""
            got = f"one that needs code{what}, which robsearch does not run"
            do = (
                "if you trust the file, load it yourself and save the weights alone: "
                "torch.save(net.state_dict(), 'weights.pt')"
            )
            raise refused(f"weights alone in {file}", got, do) from error
        # torch's longer messages advise to read it with weights_only=False.
        got = "one of another kind" if isinstance(error, pickle.UnpicklingError) else str(error)
        do = "save it again with torch.save(net.state_dict(), PATH)"
        raise refused(f"a file that torch can read at {file}", got, do) from error


def _read_safetensors(file: Path, content: bytes) -> Any:
    from safetensors.torch import load

    try:
        return load(content)
    except Exception as error:  # its own error, or torch's of a type that it does not know
        got = f"{type(error).__name__}: {error}"
        do = "save it again with safetensors.torch.save_file(net.state_dict(), PATH)"
        raise refused(f"a file that safetensors can read at {file}", got, do) from error


def _are_weights(saved: Any) -> bool:
    """A state dict; what modules keep beside tensors (``_extra_state``) may be of any kind."""
    if not isinstance(saved, Mapping) or not saved:
        return False
    return all(
        isinstance(name, str) and (isinstance(value, Tensor) or name.endswith("_extra_state"))
        for name, value in saved.items()
    )


def _wrapped(file: Path, saved: Any) -> str:
    """The name under which the weights lie in a checkpoint."""
    names = []
    if isinstance(saved, Mapping):
        names = [name for name in WRAPPERS if isinstance(saved.get(name), Mapping)]
    if len(names) == 1 or names[:1] == ["judged"]:
        return names[0]
    if names:
        got = f"{' and '.join(names)} in {file}"
        raise refused("one set of weights", got, f"say which is meant, such as --key {names[0]}")
    wrappers = ", ".join(WRAPPERS[:-1])
    expected = f"a state dict in {file}, alone or under {wrappers} or {WRAPPERS[-1]}"
    do = "pass --key NAME if it is under another name, or save it with torch.save(net.state_dict())"
    raise refused(expected, _contents(saved), do)


def _contents(saved: Any) -> str:
    if isinstance(saved, Mapping):
        return f"a dict with {_few(map(str, saved))}" if saved else "an empty dict"
    return f"a {type(saved).__name__}"


# --- fitting ---


def _prefix(names: Iterable[str]) -> str:
    """What wrappers have put before all names."""
    names = list(names)
    prefix = ""
    while names:
        for start in PREFIXES:
            if all(name.startswith(prefix + start) for name in names):
                prefix += start
                break
        else:
            break
    return prefix


def _renamed(tensors: Mapping[str, Tensor], model: nn.Module) -> Mapping[str, Tensor]:
    """The weights under the names of the network, which may be wrapped itself."""
    wrapped = _prefix(tensors)
    of_model = _prefix(model.state_dict())
    if wrapped == of_model:
        return tensors
    return {of_model + name.removeprefix(wrapped): tensor for name, tensor in tensors.items()}


def _misfits(
    saved: SavedWeights, tensors: Mapping[str, Tensor], expected: Mapping[str, Any]
) -> list[str]:
    """A sentence on tensors that the network has with another shape, or of another kind."""
    misfits = []
    for name, tensor in tensors.items():
        mine = expected.get(name)
        if isinstance(mine, Tensor) and not _fits(tensor, mine):
            misfits.append(f"{name} {_described(tensor)} in place of {_described(mine)}")
    if not misfits:
        return []
    got = f"{len(misfits):,} of another shape or kind ({_few(misfits, '; ')})"
    do = "build the net that the weights are of, with its width"
    return [refusal(f"tensors that fit the net in {saved.file}", got, do)]


def _fits(tensor: Any, mine: Tensor) -> bool:
    if not isinstance(tensor, Tensor) or tensor.is_meta or tensor.is_quantized:
        return False
    # Of these torch would make numbers of the wrong kind without a word.
    same_kind = (tensor.is_floating_point(), tensor.is_complex()) == (
        mine.is_floating_point(),
        mine.is_complex(),
    )
    is_plain = tensor.layout == mine.layout
    return is_plain and same_kind and tensor.shape == mine.shape


def _described(tensor: Any) -> str:
    if not isinstance(tensor, Tensor):
        return f"a {type(tensor).__name__}"
    kind = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_meta:
        kind += " without data"
    elif tensor.layout != torch.strided:
        kind += " sparse"
    return f"{tuple(tensor.shape)} {kind}"


def _few(names: Iterable[str], between: str = ", ") -> str:
    """The first names, and how many more there are."""
    names = list(names)
    more = len(names) - SHOWN
    shown = names[:SHOWN] + ([f"{more:,} more"] if more > 0 else [])
    return between.join(shown)
