"""The processes that train one ranker together: one alone, or several under DDP."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

LONG_WAIT = timedelta(days=7)
"""How long a process waits for the others; one that dies ends the wait at once."""


@dataclass(frozen=True)
class WorkerGroup:
    """The processes that train one ranker, as one of them sees it.

    Attributes:
        rank: number of this process in the group, from 0.
        size: number of processes.
        handle: torch's process group; None for one process alone.
    """

    rank: int = 0
    size: int = 1
    handle: dist.ProcessGroup | None = None

    @property
    def leads(self) -> bool:
        """Whether this process writes and logs."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with its gradients averaged over the group."""
        if self.size == 1:
            return model
        # No buffer changes in training, and those of a refinement are large: they need not be sent in every step.
        return DistributedDataParallel(model, process_group=self.handle, broadcast_buffers=False)

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over the group, without a gradient."""
        total = value.detach().clone()
        if self.size > 1:
            dist.all_reduce(total, group=self.handle)
        return total

    def broadcast(self, value: Any) -> Any:
        """The leading process's value, on every process; it is pickled, so tensors of a GPU are better moved first."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, group=self.handle, group_src=0)
        return values[0]

    def gather(self, values: list[Tensor]) -> list[list[Tensor]]:
        """Every process's tensors, by rank."""
        if self.size == 1:
            return [values]
        # As objects: the processes may have different numbers of lists.
        results: list[list[Tensor]] = [[] for _ in range(self.size)]
        dist.all_gather_object(results, values, group=self.handle)
        return results


def split_into_groups(rank: int, world: int, size: int) -> tuple[int, int, WorkerGroup]:
    """Divide all processes into groups of ``size``; every process must call it.

    Returns:
        the number of this process's group, how many groups there are, and the group.
    """
    count = world // size
    handles: list[Any] = []
    # Every process must take part in making every group, in the same order.
    if size > 1:
        handles = [dist.new_group(list(range(i * size, (i + 1) * size))) for i in range(count)]
    own = rank // size
    return own, count, WorkerGroup(rank % size, size, handles[own] if handles else None)


def wait_for_all(world: int) -> None:
    """Return when every process has come here; every process must call it.

    Args:
        world: the number of processes.
    """
    if world > 1:
        # On CPUs and with a long limit, whatever the processes compute with: they may come hours apart.
        everyone: Any = dist.new_group(backend="gloo", timeout=LONG_WAIT)
        dist.barrier(everyone)


def broadcast_state(saved: tuple[Any, ...] | None, ranker: nn.Module, group: WorkerGroup) -> tuple[Any, ...] | None:
    """The state that the leading process has read, on every process; its weights are put into the ranker."""
    if group.size == 1:
        return saved
    device = next(ranker.parameters()).device
    if saved is not None:
        best, moments, meta = saved
        saved = *(move_tensors(named, "cpu") for named in (ranker.state_dict(), best, moments)), meta
    saved = group.broadcast(saved)
    if saved is None:
        return None
    weights, best, moments, meta = saved
    ranker.load_state_dict(weights)
    return move_tensors(best, device), move_tensors(moments, device), meta


def move_tensors(tensors: dict[str, Tensor], device: torch.device | str) -> dict[str, Tensor]:
    """Named tensors on a device."""
    return {name: tensor.to(device) for name, tensor in tensors.items()}
