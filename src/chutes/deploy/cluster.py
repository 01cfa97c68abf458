"""A Ray cluster: start a node, find a cluster, connect to it, and stop a cluster that `chutes deploy` started.

A node is a `ray start` process under `chutes node start`, which stays in the foreground so that systemd or another
supervisor can manage it. On SIGTERM it stops every process of the node. The cluster that `chutes deploy` starts is such
a node in the background, with its HTTP port on the loopback address. A label of the node holds its process id.
"""

import contextlib
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from chutes._gpus import Gpu
from chutes.deploy import placement
from chutes.deploy.package import user_folder
from chutes.exception import NoCluster
from chutes.server import Settings
from chutes.server.hosts import is_loopback

# Labels of the head node
LOCAL_LABEL = "chutes-local"
"""The id of the process to stop when the last chute is deleted."""

HTTP_HOST_LABEL, HTTP_PORT_LABEL = "chutes-host", "chutes-port"
"""The address that Ray Serve's HTTP proxy listens on."""

ENVIRONMENT = {
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "chutes.deploy.proxy:middleware",
    # Seconds between reports of the load. The default of ten seconds would delay autoscaling.
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
    # A killed proxy is replaced within seconds. The defaults take half a minute.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "5",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""The environment variables of every node. A cluster that another tool starts must set them too."""

HEAD_ENVIRONMENT = {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "2"}
"""The environment of the head node. By default, Ray lets a stopping node wait 30 seconds for its replicas to move to
another node, which is impossible without the head node."""

LOOPBACK_ENVIRONMENT = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""The environment of a local cluster and its clients. With it, Ray listens on 127.0.0.1 only."""

STATS_PATH = "/-/chutes"
"""The path at which a node's proxy returns its request statistics."""

PROXY_HEALTH_PATH = "/-/healthz"
"""The path of Ray Serve's own health check of a proxy."""

PROXY_HEADERS = {"Host": "localhost"}
"""Headers for requests to the proxy's own routes, which it serves only under this host name."""

_OBJECT_STORE = 200_000_000  # bytes; request and response bodies pass through it
_CONNECT_TIMEOUT = 3.0  # seconds
_START_TIMEOUT = 90.0
_STOP_TIMEOUT = 30.0
_PROXY_TIMEOUT = 10.0  # long enough for the restart of a killed proxy


def node_command(
    *,
    address: str | None = None,
    cluster_port: int = 6379,
    node_ip: str | None = None,
    gpus: Sequence[Gpu],
    labels: dict[str, str],
) -> list[str]:
    """Return the command that runs a node in the foreground. Without an address to join, the node is a head node.

    The node runs no dashboard, no monitor of Ray's own autoscaler for machines, and no monitor that sends the output
    of workers to clients, because `chutes` uses none of them.
    """
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
    command += ["--disable-usage-stats", "--include-log-monitor=false"]
    if address is None:
        command += ["--head", f"--port={cluster_port}", "--include-dashboard=false", "--no-monitor"]
    else:
        command += [f"--address={address}"]
    if node_ip is not None:
        command += [f"--node-ip-address={node_ip}"]
    if gpus:
        labels = {**labels, placement.LABEL: placement.label(gpus)}
    command += [f"--num-gpus={len(gpus)}", f"--object-store-memory={_OBJECT_STORE}"]
    if labels:
        command.append("--labels=" + ",".join(f"{name}={value}" for name, value in labels.items()))
    return command


def enable_token_auth(*, create: bool = False) -> None:
    """Enable Ray's token authentication, with the token in ~/.ray/auth_token.

    `create` writes a new token if there is none. Token settings in the environment take precedence.
    """
    if any(os.environ.get(name) for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")):
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        return
    path = Path.home() / ".ray" / "auth_token"
    if create and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
    if path.exists():
        os.environ["RAY_AUTH_MODE"] = "token"


def explicit_address(address: str | None = None) -> str | None:
    """Return the address from the option or from RAY_ADDRESS, or None."""
    return address or os.environ.get("RAY_ADDRESS")


def find(address: str | None = None) -> str | None:
    """Return the address of a running cluster, or None.

    Without an explicit address, check the cluster that was last started on this machine.
    """
    candidate = explicit_address(address)
    if candidate is None:
        candidate = _recorded_address()
    if not candidate:
        return None
    host, _, port = candidate.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT).close()
    except (OSError, ValueError, OverflowError):
        return None
    return candidate if _speaks_grpc(candidate) else None


def _speaks_grpc(address: str) -> bool:
    """Return whether a gRPC server answers. With another kind of server, Ray's own client would retry for minutes."""
    import grpc  # type: ignore[import-untyped]

    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=_CONNECT_TIMEOUT)
        except grpc.FutureTimeoutError:
            return False
    return True


def check_access(address: str) -> None:
    """Raise NoCluster if the cluster at an address does not answer or rejects our token."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.exceptions import AuthenticationError, RayError

    try:
        GcsClient(address=address)
    except AuthenticationError:
        raise NoCluster(
            f"The cluster at {address} rejects this machine. Copy ~/.ray/auth_token from its head node, or set "
            "RAY_AUTH_TOKEN to the contents of that file."
        ) from None
    except RayError as error:
        raise _no_answer(address) from error


def _no_answer(address: str) -> NoCluster:
    return NoCluster(
        f"No cluster answers at {address}. Set --address or RAY_ADDRESS to the HOST:PORT of a running head node."
    )


def _address_file() -> Path:
    """Return the file in which Ray records the address of the cluster that was last started on this machine."""
    return Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"  # noqa: S108 - Ray's choice


def _recorded_address() -> str:
    try:
        return _address_file().read_text().strip()
    except OSError:
        return ""


def _is_on_loopback(address: str) -> bool:
    """Return whether a cluster is limited to this machine: Ray records a loopback address for it."""
    return address == _recorded_address() and is_loopback(address.rpartition(":")[0].strip("[]"))


def start_local() -> str:
    """Start a cluster on this machine that outlives this process, and return its address.

    Raise NoCluster, with the last line of its output, if it does not start.
    """
    enable_token_auth(create=True)
    folder = user_folder()
    output = folder / "cluster.log"
    command = [sys.executable, "-m", "chutes", "node", "start", "--head", "--local"]
    with output.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603 - no input from outside
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True, cwd=folder
        )
    deadline = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        if "Ray runtime started" in output.read_text("utf-8", "replace") and (address := find()):
            return address
        time.sleep(0.1)
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    lines = output.read_text("utf-8", "replace").splitlines()
    reason = lines[-1].removeprefix("Error: ").removesuffix(".") if lines else "it printed nothing"
    raise NoCluster(f"The cluster did not start: {reason}. Its output is in {output}.")


@contextlib.contextmanager
def connected(address: str | None = None, *, start: bool = False) -> Iterator[bool]:
    """Connect to a cluster inside a `with` block, and yield whether this call started the cluster.

    If no cluster is running and no address is given, `start` starts one on this machine. Raise NoCluster if there is
    no cluster to connect to.
    """
    found = find(address)
    started = False
    if found is None:
        if explicit := explicit_address(address):
            raise _no_answer(explicit)
        if not start:
            raise NoCluster
        found = start_local()
        started = True
    enable_token_auth()
    os.environ.update(ENVIRONMENT)  # Ray Serve's client reads some of these variables too
    if _is_on_loopback(found):
        os.environ.update(LOOPBACK_ENVIRONMENT)
    import ray
    import ray.serve

    check_access(found)
    warnings.filterwarnings("ignore", module=r"ray\..*")
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        ray.init(address=found, namespace="chutes", log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise NoCluster(f"Cannot connect to the cluster at {found}: {reason}.") from error
    try:
        yield started
    finally:
        from ray import serve

        serve.context._set_global_client(None)  # noqa: SLF001 - this client must not be used for another cluster
        ray.shutdown()


def _head_node() -> dict[str, Any]:
    import ray

    heads = (node for node in ray.nodes() if node["Alive"] and "node:__internal_head__" in node["Resources"])
    return next(heads, {})


def head_labels() -> dict[str, str]:
    """Return the labels of the head node."""
    return dict(_head_node().get("Labels", {}))


def serve_http() -> tuple[str, int]:
    """Start Ray Serve if it is not running, and return the host and port that its HTTP proxy listens on."""
    from ray import serve

    labels = head_labels()
    settings = Settings()
    http_options: dict[str, Any] = {
        "host": labels.get(HTTP_HOST_LABEL, settings.host),
        "port": int(labels.get(HTTP_PORT_LABEL, settings.port)),
        "location": "HeadOnly",
        # Replicas enforce the time limits. The proxy's own limit only ends requests whose replica was lost.
        "request_timeout_s": settings.queue_timeout + settings.request_timeout,
    }
    try:
        serve.start(http_options=http_options)
    except RuntimeError as error:
        raise NoCluster(
            f"The cluster cannot listen on {http_options['host']}:{http_options['port']}. "
            "Check whether another process uses the port."
        ) from error
    options = serve.context._get_global_client().http_config  # noqa: SLF001 - there is no public API
    return str(options.host), int(options.port)


def check_proxy(http_address: tuple[str, int]) -> None:
    """Raise NoCluster if another server answers on the port of Ray Serve's proxy. Only the head node can check this."""
    import ray

    if _head_node().get("NodeID") != ray.get_runtime_context().get_node_id():
        return
    host, port = http_address
    deadline = time.monotonic() + _PROXY_TIMEOUT
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            answer = httpx.get(
                f"{loopback_url(http_address)}{STATS_PATH}",
                headers=PROXY_HEADERS,
                timeout=_CONNECT_TIMEOUT,
                trust_env=False,
            )
            if answer.is_success or "x-request-id" in answer.headers:  # it answers 404 to a client that is no node
                return
        time.sleep(0.2)
    raise NoCluster(
        f"The cluster's proxy does not answer on {host}:{port}. Check whether another process uses the port."
    )


def loopback_url(http_address: tuple[str, int]) -> str:
    """Return the URL of the proxy for clients on its own machine: with the loopback address for `0.0.0.0` and `::`."""
    host, port = http_address
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared only
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def url(slug: str, http_address: tuple[str, int]) -> str:
    """Return the URL of a chute: with this machine's host name for `0.0.0.0` and `::`."""
    host, port = http_address
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - compared only
        host = socket.gethostname()
    elif host == "127.0.0.1":
        host = "localhost"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/{slug}"


def stop_local(labels: dict[str, str]) -> bool:
    """Stop the cluster of this head node if `chutes deploy` started it, and return whether it did.

    The caller must have disconnected from the cluster.
    """
    if LOCAL_LABEL not in labels:
        return False
    pid = int(labels[LOCAL_LABEL])
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    _wait_for_exit(pid, _STOP_TIMEOUT)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)  # the process leads its own group; this kills the rest of it
    with contextlib.suppress(OSError):
        _address_file().unlink()
    return True


def _wait_for_exit(pid: int, timeout: float) -> None:
    """Wait for a process by polling, because it is not a child of this one."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and _is_alive(pid):
        time.sleep(0.05)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with contextlib.suppress(OSError):
        # In a container without an init process, an orphan that has exited stays a zombie.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True
