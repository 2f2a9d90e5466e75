"""``robsearch evaluate --weights``: networks that another program has trained, on real digits."""

import dataclasses
import json
import math
import sys

import numpy as np
import pytest
import torch
from made_ladders import made
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from typer.testing import CliRunner

from robsearch import MLP, Digits, InputError, WideResNet, cli
from robsearch.data import load
from robsearch.metrics import paired_difference
from robsearch.network.weights import load_weights, read_weights
from robsearch.search.commands import evaluate_weights as module
from robsearch.search.commands.evaluate_weights import evaluate_weights
from robsearch.search.commands.foreign_networks import (
    ForeignNetwork,
    check_networks,
    model_builder,
)
from robsearch.search.commands.weights_output import eps_text, robustbench_info

EPS = 0.3
"""So large that hardly an image withstands it: then Square ends soon."""
IMAGES = 40
DIGITS = load(Digits())


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def fitted(steps):
    """Another program's training."""
    x = DIGITS["train"].images.float() / 255
    torch.manual_seed(0)
    net = linear()
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(net(x), DIGITS["train"].labels).backward()
        optimiser.step()
    return net


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with a net's module and two files of its weights."""
    here = tmp_path_factory.mktemp("desk")
    (here / "foreign_net.py").write_text(
        "from torch import nn\n\n"
        "def build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    short, long = fitted(5), fitted(60)
    parallel = {f"module.{name}": w for name, w in short.state_dict().items()}
    torch.save({"state_dict": parallel}, here / "short.pt")
    save_file(long.state_dict(), here / "long.safetensors")
    return here


@pytest.fixture(scope="module")
def answer(desk):
    """What the command prints as JSON."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(desk)
        patch.syspath_prepend(desk)
        # fmt: off
        words = [
            "evaluate", "--model", "foreign_net:build", "--weights", "short.pt",
            "--weights", "long.safetensors", "--data", "digits", "--eps", str(EPS),
            "--images", str(IMAGES), "--rung", "pgd", "--title", "A <b>paper</b>",
            "--authors", "A. Nobody", "--json",
        ]
        # fmt: on
        result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def right(name, desk, n):
    """Which of the first test images that are drawn a net gets right, by hand."""
    net = fitted({"short": 5, "long": 60}[name])
    rows = torch.randperm(len(DIGITS["test"].labels), generator=torch.Generator().manual_seed(0))
    rows = rows[:n].sort().values
    logits = net(DIGITS["test"].images[rows].float() / 255)
    return (logits.argmax(dim=1) == DIGITS["test"].labels[rows]).numpy()


def test_two_files_are_judged_on_the_same_images_and_compared_in_pairs(answer, desk):
    short, long = (right(name, desk, IMAGES) for name in ("short", "long"))
    natural, *_ = answer["compared"]
    assert natural["name"] == "natural accuracy"
    assert natural["values"]["short"]["value"] == pytest.approx(100 * short.mean())
    assert natural["values"]["long"]["value"] == pytest.approx(100 * long.mean())
    difference = natural["less_first"]["long"]
    assert difference["value"] == pytest.approx(100 * (long.mean() - short.mean()))
    # Both are wrong about many of the same images, so the interval is narrower than of strangers.
    b, c, n = int((long & ~short).sum()), int((short & ~long).sum()), IMAGES
    assert (b, c) != (0, 0)
    half = 196 * math.sqrt(b + c + 1 - (b - c) ** 2 / (n + 2)) / (n + 2)
    assert difference["high"] - difference["low"] == pytest.approx(2 * half, rel=1e-3)


def test_there_is_all_that_a_search_has_of_its_trials(answer, desk):
    names = [quantity["name"] for quantity in answer["compared"]]
    for name in ("robust accuracy, pgd", "stability", "margin/logit", "lipschitz/logit_ratio"):
        assert name in names
    for network in answer["networks"]:
        assert [rung["rung"] for rung in network["rungs"]] == ["natural", "pgd"]
        assert len(network["checks"]) == 8
        assert network["rungs"][1]["robust_accuracy"] < network["rungs"][0]["robust_accuracy"]
        assert "norms/linf/mean" in network["measures"]
        assert (desk / network["folder"] / "figures" / "ladder.png").exists()
    assert answer["networks"][0]["key"] == "state_dict"
    assert answer["networks"][0]["sha256"] != answer["networks"][1]["sha256"]


def test_the_page_shows_the_numbers_and_text_stays_text(answer, desk):
    page = (desk / "robsearch-networks" / "report.html").read_text()
    natural = answer["compared"][0]["values"]["long"]["value"]
    assert f"{natural:.1f} " in page
    assert "40 of 649 test images of digits, linf, eps 0.3" in page
    assert "long less short" in page


def test_robustbench_is_told_what_is_known_and_nothing_else(answer, desk):
    info = json.loads((desk / answer["networks"][1]["folder"] / "robustbench.json").read_text())
    accuracy = answer["networks"][1]["rungs"][0]["robust_accuracy"]
    assert info == {
        "name": "A <b>paper</b>",
        "authors": "A. Nobody",
        "dataset": "digits",
        "eps": "0.3",
        "clean_acc": f"{100 * accuracy:.2f}",
        "footnote": "On 40 of 649 test images.",
    }


@pytest.fixture(scope="module")
def again(answer, desk):
    """The first net once more, from Python; when its chunks of the ladder were written before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(desk)
        before = {file: file.stat().st_mtime_ns for file in desk.rglob("ladder/*/*.parquet")}
        ask = {"eps": EPS, "rung": "pgd", "images": IMAGES}
        return evaluate_weights(linear, "short.pt", Digits(), **ask), before


def test_what_is_done_is_not_done_again(answer, desk, again):
    evaluation, before = again
    assert evaluation.networks[0].folder.name == (desk / answer["networks"][0]["folder"]).name
    assert before
    assert {f: f.stat().st_mtime_ns for f in desk.rglob("ladder/*/*.parquet")} == before


def test_a_net_with_another_forward_is_another_net(desk):
    """The code of a forward is not in the digest of weights and parts; what it makes of images
    is."""
    saved = read_weights(desk / "short.pt")
    digests = []
    for factor in (1.0, 1.0, 0.5):
        model = Through(lambda z, factor=factor: factor * z + 0.1 * z.square())
        load_weights(model.layer, saved._replace(tensors=layer_of(saved.tensors)))
        network = ForeignNetwork("w", saved, model, "")
        digests += check_networks([network], DIGITS["test"], Digits().spec, torch.device("cpu"))
    assert digests[0] == digests[1] != digests[2]


def layer_of(tensors):
    return {name.removeprefix("module.1."): tensor for name, tensor in tensors.items()}


# --- refusals, before anything is attacked ---


class Stays(nn.Module):
    """Its dropout is in train mode, whatever it is told."""

    def __init__(self):
        super().__init__()
        self.layer, self.drop = nn.Linear(64, 10), nn.Dropout()

    def train(self, mode=True):
        super().train(mode)
        self.drop.training = True
        return self

    def forward(self, x):
        return self.drop(self.layer(x.flatten(1)))


class Wakes(Stays):
    """It goes back to train mode when it is called."""

    def train(self, mode=True):
        return nn.Module.train(self, mode)

    def forward(self, x):
        self.train()
        return self.layer(x.flatten(1))


class Through(nn.Module):
    """A linear layer, and then anything."""

    def __init__(self, change, classes=10):
        super().__init__()
        self.layer, self.change = nn.Linear(64, classes), change

    def forward(self, x):
        return self.change(self.layer(x.flatten(1)))


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (Stays, "w: expected a net that goes into eval mode and stays there, got train mode in d"),
        (Wakes, "w: expected a net that goes into eval mode and stays there, got train mode in t"),
        (
            lambda: Through(lambda z: z.detach()),
            "w: expected a finite gradient of the logits in the image, got none",
        ),
        (lambda: Through(lambda z: z / 0), "w: expected finite logits, got NaN or infinity for 8"),
        (lambda: Through(lambda z: z.softmax(1)), "w: expected logits, got rows from 0 to 1"),
        (
            lambda: Through(lambda z: z, classes=7),
            r"w: expected floats of shape \(8, 10\), got logits of shape \(8, 7\)",
        ),
        (
            lambda: Through(lambda z: z - z.mean(dim=0)),
            "w: expected an image's logits not to depend on the images beside it",
        ),
        (
            lambda: nn.Conv2d(3, 10, 3),
            r"w: expected a net that takes images of \(1, 8, 8\), got RuntimeError: .* channels",
        ),
        (lambda: 3, "expected an nn.Module from .*lambda.*, got an int: return the net"),
        (lambda: 1 / 0, r"to build a net, got ZeroDivisionError: .*test_evaluate_weights.py:"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_net_that_cannot_be_judged_is_refused_before_the_ladder(build, sentence, tmp_path):
    try:
        torch.save(build().state_dict(), tmp_path / "w.pt")
    except (AttributeError, ZeroDivisionError):
        torch.save(linear().state_dict(), tmp_path / "w.pt")
    with pytest.raises(InputError, match=sentence) as refusal:
        evaluate_weights(build, tmp_path / "w.pt", Digits(), out=tmp_path / "out")
    assert len(refusal.value.problems) == 1
    assert not (tmp_path / "out").exists()


def test_all_nets_are_looked_at_before_the_first_is_attacked(tmp_path):
    torch.save(fitted(5).state_dict(), tmp_path / "good.pt")
    state = linear().state_dict()
    state["1.bias"][3] = math.nan
    torch.save(state, tmp_path / "nan.pt")
    weights = [tmp_path / "good.pt", tmp_path / "nan.pt"]
    with pytest.raises(InputError, match=r"nan: expected finite weights, got NaN .* in 1\.bias"):
        evaluate_weights(linear, weights, Digits(), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_net_that_is_never_right_is_refused(tmp_path):
    """The last of its classes comes first, so that it says of each image the next class."""
    net = fitted(60)
    for tensors in (net[1].weight, net[1].bias):
        tensors.data = tensors.data.roll(1, dims=0)
    torch.save(net.state_dict(), tmp_path / "w.pt")
    with pytest.raises(InputError, match="expected images that the net gets right, got none of 1:"):
        evaluate_weights(linear, tmp_path / "w.pt", Digits(), images=1, out=tmp_path / "out")


def test_one_net_for_all_files_or_one_for_each(tmp_path):
    with pytest.raises(InputError, match="got 2 --models and 3 --weights"):
        evaluate_weights([linear, linear], ["a.pt", "b.pt", "c.pt"], Digits())


def test_an_architecture_is_read_and_not_run(tmp_path, monkeypatch):
    assert model_builder("WideResNet(28, width=4)") == WideResNet(28, 4)
    assert model_builder("WideResNet") == WideResNet()
    assert model_builder("MLP( 8, depth = 1 )") == MLP(8, depth=1)
    for text in ("MLP(print(1))", "MLP(8).build", "MLP(8, deep=1)", "MLP", "MLP(8"):
        with pytest.raises(InputError, match="expected an architecture with numbers and words"):
            model_builder(text)
    (tmp_path / "odd_nets.py").write_text(
        "from torch import nn\nfrom robsearch import MLP\n"
        "def sized(n): return nn.Linear(n, 10)\nnet = nn.Linear(2, 2)\nsmall = MLP(4)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert model_builder("odd_nets:small") == MLP(4)
    for name, got in (
        ("sized", "'sized' asks for arguments"),
        ("net", "'net' is a Linear"),
        ("none", "it has no 'none'"),
    ):
        with pytest.raises(InputError, match=f"expected a function in odd_nets .* got {got}"):
            model_builder(f"odd_nets:{name}")
    sys.modules.pop("odd_nets")


def test_a_net_of_robsearch_is_not_normalised_twice(tmp_path):
    model = MLP(4)
    torch.save(model.build(Digits().spec).state_dict(), tmp_path / "w.pt")
    with pytest.raises(InputError, match="which normalises by itself, without more, got --mean"):
        evaluate_weights(model, tmp_path / "w.pt", Digits(), mean=[0.1], std=[0.2])
    torch.save(linear().state_dict(), tmp_path / "w.pt")
    with pytest.raises(InputError, match="--mean and --std > 0 for each of 1 channel, got mean"):
        evaluate_weights(linear, tmp_path / "w.pt", Digits(), mean=[0.1, 0.1], std=[0.2])


# --- numbers ---


def test_the_interval_of_a_paired_difference():
    """With 5 against 1 of 98 images: 4/100 in the middle, 1.96 sqrt(7 - 0.16) / 100 to each
    side."""
    low, high = paired_difference(5, 1, 98)
    assert low == pytest.approx(0.04 - 1.959964 * math.sqrt(6.84) / 100)
    assert high == pytest.approx(0.04 + 1.959964 * math.sqrt(6.84) / 100)
    # Nets that never differ are not known to be equal on all images.
    assert paired_difference(0, 0, 98) == pytest.approx((-0.01959964, 0.01959964))
    assert paired_difference(1, 0, 1)[1] == 1


def test_measures_are_compared_where_both_are_known():
    first, second = np.array([1.0, 2.0, np.nan]), np.array([2.0, 4.0, np.nan])
    quantity = module._of_numbers("margin/logit", "logits", [first, second])
    (difference,) = quantity.differences
    assert [value.value for value in quantity.values] == [1.5, 3.0]
    assert difference.value == 1.5  # of 1 and 2, whose standard error is 0.5
    assert difference.high - difference.value == pytest.approx(1.959964 * 0.5)


@pytest.mark.parametrize(
    ("eps", "text"), [(8 / 255, "8/255"), (0.5, "0.5"), (128 / 255, "128/255"), (0.031, "0.031")]
)
def test_eps_is_written_as_the_field_does(eps, text):
    assert eps_text(eps) == text


def test_robustbench_is_told_autoattack_where_it_was_run(again):
    evaluation, _ = again
    broken_by = [None, None, None, "wrong", "pgd", "square", None, None]
    ladder = made(broken_by, rungs=("pgd", "apgd", "autoattack"))
    evaluated = dataclasses.replace(evaluation.networks[0], ladder=ladder)
    info = robustbench_info(evaluation, evaluated, {"additional_data": False})
    assert info["autoattack_acc"] == "62.50"  # 5 of 8
    assert info["clean_acc"] == "87.50"
    assert info["additional_data"] is False
