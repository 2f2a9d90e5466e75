"""Training that begins at the weights of a file: what is in the file is a part of the recipe."""

import dataclasses
import pickle
import re
import shutil

import pytest
import torch
from safetensors.torch import save_file
from small_spaces import recipe

from robsearch import MLP, InputError, NormDecay, Pretrained, train
from robsearch.identity import content_hash
from robsearch.testing import check_model

MODEL = MLP(8, depth=1)
SPEC = recipe(8).data.spec


@pytest.fixture
def file(tmp_path):
    torch.manual_seed(7)
    torch.save({"state_dict": MODEL.build(SPEC).state_dict()}, tmp_path / "w.pt")
    return tmp_path / "w.pt"


def test_the_network_begins_at_the_weights_of_the_file(file):
    pretrained = Pretrained(MODEL, file)
    check_model(pretrained, SPEC)
    kept = torch.load(file)["state_dict"]
    for seed in (0, 1):
        torch.manual_seed(seed)
        built = pretrained.build(SPEC).state_dict()
        assert all(torch.equal(built[name], tensor) for name, tensor in kept.items())


def test_training_goes_on_from_them(file):
    still = recipe(8, model=Pretrained(MODEL, file), epochs=1)
    still = dataclasses.replace(still, optimiser=dataclasses.replace(still.optimiser, lr=1e-12))
    kept = torch.load(file)["state_dict"]
    random = dataclasses.replace(still, model=MODEL)
    ends = [next(iter(train(each))).state["model"] for each in (still, random)]
    near = [all(torch.allclose(end[name], kept[name], atol=1e-6) for name in kept) for end in ends]
    assert near == [True, False]


def test_the_digest_has_the_content_and_not_the_path(file, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    copy = shutil.copy(file, tmp_path / "elsewhere" / "other.pt")
    here = recipe(8, model=Pretrained(MODEL, file))
    there = recipe(8, model=Pretrained(MODEL, copy))
    assert here.digest == there.digest
    assert here.flat() == there.flat()
    (tmp_path / "elsewhere" / "other.pt").write_bytes(file.read_bytes() + b" ")
    changed = recipe(8, model=Pretrained(MODEL, copy))
    assert len({here.digest, changed.digest, recipe(8, model=MODEL).digest}) == 3


def test_a_published_digest_stays(tmp_path):
    (tmp_path / "w.pt").write_bytes(b"robsearch")
    assert content_hash(Pretrained(MLP(8), tmp_path / "w.pt")) == "63676e9bbf036613"


def test_a_recipe_that_travels_finds_the_same_weights_or_says_so(file):
    travelled = pickle.loads(pickle.dumps(Pretrained(MODEL, file)))
    travelled.build(SPEC)
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(InputError, match=r"expected a file of the SHA-256 .*bring back the file"):
        travelled.build(SPEC)
    file.unlink()
    with pytest.raises(InputError, match=r"expected a file with weights at .*w\.pt, got nothing"):
        travelled.build(SPEC)


def test_a_relative_path_is_that_of_the_folder_in_which_the_recipe_was_made(
    file, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    pretrained = Pretrained(MODEL, "w.pt")
    monkeypatch.chdir("/")
    pretrained.build(SPEC)


@pytest.mark.usefixtures("unchecked")
def test_another_width_and_other_fields_are_refused(file):
    sentence = "at width 16: expected tensors that fit the net in "
    with pytest.raises(InputError, match=f"{sentence}.*got 3 of another shape or kind"):
        Pretrained(MLP(16, depth=1), file).build(SPEC)
    for fields, text in (
        ((MLP, file), "expected Pretrained.model to be a Model"),
        ((MODEL, 3), "expected Pretrained.weights as a path, got 3"),
        ((MODEL, file, None, "0" * 64), f"expected a file of the SHA-256 {'0' * 64}"),
    ):
        with pytest.raises(InputError, match=re.escape(text)):
            Pretrained(*fields)


def test_a_network_with_rates_of_its_own_keeps_them(tmp_path):
    model = MLP(8, depth=1, parametrisation="mup", base_width=4)
    network = model.build(SPEC)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    pretrained = Pretrained(model, tmp_path / "w.safetensors")
    assert pretrained.build(SPEC).lr_factors == network.lr_factors
    with pytest.raises(InputError, match="expected no NormDecay for layers with learning rates"):
        recipe(8, model=pretrained, penalties=(NormDecay(),))


def test_only_shapes_are_tried_where_there_is_no_memory(file, recwarn):
    with torch.device("meta"):
        assert Pretrained(MODEL, file).build(SPEC)[2].weight.is_meta
    assert not recwarn.list
