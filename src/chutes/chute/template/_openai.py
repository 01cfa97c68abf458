"""Chutes that forward OpenAI's routes to a server on this machine, which the author starts."""

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
    """A chute in front of a server on this machine, and the command that starts the server."""

    command: list[str]


class LanguageModelChute(ServerChute):
    """A chute in front of a language model's server, and its handlers."""

    chat: Handler
    completion: Handler
    chat_stream: Handler
    completion_stream: Handler
    models: Handler


class ServerOptions(TypedDict, total=False):
    """The keyword arguments that the builders share.

    `revision`, the commit of the model, is required. `engine_args` are more arguments for the server, as in a shell.
    The others are those of `Chute`; `concurrency` is 32 by default.
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
    """Create the chute. Raise ValueError unless `revision` is given, and given once."""
    given: dict[str, Any] = {"concurrency": 32, **options}
    if not given.get("revision"):
        raise ValueError(f"Argument revision= is required: give the commit of {model_name} to serve.")
    if "--revision" in (given.pop("engine_args", None) or ""):
        raise ValueError("Give the revision as revision=, not in engine_args.")
    return Chute(username, model_name, image, standard_template=standard_template, node_selector=node_selector, **given)


def server_command(chute: Chute, words: Iterable[str], options: ServerOptions) -> list[str]:
    """Return the command of the server with the author's arguments, and show it at `/ready` without them.

    An API key may be among the author's arguments.
    """
    command = [*words, "--host", "127.0.0.1", "--port", str(PORT)]
    chute.info["server"] = shlex.join(command)
    return [*command, *shlex.split(options.get("engine_args") or "")]


def forward(
    chute: Chute,
    name: str,
    path: str,
    summary: str,
    *,
    method: str = "POST",
    stream: bool = False,
    patient: bool = False,
) -> Handler:
    """Add a cord that forwards `path` to the server; `patient` waits for its answer without a timeout."""

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
        sglang_passthrough=patient,
    )
    return cord(handler)


def forward_models(chute: Chute, *, patient: bool = False) -> Handler:
    """Add the cord that lists the models."""
    return forward(chute, "get_models", "/v1/models", "List the models.", method="GET", patient=patient)


def forward_language_model(chute: Chute, *, patient: bool = False) -> dict[str, Handler]:
    """Add the cords of a language model, and return their handlers by name."""
    routes = {
        "chat": ("/v1/chat/completions", "Answer a conversation."),
        "completion": ("/v1/completions", "Continue a text."),
    }
    handlers = {}
    for suffix in ("_stream", ""):
        for name, (path, summary) in routes.items():
            cord = name + suffix
            handlers[cord] = forward(chute, cord, path, summary, stream=bool(suffix), patient=patient)
    return {**handlers, "models": forward_models(chute, patient=patient)}
