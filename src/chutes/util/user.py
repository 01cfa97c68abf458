"""Validation of usernames."""

import re

_USERNAME = re.compile(r"[a-zA-Z0-9_]{3,15}")


def validate_the_username(username: str) -> str:
    """Return a username unchanged. Raise ValueError unless it has 3 to 15 letters, digits or underscores."""
    if not isinstance(username, str) or not _USERNAME.fullmatch(username):
        raise ValueError(f"Username must have 3 to 15 letters, digits or underscores; got {username!r}.")
    return username
