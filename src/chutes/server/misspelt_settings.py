"""Warnings about environment variables whose names resemble that of a setting."""

import re
from collections.abc import Iterator, Mapping

from chutes.server.settings import PREFIX, SERVICE_URL, Settings

_MAX_EDITS = 2
# Variables with our prefix that other programs read: the hosted platform's SDK and CLI, the Compose file, and this
# package's own. API_KEY is not among them: a user who sets it in place of CHUTES_API_KEYS needs the warning.
_NOT_SETTINGS = frozenset(
    {
        "ALLOW_MISSING",
        "API_URL",
        "CONFIG_PATH",
        "DEV_MODE",
        "DEV_URL",
        "EXECUTION_CONTEXT",
        "EXTERNAL_HOST",
        "LAUNCH_JWT",
        "METRICS_KEY",
        "MODEL",
        "PORT_LOGGING",
        "PORT_PRIMARY",
        "PROXY_PUBLISH",
        "PUBLISH",
        "STOP_GRACE",
    }
)
# Kubernetes and Docker's links set such names, and values such as tcp://10.0.0.1:8000, for each service.
_SERVICE_LINK = re.compile(r"(.*_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")


def misspelt_settings(environment: Mapping[str, str]) -> Iterator[str]:
    """Yield a warning for each variable whose name is at most two edits away from the name of a setting.

    Empty variables count as unset. Names that other programs and platforms set are left out.
    """
    known = [name.upper() for name in Settings.model_fields]
    for variable, value in environment.items():
        name = variable.upper().removeprefix(PREFIX)
        if not value or name == variable.upper() or name in known or name in _NOT_SETTINGS:
            continue
        if _SERVICE_LINK.fullmatch(name) or SERVICE_URL.match(value):
            continue
        nearest = min(known, key=lambda setting: _edits(name, setting))
        if _edits(name, nearest) <= _MAX_EDITS:
            yield f"{variable} is not a setting and has no effect. Did you mean {PREFIX}{nearest}?"


def _edits(one: str, other: str) -> int:
    """Return the Levenshtein distance: how many characters to insert, delete or replace."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]
