"""The costs of trials add up, validation by validation."""

import pytest
import torch

from xmrank.train.cost import TrialCost

CPU = torch.device("cpu")


def test_seconds_add_up_over_the_validations_of_each_trial():
    cost = TrialCost(lists=100, device=CPU)
    first = cost.add_epoch("a", {"epoch": 1}, 2.0)
    cost.add_epoch("b", {"epoch": 1}, 7.0)
    later = cost.add_epoch("a", {"epoch": 3}, 4.0)
    assert (first["cost/seconds"], first["cost/lists_per_second"]) == (2.0, 50.0)
    assert (later["cost/seconds"], later["cost/lists_per_second"]) == (2.0 + 2 * 4.0, 25.0)


def test_validations_within_the_first_epoch_count_their_share():
    cost = TrialCost(lists=100, device=CPU)
    assert cost.add_epoch("a", {"epoch": 0.25}, 8.0)["cost/seconds"] == 0.25 * 8.0
    assert cost.add_epoch("a", {"epoch": 0.5}, 8.0)["cost/seconds"] == 0.5 * 8.0


def test_a_resumed_trial_counts_from_where_it_went_on():
    assert TrialCost(lists=100, device=CPU).add_epoch("a", {"epoch": 7}, 3.0)["cost/seconds"] == 3.0


def test_memory_is_that_of_the_process_and_nothing_is_said_of_a_gpu():
    metrics = TrialCost(lists=1, device=CPU).add_epoch("a", {"epoch": 1}, 1.0)
    assert 50 < metrics["cost/peak_memory_mb"] < 1_000_000
    assert not [name for name in metrics if "gpu" in name]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_its_seconds_and_memory_are_counted():
    metrics = TrialCost(lists=1, device=torch.device("cuda"), workers=2).add_epoch("a", {"epoch": 1}, 1.5)
    assert metrics["cost/gpu_seconds"] == 3.0
    assert metrics["cost/peak_gpu_memory_mb"] >= 0
