"""Options of Chute, Cord and Job: names that mean the same, values that are checked, names that are unknown."""

import inspect
from typing import Any

from fastapi import FastAPI

from chutes._warn import warn, warn_unknown

FASTAPI = frozenset(inspect.signature(FastAPI.__init__).parameters) - {"self", "extra"}

# Another name -> ours.
ALIASES = {
    "max_replicas": "max_instances",
    "min_instances": "min_replicas",
    "scale_down_delay": "shutdown_after_seconds",
}


def take_aliases(given: dict[str, Any], settings: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Move what came under another name from `given` into `settings`; of two different values the other name's wins."""
    for alias, name in ALIASES.items():
        if alias not in given:
            continue
        value = given.pop(alias)
        if settings[name] not in (value, defaults[name]):
            warn(f"Chute: {alias}={value!r} and {name}={settings[name]!r} mean the same, {value!r} is used")
        settings[name] = value
    # A queue is counted in requests; elsewhere the name means the utilisation, a part of one.
    queue = settings["scale_up_threshold"]
    if queue is not None and 0 < queue < 1:
        settings["scaling_threshold"], settings["scale_up_threshold"] = queue, None


def split(given: dict[str, Any], ours: set[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is FastAPI's, and what is nobody's: that is warned of, with the nearest name that somebody knows."""
    fastapis = {name: given[name] for name in given if name in FASTAPI}
    extra = {name: given[name] for name in given if name not in FASTAPI}
    warn_unknown("Chute", extra, ours | ALIASES.keys() | FASTAPI)
    return fastapis, extra


def positive(name: str, value: int | None) -> int | None:
    """Return a limit; ValueError unless it is None or a positive integer."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise ValueError(f"{name} must be None or a positive integer; got {value!r}.")
