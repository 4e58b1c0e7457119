"""The training stage: what is done stays, the rest is trained."""

from collections.abc import Callable

from xmrank.config import TrainConfig
from xmrank.embed.store import EmbeddingStore
from xmrank.mine.list_paths import STAGE as MINE
from xmrank.runtime.directory import StageDirectory
from xmrank.runtime.manifest import Manifest
from xmrank.runtime.paths import resolve
from xmrank.runtime.verification import read_outputs
from xmrank.tracking.delivery import deliver_while_open
from xmrank.train.trial_settings import read_best, semantic_with
from xmrank.train.trials import all_trials
from xmrank.train.weak_rankers import FIRST_STAGE, describe_weak_rankers

STAGE = "train"


def train(config: TrainConfig, parent: Callable[[], str] | None = None) -> Manifest:
    """Train a ranker for every loss, direction and seed; trials that an earlier run finished are kept.

    Args:
        config: what to train.
        parent: begins the MLflow run of the experiment that this belongs to and returns its id; called only when
            there is something to train. Without it, the stage has a parent run of its own.

    Raises:
        ConfigError: an unknown loss, direction, ranker or feature.
        DataError: inputs that are not finished, lists that were mined from another store, or a trial that failed: the
            other trials are trained then.
    """
    store, lists = EmbeddingStore.open(resolve(config.embeddings)), read_outputs(resolve(config.lists), MINE)
    best, output = read_best(config), resolve(config.output)
    inputs = {"embeddings": store.fingerprint, "lists": lists.fingerprint}
    manifest = StageDirectory.find_finished(
        output, STAGE, config=semantic_with(config, best), inputs=inputs, overwrite=config.overwrite
    )
    if manifest is None:
        # torch, Ray and MLflow take seconds to import.
        from xmrank.train.training import train_all

        manifest = train_all(config, best, store, lists, parent)
    else:
        # A finished stage is left as it is: nothing is logged but what an earlier run could not deliver.
        with deliver_while_open(output):
            pass
    print(f"train: {manifest.counts['rankers']} rankers in {output}")
    if weak := describe_weak_rankers(all_trials(config), output, manifest.settings.get(FIRST_STAGE, {})):
        print(weak)
    return manifest
