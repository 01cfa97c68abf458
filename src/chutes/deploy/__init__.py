"""Deployment of chutes on a cluster, as Ray Serve applications.

Ray Serve places, scales, restarts and drains the replicas. The modules here translate between a chute and Ray Serve:

    package       the author's files that replicas need
    placement     the nodes that a NodeSelector accepts
    scaling       Ray Serve's autoscaling, from a chute's options
    application   the Spec of a version, and its Ray Serve application
    replica       the process of a replica, with the same ASGI app as under `chutes run`
    log_files     the log file of a replica
    proxy         middleware around Ray Serve's HTTP proxy
    access_rules  API keys, CORS and origins of each chute, for the proxy
    probes        health and readiness, which the proxy answers
    traffic       counts of requests in the proxy
    cluster       start, find, connect to and stop a Ray cluster
    rollout       deploy a version, and restore the previous one if it fails
    registry      the deployed chutes and their names
    stats         the output of `chutes chutes status` and `metrics`
    logs          the log lines of all replicas
    kuberay       the same deployment as a Kubernetes manifest

`chutes run` imports nothing from here. Ray is an optional dependency, so functions import it when they need it.
"""
