"""The gain over the first stage that decides about the alias, from the per-query values of an evaluation."""

import pandas as pd
import pytest

from xmrank.register.alias_guard import FirstStageGain, measure_gain
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.errors import DataError


def write_evaluation(folder, *, images=12, captions=2):
    """An evaluation where LambdaRank, seed 1, has the first two of three metrics right for every caption but those of
    the first image, the first stage none; and a store of the captions."""
    rows = []
    for image in range(images):
        for caption in range(captions):
            for metric, right in (("hit@1", image > 0), ("hit@5", image > 0), ("hit@10", False), ("MRR", True)):
                query = {"direction": "t2i", "protocol": "lists", "query_id": f"{image}-{caption}", "metric": metric}
                rows.append({**query, "method": "cosine", "seed": -1, "value": 0.0})
                rows.append({**query, "method": "lambdarank", "seed": 1, "value": float(right)})
                rows.append({**query, "method": "lambdarank", "seed": 2, "value": 1.0})
                rows.append({**query, "method": "lambdarank", "seed": 1, "protocol": "top-100", "value": 1.0})
    stage = StageDirectory.open(folder / "evaluation", "evaluate", config={}, inputs={"rankers": "fingerprint"})
    pd.DataFrame(rows).to_parquet(stage.directory / "metrics.parquet")
    stage.finish(counts={})
    names = [(f"{image}-{caption}", str(image)) for image in range(images) for caption in range(captions)]
    (folder / "store").mkdir()
    pd.DataFrame(names, columns=["caption_id", "image_id"]).to_parquet(folder / "store" / "text.parquet")
    return folder / "evaluation", folder / "store"


def test_the_gain_is_of_one_seed_on_candidate_lists_with_images_as_clusters(tmp_path):
    gain = measure_gain(*write_evaluation(tmp_path), "fingerprint", "t2i", "lambdarank", 1)
    assert gain.first_stage == 0
    assert gain.ranker == pytest.approx(11 / 12 * 2 / 3)
    # Twelve images, one without a difference: of all 2^12 signs, those with the other eleven equal are 2 · 2.
    assert gain.p == pytest.approx(4 / 4096)
    assert gain.is_significant
    assert gain.describe() == "61.1 % against the first stage's 0.0 %, p = 0.00098"


@pytest.mark.parametrize(("ranker", "p", "significant"), [(0.6, 0.04, True), (0.6, 0.06, False), (0.4, 0.01, False)])
def test_only_a_significant_gain_counts(ranker, p, significant):
    assert FirstStageGain(0.5, ranker, p).is_significant is significant


@pytest.mark.parametrize(
    ("rankers", "loss", "message"),
    [("another", "lambdarank", "of other rankers than --rankers"), ("fingerprint", "listnet", "no figures of listnet")],
)
def test_an_evaluation_of_other_rankers_is_refused(tmp_path, rankers, loss, message):
    with pytest.raises(DataError, match=f"--evaluation .*evaluation: {message}"):
        measure_gain(*write_evaluation(tmp_path), rankers, "t2i", loss, 1)
