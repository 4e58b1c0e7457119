"""Region features as the field distributes them, from the files to the figures: import, lists, training, evaluation."""

import json

import numpy as np
import pytest
from pipeline import in_process, make_home, mine_small  # noqa: F401  (a fixture)
from plain import plain_training

from xmrank.config import EmbedConfig, EvaluateConfig
from xmrank.datasets.reader_settings import ArraySettings
from xmrank.embed.stage import embed
from xmrank.evaluate.stage import evaluate
from xmrank.protocols import evaluation_run
from xmrank.rankers import LateInteractionParameters
from xmrank.train.stage import train

SPLITS = {"train": 80, "dev": 20, "test": 20}
REGIONS, WIDTH, DIMENSIONS = 36, 12, 8


@pytest.fixture
def folder(tmp_path):
    """Images of 36 regions, one of which says what the five captions do; embeddings that say little of it."""
    generator = np.random.default_rng(0)
    (tmp_path / "regions").mkdir()
    images, texts = [], []
    for name, count in SPLITS.items():
        meanings = generator.normal(size=(count, DIMENSIONS)).astype(np.float32)
        regions = 0.2 * generator.normal(size=(count, REGIONS, WIDTH)).astype(np.float32)
        regions[np.arange(count), generator.integers(0, REGIONS, count), :DIMENSIONS] += 2 * meanings
        np.save(tmp_path / f"regions/{name}_ims.npy", regions)
        captions = [f"{name} image {row} caption {number}" for row in range(count) for number in range(5)]
        (tmp_path / f"regions/{name}_caps.txt").write_text("\n".join(captions) + "\n")
        images.append(generator.normal(size=(count, DIMENSIONS)))
        texts.append(meanings.repeat(5, axis=0) + 0.1 * generator.normal(size=(5 * count, DIMENSIONS)))
    np.save(tmp_path / "I.npy", np.concatenate(images))
    np.save(tmp_path / "T.npy", np.concatenate(texts))
    return tmp_path


def test_region_features_are_imported_trained_on_and_evaluated(folder, monkeypatch, empty_tracking, in_process):  # noqa: F811
    make_home(monkeypatch, folder, empty_tracking)
    monkeypatch.setattr(evaluation_run, "run_tasks", lambda function, tasks: map(function, tasks))
    dataset = ArraySettings(
        import_images=folder / "I.npy", import_texts=folder / "T.npy", import_regions=folder / "regions"
    )
    store, lists, rankers = folder / "store", folder / "lists", folder / "rankers"
    embed(EmbedConfig(output=store, dataset=dataset))
    mine_small(store, lists)
    # The captions' tokens are their vectors, which are no words that come back: there is no word detection.
    ranker = LateInteractionParameters(dropout=0.0, image_positions=False, token_width=16, width=16, residual=1.0)
    train(
        plain_training(
            embeddings=store,
            lists=lists,
            output=rankers,
            losses=("softmax",),
            directions=("t2i",),
            seeds=(0,),
            ranker=ranker,
            epochs=8,
            batch_size=16,
            learning_rate=0.003,
        )
    )
    evaluate(EvaluateConfig(embeddings=store, lists=lists, rankers=rankers, output=folder / "evaluation", top_n=(10,)))
    rows = json.loads((folder / "evaluation" / "summary.json").read_text())["rows"]
    hits = {
        row["method"]: row["mean"]
        for row in rows
        if (row["protocol"], row["direction"], row["metric"]) == ("lists", "t2i", "hit@1")
    }
    assert hits["cosine"] < 0.4
    assert hits["softmax"] > hits["cosine"] + 0.1
