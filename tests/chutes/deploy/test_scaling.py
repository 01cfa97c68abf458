from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chutes.chute import Chute
from chutes.deploy.scaling import QueuePolicy, autoscaling


def target_replicas(
    policy: QueuePolicy, *, running: int, queued: int, in_flight: int, target: int | None = None
) -> int:
    count, _ = policy(
        SimpleNamespace(
            current_num_replicas=running,
            target_num_replicas=target or running,
            total_queued_requests=queued,
            total_num_requests=in_flight,
        )
    )
    return count


@pytest.mark.parametrize(
    ("running", "queued", "in_flight", "expected"),
    [
        (1, 10, 11, 1),  # not more than ten
        (1, 10.5, 11.5, 2),
        (1, 39, 40, 4),
        (2, 11, 13, 3),
        (3, 0, 3, 3),  # the load needs them all
        (3, 0, 1.6, 3),  # two would be busier than three quarters
        (3, 0, 1.5, 2),
        (3, 0, 0, 1),
        (2, 5, 7, 2),
    ],
)
def test_one_replica_more_for_every_ten_queued_requests(
    running: int, queued: int, in_flight: int, expected: int
) -> None:
    policy = QueuePolicy(threshold=10, utilization=0.75, concurrency=1)
    assert target_replicas(policy, running=running, queued=queued, in_flight=in_flight) == expected


def test_starting_replicas_are_not_added_again() -> None:
    policy = QueuePolicy(threshold=10, utilization=0.75, concurrency=1)
    assert target_replicas(policy, running=1, target=2, queued=15, in_flight=16) == 2


@given(load=st.floats(0.1, 40), running=st.integers(1, 8), concurrency=st.integers(1, 8))
def test_a_steady_load_keeps_its_replicas(load: float, running: int, concurrency: int) -> None:
    """Without a queue, the number of replicas that the policy returns does not change at its next call."""
    policy = QueuePolicy(threshold=10, utilization=0.75, concurrency=concurrency)
    first = target_replicas(policy, running=running, queued=0, in_flight=min(load, running * concurrency))
    assert target_replicas(policy, running=first, queued=0, in_flight=min(load, first * concurrency)) == first


def chute(**settings: Any) -> Chute:
    return Chute(username="test", name="scaled", image="none", **settings)


def test_a_queue_threshold() -> None:
    config = autoscaling(chute(concurrency=2, max_replicas=5, scale_up_threshold=10, scale_down_delay=300))
    assert (config["min_replicas"], config["max_replicas"], config["downscale_delay_s"]) == (1, 5, 300)
    assert config["policy"]["policy_function"] == "chutes.deploy.scaling:QueuePolicy"
    assert config["policy"]["policy_kwargs"] == {"threshold": 10, "utilization": 0.75, "concurrency": 2}


def test_a_utilization_threshold() -> None:
    config = autoscaling(chute(concurrency=4, max_instances=3, scaling_threshold=0.5, shutdown_after_seconds=60))
    assert "policy" not in config
    assert (config["target_ongoing_requests"], config["max_replicas"], config["downscale_delay_s"]) == (2, 3, 60)


def test_the_minimum_is_one_replica_by_default() -> None:
    assert autoscaling(chute())["min_replicas"] == 1
    assert autoscaling(chute(min_replicas=0))["min_replicas"] == 0
