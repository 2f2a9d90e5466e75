"""Exported networks as others use them: any number of images, plain arrays, a server, foolbox,
without robsearch."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import foolbox
import mlflow
import numpy as np
import pytest
import torch
from torch import nn

from robsearch import MLP, Digits, InputError, SmallCNN, WideResNet
from robsearch.data import load
from robsearch.tracking import save_model
from robsearch.training.evaluation import to_float


class Linear(nn.Module):
    """The logits of flat images; what follows differs in how it asks for the number of images."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        return self.fc(x.flatten(1))


class ByLen(Linear):
    def forward(self, x):
        return self.fc(x.reshape(len(x), -1))


class ByInt(Linear):
    def forward(self, x):
        return self.fc(x.view(int(x.data.shape[0]), -1))


class ByLoop(Linear):
    def forward(self, x):
        return torch.stack([self.fc(image.flatten()) for image in x])


class InHalf(Linear):
    def forward(self, x):
        return self.fc(x.flatten(1)).bfloat16()


class InDouble(Linear):
    def __init__(self):
        super().__init__()
        self.double()

    def forward(self, x):
        return self.fc(x.double().flatten(1))


class Noisy(Linear):
    def forward(self, x):
        return self.fc((x + 0.1 * torch.randn_like(x)).flatten(1))


class UpToFive(Linear):
    def forward(self, x):
        return super().forward(x) if len(x) <= 5 else -super().forward(x)


class ByValue(Linear):
    def forward(self, x):
        return super().forward(x) if x.max() <= 1 else super().forward(x / 255)


class Squeezed(Linear):
    def forward(self, x):
        return super().forward(x).squeeze()


class OverTheBatch(Linear):
    def forward(self, x):
        return super().forward((x - x.mean(0)) / (x.std(0) + 0.1))


class ManyParts(nn.Module):
    """What behaves differently in training, and tensors that the forward makes on the images'
    device."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4, momentum=0.1)
        self.fc = nn.Linear(144, 10)

    def forward(self, x):
        x = (x - torch.zeros(1, device=x.device)) / torch.tensor([0.5]).to(x)
        x = self.norm(self.conv(x)).relu() + torch.zeros(len(x), 1, 1, 1, device=x.device)
        return self.fc(nn.functional.dropout(x.flatten(1), 0.5, self.training))


def digits(number):
    return to_float(load(Digits())["test"].images[:number].clone())


# --- any number of images ---


@pytest.mark.parametrize(
    "kind", [ByLen, ByInt, ByLoop, InHalf, InDouble], ids=lambda kind: kind.__name__
)
def test_each_number_of_images_has_the_networks_own_logits(tmp_path, kind):
    net, images = kind().eval(), digits(9)
    save_model(net, images, tmp_path / "model")
    model = mlflow.pytorch.load_model(str(tmp_path / "model"))
    arrays = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    for number in (1, 2, 3, 9):
        own = net(images[:number])
        torch.testing.assert_close(model(images[:number]), own, check_dtype=False)
        of_arrays = arrays.predict(images[:number].numpy())
        assert type(of_arrays) is np.ndarray
        torch.testing.assert_close(torch.from_numpy(of_arrays), own, check_dtype=False)


def test_a_network_that_draws_noise_draws_it_elsewhere_too(tmp_path):
    net, images = Noisy().eval(), digits(3)
    save_model(net, images, tmp_path / "model")
    model = mlflow.pytorch.load_model(str(tmp_path / "model"))
    logits = []
    for network in (net, model, model):
        torch.manual_seed(0)
        logits.append(network(images))
    torch.testing.assert_close(logits[0], logits[1])
    assert not torch.equal(logits[1], model(images))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (ByValue, "own logits for n = 1, 3, 9, got .*data-dependent.*torch.where chooses"),
        (
            UpToFive,
            "own logits for n = 1, 3, 9, got .* for 9: write its forward without a branch",
        ),
        (
            Squeezed,
            r"logits \(n, classes\) for n = 1, 3, 9, got shape \(10,\) for 1: change its forward",
        ),
        (
            OverTheBatch,
            r"logits \(n, classes\) for n = 1, 3, 9, got NaN or inf for 1: change its forward",
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_network_that_fails_elsewhere_is_refused_and_leaves_nothing_behind(
    tmp_path, capfd, kind, said
):
    with pytest.raises(InputError, match=said):
        save_model(kind().eval(), digits(9), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


# --- what attacks ask of a model ---


def test_a_loaded_model_takes_train_and_eval_gradients_devices_and_types(tmp_path):
    net, images = ManyParts(), digits(9)
    net(images)  # BatchNorm has seen something
    net.eval()
    save_model(net, images, tmp_path / "model")
    model = mlflow.pytorch.load_model(str(tmp_path / "model"))
    assert not model.training
    assert dict(model.named_parameters()).keys() == dict(net.named_parameters()).keys()
    for mode in (True, False):
        assert model.train(mode) is model
        assert model.training is mode
        torch.testing.assert_close(model(images), net(images))
    assert model.eval() is model

    gradients = []
    for network in (model, net):
        x = images.clone().requires_grad_()
        gradients += torch.autograd.grad(network(x).logsumexp(1).sum(), x)
    torch.testing.assert_close(*gradients)

    torch.testing.assert_close(model.double()(images.double()), net.double()(images.double()))
    assert (
        model.to("meta")(images.double().to("meta")).device.type == "meta"
    )  # a device that each machine has


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a model that knows the digits, with its network."""
    parts = load(Digits())
    images, labels = to_float(parts["train"].images), parts["train"].labels
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimiser = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(100):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimiser.step()
    folder = tmp_path_factory.mktemp("trained") / "model"
    save_model(net.eval(), digits(9), folder)
    return folder, net


def test_foolbox_attacks_a_loaded_model_as_it_attacks_the_network(trained):
    folder, net = trained
    images, labels = digits(50), load(Digits())["test"].labels[:50]
    found = []
    for network in (mlflow.pytorch.load_model(str(folder)), net):
        model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
        attack = foolbox.attacks.LinfPGD(rel_stepsize=0.1, steps=10, random_start=False)
        _, adversarial, success = attack(model, images, labels, epsilons=0.1)
        found.append(adversarial)
        assert foolbox.accuracy(model, images, labels) > 0.85
        assert success.float().mean() > 0.5
    torch.testing.assert_close(*found)


# --- elsewhere ---

LOADED = """
import sys
sys.modules["robsearch"] = None  # as where it is not installed: importing it fails
import torch, mlflow
images = torch.load(sys.argv[1])
logits = []
for folder in sys.argv[3:]:
    model = mlflow.pytorch.load_model(folder)
    logits.append([model(images), model(images[:1])])
assert sys.modules["robsearch_network"].__file__ == f"{sys.argv[3]}/code/robsearch_network.py"
assert not any(name.startswith("robsearch.") for name in sys.modules)
torch.save(logits, sys.argv[2])
"""


@pytest.mark.slow
def test_saved_models_load_without_robsearch_and_give_the_same_logits(tmp_path):
    images = digits(7)
    nets = [
        model.build(Digits().spec).eval()
        for model in (MLP(4), SmallCNN(0.25), WideResNet(10, 0.25))
    ]
    folders = [tmp_path / str(number) for number in range(len(nets))]
    for net, folder in zip(nets, folders, strict=True):
        save_model(net, images[:4], folder)
    torch.save(images, tmp_path / "images.pt")
    arguments = [tmp_path / "images.pt", tmp_path / "logits.pt", *folders]
    subprocess.run(
        [sys.executable, "-c", LOADED, *map(str, arguments)], check=True, timeout=240, cwd=tmp_path
    )
    for net, (every, first) in zip(nets, torch.load(tmp_path / "logits.pt"), strict=True):
        torch.testing.assert_close(every, net(images))
        torch.testing.assert_close(first, net(images[:1]))


def answer(port, images):
    """The logits of a served model."""
    body = json.dumps({"inputs": images.tolist()}).encode()
    url = f"http://127.0.0.1:{port}/invocations"
    with urllib.request.urlopen(
        urllib.request.Request(url, body, {"Content-Type": "application/json"})
    ) as found:
        return torch.tensor(json.load(found)["predictions"])


@pytest.mark.slow
def test_a_served_model_answers_over_http(trained, tmp_path):
    folder, net = trained
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    programs = Path(sys.executable).parent  # mlflow starts uvicorn by its name
    options = ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            [
                shutil.which("mlflow", path=programs),
                "models",
                "serve",
                "--model-uri",
                str(folder),
                *options,
            ],
            env=os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"},
            stdout=log,
            stderr=log,
        )
    try:
        until = time.monotonic() + 120
        while server.poll() is None and time.monotonic() < until:
            with socket.socket() as asking:
                if asking.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        for number in (1, 3):
            torch.testing.assert_close(answer(port, digits(number)), net(digits(number)))
    except OSError:
        pytest.fail((tmp_path / "log").read_text())
    finally:
        server.terminate()
        server.wait(60)
