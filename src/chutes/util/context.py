"""Whether code runs where the chute is served, or only defines it."""

import os


def is_remote() -> bool:
    """Return whether this process serves a chute: `CHUTES_EXECUTION_CONTEXT` is `REMOTE`."""
    return os.environ.get("CHUTES_EXECUTION_CONTEXT") == "REMOTE"


def is_local() -> bool:
    """Return the opposite of `is_remote`."""
    return not is_remote()
