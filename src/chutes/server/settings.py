"""The server's settings: environment variables that start with `CHUTES_`."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from chutes.server.hosts import host_name, is_ip_address, is_loopback

MIB = 1024 * 1024
PREFIX = "CHUTES_"
SERVICE_URL = re.compile(r"(tcp|udp|sctp)://")
"""The start of a value that Kubernetes or Docker sets, such as `tcp://10.0.0.1:8000`."""

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:\[[0-9a-f:.]+\]|[\w.-]+)(?::[0-9]+)?", re.ASCII)
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Settings(BaseSettings):
    """The settings of a server. An argument takes precedence over the environment variable.

    The docstring of each field is its description in `chutes run --help` and in the documentation. Times are in
    seconds, sizes in bytes.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="ignore", env_ignore_empty=True, use_attribute_docstrings=True
    )

    # Address

    host: str = "127.0.0.1"
    """Address to listen on. Any other than a loopback address requires an API key."""

    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 chooses a free one."""

    # Access

    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    """API keys that clients may use, in addition to those of the key file."""

    keys_file: Path = Path("~/.chutes/keys.json")
    """File in which `chutes keys` stores the hashes of API keys."""

    no_auth: bool = False
    """Disable API-key authentication."""

    require_key: bool = False
    """Require an API key even while none exists. Replicas use it, because other machines may not have the key file."""

    open_metrics: bool = False
    """Serve `/metrics` to every client without an API key."""

    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Host names besides `localhost` that a server without API keys accepts, such as `*.example.com`; `*` for all."""

    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins, such as `https://app.example.com`, whose web pages may use this server; `*` allows every origin."""

    # Queue and time limits

    queue_size: int = Field(default=16, ge=0)
    """Number of requests that may wait for a slot. Further requests are rejected with status 429."""

    queue_timeout: Positive = 300.0
    """Seconds that a request may wait for a slot before it is rejected with status 503."""

    request_timeout: Positive = 600.0
    """Seconds that a handler may run before it is cancelled and the client receives status 504."""

    header_timeout: Positive = 20.0
    """Seconds that a client may take to send the headers of a request."""

    upload_timeout: Positive = 120.0
    """Seconds that a client may take to send the body of a request."""

    min_upload_rate: Positive = 1024.0
    """Bytes per second that a client must send on average, after the first five seconds of a body."""

    send_timeout: Positive = 30.0
    """Seconds after which a client that does not read its response is disconnected."""

    keep_alive: Positive = 75.0
    """Seconds after which an idle connection is closed."""

    drain_grace: Positive = 120.0
    """Seconds that running requests get to finish when the server stops."""

    # Sizes

    max_body_bytes: int = Field(default=64 * MIB, ge=1)
    """Largest size of a request body."""

    max_json_values: int = Field(default=50_000, ge=1)
    """Largest number of values in a JSON body, counted as its `,`, `:`, `[` and `{`."""

    jobs_kept: int = Field(default=100, ge=1)
    """Number of finished jobs whose results and files are kept."""

    max_job_result_bytes: int = Field(default=10 * MIB, ge=1)
    """Largest size of a job's result as JSON."""

    # Logs

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level of messages that are logged."""

    log_format: Literal["auto", "json", "console"] = "auto"
    """Format of the log: `console` for people, `json` for machines. `auto` chooses `console` on a terminal."""

    @field_validator("port", mode="before")
    @classmethod
    def _ignore_service_link(cls, value: object) -> object:
        """Return the default for a value such as `tcp://10.0.0.1:8000`.

        Kubernetes and Docker's links set `CHUTES_PORT` like this in every container next to a service named `chutes`.
        """
        if isinstance(value, str) and SERVICE_URL.match(value):
            return cls.model_fields["port"].default
        return value

    @field_validator("api_keys", "allowed_hosts", "cors_origins", mode="before")
    @classmethod
    def _split_at_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(item.strip() for item in value.split(",") if item.strip())
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _normalize_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_normalize_host(entry) for entry in value)

    @field_validator("cors_origins")
    @classmethod
    def _normalize_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_normalize_origin(entry) for entry in value)

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the host that the server listens on."""
        return is_loopback(self.host.strip("[]"))


def _normalize_host(entry: str) -> str:
    """Return a host in the form used for comparison: in lower case, without port, brackets or a trailing dot."""
    if entry == "*":
        return entry
    if is_ip_address(entry):
        return entry.lower()
    wildcard = "*." if entry.startswith("*.") else ""
    host = host_name(entry.removeprefix(wildcard))
    if host is None or (wildcard and ":" in host) or entry.endswith(":"):
        raise ValueError(f"{entry!r} is not a host name. Write example.com, *.example.com, an address, or * for all.")
    return wildcard + host


def _normalize_origin(entry: str) -> str:
    """Return an origin as browsers send it: in lower case, without a default port."""
    origin = entry.lower()
    if origin == "*":
        return origin
    if not _ORIGIN.fullmatch(origin):
        raise ValueError(f"{entry!r} is not an origin. Write https://example.com without a path, or * for all.")
    return origin.removesuffix(_DEFAULT_PORTS.get(origin.partition(":")[0], ""))


def settings_from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings of another process's environment by their field names, without those that are empty."""
    variables = {name: value for name, value in environment.items() if name.startswith(PREFIX) and value}
    return {name.removeprefix(PREFIX).lower(): value for name, value in variables.items()}
