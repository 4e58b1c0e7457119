"""What the driver of the training stage gives to its workers, and how they log trials to MLflow."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmrank.config import TrainConfig
from xmrank.runtime.files import write_text
from xmrank.runtime.manifest import WORK
from xmrank.runtime.pieces import record_piece
from xmrank.tracking.run_tree import PlannedRun
from xmrank.tracking.system_metrics import sample_system
from xmrank.train.cost import TrialCost
from xmrank.train.run_journals import add_end, epoch_metrics_for_mlflow, step_for_mlflow
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
        detections: folder of the word detections that trials share.
        runs: trial name → its MLflow run.
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
    detections: Path
    runs: dict[str, PlannedRun]

    def config_of(self, trial: Trial) -> TrainConfig:
        """A trial's configuration."""
        return config_of(trial, self.config, self.best)


@dataclass(frozen=True)
class RunLog(TrialLog):
    """Logs trials to the journals of their MLflow runs.

    Attributes:
        cost: adds up what the trials cost.
        by_step: whether steps, not epochs, are the x axis of the curves.
    """

    work: TrainingWork
    cost: TrialCost
    by_step: bool

    def watch_machine(self, trial: Trial) -> AbstractContextManager[None]:
        """Add the load of this machine to the trial's journal."""
        run = self.work.runs[trial.name]
        return sample_system(lambda metrics, step: run.journal.add(run.id, metrics=metrics, step=step))

    def begin_runs(self, trials: Iterable[Trial]) -> None:
        """Begin the runs of trials whose training begins, or continue them."""
        for trial in trials:
            self.work.runs[trial.name].begin()

    def log_validation(self, trial: Trial, epoch: Epoch, seconds: float) -> None:
        """Add metrics and costs to the trial's journal."""
        metrics = epoch_metrics_for_mlflow(epoch) | self.cost.add_epoch(trial.name, epoch, seconds)
        step = step_for_mlflow(epoch, by_step=self.by_step)
        run = self.work.runs[trial.name]
        run.journal.add(run.id, metrics=metrics, step=step)

    def finish_trial(self, trial: Trial) -> None:
        """Record the trial's files, and add them and the end of its run to the journal."""
        record_piece(self.work.output / WORK, trial.name, trial.output_files(self.work.output))
        # The run ends here, not on the driver, so that a long stage shows which trials are done.
        add_end(trial, self.work.runs[trial.name].id, self.work.output)

    def fail_trial(self, trial: Trial, failure: TrialFailed) -> None:
        """Write the failure for the driver. Raised here, it would restart all workers, which would then fail again."""
        write_text(self.work.failures / trial.name, str(failure))
