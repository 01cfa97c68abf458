"""What the chutes in front of a language model's server have in common."""

import shlex
from collections.abc import Callable, Iterable
from typing import Any

from chutes.chute.base import Chute, ChutePack

PORT = 10101


class ServerChute(ChutePack):
    """A chute in front of a server on this machine; `command` is what starts that server."""

    command: list[str]


def locked(model_name: str, revision: str | None, engine_args: str | None) -> list[str]:
    """The author's arguments for the server. ValueError unless the model's revision is given, and given once."""
    if not revision:
        raise ValueError(f"revision= is needed: the commit of {model_name} that is served, so that it stays the same")
    if "--revision" in (engine_args or ""):
        raise ValueError("Give the revision as revision=, not in engine_args")
    return shlex.split(engine_args or "")


def announce(chute: Chute, command: Iterable[str], arguments: Iterable[str]) -> list[str]:
    """Let `/ready` tell which server is needed, and return its whole command.

    The author's own arguments are not told there: a key may be among them.
    """
    words = list(command)
    chute.info["server"] = shlex.join(words)
    return [*words, *arguments]


def passed_on(
    chute: Chute, name: str, path: str, about: str, *, method: str = "POST", stream: bool = False, **options: Any
) -> Callable[..., Any]:
    """Add a cord that passes requests for `path` on to the server."""

    async def handler(self: Chute) -> None:
        raise AssertionError("passed on, never called")

    handler.__name__ = name
    handler.__doc__ = about
    cord = chute.cord(
        passthrough=True,
        passthrough_path=path,
        passthrough_port=PORT,
        public_api_path=path,
        public_api_method=method,
        method=method,
        stream=stream,
        **options,
    )
    return cord(handler)
