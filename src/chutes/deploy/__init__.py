"""From one process to a cluster: a chute as a Ray Serve application, and what can be seen of it there.

Ray Serve places, scales, restarts and drains the replicas; what is here only translates.

    package      the author's files, on their way into the cluster
    placement    NodeSelector -> which nodes; nodes -> which GPUs
    scaling      Chute -> Ray Serve's autoscaling
    application  all of that -> the Ray Serve application
    replica      what runs inside of it: the same ASGI app as under `chutes run`
    log_files    where it logs
    proxy        host names, and errors in our shape, where requests come in
    probes       health and readiness, answered there beside the queue
    cluster      starting, finding and stopping one
    rollout      deploying, and going back if that fails
    deployed     what runs, by which names
    figures      how it does: what `status` and `metrics` show
    logs         the lines of all replicas, in order
    kuberay      the same as a manifest for Kubernetes

Nothing here is imported by `chutes run`; Ray is imported where it is used.
"""
