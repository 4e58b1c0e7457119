"""The ranking stage's Ray part: batches of queries through a pool of actors."""

from collections.abc import Iterator
from dataclasses import asdict
from functools import cached_property
from typing import Any

import ray
import torch

from xmrank.embed.ray import quiet_console
from xmrank.rank.batches import QueryBatch, QueryRanker, RankingJob
from xmrank.runtime.cluster import connect, pool_size
from xmrank.runtime.errors import DataError, XmrankError


class RankerActor:
    """An actor of the pool: loads encoder, index and ranker once, then ranks one batch a call."""

    def __init__(self, work: RankingJob) -> None:
        torch.set_num_threads(1)  # as in evaluation: the same scores wherever it runs
        self.work = work

    @cached_property
    def ranker(self) -> QueryRanker:
        """All that is loaded; at the first call, where failures can come back as values."""
        return QueryRanker(self.work)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Rank the batch in a row; returns how many queries it had, how many were broken, and what failed."""
        batch = QueryBatch(int(row["start"]), *(list(map(str, row[name])) for name in ("ids", "shown", "items")))
        try:
            broken = self.ranker.rank(batch)
        except XmrankError as error:
            return {"queries": 0, "broken": 0, "failure": str(error)}
        except OSError as error:
            place = error.filename or self.work.folder
            return {"queries": 0, "broken": 0, "failure": f"{place}: {error.strerror or error}"}
        return {"queries": len(batch.ids), "broken": broken, "failure": ""}


def rank_batches(batches: list[QueryBatch], work: RankingJob, workers: int) -> Iterator[dict[str, Any]]:
    """Rank batches on the cluster; yields the queries and broken queries of each as it is finished, in any order.

    Raises:
        DataError: what failed on a worker and can be mended.
    """
    connect()
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    quiet_console()
    workers, cpus, gpus = pool_size(workers)
    rows = ray.data.from_items([asdict(batch) for batch in batches], override_num_blocks=len(batches))
    done = rows.map(
        RankerActor,
        fn_constructor_args=(work,),
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(batches))),
        num_cpus=cpus,
        num_gpus=gpus,
    )
    for result in done.iter_rows():
        if result["failure"]:
            raise DataError(result["failure"])
        yield result
