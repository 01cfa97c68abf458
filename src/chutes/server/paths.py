"""The paths of the server's own routes: probes, metrics and jobs.

The container files, the Compose file and the Prometheus configuration repeat them, and a test compares them with this
module.
"""

HEALTH = "/health"
READY = "/ready"
METRICS = "/metrics"
JOBS = "/jobs"

# The paths that the hosted platform requests
PLATFORM_METRICS = "/_metrics"
PING = "/_ping"
CONN_STATS = "/_conn_stats"

PROBES = frozenset({HEALTH, READY})
"""Paths that report whether the process is alive and ready. They need no key and are never queued."""

UNQUEUED = PROBES | {METRICS}
"""Paths whose GET requests are never queued, even if the chute answers them, and not counted as traffic."""

METRICS_PATHS = frozenset({METRICS, PLATFORM_METRICS})
MONITORING = PROBES | METRICS_PATHS | {PING, CONN_STATS}
"""Paths that monitoring polls. Their requests are logged at level `debug`."""
