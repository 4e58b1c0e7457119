"""Who gets the alias ``best``: a ranker significantly above its first stage, and not below the present holder."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from xmrank.config.common import Direction
from xmrank.config.method_names import FIRST_STAGE
from xmrank.metrics import paired_tests
from xmrank.runtime.errors import DataError
from xmrank.runtime.files import read_parquet
from xmrank.runtime.verification import read_outputs

METRICS = ("hit@1", "hit@5", "hit@10")
"""The figure that is compared is the mean of these, the one that chooses a ranker's epoch."""
LEVEL = 0.05
"""A gain is significant if its p is below this."""


@dataclass(frozen=True)
class FirstStageGain:
    """A ranker beside its first stage: the mean of hit@1, hit@5 and hit@10 over the candidate lists of an evaluation.

    Attributes:
        first_stage, ranker: the two means, from 0 to 1.
        p: of their difference, two-sided; sign flips by image.
    """

    first_stage: float
    ranker: float
    p: float

    @property
    def is_significant(self) -> bool:
        """Whether the ranker is above, and not by chance."""
        return self.ranker > self.first_stage and self.p < LEVEL

    def describe(self) -> str:
        """The figures, for messages and tags."""
        return f"{100 * self.ranker:.1f} % against the first stage's {100 * self.first_stage:.1f} %, p = {self.p:.2g}"


def measure_gain(
    evaluation: Path, embeddings: Path, rankers: str, direction: Direction, loss: str, seed: int
) -> FirstStageGain:
    """The gain of one ranker over the first stage.

    Args:
        evaluation: output of evaluate.
        embeddings: the store, which knows the images of captions.
        rankers: the fingerprint of the training that was evaluated.
        direction, loss, seed: of the ranker.

    Raises:
        DataError: no such evaluation, one of other rankers, or one without this ranker.
    """
    manifest = read_outputs(evaluation, "evaluate")
    if manifest.inputs.get("rankers") != rankers:
        raise DataError(f"--evaluation {evaluation}: of other rankers than --rankers; evaluate them, or give --force")
    values = read_list_values(evaluation, direction)
    first = values[values["method"] == FIRST_STAGE].groupby("query_id")["value"].mean()
    own = values[(values["method"] == loss) & (values["seed"] == seed)].groupby("query_id")["value"].mean()
    if own.empty:
        raise DataError(f"--evaluation {evaluation}: no figures of {loss}, seed {seed}, {direction}")
    image_of = read_image_ids(embeddings)
    difference = (own - first).to_numpy()[:, None]
    clusters = [image_of.get(query, query) for query in own.index]
    return FirstStageGain(first.mean(), own.mean(), float(paired_tests(difference, clusters).p[0]))


def read_list_values(evaluation: Path, direction: Direction) -> pd.DataFrame:
    """The per-query values of all methods on candidate lists."""
    filters = [("direction", "==", direction), ("protocol", "==", "lists"), ("metric", "in", METRICS)]
    columns = ["method", "seed", "query_id", "value"]
    frame: pd.DataFrame = read_parquet(evaluation / "metrics.parquet", columns=columns, filters=filters).to_pandas()
    return frame.astype({"method": str, "query_id": str})


def read_image_ids(embeddings: Path) -> dict[str, str]:
    """Caption id → image id: captions of one image are one cluster."""
    table = read_parquet(embeddings / "text.parquet", columns=["caption_id", "image_id"])
    return dict(zip(table["caption_id"].to_pylist(), table["image_id"].to_pylist(), strict=True))


def is_not_below(tags: Mapping[str, str], holder: Mapping[str, str] | None) -> bool:
    """Whether a version is not below the one that holds the alias, by their means on the same validation lists.

    Args:
        tags, holder: tags of the two versions; the second is None where none has the alias.
    """
    # Means on different lists cannot be compared: models are named after their data set, so this one is newer.
    if holder is None or tags["lists"] != holder.get("lists"):
        return True
    return float(tags["validation_mean"]) >= float(holder["validation_mean"])
