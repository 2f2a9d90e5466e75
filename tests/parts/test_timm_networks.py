"""Networks of timm with a width."""

from __future__ import annotations

import re
import sys
import warnings

import pytest
import torch
from small_spaces import recipe
from torch import nn

from robsearch import AdamW, Cosine, InputError, Standard, TimmNet, train
from robsearch.data import Digits
from robsearch.measures import OperatorNorm
from robsearch.network.layers import NotCoveredWarning
from robsearch.protocols import ImageSpec
from robsearch.testing import check_learning_rate, check_model

COLOURS = ImageSpec((3, 32, 32), 10, (0.5,) * 3, (0.25,) * 3)
LARGE = ImageSpec((3, 224, 224), 1000, (0.5,) * 3, (0.25,) * 3)
SMALL_VIT = TimmNet("vit_tiny_patch16_224", 1 / 3, {"patch_size": 4, "depth": 2})


def weights(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.fixture
def timm():
    return pytest.importorskip("timm", reason="the extra timm is not installed")


# --- without timm ---


def test_without_timm_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=re.escape("pip install 'robsearch[timm]'")):
        TimmNet("resnet18").build(COLOURS)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"width": 0}, "TimmNet.width"),
        ({"options": {"depth": [1]}}, "TimmNet.options as a dict from texts to plain values"),
        ({"options": {"pretrained": True}}, "no such options of TimmNet, got pretrained"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        TimmNet(**{"name": "resnet18", **fields})


def test_options_in_another_order_are_the_same_network() -> None:
    one = TimmNet("vit_tiny_patch16_224", 1, {"patch_size": 4, "depth": 2})
    other = TimmNet("vit_tiny_patch16_224", 1.0, (("depth", 2), ("patch_size", 4)))
    assert one == other
    assert hash(one) == hash(other)


def test_the_rate_warms_up_and_then_falls_as_half_a_cosine() -> None:
    rate = Cosine(warmup=0.2)
    assert [rate(0.0), rate(0.1), rate(0.2)] == [0.0, 0.5, 1.0]
    assert rate(0.6) == pytest.approx(0.5)
    assert rate(1.0) == pytest.approx(0.0)
    assert repr(Cosine()) == "Cosine(final=0.0)"
    check_learning_rate(rate)
    with pytest.raises(InputError, match="give a share of training"):
        Cosine(warmup=5)


# --- with it ---


@pytest.mark.parametrize(
    "model",
    [TimmNet("resnet18", 0.25), TimmNet("convnext_atto", 0.5), SMALL_VIT],
    ids=lambda model: model.name,
)
@pytest.mark.usefixtures("timm")
def test_it_keeps_the_contract_of_a_model(model: TimmNet) -> None:
    check_model(model)


@pytest.mark.usefixtures("timm")
def test_the_width_is_a_factor_on_the_channels_of_a_family() -> None:
    with torch.device("meta"):
        narrow, usual = (TimmNet("resnet50", width).build(COLOURS)[1] for width in (0.5, 1))
        convnext = TimmNet("convnext_atto", 2).build(COLOURS)[1]
    assert [each["num_chs"] for each in usual.feature_info] == [64, 256, 512, 1024, 2048]
    assert [each["num_chs"] for each in narrow.feature_info] == [64, 128, 256, 512, 1024]
    assert [each["num_chs"] for each in convnext.feature_info] == [80, 160, 320, 640]


def test_half_and_twice_a_vit_small_are_a_vit_tiny_and_a_vit_base(timm) -> None:
    for width, name in ((0.5, "tiny"), (1, "small"), (2, "base")):
        with torch.device("meta"):
            ours = TimmNet("vit_small_patch16_224", width).build(LARGE)
            theirs = timm.create_model(f"vit_{name}_patch16_224")
        assert weights(ours) == weights(theirs)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            TimmNet("swin_tiny_patch4_window7_224"),
            "of ResNet or ConvNeXt or VisionTransformer, got",
        ),
        (TimmNet("resnot"), "'resnot' with these options as a network of timm, got"),
        (TimmNet("resnet18", 1, {"depht": 3}), "these are {'depht': 3, 'in_chans': 3}"),
        (TimmNet("vit_tiny_patch16_224", 0.5), "got 0.5, 1.5 heads: use such as 0.3333, 1 or 2"),
        (
            TimmNet("vit_tiny_patch16_224", 1, {"patch_size": 5}),
            "images that divide into patches of 5 x 5, got images of 32 x 32",
        ),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
@pytest.mark.usefixtures("timm")
def test_what_timm_cannot_build_is_refused(model: TimmNet, said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        model.build(COLOURS)


@pytest.mark.usefixtures("timm")
def test_measures_of_layers_cover_the_linear_maps_of_a_transformer_and_name_the_rest() -> None:
    images = Digits().spec
    torch.manual_seed(0)
    net = SMALL_VIT.build(images).eval()
    with pytest.warns(
        NotCoveredWarning, match=r"not covered: .*norm1 \(LayerNorm, 128: no operator"
    ):
        norms = OperatorNorm("l2").by_layer(net, torch.rand(4, *images.shape), torch.arange(4))
    names = [name.removeprefix("1.") for name in norms]
    assert names == [
        "patch_embed.proj",
        *(
            f"blocks.{block}.{layer}"
            for block in (0, 1)
            for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
        ),
        "head",
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("timm")
def test_a_transformer_trains_with_adamw_warmup_and_clipping() -> None:
    made = recipe(
        SMALL_VIT.width,
        0.0,
        model=SMALL_VIT,
        objective=Standard(),
        data=Digits(train=500),
        optimiser=AdamW(lr=3e-3, weight_decay=0.05, decay_norms=False),
        learning_rate=Cosine(warmup=0.1),
        clip_gradient=1.0,
        epochs=8,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotCoveredWarning)
        *_, last = train(made)
    assert last.metrics["val/natural_accuracy"] > 0.6
