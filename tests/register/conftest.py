"""A finished training whose rankers are located and registered."""

import pytest


@pytest.fixture
def rankers(trained, track_at):
    """The trained run's rankers, at home."""
    track_at(trained.home)
    return trained.config.output
