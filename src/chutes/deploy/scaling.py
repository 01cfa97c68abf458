"""Autoscaling: a chute's scaling options as Ray Serve's configuration, and a policy that scales with the queue.

Ray Serve calls the policy several times a second, applies the delays and bounds, and starts and drains replicas.
"""

import math
from typing import Any

from chutes.chute import Chute

_UPSCALE_DELAY = 1.0  # seconds; a longer delay would add to the time that a model takes to load
_LOOK_BACK_PERIOD = 4.0  # seconds over which the load is averaged


class QueuePolicy:
    """A policy that adds a replica for every `threshold` queued requests, and removes replicas that are not needed.

    A load that needs two replicas keeps two, even if the queue is empty.

    Args:
        threshold: The number of queued requests per additional replica.
        utilization: The maximum utilization, from 0 to 1, of the replicas that remain when one is removed.
        concurrency: The number of requests that a replica runs at once.
    """

    def __init__(self, threshold: float, utilization: float, concurrency: int) -> None:
        self.threshold = threshold
        self.utilization = utilization
        self.concurrency = concurrency

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Return the target number of replicas for a context, Ray Serve's `AutoscalingContext`."""
        replicas = context.current_num_replicas
        queued = context.total_queued_requests or 0
        if queued > self.threshold:
            return max(replicas + math.ceil(queued / self.threshold) - 1, replicas + 1), {}
        needed = math.ceil(context.total_num_requests / (self.concurrency * self.utilization))
        return min(max(needed, 1), context.target_num_replicas), {}


def autoscaling(chute: Chute) -> dict[str, Any]:
    """Return Ray Serve's `autoscaling_config` for a chute."""
    config: dict[str, Any] = {
        "min_replicas": chute.min_replicas,
        "max_replicas": max(chute.max_instances, chute.min_replicas),
        "initial_replicas": max(1, chute.min_replicas),
        "target_ongoing_requests": chute.concurrency * chute.scaling_threshold,
        "upscale_delay_s": _UPSCALE_DELAY,
        "downscale_delay_s": float(chute.shutdown_after_seconds),
        "look_back_period_s": _LOOK_BACK_PERIOD,
        "metrics_interval_s": 1.0,  # the same interval as in `cluster.ENVIRONMENT`
    }
    if chute.scale_up_threshold is not None:
        config["policy"] = {
            "policy_function": "chutes.deploy.scaling:QueuePolicy",
            "policy_kwargs": {
                "threshold": chute.scale_up_threshold,
                "utilization": chute.scaling_threshold,
                "concurrency": chute.concurrency,
            },
        }
    return config
