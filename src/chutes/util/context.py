"""A check of whether this process serves a chute or only defines it."""

import os


def is_remote() -> bool:
    """Return whether this process serves a chute: the runtime sets `CHUTES_EXECUTION_CONTEXT` to `REMOTE`."""
    return os.environ.get("CHUTES_EXECUTION_CONTEXT") == "REMOTE"


def is_local() -> bool:
    """Return the opposite of `is_remote`."""
    return not is_remote()
