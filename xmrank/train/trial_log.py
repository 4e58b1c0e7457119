"""What a training tells while it runs: every validation of a trial, and how the trial ended."""

from contextlib import AbstractContextManager, nullcontext

from xmrank.train.schedule import Epoch
from xmrank.train.trials import Trial, TrialFailed


class TrialLog:
    """Listens to a training; this one keeps nothing, and a failure ends the training.

    Of the processes that train a trial together, only the leading one calls it.
    """

    def watch_machine(self, trial: Trial) -> AbstractContextManager[None]:  # noqa: ARG002
        """Called with the first trial of a stack, for the time of its training."""
        return nullcontext()

    def log_validation(self, trial: Trial, epoch: Epoch, seconds: float) -> None:
        """Called after each validation, when the trial's state is saved.

        Args:
            trial: the trial.
            epoch: its new validation.
            seconds: time that an epoch takes now; in a stack, divided by its trials.
        """

    def finish_trial(self, trial: Trial) -> None:
        """Called when the trial's ranker and history are written."""

    def fail_trial(self, trial: Trial, failure: TrialFailed) -> None:  # noqa: ARG002
        """Called when the trial cannot go on; the others do, unless this raises."""
        raise failure
