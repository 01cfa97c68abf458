"""How many replicas: the chute's settings as Ray Serve's autoscaling, and the policy that counts who waits.

Ray Serve asks the policy several times a second, applies the delays and the bounds, and starts and drains replicas.
"""

import math
from typing import Any

from chutes.chute import Chute

_UP_AFTER = 1.0  # seconds; loading a model takes so much longer that waiting first would only add to it
_LOOK_BACK = 4.0  # seconds over which the load is averaged


class QueuePolicy:
    """One more replica for every `threshold` requests that wait; fewer once the rest can carry the load.

    The rest can when the requests in flight would keep it no busier than `utilization`: a load that needs two replicas
    stays at two, however short the queue.
    """

    def __init__(self, threshold: float, utilization: float, concurrency: int) -> None:
        self.threshold = threshold
        self.utilization = utilization
        self.concurrency = concurrency

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """How many there should be, from Ray Serve's `AutoscalingContext`."""
        running = context.current_num_replicas
        waiting = context.total_queued_requests or 0
        if waiting > self.threshold:
            return max(running + math.ceil(waiting / self.threshold) - 1, running + 1), {}
        carried = math.ceil(context.total_num_requests / (self.concurrency * self.utilization))
        return min(max(carried, 1), context.target_num_replicas), {}


def autoscaling(chute: Chute) -> dict[str, Any]:
    """Ray Serve's `autoscaling_config`."""
    concurrency = max(1, chute.concurrency)
    config: dict[str, Any] = {
        "min_replicas": chute.min_replicas,
        "max_replicas": max(1, chute.max_instances, chute.min_replicas),
        "initial_replicas": max(1, chute.min_replicas),
        # Above what a replica takes at once it would never scale.
        "target_ongoing_requests": concurrency * min(chute.scaling_threshold, 1.0),
        "upscale_delay_s": _UP_AFTER,
        "downscale_delay_s": float(chute.shutdown_after_seconds),
        "look_back_period_s": _LOOK_BACK,
        "metrics_interval_s": 1.0,  # how often the load is reported; see also `cluster.ENVIRONMENT`
    }
    if chute.scale_up_threshold is not None and chute.scale_up_threshold > 0:
        config["policy"] = {
            "policy_function": "chutes.deploy.scaling:QueuePolicy",
            "policy_kwargs": {
                "threshold": chute.scale_up_threshold,
                "utilization": min(chute.scaling_threshold, 1.0),
                "concurrency": concurrency,
            },
        }
    return config
