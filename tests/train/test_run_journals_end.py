"""What a finished trial leaves in its journal."""

import pytest

from xmrank.runtime.files import write_json
from xmrank.tracking.journal import Journal
from xmrank.train.checkpoint_json import ABOUT_HASH, hash_about
from xmrank.train.run_journals import add_end
from xmrank.train.trials import RANKER_JSON, Trial


@pytest.mark.parametrize(("best", "tags"), [(0, {"kept_start": "true"}), (1, None), (0.5, None)])
def test_a_ranker_that_kept_its_start_is_tagged(tmp_path, best, tags):
    trial = Trial("listnet", "i2t", 0)
    about = {"best_epoch": best}
    write_json(trial.directory(tmp_path) / RANKER_JSON, {**about, ABOUT_HASH: hash_about(about)})
    add_end(trial, "run", tmp_path)
    (record,) = Journal(tmp_path, trial.name).records_of("run")
    assert record.get("tags") == tags
    assert record["status"] == "FINISHED"
