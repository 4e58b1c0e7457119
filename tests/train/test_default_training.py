"""The defaults of `train`: those of the preset that never loses, on any amount of data; the preset `paper` is plain."""

from dataclasses import replace

import pytest
from pipeline import mine_small
from plain import plain_training

from xmrank.config import ExperimentConfig, TrainConfig
from xmrank.config.parsing import parse_config
from xmrank.mine.in_memory import mine_lists
from xmrank.rankers import LinearParameters, PointwiseParameters
from xmrank.train.api import train_ranker
from xmrank.train.checkpoint import read_ranker
from xmrank.train.first_stage_validation import mean_of_similarity
from xmrank.train.stage import train


def read_preset(name: str, *flags: str) -> TrainConfig:
    return parse_config(TrainConfig, ["--preset", name, *flags], name="train")


def test_the_defaults_are_the_preset_strongs():
    strong = read_preset("strong")
    # It compares more, and says of the positives what auto comes to.
    own = {"losses": TrainConfig().losses, "seeds": TrainConfig().seeds, "sampling_positives": "auto"}
    assert replace(strong, **own) == TrainConfig()
    assert (strong.losses, strong.seeds) == (("softmax", *TrainConfig().losses), (0, 1, 2, 3, 4))


@pytest.mark.parametrize(("preset", "epochs", "seeds"), [("paper", 100, (0, 1, 2, 3, 4)), ("table1", 10, (0, 1))])
def test_the_papers_presets_are_plain(preset, epochs, seeds):
    assert read_preset(preset) == plain_training(epochs=epochs, seeds=seeds)
    arguments = ["--preset", preset]
    whole = parse_config(ExperimentConfig, arguments, name="experiment")
    assert whole.train == plain_training(epochs=epochs, seeds=seeds)


@pytest.mark.parametrize("ranker", [PointwiseParameters(), LinearParameters()], ids=lambda ranker: ranker.name)
def test_other_rankers_start_from_the_first_stage_too(tiny_store, ranker):
    store = tiny_store(splits={"train": 40, "val": 20, "test": 20})
    lists, validation = (
        mine_lists(store, direction="t2i", split=split, random_candidates=12, hard_negatives=6)
        for split in ("train", "val")
    )
    _, history = train_ranker(store, lists, validation, direction="t2i", ranker=ranker, epochs=1)
    start, *_ = history["epochs"]
    assert start["epoch"] == 0
    assert start["validation_mean"] == pytest.approx(mean_of_similarity(validation))


@pytest.mark.usefixtures("in_process")
def test_the_defaults_work_on_few_images_and_do_not_end_below_the_first_stage(tiny_store, tmp_path, track_at, capsys):
    track_at(tmp_path)
    # Folds of 8 images: a caption has 7 others, and the lists were mined from 12.
    store = tiny_store(tmp_path / "store", splits={"train": 24, "val": 20, "test": 20}, signal=0.7)
    lists = mine_small(store.directory, tmp_path / "lists").output
    config = TrainConfig(embeddings=store.directory, lists=lists, output=tmp_path / "rankers")
    train(replace(config, losses=("listnet",), seeds=(0,)))
    printed = capsys.readouterr().out
    assert "train: t2i lists are the hardest of 7 random candidates, not of 12" in printed
    assert "below the first stage" not in printed
    ranker, about = read_ranker(tmp_path / "rankers/trials/listnet-t2i-seed0")
    assert about["refinement"]["parameters"]["members"] == 3 and ranker.hyperparameters.residual == 15
