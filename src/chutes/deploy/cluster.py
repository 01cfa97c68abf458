"""A Ray cluster: starting a node, finding it, connecting to it, and ending the one that `chutes deploy` started.

A node is a `ray start` below a process of ours that stays in the foreground, so that whatever supervises processes can
supervise it; on SIGTERM it takes everything that it started along. The cluster that `chutes deploy` starts on its own
is just such a node in the background, its HTTP port on the loopback address; its label says which process it is.
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
from chutes.deploy.package import own_folder
from chutes.exception import NoCluster
from chutes.server import Settings
from chutes.server.hosts import is_loopback

LOCAL = "chutes-local"  # label: the process to stop when the last chute is deleted
HTTP_HOST, HTTP_PORT = "chutes-host", "chutes-port"  # labels of the head: where requests come in

ENVIRONMENT = {
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "chutes.deploy.proxy:middleware",
    # How often the load is reported; the default of ten seconds is a long time for people who wait.
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
    # How soon a proxy that was killed is missed: with the defaults half a minute.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "5",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""What a node needs in its environment. On clusters that something else starts it has to be set there."""

HEAD_ENVIRONMENT = {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "2"}
"""A node that is told to stop waits half a minute for its replicas to go elsewhere; without its head nothing can."""

LOOPBACK_ENVIRONMENT = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Has Ray use 127.0.0.1 as the node's address, for all of its ports: nobody can join. Its clients need it as well."""

ITSELF = {"Host": "localhost"}
"""For questions to the proxy about itself, which it answers under no name of others."""

_OBJECT_STORE = 200_000_000  # bytes; pictures pass through it, nothing stays
_ANSWERS_WITHIN = 3.0  # seconds
_START_WITHIN = 90.0
_STOP_WITHIN = 30.0
_PROXY_WITHIN = 10.0  # a proxy that was killed is back by then


def node_command(
    *,
    address: str | None = None,
    cluster_port: int = 6379,
    node_ip: str | None = None,
    gpus: Sequence[Gpu],
    labels: dict[str, str],
) -> list[str]:
    """The command that is a node until it is told to stop; a head unless it has an address to join."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
    if address is None:
        command += ["--head", f"--port={cluster_port}", "--include-dashboard=false"]
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


def use_token(*, create: bool = False) -> None:
    """Have Ray ask for, and bring along, the token in its usual place: only who has it can use the cluster."""
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
    """The address that was asked for, here or by RAY_ADDRESS."""
    return address or os.environ.get("RAY_ADDRESS")


def find(address: str | None = None) -> str | None:
    """The address of a cluster that answers: the given one, RAY_ADDRESS's, or this machine's; else None."""
    wanted = explicit_address(address)
    if wanted is None:
        wanted = _noted()
    if not wanted:
        return None
    host, _, port = wanted.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWERS_WITHIN).close()
    except (OSError, ValueError, OverflowError):
        return None
    return wanted if _speaks_grpc(wanted) else None


def _speaks_grpc(address: str) -> bool:
    """Whether it may be a head: with another server there Ray would try again for minutes."""
    import grpc  # type: ignore[import-untyped]

    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=_ANSWERS_WITHIN)
        except grpc.FutureTimeoutError:
            return False
    return True


def check_access(address: str) -> None:
    """NoCluster unless the cluster there lets us in."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.exceptions import AuthenticationError, RayError

    try:
        GcsClient(address=address)
    except AuthenticationError:
        raise NoCluster(
            f"The cluster at {address} does not let us in: bring ~/.ray/auth_token here from its head, or set "
            "RAY_AUTH_TOKEN to what is in it"
        ) from None
    except RayError as error:
        raise NoCluster(f"No cluster answers at {address}") from error


def _note() -> Path:
    """Where Ray notes the address of the cluster that was started last on this machine."""
    return Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"  # noqa: S108 - Ray's choice


def _noted() -> str:
    try:
        return _note().read_text().strip()
    except OSError:
        return ""


def _is_on_loopback(address: str) -> bool:
    """Whether a cluster is on this machine alone: where its nodes have another address, Ray notes that one."""
    return address == _noted() and is_loopback(address.rpartition(":")[0].strip("[]"))


def start_local() -> str:
    """Start a cluster on this machine that outlives this process; its address. NoCluster says why it did not start."""
    use_token(create=True)
    folder = own_folder()
    output = folder / "cluster.log"
    command = [sys.executable, "-m", "chutes", "node", "start", "--head", "--local"]
    with output.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603 - our own words
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True, cwd=folder
        )
    deadline = time.monotonic() + _START_WITHIN
    while time.monotonic() < deadline and process.poll() is None:
        if "Ray runtime started" in output.read_text("utf-8", "replace") and (address := find()):
            return address
        time.sleep(0.1)
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    lines = output.read_text("utf-8", "replace").splitlines()
    last = lines[-1].removeprefix("Error: ").removesuffix(".") if lines else "it said nothing"
    raise NoCluster(f"The cluster did not start: {last} (all of it is in {output})")


@contextlib.contextmanager
def connected(address: str | None = None, *, start: bool = False) -> Iterator[bool]:
    """Be a client of the cluster meanwhile; True if it had to be started. NoCluster."""
    found = find(address)
    started = False
    if found is None:
        if wanted := explicit_address(address):
            raise NoCluster(f"No cluster answers at {wanted}")
        if not start:
            raise NoCluster
        found = start_local()
        started = True
    use_token()
    os.environ.update(ENVIRONMENT)  # Serve reads some of it in this process too
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
        raise NoCluster(f"The cluster at {found} does not let us in: {error}") from error
    try:
        yield started
    finally:
        from ray import serve

        serve.context._set_global_client(None)  # noqa: SLF001 - a client of this cluster must not outlive it
        ray.shutdown()


def _head() -> dict[str, Any]:
    import ray

    heads = (node for node in ray.nodes() if node["Alive"] and "node:__internal_head__" in node["Resources"])
    return next(heads, {})


def head_labels() -> dict[str, str]:
    """The labels of the head node."""
    return dict(_head().get("Labels", {}))


def serve_http() -> tuple[str, int]:
    """Have Ray Serve running; the host and port that it listens on."""
    from ray import serve

    labels = head_labels()
    given = Settings()
    wanted: dict[str, Any] = {
        "host": labels.get(HTTP_HOST, given.host),
        "port": int(labels.get(HTTP_PORT, given.port)),
        "location": "HeadOnly",
        # Nothing waits without a bound, whatever becomes of its replica.
        "request_timeout_s": given.queue_timeout + given.request_timeout,
    }
    try:
        serve.start(http_options=wanted)
    except RuntimeError as error:
        raise NoCluster(f"The cluster cannot listen on {wanted['host']}:{wanted['port']}: is it in use?") from error
    options = serve.context._get_global_client().http_config  # noqa: SLF001 - no public way
    return str(options.host), int(options.port)


def check_proxy(http: tuple[str, int]) -> None:
    """NoCluster if, on the head, not Ray Serve's proxy answers there but a server that had the port before."""
    import ray

    from chutes.deploy.proxy import STATS_PATH

    if _head().get("NodeID") != ray.get_runtime_context().get_node_id():
        return
    deadline = time.monotonic() + _PROXY_WITHIN
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            answer = httpx.get(
                f"{loopback_url(http)}{STATS_PATH}", headers=ITSELF, timeout=_ANSWERS_WITHIN, trust_env=False
            )
            if answer.is_success or "x-request-id" in answer.headers:  # the latter at an address that is no node's
                return
        time.sleep(0.2)
    raise NoCluster(f"The cluster's proxy does not answer on {http[0]}:{http[1]}: is the port in use?")


def loopback_url(http: tuple[str, int]) -> str:
    """Where this machine reaches what listens there."""
    host, port = http
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared only
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def url(slug: str, http: tuple[str, int]) -> str:
    """Where a chute is."""
    host, port = http
    everywhere = {"0.0.0.0", "::"}  # noqa: S104 - compared only
    shown = socket.gethostname() if host in everywhere else "localhost" if host == "127.0.0.1" else host
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/{slug}"


def stop_local(labels: dict[str, str]) -> bool:
    """End the cluster if `chutes deploy` started it; True if it did. To be called when no longer connected."""
    if LOCAL not in labels:
        return False
    pid = int(labels[LOCAL])
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    _wait_until_gone(pid, _STOP_WITHIN)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)  # it leads a session of its own: nothing of it stays
    with contextlib.suppress(OSError):
        _note().unlink()
    return True


def _wait_until_gone(pid: int, within: float) -> None:
    """Poll: it is no child of this process."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline and _is_alive(pid):
        time.sleep(0.05)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with contextlib.suppress(OSError):
        # In a container without an init nobody collects an orphan: it is over all the same.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


def ray_nodes() -> list[placement.Node]:
    """The cluster's nodes, with what they have."""
    import ray

    return placement.nodes(ray.nodes())


def free_gpus() -> dict[str, float]:
    """By node id, how many GPUs are not taken."""
    import ray

    free: dict[str, Any] = ray._private.state.available_resources_per_node()  # noqa: SLF001 - no public way
    return {node: float(each.get("GPU", 0)) for node, each in free.items()}
