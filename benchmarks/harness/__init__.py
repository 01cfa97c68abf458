"""Servers, clusters and nginx for benchmarks and tests: each is started, queried and stopped as a real process."""
