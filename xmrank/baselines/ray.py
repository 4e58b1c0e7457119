"""The baselines' Ray part: one Ray Train run whose workers take turns with the fits that learn by steps."""

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig, get_context
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from xmrank.baselines.fitting import FittingJob, fit_all
from xmrank.baselines.registry import BASELINES
from xmrank.runtime.cluster import connect, pool_size
from xmrank.runtime.errors import DataError

RESTARTS = 3


def fit_on_cluster(work: FittingJob, scratch: Path) -> None:
    """Fit what is not fitted: what learns by steps on the cluster, in one Ray Train run; the rest in this process.

    Raises:
        DataError: a fit failed; the others are done.
    """
    shutil.rmtree(work.failures, ignore_errors=True)
    learned = [fit for fit in work.fits if BASELINES[fit.baseline].learned]
    if any(fit in learned for fit in work.pending()):
        train(work, scratch, len(learned))
    fit_all([fit for fit in work.pending() if fit not in learned], work, torch.device("cpu"))
    for failure in sorted(work.failures.glob("*")):
        raise DataError(failure.read_text())


def train(work: FittingJob, scratch: Path, count: int) -> None:
    """One Ray Train run; its start costs more than many a fit."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")
    connect()
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    workers, _, _ = pool_size(work.config.workers)
    workers, cpus, gpus = pool_size(min(workers, count))
    TorchTrainer(
        fit_share,
        train_loop_config={"work": work},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus > 0, resources_per_worker={"CPU": cpus}),
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        run_config=RunConfig(
            name="baselines", storage_path=str(scratch), failure_config=FailureConfig(max_failures=RESTARTS)
        ),
    ).fit()


def fit_share(settings: dict[str, Any]) -> None:
    """One worker: fit its share, cut from all fits, done or not, so that a restarted worker takes up its own."""
    work: FittingJob = settings["work"]
    torch.set_num_threads(1)  # one process a core is faster than one with several threads
    context = get_context()
    learned = [fit for fit in work.fits if BASELINES[fit.baseline].learned]
    share = learned[context.get_world_rank() :: context.get_world_size()]
    fit_all([fit for fit in share if fit in work.pending()], work, get_device())
