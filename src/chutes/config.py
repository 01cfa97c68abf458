"""The configuration file of the hosted platform's tools: `~/.chutes/config.ini`.

    [auth]  username, user_id, hotkey_seed, hotkey_name, hotkey_ss58address
    [api]   base_url

This package does not need the file, but scripts written for the hosted platform's SDK read it with these functions. Set
`CHUTES_CONFIG_PATH` to use another file. Set `CHUTES_ALLOW_MISSING=true` if the file or its keys may be missing.
`CHUTES_API_URL` takes precedence over `base_url`.
"""

import os
from configparser import ConfigParser
from dataclasses import dataclass, fields
from pathlib import Path

from chutes.exception import AuthenticationRequired, NotConfigured

CONFIG_PATH = os.environ.get("CHUTES_CONFIG_PATH") or str(Path("~/.chutes/config.ini").expanduser())
ALLOW_MISSING = os.environ.get("CHUTES_ALLOW_MISSING", "false").lower() == "true"


@dataclass
class AuthConfig:
    """The account, from section `[auth]`."""

    username: str | None = None
    user_id: str | None = None
    hotkey_seed: str | None = None
    hotkey_name: str | None = None
    hotkey_ss58address: str | None = None


@dataclass
class GenericConfig:
    """The address of the API, from section `[api]`."""

    api_base_url: str = "http://127.0.0.1:8000"


@dataclass
class Config:
    """The contents of the configuration file."""

    auth: AuthConfig
    generic: GenericConfig


_config: Config | None = None


def get_config() -> Config:
    """Return the configuration. Read the file at the first call only.

    Raise NotConfigured if there is no file, and AuthenticationRequired if it has no complete account.
    """
    global _config  # noqa: PLW0603 - a cache
    if _config is None:
        _config = _read()
    return _config


def get_generic_config() -> GenericConfig:
    """Return the part of the configuration that needs no account."""
    return _generic(_parse())


def _parse() -> ConfigParser:
    parser = ConfigParser(interpolation=None)
    parser.read(CONFIG_PATH)
    return parser


def _generic(parser: ConfigParser) -> GenericConfig:
    base_url = os.environ.get("CHUTES_API_URL") or parser.get("api", "base_url", fallback=None)
    return GenericConfig(base_url) if base_url else GenericConfig()


def _read() -> Config:
    if not Path(CONFIG_PATH).exists() and not ALLOW_MISSING:
        raise NotConfigured(f"There is no configuration file {CONFIG_PATH}. Create it, or set CHUTES_CONFIG_PATH.")
    parser = _parse()
    auth = AuthConfig(**{f.name: parser.get("auth", f.name, fallback=None) for f in fields(AuthConfig)})
    missing = [f.name for f in fields(auth) if getattr(auth, f.name) is None]
    if missing and not ALLOW_MISSING:
        raise AuthenticationRequired(f"Section [auth] of {CONFIG_PATH} lacks {', '.join(missing)}. Add them.")
    return Config(auth, _generic(parser))
