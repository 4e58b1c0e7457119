"""Adapters: the in-batch loss, what each member is trained on, and what is kept for use."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from plain import plain_refinement
from torch import tensor
from torch.nn import functional as F

from xmrank.rankers import RefinementParameters, RefinementSizes
from xmrank.rankers.refinement import Refinement
from xmrank.runtime.errors import ConfigError
from xmrank.train.adapters import (
    TrainingPairs,
    adapter_step_size,
    draw_batches,
    fit_refinement,
    in_batch_loss,
    make_fold_refinement,
    split_into_folds,
)

CPU = torch.device("cpu")
CONFIG = plain_refinement(
    members=3, width=8, dropout=0.2, epochs=8, pairs=40, learning_rate=0.02, bank_size=10, neighbours=3
)


@pytest.fixture(scope="module")
def store(tiny_store):
    return tiny_store(splits={"train": 90, "val": 20, "test": 20}, interleaved=True, signal=0.7)


def refinement(members, width, sizes, **parameters):
    return Refinement(16, RefinementParameters(members=members, width=width, neighbours=3, **parameters), sizes)


def fit_members(store, images, config=CONFIG, direction="i2t", seed=0, pairs=None):
    made = refinement(3, 8, RefinementSizes(10))
    folds = split_into_folds(images, 3, seed)
    fit_refinement(made, pairs or TrainingPairs.of(store, images, CPU), folds, config, direction, seed)
    return made, folds


def identity(members, dimensions):
    """Adapters that change nothing."""
    shapes = [(dimensions, 1), (1, 1), (1, dimensions), (1, dimensions)]
    return [torch.zeros(members, *shape) for shape in shapes]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"members": 1}, "--refine.members 1: expected 0 or at least 2"),
        ({"average": 1.5}, "--refine.average 1.5: expected 0 to 1"),
        ({"dropout": 1.0}, "--refine.dropout 1.0: expected at least 0 and below 1"),
        ({"memory_neighbours": 0}, "--refine.memory-neighbours 0: expected an integer of at least 1"),
        ({"learning_rate": 0.0}, "--refine.learning-rate 0.0: expected more than 0"),
    ],
)
def test_values_out_of_range_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        plain_refinement(**wrong)


def test_the_loss_is_the_cross_entropy_of_both_directions_without_siblings():
    image = tensor([[1.0, 0.0], [0.0, 1.0]])
    text = tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])  # the first two are captions of image 0
    pairs = TrainingPairs(np.array([0, 1]), np.array([0, 0, 1]), image, text)
    config = plain_refinement(members=2, scale=2.0, dropout=0.0)
    value = in_batch_loss(
        pairs, np.array([[0, 1, 2]]), {"image": identity(1, 2), "text": identity(1, 2)}, config
    ).item()

    def entropy(right, *wrong):
        return -math.log(math.exp(right) / (math.exp(right) + sum(map(math.exp, wrong))))

    # scaled cosines: image 0 with the captions 2, 1.2, 0, image 1 with them 0, 1.6, 2; caption 0 and 1 are siblings
    by_image = entropy(2.0, 0.0) + entropy(1.2, 0.0) + entropy(2.0, 0.0, 1.6)
    by_caption = entropy(2.0, 0.0) + entropy(1.2, 1.6) + entropy(2.0, 0.0, 0.0)
    assert value == pytest.approx((by_image / 3 + by_caption / 3) / 2, rel=1e-5)


def test_the_losses_of_members_are_added():
    image, text = tensor([[1.0, 0.0], [0.0, 1.0]]), tensor([[1.0, 0.0], [0.0, 1.0]])
    pairs, config = (
        TrainingPairs(np.array([0, 1]), np.array([0, 1]), image, text),
        plain_refinement(members=2, dropout=0.0),
    )
    one = in_batch_loss(pairs, np.array([[0, 1]]), {"image": identity(1, 2), "text": identity(1, 2)}, config)
    two = in_batch_loss(pairs, np.array([[0, 1]] * 2), {"image": identity(2, 2), "text": identity(2, 2)}, config)
    assert two.item() == pytest.approx(2 * one.item())


def test_a_member_sees_all_its_captions_before_any_a_second_time():
    drawn = np.stack(list(draw_batches([np.arange(12), np.arange(100, 112)], 4, 6, 0)))
    for member, captions in enumerate((range(12), range(100, 112))):
        for passes in (drawn[:3, member], drawn[3:, member]):
            assert sorted(passes.ravel()) == list(captions)
    assert not np.array_equal(drawn[:3, 0], drawn[3:, 0])


def test_folds_divide_the_images_as_the_seed_decides():
    images = np.arange(5, 50)
    folds = split_into_folds(images, 3, 0)
    assert [len(fold) for fold in folds] == [15, 15, 15]
    assert sorted(np.concatenate(folds)) == images.tolist()
    assert all(np.array_equal(fold, np.sort(fold)) for fold in folds)
    assert not np.array_equal(folds[0], split_into_folds(images, 3, 1)[0])
    assert [fold.tolist() for fold in split_into_folds(images, 0, 0)] == [images.tolist()]


def bent_pairs(images, seed):
    """Pairs whose captions are their images with a part of the axes turned round, and noise."""
    generator = torch.Generator().manual_seed(seed)
    image = F.normalize(torch.randn(images, 16, generator=generator), dim=-1)
    turned = image.repeat_interleave(2, 0) * torch.tensor([-1.0] * 4 + [1.0] * 12)
    text = F.normalize(turned + 0.1 * torch.randn(2 * images, 16, generator=generator), dim=-1)
    return TrainingPairs(np.arange(images), np.arange(images).repeat(2), image, text)


def test_adapters_bring_pairs_together_that_they_were_not_trained_on():
    made, pairs, new = (
        refinement(2, 32, RefinementSizes(5), hubness_weight=0.0),
        *map(bent_pairs, (120, 40), (0, 1)),
    )
    fit_refinement(made, pairs, split_into_folds(pairs.rows, 2, 0), replace(CONFIG, width=32), "t2i", 0)

    def right(similarity):
        return (similarity.argmax(0).numpy() == new.owner).mean()

    adapted = (made.embed_candidates(new.image).embeddings @ made.embed_queries(new.text).mT).mean(0)
    assert right(new.image @ new.text.T) < 0.65
    assert right(adapted) > right(new.image @ new.text.T) + 0.1


def test_the_matrices_of_the_last_steps_are_averaged():
    pairs = bent_pairs(20, 0)
    folds = split_into_folds(pairs.rows, 2, 0)

    def matrices(epochs, average):  # an epoch is one step: a member is trained on the 20 captions of 10 images
        made = refinement(2, 8, RefinementSizes(5), hubness_weight=0.0)
        fit_refinement(made, pairs, folds, replace(CONFIG, epochs=epochs, average=average), "t2i", 0)
        return torch.cat([getattr(made, name).flatten() for name in ("query_inner", "query_outer", "candidate_outer")])

    third, fourth = matrices(3, 1 / 3), matrices(4, 1 / 4)
    assert not torch.allclose(third, fourth, atol=1e-3)
    torch.testing.assert_close(matrices(4, 1 / 2), (third + fourth) / 2)


def test_the_step_size_stays_where_matrices_are_averaged_and_falls_where_they_are_not():
    sizes = [adapter_step_size(replace(CONFIG, average=0.5), step, 20) for step in (0, 1, 2, 10, 19)]
    assert sizes == pytest.approx([0.01, 0.02, 0.02, 0.02, 0.02])
    assert [adapter_step_size(CONFIG, step, 20) for step in (0, 1, 11)] == pytest.approx([0.01, 0.02, 0.01])


@pytest.mark.parametrize("direction", ["i2t", "t2i"])
def test_a_member_is_not_trained_on_its_fold(store, direction):
    images = store.image_rows("train")
    pairs = TrainingPairs.of(store, images, CPU)
    made, folds = fit_members(store, images, direction=direction, pairs=pairs)
    changed = TrainingPairs(pairs.rows, pairs.owner, pairs.image.clone(), pairs.text.clone())
    hidden = np.isin(images, folds[1])
    changed.image[torch.from_numpy(hidden)] = -1.0
    changed.text[torch.from_numpy(hidden[pairs.owner])] = -1.0
    other, _ = fit_members(store, images, direction=direction, pairs=changed)
    for name, value in made.named_buffers():
        if name == "fusion_weights":
            continue
        assert torch.equal(value[1], getattr(other, name)[1]), name
        assert not torch.equal(value[0], getattr(other, name)[0]), name


@pytest.mark.parametrize("direction", ["i2t", "t2i"])
def test_a_bank_holds_adapted_queries_of_different_images_outside_the_members_fold(store, direction):
    images = store.image_rows("train")
    made, folds = fit_members(store, images, direction=direction)
    pairs = TrainingPairs.of(store, images, CPU)
    side, owner = (pairs.image, np.arange(90)) if direction == "i2t" else (pairs.text, pairs.owner)
    seen = made.embed_queries(side)
    for member, fold in enumerate(folds):
        rows = (made.bank[member] @ seen[member].T).argmax(1).numpy()
        torch.testing.assert_close(made.bank[member], seen[member][torch.from_numpy(rows)])
        query_images = images[owner[rows]]
        assert len(set(query_images)) == 10 and not set(query_images) & set(fold)


def with_memory(store, images, direction, pairs=None, size=40, seed=0):
    text = "query" if direction == "t2i" else "candidate"
    count = size or len(TrainingPairs.of(store, images, CPU).owner)
    sizes = RefinementSizes(10, count, len(images), text)
    made = refinement(3, 8, sizes, memory_weight=0.3, memory_neighbours=5)
    pairs, folds = pairs or TrainingPairs.of(store, images, CPU), split_into_folds(images, 3, seed)
    fit_refinement(made, pairs, folds, replace(CONFIG, epochs=1), direction, seed)
    return made, pairs, folds


@pytest.mark.parametrize("direction", ["i2t", "t2i"])
def test_a_memory_holds_pairs_that_the_seed_draws_and_queries_that_do_not_retrieve_their_own_image(store, direction):
    images = store.image_rows("train")
    made, pairs, _ = with_memory(store, images, direction)
    memory = made.memory
    assert len(pairs.owner) > 40
    torch.testing.assert_close(memory.images.float(), pairs.image, atol=1e-3, rtol=0)
    rows = (memory.captions.float() @ pairs.text.T).argmax(1)
    assert len(set(rows.tolist())) == 40
    assert memory.owner.tolist() == pairs.owner[rows.numpy()].tolist()
    assert not torch.equal(memory.captions, with_memory(store, images, direction, seed=1)[0].memory.captions)
    if direction == "i2t":
        nearest = (memory.bank @ pairs.image.T).max(1)
        assert torch.allclose(nearest.values, torch.ones(10)) and len(set(nearest.indices.tolist())) == 10
    else:
        every = memory.retrieve_images(pairs.text, torch.from_numpy(pairs.owner))
        assert torch.allclose((memory.bank @ every.T).max(1).values, torch.ones(10))


@pytest.mark.parametrize("direction", ["i2t", "t2i"])
def test_the_refinement_of_a_fold_does_not_depend_on_the_fold(store, direction):
    images = store.image_rows("train")
    made, pairs, folds = with_memory(store, images, direction, size=None)
    changed = TrainingPairs(pairs.rows, pairs.owner, pairs.image.clone(), pairs.text.clone())
    hidden = np.isin(images, folds[1])
    changed.image[torch.from_numpy(hidden)] = -0.25
    changed.text[torch.from_numpy(hidden[pairs.owner])] = -0.25
    other, _, _ = with_memory(store, images, direction, pairs=changed, size=None)
    captions, fold = torch.from_numpy(store.text[:20]).float(), folds[1]
    one, same = (make_fold_refinement(r, 1, fold, p, 0) for r, p in ((made, pairs), (other, changed)))
    sides = (
        Refinement.embed_queries,
        lambda r, x: r.embed_candidates(x).embeddings,
        lambda r, x: r.embed_candidates(x).hubness,
    )
    for side in sides:
        assert torch.equal(side(one, captions), side(same, captions))
    assert not torch.equal(made.memory.retrieve_images(captions), other.memory.retrieve_images(captions))


def test_the_seed_decides_and_nothing_else(store):
    images = store.image_rows("train")
    short = replace(CONFIG, epochs=1, noise=0.3)
    torch.manual_seed(1)
    one, _ = fit_members(store, images, short)
    torch.manual_seed(2)
    again, _ = fit_members(store, images, short)
    other, _ = fit_members(store, images, short, seed=1)
    assert all(torch.equal(value, getattr(again, name)) for name, value in one.named_buffers())
    assert not torch.equal(one.query_inner, other.query_inner)
