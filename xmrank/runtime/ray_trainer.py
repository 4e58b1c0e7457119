"""Ray Train's trainer without the processes that a training here has no use for."""

import os
from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.scaling_policy.fixed import FixedScalingPolicy

from xmrank.runtime.paths import is_given_cluster

PREEMPTION_WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"


class FixedWorkers(FixedScalingPolicy):  # type: ignore[misc]
    """A number of workers that no autoscaler is requested to provide: a cluster of our own has none."""

    def after_controller_start(self, train_run_context: TrainRunContext) -> None:
        """Start no process for requests."""

    def _maybe_send_resource_request(self) -> None:
        """Send none."""


class LeanTrainer(TorchTrainer):  # type: ignore[misc]
    """A trainer that starts fewer processes, and that SIGINT stops as it stops any Python code.

    Each process that Ray Train adds takes about two seconds of a core to start, before the first step. Dropped are the
    one that hands out Ray Data's sets, since none is given; and on a cluster of our own, which ends with this process,
    those that request workers from an autoscaler, watch for preempted nodes, and free resources after a driver's death.
    """

    def _create_default_callbacks(self) -> list[Any]:
        """Ray's, without those that are of no use."""
        dropped = (DatasetsCallback,) if is_given_cluster() else (DatasetsCallback, PlacementGroupCleanerCallback)
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, dropped)]

    def _initialize_and_run_controller(self, **settings: Any) -> Any:
        """Run it; on a cluster of our own with a policy without an autoscaler."""
        if not is_given_cluster():
            os.environ.setdefault(PREEMPTION_WATCHER, "0")
            settings["scaling_policy"] = FixedWorkers(self.scaling_config)
        return super()._initialize_and_run_controller(**settings)

    def _register_sigint_handler(self, controller: Any) -> None:
        """Leave the handler as it is: Ray's ends the process with status 0 or 1."""
