"""A chute in front of an SGLang server that the author starts."""

from typing import Unpack

from chutes.chute.node_selector import NodeSelector
from chutes.chute.template._openai import (
    LanguageModelChute,
    ServerOptions,
    forward_language_model,
    new_chute,
    server_command,
)
from chutes.image import Image
from chutes.image.standard.sglang import SGLANG


class SGLangChute(LanguageModelChute):
    """A chute in front of an SGLang server."""


def build_sglang_chute(
    username: str,
    model_name: str,
    node_selector: NodeSelector,
    image: str | Image = SGLANG,
    **options: Unpack[ServerOptions],
) -> SGLangChute:
    """Create a chute that forwards OpenAI's routes to port 10101. Start SGLang with the `command` that it returns.

    Args:
        username: The owner's name.
        model_name: The model's repository, which also names the chute.
        node_selector: The GPUs that one replica needs.
        image: The container image.
        options: `revision`, the commit of the model, is required. `engine_args` are more arguments for SGLang. The
            others are those of `Chute`; `concurrency` is 32 by default.

    Raises:
        ValueError: `revision` is missing, or is among the `engine_args`.
    """
    chute = new_chute("vllm", username, model_name, node_selector, image, options)
    words = ["python3", "-m", "sglang.launch_server", "--model-path", model_name, "--revision", str(chute.revision)]
    handlers = forward_language_model(chute, patient=True)
    return SGLangChute(chute=chute, command=server_command(chute, words, options), **handlers)
