"""Rankers and training states come back from disk as they went, and a damaged file is one line."""

import json

import pytest
import torch
from changed_stages import flip_byte
from plain import plain_ranker, plain_training

from xmrank.rankers import LinearParameters, build_ranker
from xmrank.runtime.errors import DataError
from xmrank.train.checkpoint import load_state, read_ranker, save_ranker, save_state
from xmrank.train.checkpoint_json import hash_about, read_meta
from xmrank.train.step import TrainingStep
from xmrank.train.worker_group import WorkerGroup

PARAMETERS = plain_ranker(width=8, layers=1, heads=2, feed_forward=8)


def make(seed=0):
    torch.manual_seed(seed)
    return build_ranker(PARAMETERS, dimensions=4)


def step_of(ranker, *moments):
    return TrainingStep([ranker], ["listnet"], plain_training(learning_rate=0.01), WorkerGroup(), moments)


def take_step(step, seed):
    """One step towards scores of 1."""
    torch.manual_seed(seed)
    scores = step.module(torch.randn(2, 4), torch.randn(2, 3, 4), torch.randn(2, 3))
    step.optimizer.zero_grad()
    (scores - 1).square().sum().backward()
    step.optimizer.step()


@pytest.fixture
def saved(tmp_path):
    """A ranker in a folder."""
    ranker = make()
    save_ranker(tmp_path, ranker, ranker.state_dict(), {"loss": "listnet", "seed": 3})
    return tmp_path


@pytest.fixture
def state(tmp_path):
    """The state of a training after two steps."""
    step = step_of(make())
    for number in range(2):
        take_step(step, number)
    path = tmp_path / "state.safetensors"
    meta = {"epochs": [{"train_loss": 0.1 + 0.2}]}
    save_state(path, step.copy_weights(0), make(9).state_dict(), step.copy_moments(0), meta)
    return path


def test_a_ranker_comes_back_with_its_weights_and_what_it_is(saved):
    ranker, about = read_ranker(saved)
    assert all(torch.equal(value, make().state_dict()[name]) for name, value in ranker.state_dict().items())
    assert about["loss"] == "listnet"
    assert about["seed"] == 3
    assert about["ranker"] == "context_aware"
    assert not ranker.training


def test_the_weights_given_are_kept_not_those_of_the_moment(tmp_path):
    best = make(5).state_dict()
    save_ranker(tmp_path, make(), best, {})
    assert all(torch.equal(value, best[name]) for name, value in read_ranker(tmp_path)[0].state_dict().items())


def test_a_ranker_is_safetensors_and_json_and_nothing_else(saved):
    assert sorted(path.name for path in saved.iterdir()) == ["ranker.json", "ranker.safetensors"]
    assert json.loads((saved / "ranker.json").read_text())["parameters"]["width"] == 8


def test_equal_rankers_are_equal_bytes(saved, tmp_path):
    again = tmp_path / "again"
    save_ranker(again, make(), make().state_dict(), {"loss": "listnet", "seed": 3})
    for name in ("ranker.safetensors", "ranker.json"):
        assert (again / name).read_bytes() == (saved / name).read_bytes()


@pytest.mark.parametrize("content", [b"", bytes(64), b"not a ranker"], ids=["empty", "zeros", "text"])
@pytest.mark.parametrize("name", ["ranker.safetensors", "ranker.json"])
def test_a_damaged_ranker_is_refused_in_one_line(saved, name, content):
    (saved / name).write_bytes(content)
    with pytest.raises(DataError, match=str(saved)) as failure:
        read_ranker(saved)
    assert "\n" not in str(failure.value)


def test_a_cut_off_ranker_is_refused(saved):
    path = saved / "ranker.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"ranker.safetensors: damaged: its contents are not those of ranker.json"):
        read_ranker(saved)


@pytest.mark.parametrize("offset", [-1, 300, 8])
def test_weights_with_one_changed_byte_are_refused(saved, offset):
    flip_byte(saved / "ranker.safetensors", offset)
    with pytest.raises(DataError, match=r"ranker.safetensors: damaged: its contents are not those of ranker.json"):
        read_ranker(saved)


def test_a_changed_digit_in_the_json_of_a_ranker_is_refused(saved):
    path = saved / "ranker.json"
    path.write_text(path.read_text().replace('"seed": 3', '"seed": 4'))
    with pytest.raises(DataError, match=r"ranker.json: damaged: its contents are not those of its about_sha256"):
        read_ranker(saved)


def test_weights_of_another_shape_are_refused(saved):
    about = json.loads((saved / "ranker.json").read_text())
    about["parameters"]["width"] = 16
    (saved / "ranker.json").write_text(json.dumps(about | {"about_sha256": hash_about(about)}))
    with pytest.raises(DataError, match="size mismatch"):
        read_ranker(saved)


def test_json_that_lacks_the_parameters_is_refused(saved):
    (saved / "ranker.json").write_text('{"ranker": "context_aware"}')
    with pytest.raises(DataError, match="not the JSON of a ranker: 'about_sha256'"):
        read_ranker(saved)


def test_an_empty_folder_holds_no_ranker(tmp_path):
    with pytest.raises(DataError, match=r"no trained ranker here \(no ranker.json\)"):
        read_ranker(tmp_path)


def test_a_state_continues_exactly_where_it_was(state):
    undisturbed = step_of(make())
    for number in range(3):
        take_step(undisturbed, number)

    ranker = make(7)
    _, moments, _ = load_state(state, ranker)
    resumed = step_of(ranker, moments)
    take_step(resumed, 2)
    assert all(torch.equal(value, undisturbed.copy_weights(0)[name]) for name, value in resumed.copy_weights(0).items())


def test_a_state_keeps_the_best_weights_and_the_figures_to_the_last_bit(state):
    best, _, meta = load_state(state, make())
    assert all(torch.equal(value, make(9).state_dict()[name]) for name, value in best.items())
    assert meta == {"epochs": [{"train_loss": 0.30000000000000004}]}
    assert read_meta(state) == meta


@pytest.mark.parametrize("cut", [0, 100, -8])
def test_a_damaged_state_is_refused_in_one_line(state, cut):
    state.write_bytes(state.read_bytes()[:cut])
    with pytest.raises(DataError, match=f"{state}: cannot continue from it"):
        load_state(state, make())
    with pytest.raises(DataError, match="remove the file to start"):
        read_meta(state)


@pytest.mark.parametrize("offset", [-1, -200])
def test_a_state_with_one_changed_byte_is_refused(state, offset):
    flip_byte(state, offset)
    with pytest.raises(DataError, match=f"{state}: cannot continue from it: damaged: its contents are not those"):
        load_state(state, make())


def test_changed_figures_of_a_state_are_refused(state):
    state.write_bytes(state.read_bytes().replace(b"0.30000000000000004", b"0.30000000000000005"))
    with pytest.raises(DataError, match="damaged: its contents are not those that were saved"):
        load_state(state, make())


def test_the_state_of_another_model_is_refused(state):
    other = build_ranker(LinearParameters(), dimensions=4)
    with pytest.raises(DataError, match="cannot continue from it"):
        load_state(state, other)


def test_a_write_that_fails_leaves_the_old_state(state, monkeypatch):
    def fill_the_disk(tensors, path, meta):
        path.write_bytes(b"half")
        raise OSError("disk full")

    before = state.read_bytes()
    monkeypatch.setattr("xmrank.train.checkpoint.save_file", fill_the_disk)
    with pytest.raises(OSError, match="disk full"):
        save_state(state, make().state_dict(), {}, {}, {})
    assert state.read_bytes() == before
    assert [path.name for path in state.parent.iterdir()] == ["state.safetensors"]
