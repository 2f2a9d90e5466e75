"""Weights that others have saved: all customary wrappers are understood, and nothing in a file is
run."""

import argparse
import hashlib
import os
import pickle
import re
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from robsearch import InputError
from robsearch.network.weights import content_sha256, load_weights, read_weights


def net(hidden=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(6, hidden), nn.BatchNorm1d(hidden))


class Payload:
    """A pickle of it makes a folder when it is read by pickle."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def trained():
    torch.manual_seed(1)
    return net()


def loaded(file, key=None):
    model = net()
    load_weights(model, read_weights(file, key))
    return model


def same(first, second):
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def prefixed(state, prefix):
    return OrderedDict((prefix + name, tensor) for name, tensor in state.items())


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize(
    "place",
    [(), ("state_dict",), ("model",), ("model_state_dict",), ("net",), ("model", "state_dict")],
)
def test_weights_are_found_in_each_wrapper_under_each_prefix(tmp_path, trained, place, prefix):
    saved = prefixed(trained.state_dict(), prefix)
    for name in reversed(place):
        saved = {"epoch": 3, "optimizer": {"state": {}}, name: saved}
    torch.save(saved, tmp_path / "w.pt")
    assert read_weights(tmp_path / "w.pt").key == "/".join(place)
    assert same(loaded(tmp_path / "w.pt"), trained)


def test_safetensors_and_a_wrapped_net_are_understood(tmp_path, trained):
    save_file(prefixed(trained.state_dict(), "module."), tmp_path / "w.safetensors")
    assert same(loaded(tmp_path / "w.safetensors"), trained)
    wrapped = nn.DataParallel(net())
    load_weights(wrapped, read_weights(tmp_path / "w.safetensors"))
    assert same(wrapped, trained)


def test_a_module_that_is_called_module_keeps_its_name(tmp_path):
    model = nn.ModuleDict({"module": nn.Linear(2, 2)})
    torch.save(model.state_dict(), tmp_path / "w.pt")
    load_weights(model, read_weights(tmp_path / "w.pt"))


def test_old_weights_without_a_count_of_batches_fit(tmp_path, trained):
    state = {name: w for name, w in trained.state_dict().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "w.pt")
    assert same(loaded(tmp_path / "w.pt"), trained)


def test_a_key_says_which_weights_are_meant(tmp_path, trained):
    both = {"model": net().state_dict(), "net": trained.state_dict()}
    torch.save(both, tmp_path / "w.pt")
    assert same(loaded(tmp_path / "w.pt", "net"), trained)
    with pytest.raises(InputError, match="expected one set of weights, got model and net in"):
        read_weights(tmp_path / "w.pt")
    torch.save({"judged": trained.state_dict(), "model": {}}, tmp_path / "own.pt")
    assert same(loaded(tmp_path / "own.pt"), trained)


def test_a_file_that_needs_code_is_refused_and_runs_nothing(tmp_path, trained):
    ran = tmp_path / "ran"
    file = tmp_path / "w.pt"
    sentence = r"got one that needs code \({}\), which robsearch does not run: if you trust"
    for content, name in (
        (Payload(ran), "(posix|nt).mkdir"),
        ({"state_dict": trained.state_dict(), "x": Payload(ran)}, "(posix|nt).mkdir"),
        ({"model": trained.state_dict(), "args": argparse.Namespace(lr=0.1)}, "argparse.Namespace"),
        (trained, r"torch.nn.modules.container.Sequential"),
    ):
        torch.save(content, file)
        with pytest.raises(InputError, match=sentence.format(name)) as refusal:
            read_weights(file)
        assert len(refusal.value.problems) == 1
        assert "weights_only" not in str(refusal.value)
    file.write_bytes(pickle.dumps(Payload(ran), protocol=2))
    with pytest.raises(InputError, match="needs code"):
        read_weights(file)
    assert not ran.exists()
    pickle.loads(file.read_bytes())  # the payload does work where pickle is let
    assert ran.exists()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("w.pt", b"", "got an empty file"),
        ("w.pt", b"no weights at all", "expected a file that torch can read at"),
        ("w.safetensors", b"12345678 and no header", "expected a file that safetensors can read"),
        (
            "w.pt",
            {"ema": {}, "epoch": 1, "lr": 0.1, "loss": 2.0},
            "got a dict with ema, epoch, lr, 1 more: pass --key NAME",
        ),
        ("w.pt", [torch.ones(1)], "expected a state dict in .*got a list"),
        ("w.pt", {}, "got an empty dict"),
    ],
)
def test_what_has_no_weights_is_refused(tmp_path, name, content, sentence):
    file = tmp_path / name
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(InputError, match=sentence):
        read_weights(file)


def test_a_place_without_a_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, got in (("none", "nothing"), (".", "no regular file"), ("pipe", "no regular file")):
        for read in (read_weights, content_sha256):
            with pytest.raises(InputError, match=f"expected a file with weights at .*got {got}"):
                read(tmp_path / name)


def test_what_does_not_fit_is_named_and_counted(tmp_path, trained):
    state = trained.state_dict()
    weight = state["1.weight"]
    for change, sentence in (
        ({"1.weight": None, "2.bias": None}, "got 2 missing (1.weight, 2.bias): build the net"),
        ({"a": weight, "b": weight, "c": weight, "d": weight}, "4 unexpected (a, b, c, 1 more)"),
        ({"1.bias": None, "fc.bias": weight}, "1 missing (1.bias) and 1 unexpected (fc.bias)"),
        ({"1.weight": weight.T}, "(1.weight (6, 4) float32 in place of (4, 6) float32)"),
        ({"1.weight": weight.to(torch.int8)}, "(1.weight (4, 6) int8 in place of (4, 6) float32)"),
        ({"1.weight": weight.to("meta")}, "(1.weight (4, 6) float32 without data in place of"),
    ):
        changed = {name: w for name, w in (state | change).items() if w is not None}
        torch.save(changed, tmp_path / "w.pt")
        with pytest.raises(InputError, match=re.escape(sentence)):
            loaded(tmp_path / "w.pt")
    # Half precision is the same kind of number.
    torch.save({name: w.half() for name, w in state.items() if w.ndim}, tmp_path / "w.pt")
    assert torch.equal(loaded(tmp_path / "w.pt")[1].weight, weight.half().float())


def test_the_digest_is_of_the_bytes_and_follows_a_change(tmp_path):
    file = tmp_path / "w.pt"
    for content in (b"abc", b"abcd"):
        file.write_bytes(content)
        assert content_sha256(file) == hashlib.sha256(content).hexdigest()
