"""The first stage as a scorer: its results on lists, galleries and tops, by hand; and the reported split."""

import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest

from xmrank.mine.candidate_lists import CandidateLists
from xmrank.protocols.galleries import make_galleries, make_list_protocol, make_tops, measure_gallery
from xmrank.protocols.query_tables import KEYS
from xmrank.protocols.reported import reported_images, reported_split
from xmrank.protocols.scorer import DirectionProtocols, FirstStageScorer, RankedGallery

# Three images at 0, 90 and 45 degrees, each with one caption; the second caption is nearer to the third image.
DEGREES = {"image": (0, 90, 45), "text": (5, 60, 40)}
STORE = SimpleNamespace(
    **{side: np.stack([np.cos(np.radians(d)), np.sin(np.radians(d))], 1) for side, d in DEGREES.items()},
    image_of_caption=np.arange(3),
)
IMAGES = np.arange(3)


@pytest.fixture
def protocols():
    """The protocols of t2i: two lists, and the top 1 and 2 of the gallery."""
    lists = CandidateLists(
        np.array([0, 1], np.int32),
        np.array([0, 2, 4]),
        np.array([0, 1, 1, 2], np.int32),
        np.array([1, 0, 1, 0], np.float32),
        np.array([0.9, 0.1, 0.2, 0.8], np.float32),
    )
    (gallery,) = make_galleries(STORE, IMAGES, "t2i")
    search = RankedGallery(gallery, measure_gallery(STORE, gallery), make_tops(STORE, gallery, (1, 2)))
    mined = make_list_protocol(lists, "t2i")
    return DirectionProtocols(STORE, "t2i", "test", IMAGES, (1, 2), mined, [search])


def test_the_first_stage_and_the_oracle_by_hand(protocols):
    results = {(r.key["method"], r.key["protocol"]): r for r in FirstStageScorer().measure(protocols)}
    assert list(results) == [("cosine", "lists"), ("cosine", "gallery"), ("oracle", "top-1"), ("oracle", "top-2")]
    hits = {key: result.metrics["hit@1"].tolist() for key, result in results.items()}
    assert hits == {
        ("cosine", "lists"): [1, 0],
        ("cosine", "gallery"): [1, 0, 1],
        ("oracle", "top-1"): [1, 0, 1],
        ("oracle", "top-2"): [1, 1, 1],
    }
    # Metrics are of the whole gallery, the ranking that is kept is the deepest top.
    whole = results["cosine", "gallery"]
    assert whole.metrics["mrr"].tolist() == [1, 1 / 2, 1]
    assert whole.protocol.name == "top-2"
    assert len(whole.scores) == 3 * 2
    assert results["oracle", "top-1"].scores is None


def test_every_key_has_all_columns(protocols):
    for result in FirstStageScorer().measure(protocols):
        assert set(result.key) == set(KEYS)
        assert (result.key["direction"], result.key["split"], result.key["seed"]) == ("t2i", "test", -1)


def test_names_of_a_search(protocols):
    assert protocols.searches[0].protocol_names() == ["gallery", "top-1", "top-2"]


def test_a_scorer_travels_to_a_worker():
    assert pickle.loads(pickle.dumps(FirstStageScorer())) == FirstStageScorer()  # noqa: S301 - made one line above


def test_the_reported_split_is_that_of_the_role_test(tmp_path):
    entries = {"train": {"split": "train", "images": [1, 2]}, "test": {"split": "val", "images": [0, 3]}}
    (tmp_path / "splits.json").write_text(json.dumps(entries))
    assert reported_split(tmp_path) == "val"
    assert reported_images(tmp_path).tolist() == [0, 3]
    assert reported_images(tmp_path).dtype == np.int64
