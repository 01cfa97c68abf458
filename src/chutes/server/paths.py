"""The paths that the runtime answers itself: probes, metrics, and jobs.

Other code imports these names. The container files, the Compose file and the Prometheus configuration cannot; a test
compares them with this module.
"""

HEALTH = "/health"
READY = "/ready"
METRICS = "/metrics"
JOBS = "/jobs"

# The names of the hosted platform.
UPSTREAM_METRICS = "/_metrics"
PING = "/_ping"
CONN_STATS = "/_conn_stats"

PROBES = frozenset({HEALTH, READY})
"""Paths that say whether the process is alive and ready: open to everyone, never queued."""

METRICS_PATHS = frozenset({METRICS, UPSTREAM_METRICS})
MONITORING = PROBES | METRICS_PATHS | {PING, CONN_STATS}
"""Paths that machines poll. Their requests are logged at level `debug`."""
