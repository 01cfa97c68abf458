"""A chute in front of an SGLang server that the author starts."""

from collections.abc import Callable
from typing import Any

from chutes.chute.base import Chute
from chutes.chute.node_selector import NodeSelector
from chutes.chute.template._server import PORT, ServerChute, announce, locked, passed_on
from chutes.image import Image
from chutes.image.standard.sglang import SGLANG


class SGLangChute(ServerChute):
    """The chute, and its routes' functions."""

    chat: Callable[..., Any]
    completion: Callable[..., Any]
    chat_stream: Callable[..., Any]
    completion_stream: Callable[..., Any]
    models: Callable[..., Any]


def build_sglang_chute(
    username: str,
    model_name: str,
    node_selector: NodeSelector,
    image: str | Image = SGLANG,
    tagline: str = "",
    readme: str = "",
    concurrency: int = 32,
    engine_args: str | None = None,
    revision: str | None = None,
    max_instances: int = 1,
    scaling_threshold: float = 0.75,
    shutdown_after_seconds: int = 300,
    allow_external_egress: bool = False,
    tee: bool = False,
) -> SGLangChute:
    """OpenAI's routes for a language model, passed on to port 10101; start the server with the `command` returned.

    ValueError without `revision`.
    """
    arguments = locked(model_name, revision, engine_args)
    chute = Chute(
        username=username,
        name=model_name,
        image=image,
        tagline=tagline,
        readme=readme,
        standard_template="vllm",
        revision=revision,
        node_selector=node_selector,
        concurrency=concurrency,
        max_instances=max_instances,
        shutdown_after_seconds=shutdown_after_seconds,
        scaling_threshold=scaling_threshold,
        allow_external_egress=allow_external_egress,
        tee=tee,
    )
    serve = ["python3", "-m", "sglang.launch_server", "--model-path", model_name, "--revision", str(revision)]
    listen = ["--host", "127.0.0.1", "--port", str(PORT)]
    chat, text = "/v1/chat/completions", "/v1/completions"
    patient: dict[str, Any] = {"sglang_passthrough": True}
    return SGLangChute(
        chute=chute,
        command=announce(chute, [*serve, *listen], arguments),
        chat_stream=passed_on(chute, "chat_stream", chat, "Answer a conversation.", stream=True, **patient),
        completion_stream=passed_on(chute, "completion_stream", text, "Continue a text.", stream=True, **patient),
        chat=passed_on(chute, "chat", chat, "Answer a conversation.", **patient),
        completion=passed_on(chute, "completion", text, "Continue a text.", **patient),
        models=passed_on(chute, "get_models", "/v1/models", "List the models.", method="GET", **patient),
    )
