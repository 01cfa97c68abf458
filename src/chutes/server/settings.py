"""Every setting of the runtime: its name, its default, its bounds.

Each is also an environment variable, `CHUTES_` and the name in capitals. Arguments given to `Settings` win over the
environment.
"""

import re
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]

MIB = 1024 * 1024
_PREFIX = "CHUTES_"
_SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://")
_HOST = re.compile(
    r"(?:\[([0-9a-f:.]+)\]|((?:\*\.)?[\w-]+(?:\.[\w-]+)*)\.?)(?::[0-9]+)?|([0-9a-f]*:[0-9a-f]*:[0-9a-f:.]*)", re.ASCII
)
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:\[[0-9a-f:.]+\]|[\w.-]+)(?::[0-9]+)?", re.ASCII)
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class Settings(BaseSettings):
    """How a chute is served; times in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, extra="ignore", env_ignore_empty=True, use_attribute_docstrings=True
    )

    # Where
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)

    # Who
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    keys_file: Path = Path("~/.chutes/keys.json")
    no_auth: bool = False
    require_key: bool = False  # even while there is none: for replicas, whose machines may not have the key file
    open_metrics: bool = False
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()

    # How much, how long
    queue_size: int = Field(default=16, ge=0)
    queue_timeout: Seconds = 300.0
    request_timeout: Seconds = 600.0
    header_timeout: Seconds = 20.0
    upload_timeout: Seconds = 120.0
    min_upload_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1024.0  # bytes per second
    send_timeout: Seconds = 30.0
    max_body_bytes: int = Field(default=64 * MIB, ge=1)
    max_json_values: int = Field(default=50_000, ge=1)
    drain_grace: Seconds = 120.0
    keep_alive: Seconds = 75.0
    jobs_kept: int = Field(default=100, ge=1)
    max_job_result_bytes: int = Field(default=10 * MIB, ge=1)

    # What is told
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "console"] = "auto"

    @field_validator("port", mode="before")
    @classmethod
    def _ignore_service_links(cls, value: object) -> object:
        """Take the default for `CHUTES_PORT=tcp://10.0.0.1:8000`.

        Kubernetes, and Docker's links, set it in every container beside a service named `chutes`. The others that they
        set (`CHUTES_SERVICE_HOST`, `CHUTES_PORT_8000_TCP_ADDR`) are no settings, and so are ignored anyway.
        """
        if isinstance(value, str) and _SERVICE_LINK.match(value):
            return cls.model_fields["port"].default
        return value

    @field_validator("api_keys", "allowed_hosts", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """Variables with several values separate them by commas."""
        if isinstance(value, str):
            return tuple(each.strip() for each in value.split(",") if each.strip())
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _host_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_host_name(each) for each in value)

    @field_validator("cors_origins")
    @classmethod
    def _serialized_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_origin(each) for each in value)

    @field_validator("log_level", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @property
    def is_loopback(self) -> bool:
        """Whether nobody but this machine can reach the host that is bound."""
        return is_loopback(self.host.strip("[]"))


def is_loopback(host: str) -> bool:
    """Whether a host is `localhost` or an address of the loopback interface."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _host_name(entry: str) -> str:
    """A host name as requests are compared with it: in lower case, without port, brackets and trailing dot."""
    if entry == "*":
        return entry
    found = _HOST.fullmatch(entry.lower())
    if found is None:
        raise ValueError(f"{entry!r} is not a host name: write example.com, *.example.com, an IP address, or *")
    return next(group for group in found.groups() if group)


def _origin(entry: str) -> str:
    """An origin as browsers send it: in lower case, without a default port."""
    origin = entry.lower()
    if origin == "*":
        return origin
    if not _ORIGIN.fullmatch(origin):
        raise ValueError(f"{entry!r} is not an origin: write https://example.com without a path, or *")
    return origin.removesuffix(_DEFAULT_PORTS.get(origin.partition(":")[0], ""))


def settings_from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """The settings in somebody else's environment, a replica's for one, by their names; an empty one is none."""
    told = {name: value for name, value in environment.items() if name.startswith(_PREFIX) and value}
    return {name.removeprefix(_PREFIX).lower(): value for name, value in told.items()}
