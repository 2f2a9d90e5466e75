"""robsearch: distributed hyperparameter search for adversarial training. Lambda as a function of
width.

Importing this package imports no Ray, Optuna, MLflow or torch; each name brings what it needs when
it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from robsearch.lazy import exports, lazy_names

if TYPE_CHECKING:
    from robsearch.data import (
        CIFAR10 as CIFAR10,
        CIFAR100 as CIFAR100,
        MNIST as MNIST,
        SVHN as SVHN,
        CropFlip as CropFlip,
        Digits as Digits,
        FashionMNIST as FashionMNIST,
        Folder as Folder,
        Mixed as Mixed,
        NpzImages as NpzImages,
    )
    from robsearch.errors import InputError as InputError
    from robsearch.laws import (
        Constant as Constant,
        Point as Point,
        PowerLaw as PowerLaw,
        fit_ridge as fit_ridge,
    )
    from robsearch.measures import (
        AttackDistance as AttackDistance,
        AttackRatio as AttackRatio,
        FeatureChange as FeatureChange,
        GlobalBound as GlobalBound,
        InputMargin as InputMargin,
        IntervalBound as IntervalBound,
        KLGradient as KLGradient,
        LogitMargin as LogitMargin,
        LogitRatio as LogitRatio,
        OperatorNorm as OperatorNorm,
        SampledMargin as SampledMargin,
        SingularValues as SingularValues,
    )
    from robsearch.parts.attacks import (
        FGSM as FGSM,
        PGD as PGD,
        AutoAttack as AutoAttack,
        OwnLoss as OwnLoss,
        TwoLosses as TwoLosses,
        WorstCase as WorstCase,
    )
    from robsearch.parts.averaging import EMA as EMA
    from robsearch.parts.models import (
        MLP as MLP,
        PreActResNet as PreActResNet,
        SmallCNN as SmallCNN,
        WideResNet as WideResNet,
    )
    from robsearch.parts.objectives import (
        ALP as ALP,
        MART as MART,
        PGDAT as PGDAT,
        TRADES as TRADES,
        Standard as Standard,
    )
    from robsearch.parts.optimisers import (
        SGD as SGD,
        Adam as Adam,
        AdamW as AdamW,
        Cosine as Cosine,
        Halving as Halving,
        OneCycle as OneCycle,
        Piecewise as Piecewise,
    )
    from robsearch.parts.penalties import (
        AverageMargin as AverageMargin,
        NormDecay as NormDecay,
        Orthogonality as Orthogonality,
        SingularValueClipping as SingularValueClipping,
    )
    from robsearch.parts.pretrained import Pretrained as Pretrained
    from robsearch.parts.schedules import WAR as WAR, Fixed as Fixed, Warmup as Warmup
    from robsearch.parts.stopping import RobustOverfittingStopper as RobustOverfittingStopper
    from robsearch.parts.timm_networks import TimmNet as TimmNet
    from robsearch.parts.weight_perturbation import WeightPerturbation as WeightPerturbation
    from robsearch.recipe import Recipe as Recipe
    from robsearch.search import (
        RunOptions as RunOptions,
        Search as Search,
        compare as compare,
        evaluate as evaluate,
        launch as launch,
        load_search as load_search,
        resume as resume,
    )
    from robsearch.spaces import (
        AtLeast as AtLeast,
        ByCost as ByCost,
        Equal as Equal,
        Rung as Rung,
        Space as Space,
        Weighted as Weighted,
        check as check,
        space as space,
    )
    from robsearch.spaces.resources import Resources as Resources
    from robsearch.study import WidthSampler as WidthSampler
    from robsearch.training.trainer import Epoch as Epoch, train as train

_load = lazy_names(__name__, __file__)

__all__ = sorted(exports(__file__))


def __getattr__(name: str) -> Any:
    if name == "Means":
        raise AttributeError(
            "robsearch.Means is now robsearch.RunOptions, with keywords only: "
            "launch(space, options=RunOptions(results=...))"
        )
    return _load(name)


def __dir__() -> list[str]:
    return __all__
