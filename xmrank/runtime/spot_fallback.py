"""Which kind of node Ray's autoscaler starts next: spot first, on demand while spot capacity is refused.

The head of `cluster.yaml` names `score_node_type` in ``RAY_AUTOSCALER_UTILIZATION_SCORER``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer

SPOT_SUFFIX = "_spot"
"""Ends the names of node types that are spot instances."""


def score_node_type(
    node_resources: Mapping[str, float],
    resources: Sequence[Mapping[str, float]],
    node_type: str,
    *,
    node_availability_summary: Any,
) -> tuple[float, ...] | None:
    """The score of a node type for what is waiting; Ray starts the one with the highest.

    Ray's own scorer takes no notice of refused launches, and would try the same type for ever.

    Args:
        node_resources: what a node of this type has.
        resources: what waiting tasks, actors and placement groups need.
        node_type: its name in `cluster.yaml`.
        node_availability_summary: the launches of the last half hour, by node type (Ray's ``NodeAvailabilitySummary``).

    Returns:
        In this order: no GPU is wasted, the last launch was not refused, Ray's scores of how well it fits, it is a
        spot type. None: nothing that is waiting fits on such a node.
    """
    score = _default_utilization_scorer(
        node_resources, resources, node_type, node_availability_summary=node_availability_summary
    )
    if score is None:
        return None
    saves_gpus, *fit = score
    last_launch = node_availability_summary.node_availabilities.get(node_type)
    available = last_launch is None or last_launch.is_available
    return saves_gpus, available, *fit, node_type.endswith(SPOT_SUFFIX)
