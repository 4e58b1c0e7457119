"""The baselines' Ray part: one Ray Train run whose workers fit the baselines that are trained by steps."""

from pathlib import Path

import torch

from xmrank.baselines.fitting import FittingJob, fit_all
from xmrank.runtime.errors import DataError
from xmrank.runtime.launcher import Worker, launch_workers
from xmrank.runtime.storage import remove_tree


def fit_on_cluster(job: FittingJob, scratch: Path) -> None:
    """Fit what is not fitted: what is trained by steps on the cluster, the rest in this process.

    Args:
        job: what to fit.
        scratch: folder for Ray Train's own files.

    Raises:
        DataError: a fit failed; the others are done.
    """
    remove_tree(job.failures)
    trained = job.list_trained()
    # One run for all of them, because its start costs more than many a fit.
    if any(fit in trained for fit in job.list_pending()):
        launch_workers(
            fit_own_part,
            job,
            name="baselines",
            scratch=scratch,
            workers=job.config.workers,
            tasks=len(trained),
            timeout=job.config.worker_timeout,
        )
    fit_all([fit for fit in job.list_pending() if fit not in trained], job, torch.device("cpu"))
    for failure in sorted(job.failures.glob("*")):
        raise DataError(failure.read_text())


def fit_own_part(job: FittingJob, worker: Worker) -> None:
    """Fit one worker's part."""
    # Cut from all fits, done or not, so that a restarted worker takes up its own part again.
    own = job.list_trained()[worker.rank :: worker.world_size]
    pending = job.list_pending()
    fit_all([fit for fit in own if fit in pending], job, worker.device)
