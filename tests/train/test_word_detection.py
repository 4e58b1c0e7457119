"""Word detection: the words of captions, what the encoders learn of them, and where the result is kept."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from xmrank.config import DetectionSettings, TrainConfig
from xmrank.embed.token_store import TokenArray, count_to_offsets
from xmrank.mine.in_memory import mine_lists
from xmrank.rankers import TokenSizes, build_ranker
from xmrank.rankers.token_ranker import TokenRanker
from xmrank.runtime.errors import ConfigError
from xmrank.train import detection_state, word_detection
from xmrank.train.api import train_ranker
from xmrank.train.training_data import TrainingData
from xmrank.train.trials import Trial
from xmrank.train.word_detection import CaptionWords, WordDetection, fit_word_detection, hash_tokens

from .test_resume import StoppedError, stop_after
from .toys import TOKENS, assert_equal_weights, settings, toy_data, train_toy, with_tokens

VOCABULARY = np.eye(6, 8, dtype=np.float16) + np.float16(0.25)
SETTINGS = DetectionSettings(epochs=30, batch_size=16, learning_rate=0.01)


def texts_of(*captions):
    """Tokens of captions, each a list of words by number."""
    return TokenArray(
        VOCABULARY[np.concatenate([np.array(words, np.int64) for words in captions])],
        count_to_offsets(np.array([len(words) for words in captions])),
    )


def planted(images, *, seed=0):
    """Images of two words each, every word in one of four regions; one caption an image, and the words."""
    generator = np.random.default_rng(seed)
    chosen = np.stack([generator.permutation(6)[:2] for _ in range(images)])
    regions = 0.3 * generator.normal(size=(images, 4, 6)).astype(np.float32)
    for image, words in enumerate(chosen):
        regions[image, generator.permutation(4)[:2], words] += 3
    return TokenArray(regions.reshape(-1, 6), count_to_offsets(np.full(images, 4))), texts_of(*chosen.tolist()), chosen


def sizes_of(text="query"):
    return TokenSizes(text, text_width=8, text_longest=2, image_width=6, image_longest=4, image_grid=2)


def make_ranker(text="query", **changes):
    torch.manual_seed(11)
    return build_ranker(replace(TOKENS, **changes), dimensions=6, tokens=sizes_of(text))


def detection_in(folder, *, images=96, settings=SETTINGS):
    regions, texts, _ = planted(images)
    rows = np.arange(images)
    return WordDetection("the store", regions, texts, rows, rows, rows, settings, folder)


def encoder_weights(ranker):
    return {name: value for name, value in ranker.state_dict().items() if "_encoder." in name}


@torch.no_grad()
def share_of_found(ranker, regions, chosen):
    """The share of images whose two words are the likeliest ones; 1/15 by chance."""
    values, _ = regions.gather(np.arange(len(chosen)))
    logits, _ = ranker.eval().detect_words(torch.from_numpy(values), torch.from_numpy(VOCABULARY).float())
    found = logits.topk(2).indices.sort().values
    return (found == torch.from_numpy(np.sort(chosen))).all(1).float().mean().item()


def test_equal_tokens_are_one_word():
    # Word 3 is in two images only; word 0 twice in one image, which counts once.
    texts = texts_of([0, 1, 0], [1, 3], [0, 1], [3, 2], [0, 2], [2])
    words = CaptionWords.of(texts, np.arange(6), np.array([0, 0, 1, 2, 3, 3]), images=4)
    by_vector = {tuple(VOCABULARY[number].astype(np.float32)): number for number in range(6)}
    numbers = [by_vector[tuple(row)] for row in words.tokens.tolist()]
    assert sorted(numbers) == [0]
    words = CaptionWords.of(texts, np.arange(6), np.arange(6), images=6)
    numbers = [by_vector[tuple(row)] for row in words.tokens.tolist()]
    assert sorted(numbers) == [0, 1, 2]
    assert words.log_prior.exp().tolist() == pytest.approx([0.5, 0.5, 0.5])
    targets = words.targets(np.array([4, 0]))
    assert [targets[0, numbers.index(word)].item() for word in (0, 1, 2)] == [1, 0, 1]
    assert [targets[1, numbers.index(word)].item() for word in (0, 1, 2)] == [1, 1, 0]


def test_captions_are_chosen_by_row():
    texts = texts_of([0], [1], [0], [1], [0], [1])
    words = CaptionWords.of(texts, np.array([1, 3, 5]), np.array([0, 1, 2]), images=3)
    assert words.tokens.tolist() == [VOCABULARY[1].tolist()]
    assert words.targets(np.arange(3)).sum().item() == 3


def test_quantised_tokens_are_told_apart_by_their_scales():
    tokens = TokenArray(np.ones((3, 2), np.int8), np.arange(4), np.array([0.5, 0.25, 0.5], np.float32))
    hashed = hash_tokens(tokens, np.arange(3))
    assert hashed[0] == hashed[2] != hashed[1]
    words = CaptionWords.of(replace(tokens, scales=np.full(3, 0.5, np.float32)), np.arange(3), np.arange(3), images=3)
    assert words.tokens.tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize("convolutions", [0, 1])
def test_words_are_found_in_new_images(convolutions, tmp_path):
    ranker = make_ranker(token_convolutions=convolutions)
    regions, texts, _ = planted(200)
    words = CaptionWords.of(texts, np.arange(200), np.arange(200), images=200)
    fit_word_detection(ranker, regions, np.arange(200), words, SETTINGS, seed=0, state=tmp_path / "state")
    new, _, chosen = planted(50, seed=1)
    assert share_of_found(ranker, new, chosen) > 0.7
    with torch.no_grad():
        _, prior = ranker.eval().detect_words(torch.zeros(1, 4, 6), torch.from_numpy(VOCABULARY).float())
    assert prior.exp().tolist() == pytest.approx([1 / 3] * 6, abs=0.1)


def test_trials_of_a_seed_share_the_result(tmp_path):
    detection = detection_in(tmp_path, settings=replace(SETTINGS, epochs=1))
    one, other = make_ranker("query", width=8), make_ranker("candidate", width=4)
    detection.fill_encoders(one, seed=3)
    (file,) = tmp_path.iterdir()
    written = file.stat().st_mtime_ns
    detection.fill_encoders(other, seed=3)
    assert [path.stat().st_mtime_ns for path in tmp_path.iterdir()] == [written]
    for name, value in encoder_weights(one).items():
        assert torch.equal(value, encoder_weights(other)[name]), name
    again = detection_in(tmp_path / "elsewhere", settings=replace(SETTINGS, epochs=1))
    fresh = make_ranker("candidate", width=4)
    again.fill_encoders(fresh, seed=3)
    for name, value in encoder_weights(one).items():
        assert torch.equal(value, encoder_weights(fresh)[name]), name


def test_a_word_detection_that_is_interrupted_goes_on_from_its_last_state(tmp_path, monkeypatch):
    undisturbed = make_ranker()
    detection_in(tmp_path / "undisturbed").fill_encoders(undisturbed, seed=3)
    monkeypatch.setattr(detection_state, "PERIOD_S", 0.0)
    steps, detect = [], TokenRanker.detect_words

    def count(*given):
        steps.append(len(steps))
        if len(steps) == 70:
            raise StoppedError
        return detect(*given)

    monkeypatch.setattr(TokenRanker, "detect_words", count)
    detection = detection_in(tmp_path / "interrupted")
    with pytest.raises(StoppedError):
        detection.fill_encoders(make_ranker(), seed=3)
    continued = make_ranker()
    detection.fill_encoders(continued, seed=3)
    # 30 epochs of 96 / 16 steps; the one that failed was begun twice.
    assert len(steps) == 30 * 6 + 1
    assert_equal_weights(encoder_weights(continued), encoder_weights(undisturbed))
    assert [path.suffix for path in (tmp_path / "interrupted").iterdir()] == [".safetensors"]


def test_a_damaged_state_of_a_word_detection_is_no_state(tmp_path):
    undisturbed, anew = make_ranker(), make_ranker()
    detection_in(tmp_path / "undisturbed").fill_encoders(undisturbed, seed=3)
    detection = detection_in(tmp_path / "damaged")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / f"{detection.name_result(anew, 3)}.state").write_bytes(b"no state")
    detection.fill_encoders(anew, seed=3)
    assert_equal_weights(encoder_weights(anew), encoder_weights(undisturbed))


@pytest.mark.parametrize(
    "change", [{"settings": replace(SETTINGS, epochs=2)}, {"seed": 4}, {"ranker": {"token_dropout": 0.5}}]
)
def test_another_seed_or_setting_is_learned_anew(tmp_path, change):
    settings = replace(SETTINGS, epochs=1)
    detection_in(tmp_path, settings=settings).fill_encoders(make_ranker(), seed=3)
    other = detection_in(tmp_path, settings=change.get("settings", settings))
    other.fill_encoders(make_ranker(**change.get("ranker", {})), seed=change.get("seed", 3))
    assert len(list(tmp_path.iterdir())) == 2


def toy_training(folder):
    """Toy lists with tokens, and word detection on images and captions with tokens of the same widths."""
    train, validation = with_tokens(toy_data(20)), with_tokens(toy_data(8, seed=1), seed=1)
    regions, texts, _ = planted(24)
    regions, texts = replace(regions, values=regions.values[:, :5]), replace(texts, values=texts.values[:, :3])
    rows = np.arange(24)
    detect = DetectionSettings(epochs=2)
    return TrainingData(
        train, validation, detection=WordDetection("", regions, texts, rows, rows, rows, detect, folder)
    )


def test_a_training_that_is_interrupted_in_or_after_word_detection_ends_in_the_same_weights(tmp_path, monkeypatch):
    config = settings(ranker=replace(TOKENS, dropout=0.1, token_dropout=0.1, token_convolutions=0), epochs=3)
    trial = Trial("softmax", "t2i", 0)
    undisturbed, history = train_toy(tmp_path / "one", config, trial, data=toy_training(tmp_path / "words"))
    (words,) = (tmp_path / "words").iterdir()

    def stop(weights, path):
        path.write_bytes(b"half of the file")
        raise StoppedError

    with monkeypatch.context() as broken:
        broken.setattr(word_detection, "save_file", stop)
        with pytest.raises(StoppedError):
            train_toy(tmp_path / "other", config, trial, data=toy_training(tmp_path / "again"))
    assert not (tmp_path / "again" / words.name).exists()
    with pytest.raises(StoppedError):
        train_toy(tmp_path / "other", config, trial, data=toy_training(tmp_path / "again"), on_epoch=stop_after(1))
    assert (tmp_path / "again" / words.name).read_bytes() == words.read_bytes()
    weights, figures = train_toy(tmp_path / "other", config, trial, data=toy_training(tmp_path / "again"))
    assert_equal_weights(weights, undisturbed)
    assert figures == history


def test_words_in_context_are_refused(tmp_path):
    regions, _, _ = planted(20)
    texts = TokenArray(np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32), np.arange(0, 41, 2))
    rows = np.arange(20)
    detection = WordDetection("the store", regions, texts, rows, rows, rows, SETTINGS, tmp_path)
    with pytest.raises(ConfigError, match=r"--detect\.epochs 30: no text token of the store is that of 3 training"):
        detection.fill_encoders(make_ranker(), seed=0)


def test_a_ranker_without_tokens_has_no_word_detection():
    with pytest.raises(ConfigError, match=r"--detect\.epochs 2: context_aware reads no tokens"):
        TrainConfig(detect=DetectionSettings(epochs=2))


def test_a_training_starts_from_the_words(tiny_store):
    # The embeddings say nothing, the tokens everything.
    store = tiny_store(splits={"train": 150, "val": 40, "test": 4}, captions=1, signal=0.0)
    regions, _, chosen = planted(len(store.image))
    texts = texts_of(*chosen[store.image_of_caption].tolist())
    store = replace(store, token_arrays={"image": regions, "text": texts})
    train, validation = (
        mine_lists(store, direction="t2i", split=split, random_candidates=8, hard_negatives=6)
        for split in ("train", "val")
    )
    settings = {"direction": "t2i", "loss": "softmax", "epochs": 1, "learning_rate": 0.001, "validate_start": True}
    ranker = replace(TOKENS, residual=1.0, token_convolutions=0)
    rankers, starts = [], []
    for detect in (SETTINGS, DetectionSettings()):
        trained, history = train_ranker(store, train, validation, ranker=ranker, detect=detect, **settings)
        rankers.append(trained)
        starts.append(history["epochs"][0]["validation_hit@1"])
    # At the start the interaction has no weight: both begin with the first stage.
    assert starts[0] == starts[1]
    assert share_of_found(rankers[0], regions, chosen) > 0.4
    assert share_of_found(rankers[1], regions, chosen) < 0.3
