"""On a real cluster: points whose processes die are tried again, a bounded number of times, and the others go on."""

import errno

import pytest
import ray
import toy_search
from toy_search import ToyTarget, make_job, starts_of

from xmrank.runtime.errors import find_cause
from xmrank.tune import ray as ray_stage
from xmrank.tune.stage import describe_failures, list_all_points, run_known

ray.cloudpickle.register_pickle_by_value(toy_search)  # worker processes cannot import the tests
pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def test_lost_and_failing_points_do_not_end_a_search(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_stage, "REPEATS", 1)
    space = {"ends": ["well", "killed once", "killed", "diverges", "has a bug"]}
    job = make_job(tmp_path, ToyTarget(**space), space=("ends=[well,killed once,killed,diverges,has a bug]",))
    points = list_all_points(job.target, job.target.list_groups(), job.config)
    results = {result.settings["ends"]: result for result in run_known(job, points)}
    # |0.5 − 0.3| below the last epoch's 5/5.
    assert results["well"].value == results["killed once"].value == pytest.approx(1.0 - 0.2)
    assert results["diverges"].failure == "the loss is infinite"
    assert results["has a bug"].failure == "ValueError: shapes differ"
    assert results["killed"].failure.startswith("2 processes failed: ActorDiedError: The actor died unexpectedly")
    # What may not be the fault of its settings is tried again by the next call, and nothing else.
    assert {name for name, result in results.items() if result.try_again} == {"killed", "has a bug"}
    starts = {name: starts_of(job, {"ends": name}) for name in space["ends"]}
    assert starts == {"well": 1, "killed once": 2, "killed": 2, "diverges": 1, "has a bug": 1}
    run_known(job, points)
    starts = {name: starts_of(job, {"ends": name}) for name in space["ends"]}
    assert starts == {"well": 1, "killed once": 2, "killed": 4, "diverges": 1, "has a bug": 2}


def test_a_full_disk_ends_a_search_at_once(tmp_path):
    space = {"ends": ["disk is full", "well"]}
    job = make_job(tmp_path, ToyTarget(**space), space=("ends=[disk is full,well]",))
    with pytest.raises(Exception, match="No space left") as caught:
        run_known(job, list_all_points(job.target, job.target.list_groups(), job.config))
    cause = find_cause(caught.value)
    assert isinstance(cause, OSError) and (cause.errno, cause.filename) == (errno.ENOSPC, "/runs/state")
    assert starts_of(job, {"ends": "disk is full"}) == 1


def test_the_last_line_says_how_many_failed_and_why():
    reasons = ["diverged", "lost", "diverged", "other", "fourth"]
    line = describe_failures([{"reason": reason} for reason in reasons])
    assert line == "; 5 failed: 2 × diverged; 1 × lost; 1 × other; others: see results.json"
    assert describe_failures([]) == ""
