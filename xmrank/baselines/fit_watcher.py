"""Shows the progress of fits that run in other processes, or in this one."""

import contextlib
from collections.abc import Iterator

from xmrank.baselines.baseline_registry import BaselineFit
from xmrank.baselines.fitting import FittingJob
from xmrank.runtime.progress import Progress
from xmrank.runtime.watching import look_repeatedly
from xmrank.train.schedule import describe_validation

SHOWN = 2
"""Fits whose figures are in a line."""


@contextlib.contextmanager
def watch_fits(job: FittingJob) -> Iterator[None]:
    """Show the fits that are done while the block runs, and the last epochs of those that are trained by steps."""
    left = job.list_pending()
    with Progress("baselines (fits)", len(job.fits), len(job.fits) - len(left)) as progress:

        def look() -> None:
            nonlocal left
            now = job.list_pending()
            done = [fit.name for fit in left if fit not in now]
            notes = [note for fit in now if (note := describe_fit(job, fit))] or done
            progress.advance(len(left) - len(now), note="; ".join(notes[-SHOWN:]))
            left = now

        with look_repeatedly(look, job.output):
            yield


def describe_fit(job: FittingJob, fit: BaselineFit) -> str:
    """A fit's name with its last epoch; empty where it has none, as all that are solved in one go."""
    run = job.runs[fit.name]
    records = run.journal.records_of(run.id)
    epochs = [{"epoch": record["step"], **record["metrics"]} for record in records if record.get("step")]
    return f"{fit.name} {describe_validation(epochs[-1])}" if epochs else ""
