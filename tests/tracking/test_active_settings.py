"""The params of a run: what has an effect."""

import pytest

from xmrank.config import MineConfig, RefinementSettings, TrainConfig, semantic
from xmrank.tracking.active_settings import list_active


def test_what_is_switched_off_is_left_out():
    values = {"a": None, "b": False, "c": 0.0, "d": (), "e": "x", "f": True, "g": 0.5, "part": {"h": 0, "i": [1, "x"]}}
    assert list_active(values) == {"e": "x", "f": True, "g": 0.5, "part.i": "1 x"}


def test_the_settings_of_a_part_that_is_off_are_left_out():
    on = list_active(semantic(TrainConfig()))
    assert {"refine.members", "refine.memory_neighbours", "refine.noise", "sampling_positives"} <= on.keys()
    # The sampling is random-hard, and there is no word detection.
    assert not {"sampling_top", "sampling_images", "detect.batch_size", "patience"} & on.keys()
    off = list_active(semantic(TrainConfig(sampling="fixed", refine=RefinementSettings(members=0))))
    assert off["sampling"] == "fixed"
    assert not [name for name in off if name.startswith(("refine.", "sampling_"))]
    no_memory = list_active(semantic(TrainConfig(refine=RefinementSettings(memory_weight=0.0))))
    assert on.keys() - no_memory.keys() == {
        "refine.memory_weight", "refine.memory_neighbours", "refine.memory_scale", "refine.memory_size",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("config", "shown"),
    [
        (MineConfig(), {"random_candidates"}),
        (MineConfig(strategy="mixed"), {"random_negatives", "index"}),
        (MineConfig(strategy="top-k", index="ivf"), {"index", "probes"}),
        (MineConfig(strategy="top-k", index="hnsw"), {"index", "ef_search"}),
    ],
)
def test_the_settings_of_another_strategy_are_left_out(config, shown):
    names = {"random_candidates", "random_negatives", "index", "probes", "ef_search"}
    assert names & list_active(semantic(config)).keys() == shown
