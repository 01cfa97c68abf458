"""Where this code runs: inside a built image, or anywhere else."""

import os


def is_remote() -> bool:
    """Whether this process runs inside an image that was built for a chute (`CHUTES_EXECUTION_CONTEXT=REMOTE`)."""
    return os.environ.get("CHUTES_EXECUTION_CONTEXT") == "REMOTE"


def is_local() -> bool:
    """Whether this process runs anywhere else."""
    return not is_remote()
