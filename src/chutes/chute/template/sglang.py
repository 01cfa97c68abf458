"""A chute that forwards to an SGLang server, which the author starts."""

from typing import Unpack

from chutes.chute.node_selector import NodeSelector
from chutes.chute.template._openai import (
    LanguageModelChute,
    ServerOptions,
    add_language_model_cords,
    new_chute,
    server_command,
)
from chutes.image import Image
from chutes.image.standard.sglang import SGLANG


class SGLangChute(LanguageModelChute):
    """A chute that forwards to an SGLang server."""


def build_sglang_chute(
    username: str,
    model_name: str,
    node_selector: NodeSelector,
    image: str | Image = SGLANG,
    **options: Unpack[ServerOptions],
) -> SGLangChute:
    """Create a chute that forwards the OpenAI API to port 10101. Start SGLang with the `command` of the result.

    Args:
        username: The owner's name.
        model_name: The model's repository, which is also the name of the chute.
        node_selector: The GPUs that one replica needs.
        image: The container image.
        options: `revision`, the commit of the model, is required. `engine_args` are extra arguments for SGLang. The
            others are those of `Chute`; `concurrency` is 32 by default.

    Raises:
        ValueError: `revision` is missing, or is among the `engine_args`.
    """
    # The hosted platform uses the same template name for vLLM and SGLang.
    chute = new_chute("vllm", username, model_name, node_selector, image, options)
    command = ["python3", "-m", "sglang.launch_server", "--model-path", model_name, "--revision", str(chute.revision)]
    handlers = add_language_model_cords(chute, no_timeout=True)
    return SGLangChute(chute=chute, command=server_command(chute, command, options), **handlers)
