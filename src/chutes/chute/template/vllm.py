"""A chute that forwards to a vLLM server, which the author starts."""

from typing import Unpack

from chutes.chute.node_selector import NodeSelector
from chutes.chute.template._openai import (
    LanguageModelChute,
    ServerOptions,
    add_language_model_cords,
    add_passthrough_cord,
    new_chute,
    server_command,
)
from chutes.image import Image
from chutes.image.standard.vllm import VLLM


class VLLMChute(LanguageModelChute):
    """A chute that forwards to a vLLM server."""


def build_vllm_chute(
    username: str,
    model_name: str,
    node_selector: NodeSelector,
    image: str | Image = VLLM,
    **options: Unpack[ServerOptions],
) -> VLLMChute:
    """Create a chute that forwards the OpenAI API to port 10101. Start vLLM with the `command` of the result.

    Args:
        username: The owner's name.
        model_name: The model's repository, which is also the name of the chute.
        node_selector: The GPUs that one replica needs.
        image: The container image.
        options: `revision`, the commit of the model, is required. `engine_args` are extra arguments for vLLM. The
            others are those of `Chute`; `concurrency` is 32 by default.

    Raises:
        ValueError: `revision` is missing, or is among the `engine_args`.
    """
    chute = new_chute("vllm", username, model_name, node_selector, image, options)
    add_passthrough_cord(chute, "tokenize", "/tokenize", "Turn text into tokens.")
    add_passthrough_cord(chute, "detokenize", "/detokenize", "Turn tokens into text.")
    command = ["vllm", "serve", model_name, "--revision", str(chute.revision)]
    return VLLMChute(chute=chute, command=server_command(chute, command, options), **add_language_model_cords(chute))
