"""What a finished trial leaves in its journal."""

import pytest

from xmrank.runtime.files import write_json
from xmrank.tracking.journal import Journal
from xmrank.train.checkpoint_json import ABOUT_HASH, hash_about
from xmrank.train.run_journals import add_end, list_kept_metrics
from xmrank.train.trials import RANKER_JSON, Trial


def test_the_figures_of_the_kept_epoch_stand_beside_the_curves():
    epochs = [
        {"epoch": 0, "step": 0, "validation_mean": 0.5, "validation_hit@1": 0.3},
        {"epoch": 1, "step": 9, "train_loss": 2.0, "validation_mean": 0.6, "validation_hit@1": 0.4},
        {"epoch": 2, "step": 18, "train_loss": 1.0, "validation_mean": 0.2, "validation_hit@1": 0.1},
    ]
    assert list_kept_metrics(epochs, 1) == {
        "kept/epoch": 1, "kept/train/loss": 2.0, "kept/validation/mean": 0.6, "kept/validation/hit_at_1": 0.4,
    }  # fmt: skip


@pytest.mark.parametrize(("best", "tags"), [(0, {"kept_start": "true"}), (1, None), (0.5, None)])
def test_a_ranker_that_kept_its_start_is_tagged(tmp_path, best, tags):
    trial = Trial("listnet", "i2t", 0)
    about = {"best_epoch": best}
    write_json(trial.directory(tmp_path) / RANKER_JSON, {**about, ABOUT_HASH: hash_about(about)})
    add_end(trial, "run", tmp_path)
    (record,) = Journal(tmp_path, trial.name).records_of("run")
    assert record.get("tags") == tags
    assert record["status"] == "FINISHED"
