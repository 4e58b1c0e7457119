"""A search that was interrupted tries the points, stops the ones and finds the best that an undisturbed one does."""

import pytest
from toy_search import ToyTarget, make_job

from xmrank.runtime import progress
from xmrank.tune import ray as ray_stage
from xmrank.tune.points import find_best
from xmrank.tune.stage import list_all_points, run_known, run_optuna

SEARCHES = {
    "optuna": {"search": "optuna"},
    "optuna with asha": {"search": "optuna", "scheduler": "asha"},
    "random with asha": {"search": "random", "scheduler": "asha"},
}


def run_search(job):
    """All results, as ``results.json`` has them."""
    groups = job.target.list_groups()
    if job.config.search == "optuna":
        return [result.as_row() for result in run_optuna(job, groups)]
    return [result.as_row() for result in run_known(job, list_all_points(job.target, groups, job.config))]


@pytest.mark.parametrize("search", SEARCHES)
def test_an_interrupted_search_comes_to_the_same_result(search, tuner, tmp_path, monkeypatch):
    undisturbed = make_job(tmp_path / "undisturbed", **SEARCHES[search])
    rows = run_search(undisturbed)
    tried, tuner.tried[:] = list(tuner.tried), []
    assert len(rows) == 14  # ten random ones first, then Optuna's model has a say
    if "asha" in search:
        assert any(row["stopped"] for row in rows) and any(row["epochs"] == 5 for row in rows)

    job = make_job(tmp_path / "interrupted", **SEARCHES[search])
    # In the middle of a point: after the third epoch of the seventh where none is stopped.
    last = len(tuner.reported) + round(0.47 * len(tuner.reported))

    def stop(metrics):
        tuner.report(metrics)
        if len(tuner.reported) >= last:
            raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(ray_stage.tune, "report", stop)
        with pytest.raises(KeyboardInterrupt):
            run_search(job)
    before = len(tuner.tried)
    # With the scheduler's and the algorithm's knowledge gone, as in a new process.
    continued = run_search(make_job(tmp_path / "interrupted", **SEARCHES[search]))
    assert continued == rows
    # The point that was interrupted is tried again; no other one is.
    assert tuner.tried[: before - 1] + tuner.tried[before:] == tried
    group = job.target.list_groups()[0]
    best = [find_best(group, search.points.list_results(group)) for search in (undisturbed, job)]
    assert best[0] == best[1] and best[0].settings["kind"] == 1


def test_a_point_whose_end_was_not_noticed_is_not_tried_again(tuner, tmp_path):
    job = make_job(tmp_path, search="optuna", samples=3)
    whole = run_search(job)
    path = tmp_path / "work" / "proposals" / "toy.json"
    # As if the driver had been killed after the last point had written its result, and before Optuna was told.
    path.write_text(path.read_text().replace(path.read_text().split('"value": ')[-1].split("}")[0].strip(), "null"))
    assert [p.value is None for p in job.open_study(job.target.list_groups()[0]).proposals] == [False, False, True]
    reported = len(tuner.reported)
    assert run_search(make_job(tmp_path, search="optuna", samples=3)) == whole
    # Its five epochs are reported once more, from the file.
    assert [report["reports"] for report in tuner.reported[reported:]] == [1, 2, 3, 4, 5]
    assert tuner.tried[-1] == tuner.tried[-2]


def test_a_line_has_the_epoch_of_a_point(tuner, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "SHORTEST_PERIOD_S", 0.0)
    job = make_job(tmp_path, ToyTarget(x=[0.3]), space=("x=[0.3]",))
    run_search(job)
    (name,) = [point.name for point in tuner.tried]
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(", ")[-1] for line in lines[:2]] == [
        f"{name} epoch 1: validation 0.2000",
        f"{name} epoch 2: validation 0.4000",
    ]
    assert lines[-1].startswith("search (points): 1/1, ")
