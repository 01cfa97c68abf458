"""Prometheus metrics of cord and job calls, with the names that the hosted platform uses."""

from prometheus_client import Counter, Gauge, Histogram

DURATION_BUCKETS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600, 1800)
"""Histogram buckets in seconds, from a cached response to a video. prometheus_client's defaults end at ten."""

_CALL = ["chute_id", "function", "status"]

total_requests = Counter("invocation", "Calls of cords and jobs by outcome", _CALL)
request_duration = Histogram("invocation_duration", "Duration of a call in seconds", _CALL, buckets=DURATION_BUCKETS)
last_request_timestamp = Gauge(
    "invocation_last_timestamp", "Unix time at which the latest call ended", ["chute_id", "function"]
)
