"""The loop over epochs: which epoch is kept, when it stops, what is reported."""

import math

import pytest

from xmrank.runtime.errors import DataError
from xmrank.train.fit_loop import fit_epochs


def fit(values, **changes):
    """Run the loop over epochs whose validation gives these values; the state is the epoch's number."""
    trained, reported = [], []

    def train_epoch(number):
        trained.append(number)
        return {"loss": 1 / number}

    best = fit_epochs(
        train_epoch,
        lambda: {"map": values[trained[-1] - 1]},
        lambda: trained[-1],
        metric="map",
        report_epoch=reported.append,
        **{"epochs": len(values), **changes},
    )
    assert best.epochs == reported
    return best


def test_the_best_epoch_is_kept_and_the_earliest_of_equal_ones():
    best = fit([0.1, 0.5, 0.3, 0.5])
    assert (best.number, best.state) == (2, 2)
    assert best.epochs == [
        {"loss": 1, "map": 0.1}, {"loss": 1 / 2, "map": 0.5}, {"loss": 1 / 3, "map": 0.3}, {"loss": 1 / 4, "map": 0.5},
    ]  # fmt: skip


@pytest.mark.parametrize(("patience", "epochs"), [(1, 3), (2, 4), (None, 6)])
def test_it_stops_after_epochs_without_a_better_one(patience, epochs):
    best = fit([0.1, 0.2, 0.2, 0.1, 0.9, 0.9], patience=patience)
    assert len(best.epochs) == epochs
    assert best.number == (5 if patience is None else 2)


def test_an_epoch_that_ties_does_not_start_the_wait_again():
    assert len(fit([0.5, 0.5, 0.5, 0.9], patience=2).epochs) == 3


def test_nan_is_never_the_best_epoch():
    assert fit([math.nan, 0.1, math.nan, 0.3, math.nan]).number == 4
    assert len(fit([math.nan, math.nan, 0.5], patience=3).epochs) == 3
    with pytest.raises(DataError, match="map is nan in all 2 epochs: there is no best one"):
        fit([math.nan, math.nan, 0.5], patience=2)


def test_no_epoch_is_refused():
    with pytest.raises(ValueError, match="epochs 0: expected at least 1"):
        fit([], epochs=0)
