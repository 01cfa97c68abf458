"""What a user may be called."""

import re

_USERNAME = re.compile(r"[a-zA-Z0-9_]{3,15}")


def validate_the_username(username: str) -> str:
    """The name as it is; ValueError unless it is 3 to 15 letters, digits and underscores."""
    if not isinstance(username, str) or not _USERNAME.fullmatch(username):
        raise ValueError("A username is 3 to 15 letters, digits and underscores")
    return username
