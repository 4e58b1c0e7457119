"""Training data: drawn lists, out-of-fold similarities, and what trials of one seed share."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from pipeline import mine_small
from plain import plain_ranker, plain_refinement, plain_training

from xmrank.evaluate.list_scoring import make_list_data, score_lists
from xmrank.metrics import list_metrics
from xmrank.mine.candidate_lists import CandidateLists
from xmrank.mine.list_paths import lists_path
from xmrank.rankers import LateInteractionParameters, RefinementSizes
from xmrank.runtime.errors import ConfigError
from xmrank.train import training_data
from xmrank.train.adapters import TrainingPairs, make_fold_refinement
from xmrank.train.checkpoint import read_ranker
from xmrank.train.first_stage_validation import mean_of_similarity
from xmrank.train.list_data import ListData
from xmrank.train.stage import train
from xmrank.train.trainer import make_ranker
from xmrank.train.training_data import TrainingData, check_sampling, refine_list_data, refinement_key, refinement_sizes
from xmrank.train.trials import Trial

from .toys import assert_equal_weights, result, run_toys, train_toy

REFINE = plain_refinement(members=2, width=8, epochs=2, pairs=50, learning_rate=0.01, bank_size=20, neighbours=3)
CONFIG = plain_training(
    ranker=plain_ranker(
        features=("cosine",), width=8, layers=1, heads=2, feed_forward=8, residual=20.0, zero_init_output=True
    ),
    refine=REFINE,
    sampling="random-hard",
    losses=("softmax", "ranknet"),
    directions=("i2t",),
    seeds=(0,),
    epochs=2,
    batch_size=16,
)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def keep_refinements(monkeypatch):
    """Random embeddings have little to teach, so that most refinements would be put aside."""
    monkeypatch.setattr(training_data, "mean_of_similarity", lambda lists: 0.0)


@pytest.fixture(scope="module")
def mined(tiny_store, tmp_path_factory):
    """A store of 120 training images and its lists."""
    folder = tmp_path_factory.mktemp("training_data")
    store = tiny_store(folder / "store", splits={"train": 120, "val": 20, "test": 30}, signal=0.7)
    return store, mine_small(store.directory, folder / "lists").output


def open_data(mined, direction="i2t", config=CONFIG):
    """The training data of the mined lists."""
    store, folder = mined
    data = [ListData.of(CandidateLists.read(lists_path(folder, direction, role)), store, direction, CPU)
            for role in ("train", "validation")]  # fmt: skip
    return TrainingData.open(*data, store, folder, direction, config, folder / "detections")


def ranker_of(made, config=CONFIG, seed=0):
    """A ranker with the refinement of a seed."""
    torch.manual_seed(0)
    ranker = make_ranker(config, 16, "softmax", refinement_sizes(made, config.refine)).eval()
    made.load_refinement(seed, ranker)
    return ranker


def similarity_of(refinement, store, lists, direction, member=slice(None)):
    """The refinement's similarity of every item, computed one list at a time, by the members that are chosen."""
    query_side, gallery_side = (store.image, store.text) if direction == "i2t" else (store.text, store.image)
    w, u = (weights[member] for weights in refinement.view_weights.T)
    if member != slice(None):
        w, u = w * refinement.members, u * refinement.members
    parts = []
    for query, start, stop in zip(lists.queries, lists.offsets[:-1], lists.offsets[1:], strict=True):
        queries = refinement.embed_queries(torch.from_numpy(query_side[[query]]))[member]
        seen = refinement.embed_candidates(torch.from_numpy(gallery_side[lists.candidates[start:stop]]))
        cosine = (seen.embeddings[member] @ queries.mT)[..., 0]
        parts.append((w @ cosine - u @ seen.hubness[member]).numpy())
    return np.concatenate(parts)


@pytest.mark.parametrize("direction", ["i2t", "t2i"])
def test_training_lists_have_out_of_fold_similarities(mined, direction):
    config = replace(CONFIG, refine=replace(REFINE, memory_weight=0.3, memory_neighbours=5))
    made = open_data(mined, direction, config)
    ranker = ranker_of(made, config)
    lists, folds = made.sample_lists(0, 1).lists, made.refinements[0].folds
    owner = lists.queries if direction == "i2t" else mined[0].image_of_caption[lists.queries]
    pairs = TrainingPairs.of(mined[0], made.images, CPU)
    expected, in_use = np.empty(len(lists.candidates)), similarity_of(ranker.refinement, mined[0], lists, direction)
    for member, fold in enumerate(folds):
        which = np.repeat(np.isin(owner, fold), lists.lengths)
        one = make_fold_refinement(ranker.refinement, member, fold, pairs, 0)
        expected[which] = similarity_of(one, mined[0], lists, direction)[which]
    assert np.abs(expected - in_use).max() > 0.05
    np.testing.assert_allclose(lists.similarity, expected, atol=1e-5)


@pytest.mark.parametrize("direction", ["i2t", "t2i"])
def test_fusion_weights_rank_training_and_validation_lists(mined, direction):
    plain = replace(CONFIG, refine=replace(REFINE, memory_weight=0.3, memory_neighbours=5))
    config = replace(plain, refine=replace(plain.refine, learn_fusion=True))
    made, unweighted = open_data(mined, direction, config), open_data(mined, direction, plain)
    ranker, same = ranker_of(made, config), ranker_of(unweighted, plain)
    folds = made.refinements[0].folds
    weights = ranker.refinement.fusion_weights
    assert weights[0, 0] == 1 and not torch.allclose(weights, same.refinement.fusion_weights, atol=0.01)
    assert torch.equal(ranker.refinement.bank, same.refinement.bank)
    validation = made.validation_lists(0).lists
    np.testing.assert_allclose(
        validation.similarity, similarity_of(ranker.refinement, mined[0], validation, direction), atol=1e-5
    )
    lists, before = made.sample_lists(0, 1).lists, unweighted.sample_lists(0, 1).lists
    assert np.array_equal(lists.candidates, before.candidates)
    assert np.abs(lists.similarity - before.similarity).max() > 0.01
    pairs = TrainingPairs.of(mined[0], made.images, CPU)
    owner = lists.queries if direction == "i2t" else mined[0].image_of_caption[lists.queries]
    which = np.repeat(np.isin(owner, folds[0]), lists.lengths)
    one = make_fold_refinement(ranker.refinement, 0, folds[0], pairs, 0)
    expected = similarity_of(one, mined[0], lists, direction)
    np.testing.assert_allclose(lists.similarity[which], expected[which], atol=1e-5)


@pytest.mark.parametrize("direction", ["i2t", "t2i"])
def test_without_a_memory_that_is_one_member(mined, direction):
    made = open_data(mined, direction)
    ranker = ranker_of(made)
    lists, folds = made.sample_lists(0, 1).lists, made.refinements[0].folds
    owner = lists.queries if direction == "i2t" else mined[0].image_of_caption[lists.queries]
    which = np.repeat(np.isin(owner, folds[1]), lists.lengths)
    alone = [similarity_of(ranker.refinement, mined[0], lists, direction, slice(m, m + 1)) for m in (0, 1)]
    assert np.abs(alone[0] - alone[1]).max() > 0.01
    np.testing.assert_allclose(lists.similarity, np.where(which, alone[1], alone[0]), atol=1e-5)


def test_validation_lists_have_the_similarity_of_all_members_as_lists_in_use_have(mined):
    made = open_data(mined)
    ranker = ranker_of(made)
    data = made.validation_lists(0)
    expected = similarity_of(ranker.refinement, mined[0], data.lists, "i2t")
    np.testing.assert_allclose(data.lists.similarity, expected, atol=1e-5)
    raw = made.validation.gather_batch(np.arange(5))
    with torch.no_grad():
        used = ranker(raw.query, raw.candidates, raw.similarity, mask=raw.mask)
    torch.testing.assert_close(used, 20.0 * data.gather_batch(np.arange(5)).similarity, atol=1e-3, rtol=0)
    np.testing.assert_allclose(
        score_lists(ranker, make_list_data(ranker, made.validation.lists, mined[0], "i2t", CPU)),
        20.0 * expected,
        atol=1e-3,
    )


def test_trials_of_one_seed_share_a_refinement_that_is_fitted_once(mined, monkeypatch):
    made = open_data(mined)
    one, lists = ranker_of(made), made.sample_lists(0, 1)
    monkeypatch.setattr("xmrank.train.training_data.fit_refinement", None)  # called again, it would fail
    other = ranker_of(made)
    assert made.sample_lists(0, 1) is lists
    assert torch.equal(one.refinement.bank, other.refinement.bank)
    assert other.refinement.bank.abs().sum() > 0


@pytest.mark.parametrize(
    ("changes", "shared"),
    [
        ({"ranker": plain_ranker(width=4, heads=2), "learning_rate": 0.1, "epochs": 5}, True),
        ({"refine": replace(REFINE, width=4)}, False),
        ({"sampling_positives": "retrieved"}, False),
        ({"ranker": LateInteractionParameters()}, False),
    ],
)
def test_trainings_share_refinements_that_do_not_depend_on_their_differences(changes, shared):
    assert (refinement_key(replace(CONFIG, **changes)) == refinement_key(CONFIG)) is shared


def test_fixed_lists_are_what_was_mined(mined):
    made = open_data(mined, config=plain_training(ranker=CONFIG.ranker))
    ranker = ranker_of(made, plain_training(ranker=CONFIG.ranker))
    assert made.sample_lists(0, 1) is made.sample_lists(0, 2) is made.train
    assert made.validation_lists(0) is made.validation
    assert refine_list_data(ranker, made.validation) is made.validation
    assert made.lists_per_epoch == len(made.train.lists)


def test_lists_differ_every_epoch_and_are_the_same_again_after_a_resume(mined):
    config = replace(CONFIG, refine=plain_refinement())
    made, later = open_data(mined, config=config), open_data(mined, config=config)
    first, second = made.sample_lists(0, 1).lists, made.sample_lists(0, 2).lists
    assert not np.array_equal(first.candidates, second.candidates)
    assert np.array_equal(later.sample_lists(0, 2).lists.candidates, second.candidates)
    assert not np.array_equal(made.sample_lists(1, 2).lists.candidates, second.candidates)


def test_an_interrupted_training_on_drawn_lists_and_a_refinement_ends_in_the_same_weights(mined, tmp_path):
    config = replace(CONFIG, epochs=3)
    weights, history = train_toy(tmp_path / "undisturbed", config, data=open_data(mined, config=config))

    def stop(epoch, seconds):
        if epoch["epoch"] == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train_toy(tmp_path / "resumed", config, on_epoch=stop, data=open_data(mined, config=config))
    resumed, figures = train_toy(tmp_path / "resumed", config, data=open_data(mined, config=config))
    assert_equal_weights(resumed, weights)
    assert figures == history


def test_a_stack_of_seeds_is_trained_on_the_lists_of_each(mined, tmp_path):
    config = replace(CONFIG, batch_size=30, ranker=replace(CONFIG.ranker, dropout=0.2))
    trials = [Trial("softmax", "i2t", seed) for seed in (0, 1)]
    figures = []
    for stacked in (False, True):
        output = tmp_path / str(stacked)
        assert run_toys(output, config, trials, stacked=stacked, data=open_data(mined, config=config)) == {}
        figures.append([result(output / trial.name)[1]["epochs"] for trial in trials])
    for alone, together in zip(*figures, strict=True):
        for one, other in zip(alone, together, strict=True):
            assert other == pytest.approx(one, abs=2e-3)
    assert figures[0][0][0]["train_loss"] != pytest.approx(figures[0][1][0]["train_loss"], abs=2e-3)


@pytest.mark.usefixtures("in_process")
def test_the_stage_trains_refined_rankers_that_work_on_raw_embeddings(mined, tmp_path, track_at):
    track_at(tmp_path)
    store, folder = mined
    config = replace(CONFIG, embeddings=store.directory, lists=folder, output=tmp_path / "rankers")
    train(config)
    scored = {}
    for loss in CONFIG.losses:
        directory = tmp_path / "rankers/trials" / f"{loss}-i2t-seed0"
        ranker, about = read_ranker(directory)
        assert about["refinement"]["parameters"]["members"] == 2
        assert about["refinement"]["sizes"]["bank"] == 20
        history = json.loads((directory / "history.json").read_text())
        lists = CandidateLists.read(lists_path(folder, "i2t", "validation"))
        scored[loss] = score_lists(ranker, make_list_data(ranker, lists, store, "i2t", CPU))
        _, labels, _, mask = lists.pad_lists(np.arange(len(lists)))
        metrics = list_metrics(scored[loss].reshape(mask.shape), labels, mask=mask)
        best = next(e for e in history["epochs"] if e["epoch"] == history["best_epoch"])
        for k in (1, 5, 10):
            assert np.mean(metrics[f"hit@{k}"]) == pytest.approx(best[f"validation_hit@{k}"], abs=1e-6)
    assert not np.allclose(scored["softmax"], scored["ranknet"])


def test_a_refinement_of_fixed_lists_is_refused():
    with pytest.raises(ConfigError, match=r"--refine\.members 2: expected 0 with --sampling fixed"):
        plain_training(refine=REFINE)


def test_small_folds_are_said_and_folds_of_one_image_refused(mined, tmp_path):
    store, folder = mined
    # 120 images make 11 folds of 10 or 11, where a caption has 9 or 10 images that are not its own.
    config = replace(CONFIG, refine=replace(REFINE, members=11))
    note = check_sampling(folder, store, "t2i", config, 0)
    assert note.startswith("t2i lists are the hardest of 9 random candidates, not of 12: a fold of the training images")
    # An image has 5 · 9 captions that are not its own.
    assert check_sampling(folder, store, "i2t", config, 0) == ""
    config = replace(CONFIG, embeddings=store.directory, lists=folder, output=tmp_path / "rankers", directions=("t2i",))
    with pytest.raises(ConfigError, match=r"a fold of the training images has no t2i items of other images; expected"):
        train(replace(config, refine=replace(REFINE, members=120)))


def test_a_refinement_that_is_worse_than_the_first_stage_is_put_aside(mined, monkeypatch):
    good = ranker_of(open_data(mined))
    monkeypatch.setattr(training_data, "mean_of_similarity", mean_of_similarity)
    # Steps so large that nothing of the embeddings is left.
    wild = replace(CONFIG, refine=replace(REFINE, learning_rate=10.0, epochs=5))
    made = open_data(mined, config=wild)
    assert good.refinement.query_outer.any() and not ranker_of(made, wild).refinement.query_outer.any()
    validation = made.validation_lists(0).lists
    np.testing.assert_allclose(validation.similarity, made.validation.lists.similarity, atol=1e-5)
    # The training lists, too, have the first stage's similarity.
    drawn = made.sample_lists(0, 1).lists
    rows = np.repeat(drawn.queries, drawn.lengths)
    cosine = (mined[0].image[rows] * mined[0].text[drawn.candidates]).sum(1)
    np.testing.assert_allclose(drawn.similarity, cosine, atol=1e-5)


@pytest.mark.parametrize(("members", "bank", "expected"), [(3, 50, 50), (3, 90, 80), (0, 9, 0)])
def test_a_bank_is_no_larger_than_what_every_member_is_trained_on(mined, members, bank, expected):
    made = open_data(mined)
    made = replace(made, images=made.images[:120])
    assert refinement_sizes(made, plain_refinement(members=members, bank_size=bank)).bank == expected


@pytest.mark.parametrize("direction", ["i2t", "t2i"])
def test_a_memory_has_all_captions_of_the_training_images_or_as_many_as_allowed(mined, direction):
    made, text = open_data(mined, direction), {"i2t": "candidate", "t2i": "query"}[direction]
    captions = int(np.isin(mined[0].image_of_caption, made.images).sum())
    for limit, expected in ((10**6, captions), (7, 7)):
        sizes = refinement_sizes(made, replace(REFINE, memory_weight=0.3, memory_size=limit))
        assert sizes == RefinementSizes(20, expected, len(made.images), text)
