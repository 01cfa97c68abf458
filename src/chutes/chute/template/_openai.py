"""Helpers for chutes that forward the OpenAI API to a server on this machine, which the author starts."""

import shlex
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypedDict

from chutes.chute.base import Chute, ChutePack
from chutes.chute.node_selector import NodeSelector
from chutes.image import Image

PORT = 10101

Handler = Callable[[Chute], Coroutine[Any, Any, None]]
"""The function of a passthrough cord, which is never called."""


class ServerChute(ChutePack):
    """A chute that forwards to a server on this machine, and the command that starts the server."""

    command: list[str]


class LanguageModelChute(ServerChute):
    """A chute that forwards to a language model's server, and its handlers."""

    chat: Handler
    completion: Handler
    chat_stream: Handler
    completion_stream: Handler
    models: Handler


class ServerOptions(TypedDict, total=False):
    """The keyword arguments that all builders take.

    `revision`, the commit of the model, is required. `engine_args` are extra arguments for the server in shell
    syntax. The others are those of `Chute`; `concurrency` is 32 by default.
    """

    tagline: str
    readme: str
    concurrency: int
    engine_args: str | None
    revision: str | None
    max_instances: int
    scaling_threshold: float
    shutdown_after_seconds: int
    allow_external_egress: bool
    tee: bool


def new_chute(
    standard_template: str,
    username: str,
    model_name: str,
    node_selector: NodeSelector,
    image: str | Image,
    options: ServerOptions,
) -> Chute:
    """Create the chute. Raise ValueError if `revision` is missing, or is among the `engine_args`."""
    given: dict[str, Any] = {"concurrency": 32, **options}
    if not given.get("revision"):
        raise ValueError(f"Argument revision= is required. Set it to the commit of {model_name} to serve.")
    if "--revision" in (given.pop("engine_args", None) or ""):
        raise ValueError("Argument engine_args must not contain --revision. Use revision= instead.")
    return Chute(username, model_name, image, standard_template=standard_template, node_selector=node_selector, **given)


def server_command(chute: Chute, base_command: Iterable[str], options: ServerOptions) -> list[str]:
    """Return the command of the server: a base command, the address, and the author's `engine_args`.

    `/ready` shows the command without the `engine_args`, because they may contain an API key.
    """
    command = [*base_command, "--host", "127.0.0.1", "--port", str(PORT)]
    chute.info["server"] = shlex.join(command)
    return [*command, *shlex.split(options.get("engine_args") or "")]


def add_passthrough_cord(
    chute: Chute,
    name: str,
    path: str,
    summary: str,
    *,
    method: str = "POST",
    stream: bool = False,
    no_timeout: bool = False,
) -> Handler:
    """Add a passthrough cord, and return its handler.

    Args:
        chute: The chute.
        name: The name of the cord and its handler.
        path: The path at the chute and at the server.
        summary: The handler's docstring, which becomes the summary in the OpenAPI document.
        method: The HTTP method at the chute and at the server.
        stream: Whether the response is documented as a stream.
        no_timeout: Whether to wait for the server without a timeout.
    """

    async def handler(self: Chute) -> None:
        raise AssertionError("The handler of a passthrough cord is never called.")

    handler.__name__ = name
    handler.__doc__ = summary
    cord = chute.cord(
        passthrough=True,
        passthrough_path=path,
        passthrough_port=PORT,
        public_api_path=path,
        public_api_method=method,
        method=method,
        stream=stream,
        sglang_passthrough=no_timeout,
    )
    return cord(handler)


def add_models_cord(chute: Chute, *, no_timeout: bool = False) -> Handler:
    """Add the cord that lists the models, and return its handler."""
    return add_passthrough_cord(
        chute, "get_models", "/v1/models", "List the models.", method="GET", no_timeout=no_timeout
    )


def add_language_model_cords(chute: Chute, *, no_timeout: bool = False) -> dict[str, Handler]:
    """Add the cords of a language model, and return their handlers by name."""
    routes = {
        "chat": ("/v1/chat/completions", "Answer a conversation."),
        "completion": ("/v1/completions", "Continue a text."),
    }
    handlers = {}
    for suffix in ("_stream", ""):
        for name, (path, summary) in routes.items():
            cord = name + suffix
            handlers[cord] = add_passthrough_cord(
                chute, cord, path, summary, stream=bool(suffix), no_timeout=no_timeout
            )
    return {**handlers, "models": add_models_cord(chute, no_timeout=no_timeout)}
