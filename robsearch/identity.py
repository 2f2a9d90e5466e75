"""What makes two recipes the same one: a digest that outlives processes, machines and moves of the
code.

A digest such as ``2.2-0f3a94c1d2e8b765`` has three parts: the version of this format, the version
of the numerics, and a hash of the recipe's tree. In that tree

- a class is its stable name: that of robsearch's own classes does not tell where they live
  (``robsearch:PGD``), that of a user's class does (``my_nets:Net``), unless the class declares
  ``digest_name``;
- a function is its reference, ``module:name``: what it does may be edited, as the body of a method
  may;
- numbers that are equal are one (``4`` and ``4.0``), and so are tuples and lists of the same items;
- a field that does not take part in ``==`` is left out, and so is one with the metadata ``LATER``
  while it has its default: a field that is added to a class later changes no digest that was
  recorded before.
"""

from __future__ import annotations

import copyreg
import dataclasses
import enum
import functools
import hashlib
import importlib
import json
import math
import re
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

from robsearch.errors import refusal, refuse

FORMAT = 2
"""Of digests. Those of format 1 hashed module paths and ``repr``; they are 16 hexadecimal digits
without a prefix."""

NUMERICS_CHANGES = {
    1: "the numerics of robsearch 0.1",
    2: "the batches of an epoch differ in size by at most one image; an image that is judged "
    "draws random starts of "
    "its own; running statistics move once for a batch, also in micro-batches; an EMA copies "
    "whole numbers; convolutions of robsearch's own networks round otherwise",
}
"""By version of the numerics, what has changed. Add one when the same recipe trains, or is judged,
otherwise."""

NUMERICS = max(NUMERICS_CHANGES)

DERIVATION = 2
"""The rules by which a recipe of today derives what is left at None. 1 are those of before, when
``PGD`` on the cross-entropy alone was the judge, and only a ``PGD`` told measures its ball."""

MAIN = "__main__"
"""The module of the program that runs; a notebook has no other name for what its cells define."""

LATER: Mapping[str, bool] = {"robsearch.later": True}
"""Metadata of a dataclass field that was added to a published class:
``field(default=..., metadata=LATER)``."""

FORMER_HOMES = {
    "robsearch.parts.weight_perturbation": "robsearch.perturbation",
    "robsearch.parts.": "robsearch.",
}
"""By prefix, where modules were when digests began to tell them: a function may move house, as a
class may."""

_LEGACY = re.compile(r"[0-9a-f]{16}")
_CURRENT = re.compile(r"(\d+)\.(\d+)-([0-9a-f]{16})")
_ADVICE = (
    "use dataclasses, numbers, strings, tuples and functions of an importable module; no "
    "lambdas or closures"
)


def digest(value: object) -> str:
    """The digest of a recipe, or of any part of one.

    Raises:
        InputError: something in it has no lasting name, such as a lambda; names all such places.
    """
    return f"{FORMAT}.{NUMERICS}-{content_hash(value)}"


def content_hash(value: object) -> str:
    """16 hexadecimal digits of a tree, without versions. Raises as ``digest`` does."""
    text = json.dumps(canonical(value), separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def mismatch(recorded: str, value: object) -> str | None:
    """Why a digest that was recorded is not that of ``value``, in words; None if it is, under
    whatever numerics.

    A digest of format 1 is compared as it was made then, so that a search of that time can be read.
    """
    if _LEGACY.fullmatch(recorded):
        return None if recorded == legacy_digest(value) else "another recipe"
    parsed = _CURRENT.fullmatch(recorded)
    if parsed is None:
        return f"its digest {recorded!r} is of a format that this robsearch does not know"
    if int(parsed[1]) != FORMAT:
        return f"its digest is of format {parsed[1]}, and this robsearch compares format {FORMAT}"
    return None if parsed[3] == content_hash(value) else "another recipe"


def numerics_of(recorded: str) -> int:
    """The version of the numerics that a recorded digest was made under."""
    parsed = _CURRENT.fullmatch(recorded)
    return int(parsed[2]) if parsed else 1


def numerics_since(version: int) -> str:
    """What has changed since a version of the numerics, in words; empty if nothing has."""
    if version > NUMERICS:
        return "it was recorded by a newer robsearch"
    return "; ".join(text for changed, text in NUMERICS_CHANGES.items() if changed > version)


def canonical(value: object) -> Any:
    """A tree of plain JSON that is equal for equal recipes, in every process.

    Raises:
        InputError: something in it has no lasting name; names all such places.
    """
    canon = _Canon()
    tree = canon.tree(value, type(value).__name__)
    refuse([*dict.fromkeys(canon.problems)])
    return tree


def type_name(kind: type) -> str:
    """The stable name of a class: ``robsearch:PGD``, ``my_nets:Net``, or what it declares as
    ``digest_name``."""
    # Not getattr: a subclass is another class, and needs a name of its own.
    if "digest_name" in vars(kind):
        return str(vars(kind)["digest_name"])
    module = module_name(kind.__module__)
    if module.partition(".")[0] == "robsearch":
        return f"robsearch:{kind.__qualname__}"
    return f"{module}:{kind.__qualname__}"


def module_name(name: str) -> str:
    """The name under which another process can import a module: that of the file, for the script
    that runs."""
    if name != MAIN:
        return name
    main = sys.modules[MAIN]
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name:
        return str(spec.name).removesuffix(".__main__")
    file = getattr(main, "__file__", None)
    return Path(file).stem if file else name


def reference(function: Callable[..., Any]) -> str | None:
    """``module:name`` of a function or class; None for one that cannot be found by its name, such
    as a lambda."""
    module = getattr(function, "__module__", None)
    # The __qualname__ of torch.relu is _VariableFunctionsClass.relu.
    for attribute in ("__qualname__", "__name__"):
        name = getattr(function, attribute, None)
        if module and name and "<" not in name and _imported(module, name) is function:
            return f"{former_home(module_name(module))}:{name}"
    return None


def former_home(module: str) -> str:
    """The name that digests have for a module of robsearch."""
    for now, then in FORMER_HOMES.items():
        if module.startswith(now):
            return then + module.removeprefix(now)
    return module


def _imported(module: str, name: str) -> Any:
    try:
        # Not pkgutil.resolve_name: a script may be called my-space.py.
        return functools.reduce(getattr, name.split("."), importlib.import_module(module))
    except (ImportError, AttributeError):
        return None


def legacy_digest(value: object) -> str:
    """The digest as format 1 had it: a hash of ``repr`` with the modules of all classes."""
    return hashlib.sha256(repr(_legacy(value)).encode()).hexdigest()[:16]


def compared_fields(node: Any) -> list[dataclasses.Field[Any]]:
    """The fields of a dataclass, or of an object of it, that take part in ``==``."""
    return [field for field in dataclasses.fields(node) if field.compare]


@functools.cache
def _compared_fields_of(kind: type) -> tuple[tuple[dataclasses.Field[Any], bool], ...]:
    """The same of a class, each with whether it was added to it later."""
    fields = compared_fields(kind)
    return tuple((field, bool(field.metadata.get("robsearch.later"))) for field in fields)


def recorded_fields(node: Any) -> list[dataclasses.Field[Any]]:
    """The fields that tell a dataclass object: all but those of a later time that have their
    default, so that a text which was recorded before they came stays true."""
    return [field for field in dataclasses.fields(node) if not _is_later_default(node, field)]


def sparse_repr(node: Any) -> str:
    """A dataclass's ``repr`` without fields of a later time that have their default.

    For a class that has such fields: ``__repr__ = sparse_repr``.
    """
    fields = [field.name for field in recorded_fields(node) if field.repr]
    texts = [f"{name}={getattr(node, name)!r}" for name in fields]
    return f"{type(node).__qualname__}({', '.join(texts)})"


def _is_later_default(node: Any, field: dataclasses.Field[Any]) -> bool:
    if not field.metadata.get("robsearch.later"):
        return False
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    return bool(getattr(node, field.name) == default)


class _Canon:
    """Walks a tree and collects what has no lasting name."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._inside: set[int] = set()

    def tree(self, value: Any, where: str) -> Any:
        """``where`` is the path to the value, for refusals: ``Recipe.attack.eps``."""
        # Most of a tree are leaves of these very types, and ``resume`` walks thousands of trees.
        kind = type(value)
        if kind is str or kind is int:
            return value
        if kind is float:
            return _number(value)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return str(value)  # also of a numpy.str_
        if isinstance(value, enum.Enum):
            return ["enum", type_name(type(value)), value.name]
        if isinstance(value, int | float):
            return _number(value)
        if isinstance(value, PurePath):
            return ["path", str(value)]
        if isinstance(value, bytes):
            return ["bytes", value.hex()]
        # A list may hold itself, and the walk would have no end.
        if id(value) in self._inside:
            return self._refuse(value, where, "an object that holds itself")
        self._inside.add(id(value))
        try:
            return self._composite(value, where)
        finally:
            self._inside.discard(id(value))

    def _composite(self, value: Any, where: str) -> Any:
        # A class before its objects: a dataclass is one that is_dataclass also says yes to.
        if isinstance(value, type):
            if not reference(value):
                return self._refuse(value, where, "a local class")
            return ["class", type_name(value)]
        if dataclasses.is_dataclass(value):
            return ["object", type_name(type(value)), self._fields(value, where)]
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            items = zip(value._fields, value, strict=True)
            fields = {name: self.tree(item, f"{where}.{name}") for name, item in items}
            return ["object", type_name(type(value)), fields]
        if isinstance(value, tuple | list):
            return ["sequence", *(self.tree(item, f"{where}[{i}]") for i, item in enumerate(value))]
        if isinstance(value, Mapping):
            pairs = [
                [self.tree(key, where), self.tree(item, f"{where}[{key!r}]")]
                for key, item in value.items()
            ]
            return ["mapping", *sorted(pairs, key=json.dumps)]
        if isinstance(value, set | frozenset):
            return ["set", *sorted(self._trees(value, where), key=json.dumps)]
        if isinstance(value, functools.partial):
            parts = (value.func, value.args, value.keywords)
            return ["partial", *self._trees(parts, where)]
        return self._object(value, where)

    def _trees(self, values: Iterable[Any], where: str) -> list[Any]:
        return [self.tree(value, where) for value in values]

    def _fields(self, value: Any, where: str) -> dict[str, Any]:
        fields = {}
        for field, is_later in _compared_fields_of(value.__class__):
            part = getattr(value, field.name)
            # The very object of the default need not be walked to see that it is equal to it.
            if is_later and part is field.default:
                continue
            tree = self.tree(part, f"{where}.{field.name}")
            if not is_later or tree != self._default(field, where):
                fields[field.name] = tree
        return fields

    def _default(self, field: dataclasses.Field[Any], where: str) -> Any:
        if field.default_factory is not dataclasses.MISSING:
            return self.tree(field.default_factory(), where)
        if field.default is not dataclasses.MISSING:
            return self.tree(field.default, where)
        return field  # equal to no tree

    def _object(self, value: Any, where: str) -> Any:
        """Functions, arrays, and any other object by the state that pickle would keep."""
        if isinstance(value, types.MethodType):
            return ["method", self.tree(value.__self__, where), value.__name__]
        if callable(value) and hasattr(value, "__qualname__"):
            name = reference(value)
            return ["function", name] if name else self._refuse(value, where, value.__qualname__)
        module = type(value).__module__.partition(".")[0]
        if module == "numpy" and getattr(getattr(value, "dtype", None), "hasobject", False):
            return ["array", "object", list(value.shape), self.tree(value.ravel().tolist(), where)]
        array = _array(value) if module in ("numpy", "torch") else None
        if array:
            return array
        # A state_dict has no settings, and pickle would name private attributes of torch.
        if hasattr(value, "named_buffers") and hasattr(value, "named_children"):
            return self._torch_module(value, where)
        try:
            reduce = copyreg.dispatch_table.get(type(value))
            reduced = reduce(value) if reduce else value.__reduce_ex__(4)
        except Exception:
            return self._refuse(value, where, f"a {type(value).__name__}, which cannot be pickled")
        parts = reduced[:3] if isinstance(reduced, tuple) else (reduced,)
        return ["pickled", type_name(type(value)), *self._trees(parts, where)]

    def _torch_module(self, value: Any, where: str) -> Any:
        """A ``torch.nn.Module``, such as a transform of torchvision: its settings, tensors and
        children."""
        hidden = {
            *vars(sys.modules["torch"].nn.Module()),
            "call_super_init",
            "dump_patches",
            "_compiled_call_impl",
        }
        settings = {name: item for name, item in vars(value).items() if name not in hidden}
        tensors = dict(value.named_parameters(recurse=False))
        tensors.update(value.named_buffers(recurse=False))
        parts = (settings, tensors, dict(value.named_children()))
        return ["module", type_name(type(value)), *self._trees(parts, where)]

    def _refuse(self, value: object, where: str, got: str) -> None:
        expected = f"{where} to be something that another process can name"
        if callable(value):
            expected = f"{where} to be importable by its name in another process"
        self.problems.append(refusal(expected, got, _ADVICE))


def _number(value: float) -> Any:
    if isinstance(value, int):
        return int(value)
    if not math.isfinite(value):
        return ["number", repr(float(value))]
    return int(value) if value.is_integer() and abs(value) < 2**53 else float(value)


def _array(value: Any) -> Any:
    """A NumPy number as Python's, an array or tensor by its content, torch's dtypes and devices by
    their names."""
    kind = str(getattr(value, "dtype", "")).removeprefix("torch.")
    if hasattr(value, "detach"):
        value = value.detach().cpu().to_dense()
        if value.dtype.is_floating_point and value.itemsize == 2:
            value = value.float()
        value = value.numpy()
    if not hasattr(value, "tobytes"):
        return ["torch", str(value)] if type(value).__name__ in ("dtype", "device") else None
    if value.shape == ():
        item = value.item()
        is_number = isinstance(item, int | float) and not isinstance(item, bool)
        return _number(item) if is_number else item
    content = hashlib.sha256(value.tobytes()).hexdigest()[:16]
    return ["array", kind, list(value.shape), content]


def _legacy(node: object) -> object:
    if isinstance(node, tuple):
        return tuple(_legacy(item) for item in node)
    if not dataclasses.is_dataclass(node):
        return node
    fields = tuple(
        (field.name, _legacy(getattr(node, field.name)))
        for field in compared_fields(node)
        if not field.metadata.get("robsearch.later")
    )
    return f"{former_home(type(node).__module__)}.{type(node).__qualname__}", fields
