"""A trained network as an MLflow model: exported by torch, so that whoever loads it needs torch and
MLflow only."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from jaxtyping import Float
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from torch import Tensor, nn

from robsearch.errors import refused
from robsearch.tracking.store import first_line

OPENER = Path(__file__).with_name("robsearch_network.py")
"""The module that comes with each model and opens it."""

BATCHES = (1, 3, 9)
"""Numbers of images for which an exported network must give the network's own logits."""
_NUMBERS = ", ".join(map(str, BATCHES))

FORMS = ((False, False), (True, False), (False, True), (True, True))
"""How torch is asked, until one does: whether in its strict way, which sees ``len(x)`` as a
variable, and whether for one image instead of any number, which takes a loop over the images."""


def save_model(model: nn.Module, examples: Float[Tensor, "n c h w"], folder: Path) -> None:
    """Writes a network as an MLflow model, in place of one that is there; nothing is written if it
    fails.

    A program of ``torch.export`` with its weights, and the small module that opens it:
    ``mlflow.pytorch`` and ``mlflow.pyfunc`` load it on a machine without robsearch, with or without
    a GPU. It counts as exported only if it gives the network's own logits for 1, 3 and 9 images.
    The tensors of the signature have no names, because MLflow refuses a plain array where they
    have.

    Args:
        model: on the CPU and in eval mode, from images in [0, 1] to logits.
        examples: a few images, best nine; fewer are repeated.
        folder: of the model.

    Raises:
        InputError: the network itself fails for one of these numbers of images, or no export gives
            the same.
    """
    import mlflow.pytorch  # seconds, and only the end of a search needs it

    images = examples[torch.arange(max(BATCHES)) % len(examples)]
    # A model that is there stays whole until the new one is.
    unfinished = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        with _quiet():
            logits = _logits(model, images)
            # The signature of a model can only name types of numpy.
            if logits[1].dtype not in (torch.float32, torch.float64):
                model = _InFloat32(model)
                logits = _logits(model, images)
            mlflow.pytorch.save_model(
                _exported(model, images, logits),
                unfinished,
                signature=ModelSignature(_any_number_of(images), _any_number_of(logits[1])),
                input_example=images[:2].numpy(),
                # a pickle of the program's bytes and of the name of what opens them
                serialization_format="pickle",
                code_paths=[str(OPENER)],
                pip_requirements=[
                    f"torch=={torch.__version__.partition('+')[0]}",
                    f"mlflow=={mlflow.__version__}",
                ],
            )
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def opener_of(folder: Path) -> str | None:
    """The name of the module that opens a saved model; None before robsearch 0.2, when no plain
    array could enter."""
    return next((file.stem for file in folder.glob("code/*.py")), None)


class _InFloat32(nn.Module):
    """A network whose logits are of a type that numpy does not know, such as bfloat16."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits.float()


def _any_number_of(rows: Tensor) -> Schema:
    kind = np.dtype(str(rows.dtype).removeprefix("torch."))
    return Schema([TensorSpec(kind, (-1, *rows.shape[1:]))])


def _logits(model: nn.Module, images: Tensor) -> dict[int, Tensor]:
    """A network's logits for each number of images.

    Raises:
        InputError: for some there are none.
    """
    logits = {}
    problems = []
    for number, output in _outputs(model, images):
        if isinstance(output, str):
            problems.append(f"{output} for {number}")
        elif output.ndim != 2 or len(output) != number:
            problems.append(f"shape {tuple(output.shape)} for {number}")
        elif not output.isfinite().all():
            problems.append(f"NaN or inf for {number}")
        else:
            logits[number] = output
    if problems:
        expected = f"a network with logits (n, classes) for n = {_NUMBERS}"
        do = "change its forward so that each image has its own logits, however many come at once"
        raise refused(expected, "; ".join(problems), do)
    return logits


def _exported(model: nn.Module, images: Tensor, logits: Mapping[int, Tensor]) -> nn.Module:
    """The first form of a network that gives the same logits; its problem is the one that is told,
    being the usual."""
    opener = _opener()
    problems = []
    for strict, one_by_one in FORMS:
        try:
            program = _program(model, images, strict, one_by_one)
            exported: nn.Module = opener.Exported(program, one_by_one)
            loaded = opener.opened(exported.saved, one_by_one)
        except Exception as error:
            problems.append(first_line(error))
            continue
        differences = _differences(loaded, images, logits)
        if not differences:
            return exported
        problems.append("; ".join(differences))
    expected = f"a network that torch.export gives back with its own logits for n = {_NUMBERS}"
    do = (
        "write its forward without a branch on the values of the images (torch.where chooses) "
        "or on their number"
    )
    raise refused(expected, problems[0], do)


def _program(model: nn.Module, images: Tensor, strict: bool, one_by_one: bool) -> bytes:
    """An exported network, as the bytes of a ``pt2`` archive."""
    # Not 2 or 3, which may be a number of channels.
    example = images[:1] if one_by_one else images[:4]
    size = torch.export.Dim.STATIC if one_by_one else torch.export.Dim.AUTO
    program = torch.export.export(
        model, (example.clone(),), dynamic_shapes=[{0: size}], strict=strict
    )
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue()


def _differences(loaded: nn.Module, images: Tensor, logits: Mapping[int, Tensor]) -> list[str]:
    """For which numbers of images a loaded network gives other logits, and what it gives."""
    problems = []
    for number, output in _outputs(loaded, images):
        expected = logits[number]
        tolerance = 1e-3 * expected.abs().max().item()
        if isinstance(output, str):
            problems.append(f"{output} for {number}")
            continue
        alike = output.shape == expected.shape
        if not alike or not torch.allclose(output, expected, rtol=0, atol=tolerance):
            problems.append(f"other logits for {number}")
    return problems


def _outputs(network: nn.Module, images: Tensor) -> Iterator[tuple[int, Tensor | str]]:
    """What a network gives for each number of images, or with which error it fails; one that draws
    noise draws the same each time."""
    for number in BATCHES:
        output: Tensor | str
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(number)
                output = network(images[:number].clone())
        except Exception as error:
            output = first_line(error)
        yield number, output


def _opener() -> ModuleType:
    """The module that opens models, under the name that it has where robsearch is not: what is
    saved says this name."""
    if OPENER.stem not in sys.modules:
        spec = importlib.util.spec_from_file_location(OPENER.stem, OPENER)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[OPENER.stem] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[OPENER.stem])
    return sys.modules[OPENER.stem]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch.export and MLflow say of things that cannot be changed here; torch prints
    whole graphs."""
    loggers = [logging.getLogger("mlflow"), logging.getLogger("torch")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
