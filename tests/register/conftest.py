"""A finished training whose rankers are located and registered."""

import pytest

from xmrank.config import RegisterConfig
from xmrank.register import stage as registry
from xmrank.register.alias_guard import FirstStageGain

ABOVE = FirstStageGain(0.4, 0.5, 0.01)


@pytest.fixture
def rankers(trained, track_at):
    """The trained run's rankers, at home."""
    track_at(trained.home)
    return trained.config.output


@pytest.fixture
def configure(rankers, trained, monkeypatch):
    """A configuration for a name; the evaluation says the given gain."""

    def configured(name, gain=ABOVE, **changes):
        monkeypatch.setattr(registry, "measure_gain", lambda *arguments: gain)
        return RegisterConfig(rankers, name, trained.config.embeddings, **changes)

    return configured
