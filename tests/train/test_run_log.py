"""What a finished trial leaves in its MLflow run."""

from types import SimpleNamespace

import pytest

from xmrank.runtime.files import write_json
from xmrank.train import training_work
from xmrank.train.trials import RANKER_JSON, Trial


@pytest.mark.parametrize(("best", "tags"), [(0, [("run", {"kept_start": "true"})]), (1, []), (0.5, [])])
def test_a_ranker_that_kept_its_start_is_tagged(tmp_path, monkeypatch, best, tags):
    trial, tagged, ended = Trial("listnet", "i2t", 0), [], []
    tracking = SimpleNamespace(
        log_artifacts=lambda *_: None,
        set_tags=lambda _, run, values: tagged.append((run, values)),
        end_run=lambda _, run: ended.append(run),
    )
    monkeypatch.setattr(training_work, "tracking", tracking)
    write_json(trial.directory(tmp_path) / RANKER_JSON, {"best_epoch": best})
    work = SimpleNamespace(output=tmp_path, tracking_uri="", runs={trial.name: "run"})
    training_work.RunLog(work, cost=None, by_step=False).finish_trial(trial)
    assert (tagged, ended) == (tags, ["run"])
