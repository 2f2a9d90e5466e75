"""robsearch: distributed hyperparameter search for adversarial training. Lambda as a function of width.

Importing this package imports no Ray, Optuna, MLflow or torch; each name brings what it needs when it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robsearch.attacks import FGSM as FGSM
    from robsearch.attacks import PGD as PGD
    from robsearch.attacks import AutoAttack as AutoAttack
    from robsearch.attacks import OwnLoss as OwnLoss
    from robsearch.attacks import WorstCase as WorstCase
    from robsearch.averaging import EMA as EMA
    from robsearch.data import CIFAR10 as CIFAR10
    from robsearch.data import CIFAR100 as CIFAR100
    from robsearch.data import MNIST as MNIST
    from robsearch.data import SVHN as SVHN
    from robsearch.data import CropFlip as CropFlip
    from robsearch.data import Digits as Digits
    from robsearch.data import FashionMNIST as FashionMNIST
    from robsearch.data import Folder as Folder
    from robsearch.errors import InputError as InputError
    from robsearch.laws import Constant as Constant
    from robsearch.laws import Point as Point
    from robsearch.laws import PowerLaw as PowerLaw
    from robsearch.laws import fit_ridge as fit_ridge
    from robsearch.measures import AttackDistance as AttackDistance
    from robsearch.measures import AttackRatio as AttackRatio
    from robsearch.measures import FeatureChange as FeatureChange
    from robsearch.measures import GlobalBound as GlobalBound
    from robsearch.measures import InputMargin as InputMargin
    from robsearch.measures import IntervalBound as IntervalBound
    from robsearch.measures import KLGradient as KLGradient
    from robsearch.measures import LogitMargin as LogitMargin
    from robsearch.measures import LogitRatio as LogitRatio
    from robsearch.measures import OperatorNorm as OperatorNorm
    from robsearch.measures import SampledMargin as SampledMargin
    from robsearch.measures import SingularValues as SingularValues
    from robsearch.models import MLP as MLP
    from robsearch.models import PreActResNet as PreActResNet
    from robsearch.models import SmallCNN as SmallCNN
    from robsearch.models import WideResNet as WideResNet
    from robsearch.objectives import ALP as ALP
    from robsearch.objectives import MART as MART
    from robsearch.objectives import PGDAT as PGDAT
    from robsearch.objectives import TRADES as TRADES
    from robsearch.objectives import Standard as Standard
    from robsearch.optimisers import SGD as SGD
    from robsearch.optimisers import Cosine as Cosine
    from robsearch.optimisers import Halving as Halving
    from robsearch.optimisers import OneCycle as OneCycle
    from robsearch.optimisers import Piecewise as Piecewise
    from robsearch.penalties import AverageMargin as AverageMargin
    from robsearch.penalties import NormDecay as NormDecay
    from robsearch.penalties import Orthogonality as Orthogonality
    from robsearch.penalties import SingularValueClipping as SingularValueClipping
    from robsearch.perturbation import WeightPerturbation as WeightPerturbation
    from robsearch.recipe import Recipe as Recipe
    from robsearch.resources import Resources as Resources
    from robsearch.schedules import WAR as WAR
    from robsearch.schedules import Fixed as Fixed
    from robsearch.schedules import Warmup as Warmup
    from robsearch.search import Means as Means
    from robsearch.search import Search as Search
    from robsearch.search import compare as compare
    from robsearch.search import evaluate as evaluate
    from robsearch.search import launch as launch
    from robsearch.search import load_search as load_search
    from robsearch.search import resume as resume
    from robsearch.spaces import AtLeast as AtLeast
    from robsearch.spaces import ByCost as ByCost
    from robsearch.spaces import Equal as Equal
    from robsearch.spaces import Rung as Rung
    from robsearch.spaces import Space as Space
    from robsearch.spaces import Weighted as Weighted
    from robsearch.spaces import check as check
    from robsearch.spaces import space as space
    from robsearch.stopping import RobustOverfittingStopper as RobustOverfittingStopper
    from robsearch.study import WidthSampler as WidthSampler
    from robsearch.trainer import Epoch as Epoch
    from robsearch.trainer import train as train

_HOME = {
    "attacks": ["AutoAttack", "FGSM", "OwnLoss", "PGD", "WorstCase"],
    "averaging": ["EMA"],
    "data": ["CIFAR10", "CIFAR100", "CropFlip", "Digits", "FashionMNIST", "Folder", "MNIST", "SVHN"],
    "errors": ["InputError"],
    "laws": ["Constant", "Point", "PowerLaw", "fit_ridge"],
    "measures": [
        "AttackDistance",
        "AttackRatio",
        "FeatureChange",
        "GlobalBound",
        "InputMargin",
        "IntervalBound",
        "KLGradient",
        "LogitMargin",
        "LogitRatio",
        "OperatorNorm",
        "SampledMargin",
        "SingularValues",
    ],
    "models": ["MLP", "PreActResNet", "SmallCNN", "WideResNet"],
    "objectives": ["ALP", "MART", "PGDAT", "Standard", "TRADES"],
    "optimisers": ["Cosine", "Halving", "OneCycle", "Piecewise", "SGD"],
    "penalties": ["AverageMargin", "NormDecay", "Orthogonality", "SingularValueClipping"],
    "perturbation": ["WeightPerturbation"],
    "recipe": ["Recipe"],
    "resources": ["Resources"],
    "schedules": ["Fixed", "WAR", "Warmup"],
    "search": ["Means", "Search", "compare", "evaluate", "launch", "load_search", "resume"],
    "spaces": ["AtLeast", "ByCost", "Equal", "Rung", "Space", "Weighted", "check", "space"],
    "stopping": ["RobustOverfittingStopper"],
    "study": ["WidthSampler"],
    "trainer": ["Epoch", "train"],
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'robsearch' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"robsearch.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
