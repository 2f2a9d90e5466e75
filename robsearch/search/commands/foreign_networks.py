"""Networks that another program has trained: named on the command line, built, given their weights
and looked at before anything is attacked."""

from __future__ import annotations

import ast
import copy
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import nn

from robsearch.errors import InputError, a, accepts, counted, described_error, refuse, refused
from robsearch.network.modes import checked_logits, evaluating
from robsearch.network.weights import SavedWeights, load_weights, read_weights
from robsearch.parts.models import MLP, Normalize, PreActResNet, SmallCNN, WideResNet
from robsearch.protocols import Images, ImageSpec, Labels, Logits, Model, Split
from robsearch.spaces.checking.networks import check_network
from robsearch.spaces.references import module_of
from robsearch.training.evaluation import (
    images_at_once,
    in_chunks,
    sampled,
    to_float,
)
from robsearch.trials.evaluating import MASKING_EXAMPLES
from robsearch.trials.ladder.digests import digest, network_digest, split_digest

Builder: TypeAlias = Model | Callable[[], nn.Module | Model]
"""What makes a network: an architecture such as ``WideResNet(28, 4)``, or a function without
arguments that returns one, or a network."""

SHIPPED = {kind.__name__: kind for kind in (MLP, SmallCNN, PreActResNet, WideResNet)}
"""robsearch's own architectures, by the names that a person may write."""
EXAMPLE = "my_net:build or 'WideResNet(28, 4)'"
FEW = 8
"""Images on which a network is looked at."""
PROBED = 256
"""Images whose logits tell two networks of the same weights apart."""


@dataclass(frozen=True)
class ForeignNetwork:
    """A network with its weights.

    Attributes:
        name: from the name of the file of weights.
        saved: where the weights come from.
        model: on the CPU, in float32, images in [0, 1] to logits.
        architecture: as a person writes it, if it is robsearch's own; else empty.
    """

    name: str
    saved: SavedWeights
    model: nn.Module
    architecture: str


def model_builder(text: str) -> Builder:
    """What a person means by ``module:name``, or by an architecture such as ``WideResNet(28, 4)``.

    Raises:
        InputError: no such module, nothing in it that makes a network, or an architecture with
            arguments that do not fit.
    """
    if text.partition("(")[0].strip() in SHIPPED:
        return _shipped(text)
    module, name = module_of(text, "a model", EXAMPLE)
    thing = getattr(module, name, None)
    if isinstance(thing, Model) and not isinstance(thing, type | nn.Module):
        return thing
    if callable(thing) and not isinstance(thing, nn.Module) and accepts(thing, 0):
        builder: Builder = thing
        return builder
    got = f"it has no {name!r}"
    if hasattr(module, name):
        got = f"{name!r} is {a(type(thing).__name__)}"
    if callable(thing) and not isinstance(thing, nn.Module):
        got = f"{name!r} asks for arguments"
    do = f"write a function without arguments that returns the net: --model {module.__name__}:NAME"
    raise refused(f"a function in {module.__name__} that builds a net", got, do)


def _shipped(text: str) -> Model:
    """The arguments are literals: nothing is run."""
    written = text if "(" in text else f"{text}()"
    do = "write it as in Python, such as 'WideResNet(depth=28, width=4)'"
    try:
        call = ast.parse(written.strip(), mode="eval").body
        if not isinstance(call, ast.Call):
            raise ValueError("no call")
        arguments = [ast.literal_eval(argument) for argument in call.args]
        named = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
        kind: Any = SHIPPED[ast.unparse(call.func)]
        model: Model = kind(*arguments, **named)
    except InputError:
        raise
    except (SyntaxError, ValueError, TypeError, KeyError) as error:
        got = f"{text!r} ({type(error).__name__}: {error})"
        raise refused("an architecture with numbers and words as arguments", got, do) from error
    return model


def foreign_networks(
    pairs: Sequence[tuple[Builder, Path]],
    spec: ImageSpec,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    key: str | None = None,
) -> list[ForeignNetwork]:
    """Builds each network and gives it its weights.

    Args:
        pairs: what builds a network, and the file of its weights.
        spec: of the images.
        mean: one number for each channel, that is subtracted before the net; with ``std``. For a
            net that does not normalise by itself.
        std: by which it is divided then.
        key: of ``read_weights``.

    Raises:
        InputError: one of the networks cannot be built, its weights do not fit, or images would be
            normalised twice.
    """
    normalize = None
    if mean is not None or std is not None:
        normalize = _normalize(spec, tuple(mean or ()), tuple(std or ()))
    networks = []
    made: list[nn.Module] = []
    for name, (builder, file) in zip(_names([file for _, file in pairs]), pairs, strict=True):
        model, architecture = _built(builder, spec)
        # A function may return one and the same net each time.
        if any(model is other for other in made):
            model = copy.deepcopy(model)
        made.append(model)
        if normalize is not None and architecture:
            got = "--mean or --std as well"
            do = "leave them out"
            raise refused(f"{architecture}, which normalises by itself, without more", got, do)
        saved = read_weights(Path(os.path.expanduser(file)), key)
        load_weights(model, saved)
        if normalize is not None:
            model = nn.Sequential(copy.deepcopy(normalize), model)
        networks.append(ForeignNetwork(name, saved, model, architecture))
    return networks


def _normalize(spec: ImageSpec, mean: tuple[float, ...], std: tuple[float, ...]) -> Normalize:
    channels = spec.shape[0]
    if not (len(mean) == len(std) == channels and min(std) > 0):
        expected = f"--mean and --std > 0 for each of {counted(channels, 'channel')}"
        do = "pass such as --mean 0.4914,0.4822,0.4465 --std 0.2471,0.2435,0.2616"
        raise refused(expected, f"mean {mean} and std {std}", do)
    return Normalize(spec._replace(mean=mean, std=std))


def _built(builder: Builder, spec: ImageSpec) -> tuple[nn.Module, str]:
    """A network, and how its architecture is written if it is robsearch's own or alike."""
    name = getattr(builder, "__qualname__", None) or repr(builder)
    do = "correct it, or pass another --model"
    try:
        made: Any = builder
        if not isinstance(builder, Model) or isinstance(builder, type):
            made = builder()
        architecture = ""
        if isinstance(made, Model) and not isinstance(made, type | nn.Module):
            architecture = _architecture(made)
            made = made.build(spec)
    except InputError:
        raise
    except Exception as error:  # of a user's code
        raise refused(f"{name} to build a net", described_error(error), do) from error
    if not isinstance(made, nn.Module):
        got = a(type(made).__name__)
        raise refused(f"an nn.Module from {name}", got, "return the net")
    return made, architecture


def _architecture(model: Model) -> str:
    """As papers write it: ``WideResNet-28-10``, ``PreActResNet-18``."""
    kind = type(model).__name__
    if isinstance(model, WideResNet):
        return f"{kind}-{model.depth}-{model.width:g}"
    if isinstance(model, PreActResNet) and model.width == 1:
        return f"{kind}-{model.depth}"
    return repr(model)


def _names(files: Sequence[Path]) -> list[str]:
    """Short names that tell the files apart: of the file, with its folder if need be, or with a
    number."""
    names = [file.stem for file in files]
    if len(set(names)) < len(names):
        names = [f"{file.absolute().parent.name}/{file.stem}" for file in files]
    counts = Counter(names)
    seen: Counter[str] = Counter()
    distinct = []
    for name in names:
        seen[name] += 1
        label = f"{name}-{seen[name]}" if counts[name] > 1 else name
        # Another file may have just that name.
        while label in distinct or (label != name and label in counts):
            seen[name] += 1
            label = f"{name}-{seen[name]}"
        distinct.append(label)
    return distinct


# --- looking at them ---


def check_networks(
    networks: Sequence[ForeignNetwork], test: Split, spec: ImageSpec, device: torch.device
) -> list[str]:
    """Looks at each network before any of them is attacked.

    Returns:
        For each a text of letters and digits that differs where its weights, its images or what it
        makes of them do.

    Raises:
        InputError: of each network the first thing that is wrong with it.
    """
    digests = []
    problems = []
    for network in networks:
        network.model.to(device)
        try:
            logits = _logits(network.model, test, spec)
            digests.append(_digest(network.model, test, logits))
        except InputError as error:
            problems += [f"{network.name}: {problem}" for problem in error.problems]
        network.model.cpu()
    refuse(problems)
    return digests


def _logits(model: nn.Module, test: Split, spec: ImageSpec) -> Logits:
    """The logits of all images; or what is wrong with the net, in one sentence."""
    few = sampled(test, FEW).split
    x = to_float(few.images)

    def logits(x: Images, y: Labels) -> Logits:
        return checked_logits(model, x, y)

    with evaluating(model):
        _refuse_train_mode(model)
        try:
            check_network(model, x, few.labels.long(), spec.num_classes)
            _refuse_train_mode(model)
            with torch.no_grad():
                all_logits = torch.cat(in_chunks(test, logits, images_at_once(model, test)))
        except InputError:
            raise
        except Exception as error:  # of a user's code
            expected = f"a net that takes images of {spec.shape}"
            do = "pass the --data that the net is for, or correct its forward"
            raise refused(expected, described_error(error), do) from error
    rows = sampled(test, MASKING_EXAMPLES).rows.to(test.labels.device)
    if not (all_logits.argmax(dim=1) == test.labels)[rows].any():
        do = "look at the order of its classes, and at --mean and --std"
        raise refused("images that the net gets right", f"none of {len(rows):,}", do)
    return all_logits


def _refuse_train_mode(model: nn.Module) -> None:
    modules = [name or "the net" for name, module in model.named_modules() if module.training]
    if modules:
        got = f"train mode in {', '.join(modules[:3])}"
        do = "let train(False) reach every module, and call no train() in forward"
        raise refused("a net that goes into eval mode and stays there", got, do)


def _digest(model: nn.Module, test: Split, logits: Logits) -> str:
    """A network knows itself by weights and parts, not by the code of its forward: what it makes of
    some images has to tell that."""
    # Rounded, for a GPU does not always add in the same order.
    shares = (logits[:PROBED] / logits.abs().max().clamp(min=1e-30)).mul(1000).round().int()
    return digest(network_digest(model), split_digest(test), shares)


def folder_name(name: str, text: str) -> str:
    """The name of a network's folder; it leads nowhere, whatever the file of weights is called."""
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '-', name)[:60]}-{text[:8]}"
