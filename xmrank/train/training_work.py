"""What the driver of the training stage gives to its workers, and how they log trials to MLflow."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmrank import tracking
from xmrank.config import TrainConfig
from xmrank.metrics import mlflow_name
from xmrank.runtime.files import write_text
from xmrank.train.checkpoint import read_about
from xmrank.train.cost import TrialCost
from xmrank.train.schedule import Epoch
from xmrank.train.trial_log import TrialLog
from xmrank.train.trial_settings import Best, config_of
from xmrank.train.trials import Trial, TrialFailed


@dataclass(frozen=True)
class TrainingWork:
    """All that a worker needs to know.

    Attributes:
        best: settings of a direction and loss that go over the configuration's.
        embeddings: path of the store.
        lists: path of the candidate lists.
        output: path of the stage's directory.
        trials: all trials of the stage, done or not.
        about: further fields of every ranker's JSON.
        failures: folder that takes a file for each trial that failed.
        cache: folder for lists that are too large for memory.
        tracking_uri: of MLflow.
        runs: trial name → MLflow run id.
    """

    config: TrainConfig
    best: Best
    embeddings: Path
    lists: Path
    output: Path
    trials: list[Trial]
    about: dict[str, Any]
    failures: Path
    cache: Path
    tracking_uri: str
    runs: dict[str, str]

    def config_of(self, trial: Trial) -> TrainConfig:
        """A trial's configuration."""
        return config_of(trial, self.config, self.best)


@dataclass(frozen=True)
class RunLog(TrialLog):
    """Logs trials to their MLflow runs.

    Attributes:
        cost: adds up what the trials cost.
        by_step: whether steps, not epochs, are the x axis of the curves.
    """

    work: TrainingWork
    cost: TrialCost
    by_step: bool

    def log_validation(self, trial: Trial, epoch: Epoch, seconds: float) -> None:
        """Log metrics and costs."""
        metrics = epoch_metrics_for_mlflow(epoch) | self.cost.add_epoch(trial.name, epoch, seconds)
        # Several validations of one epoch would lie on top of each other.
        x = epoch["step"] if self.by_step else epoch["epoch"]
        tracking.log_metrics(self.work.tracking_uri, self.work.runs[trial.name], metrics, step=int(x))

    def finish_trial(self, trial: Trial) -> None:
        """Log the trial's files and end its run."""
        # The run ends here, not on the driver, so that a long stage shows which trials are done.
        run = self.work.runs[trial.name]
        tracking.log_artifacts(self.work.tracking_uri, run, *trial.output_files(self.work.output))
        # Such a ranker is the start that it was given, whatever its loss.
        if read_about(trial.directory(self.work.output))["best_epoch"] == 0:
            tracking.set_tags(self.work.tracking_uri, run, {"kept_start": "true"})
        tracking.end_run(self.work.tracking_uri, run)

    def fail_trial(self, trial: Trial, failure: TrialFailed) -> None:
        """Write the failure for the driver. Raised here, it would restart all workers, and come again."""
        write_text(self.work.failures / trial.name, str(failure))


def epoch_metrics_for_mlflow(epoch: Epoch) -> dict[str, float]:
    """The metrics of a validation under MLflow's names: ``train_hit@1`` is ``train/hit_at_1``."""
    metrics = {}
    for name, value in epoch.items():
        if name not in ("epoch", "step"):
            metrics[mlflow_name(name).replace("_", "/", 1)] = value
    return metrics
