"""How many worker processes the cluster has room for, now and after it has lost nodes."""

import sys
import time

import ray
from ray.util import placement_group, remove_placement_group

from xmrank.runtime.cluster import count_bundles, describe_resources, pool_size
from xmrank.runtime.errors import XmrankError
from xmrank.runtime.progress import show_activity

PROMPT_S = 10.0
"""How long resources that nobody uses may take to be found, such as those of workers that have just died."""
TRY_S = 2.0
"""The same, once the cluster was waited for."""


class WorkerRoom:
    """Counts the workers of a stage anew before each start.

    What a worker holds of the cluster is fixed by the first count. A number of the user's is waited for; without one,
    the number is what the cluster has room for.

    Attributes:
        count: the number of workers.
        resources: what each of them holds.
    """

    def __init__(self, name: str, requested: int, tasks: int | None, group_size: int, timeout: float) -> None:
        """Count the workers on the cluster as it is.

        Args:
            name: of the stage, for messages.
            requested: the user's number, 0: one a GPU, or one a core without GPUs.
            tasks: pieces of work; no more workers than have one. None: no such limit.
            group_size: workers that work on one task together.
            timeout: seconds to wait, in all, for workers.
        """
        self.name, self.requested, self.tasks, self.group_size = name, requested, tasks, group_size
        self.patience = timeout
        available, _, _ = pool_size(requested)
        self.count, cpus, gpus = pool_size(count_workers(available, tasks, group_size))
        self.nodes: set[str] = set()
        self.resources: dict[str, float] = {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}

    def find_count(self) -> int:
        """The number of workers to start: all that are wanted, or after the timeout those that there is room for.

        Raises:
            XmrankError: not even one group of workers finds room.
        """
        self.nodes |= list_nodes()
        self._recount()
        if self._fits(self.count, PROMPT_S):
            return self.count
        wanted = self.count
        show_activity(f"room for {describe_workers(wanted)}", 0)
        self._say(f"waiting up to {self.patience:.0f} s for {describe_workers(wanted)}, the cluster has ")
        if not self._wait():
            self._shrink()
        less = "" if self.count == wanted else f" instead of {wanted}"
        self._say(f"going on with {describe_workers(self.count)}{less}, the cluster has ")
        return self.count

    def count_lost_nodes(self) -> int:
        """How many nodes are gone of those that there were at the starts of workers."""
        return len(self.nodes - list_nodes())

    def _recount(self) -> None:
        """Count anew what is wanted, where the user has given no number."""
        if self.requested:
            return
        available, _, _ = pool_size(0)
        self.count = count_workers(min(available, self._count_room()), self.tasks, self.group_size)

    def _count_room(self) -> int:
        """The number of workers that the nodes could hold if nothing else used them."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return sum(count_bundles(node, self.resources) for node in nodes)

    def _fits(self, count: int, seconds: float) -> bool:
        """Whether so many workers find room within a time; an autoscaler learns from this what is missing."""
        group = placement_group([self.resources] * count)
        try:
            return bool(group.wait(seconds))
        finally:
            remove_placement_group(group)

    def _wait(self) -> bool:
        """Wait for room as long as there is patience; returns whether it was found."""
        while self.patience > 0:
            start = time.monotonic()
            # Counted in between: it takes a cluster half a minute to notice that a node is gone.
            self._recount()
            found = self._fits(self.count, min(PROMPT_S, self.patience))
            self.patience -= time.monotonic() - start
            if found:
                return True
        return False

    def _shrink(self) -> None:
        """Find fewer workers that there is room for.

        Raises:
            XmrankError: not even one group of workers finds room.
        """
        largest = min(self.count, self._count_room()) // self.group_size * self.group_size
        for count in range(largest, 0, -self.group_size):
            if self._fits(count, TRY_S):
                self.count = count
                return
        # The last group may share the cores that are left. GPUs are not shared.
        self.count, cpus, _ = pool_size(self.group_size)
        self.resources["CPU"] = min(cpus, self.resources["CPU"])
        if not self._fits(self.count, TRY_S):
            raise XmrankError(
                f"no room for {describe_workers(self.count)} (--worker-timeout): the cluster has "
                f"{describe_resources()}; the same command continues"
            )

    def _say(self, text: str) -> None:
        """Print a line that ends with what the cluster has."""
        print(f"{self.name}: {text}{describe_resources()}", file=sys.stderr, flush=True)


def list_nodes() -> set[str]:
    """Ray's names of the nodes that are alive."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def count_workers(available: int, tasks: int | None, group_size: int) -> int:
    """As many workers as are available and have a task, in whole groups, and at least one group."""
    useful = available if tasks is None else min(available, tasks * group_size)
    return max(group_size, useful // group_size * group_size)


def describe_workers(count: int) -> str:
    """So many workers, in words."""
    return f"{count} worker{'' if count == 1 else 's'}"
