"""The Ray part of the ranking stage: batches of queries go through a pool of actors."""

from collections.abc import Iterator
from dataclasses import asdict
from functools import cached_property
from typing import Any

import ray
import torch

from xmrank.rank.query_ranker import QueryRanker
from xmrank.rank.ranking_job import QueryBatch, RankingJob
from xmrank.runtime.cluster import connect, pool_size, silence_ray_data
from xmrank.runtime.device import name_device
from xmrank.runtime.errors import DataError, XmrankError
from xmrank.runtime.progress import show_activity


class RankerActor:
    """An actor of the pool: it loads encoder, index and ranker once, then ranks one batch in each call."""

    def __init__(self, job: RankingJob) -> None:
        torch.set_num_threads(1)  # as in evaluation, so that scores do not depend on the machine's cores
        self.job = job

    @cached_property
    def ranker(self) -> QueryRanker:
        """Loaded at the first call: a failure in a constructor would come back as Ray's own, without its message."""
        return QueryRanker(self.job)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Rank the batch in a row.

        Returns:
            queries: how many were in the batch; broken: how many could not be read; failure: a message, or "".
        """
        columns = [[str(value) for value in row[name]] for name in ("ids", "shown", "items")]
        batch = QueryBatch(int(row["start"]), *columns)
        # A failure that the user can mend travels as a value, without Ray's traceback around it.
        try:
            broken = self.ranker.rank_batch(batch)
        except XmrankError as error:
            return {"queries": 0, "broken": 0, "failure": str(error)}
        except OSError as error:
            path = error.filename or self.job.folder
            return {"queries": 0, "broken": 0, "failure": f"{path}: {error.strerror or error}"}
        return {"queries": len(batch.ids), "broken": broken, "failure": ""}


def rank_batches(batches: list[QueryBatch], job: RankingJob, workers: int) -> Iterator[dict[str, Any]]:
    """Rank batches on the cluster; yields what ``RankerActor`` returns for each, in any order.

    Args:
        workers: ranking processes; 0: one a GPU, or one a core.

    Raises:
        DataError: a failure on a worker that the user can mend.
    """
    connect()
    silence_ray_data()
    workers, cpus, gpus = pool_size(workers)
    # One block for each batch: a batch is the unit that is kept when a run is interrupted.
    rows = ray.data.from_items([asdict(batch) for batch in batches], override_num_blocks=len(batches))
    done = rows.map(
        RankerActor,
        fn_constructor_args=(job,),
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(batches))),
        num_cpus=cpus,
        num_gpus=gpus,
    )
    show_activity("ranked batches", min(workers, len(batches)), name_device(gpus))
    for result in done.iter_rows():
        if result["failure"]:
            raise DataError(result["failure"])
        yield result
