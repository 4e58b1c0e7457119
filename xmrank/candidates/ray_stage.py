"""The mining stage's Ray part: chunks as tasks, results in the order of the chunks."""

from collections.abc import Iterator

import ray

from xmrank.candidates.chunks import Task, mine_chunk
from xmrank.candidates.lists import Lists
from xmrank.cluster import connect, pool_size


def run_on_cluster(tasks: list[Task], workers: int) -> Iterator[Lists]:
    """Run the tasks with at most ``workers`` at a time (0: one a core); yields their lists in order."""
    connect()
    workers, cpus, _ = pool_size(workers)
    remote = ray.remote(num_cpus=cpus)(mine_chunk)
    pending: list[ray.ObjectRef] = []
    for task in tasks:
        pending.append(remote.remote(task))
        # Twice the workers keeps all busy while results are taken in order, and bounds what waits in memory.
        if len(pending) >= 2 * workers:
            yield ray.get(pending.pop(0))
    while pending:
        yield ray.get(pending.pop(0))
