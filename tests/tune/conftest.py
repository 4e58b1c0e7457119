"""Searches without a cluster: points are tried in this process, one after another."""

import pytest

from xmrank.tune import ray as ray_stage


@pytest.fixture
def here(in_process, monkeypatch):
    """Points are tried in this process; the list names those that were, in order."""
    tried = []

    def run_tuner(job, group, point_of, space, samples, algorithm, progress, scratch):
        for name in space["name"]["grid_search"]:
            given = {"name": name}
            tried.append(point_of(given))
            ray_stage.try_point(given, job, point_of)
            progress.advance(1)

    monkeypatch.setattr(ray_stage, "run_tuner", run_tuner)
    monkeypatch.setattr(ray_stage.tune, "report", lambda metrics: None)
    return tried
