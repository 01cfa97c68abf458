"""A chute that forwards to a vLLM server for embeddings, which the author starts."""

import json
from typing import Any, Unpack

from chutes.chute.node_selector import NodeSelector
from chutes.chute.template._openai import (
    Handler,
    ServerChute,
    ServerOptions,
    add_models_cord,
    add_passthrough_cord,
    new_chute,
    server_command,
)
from chutes.image import Image
from chutes.image.standard.vllm import VLLM


class EmbeddingChutePack(ServerChute):
    """A chute that forwards to a vLLM server for embeddings, and its handler."""

    embed: Handler


def build_embedding_chute(
    username: str,
    model_name: str,
    node_selector: NodeSelector,
    image: str | Image = VLLM,
    *,
    pooling_type: str = "auto",
    max_embed_len: int = 3_072_000,
    enable_chunked_processing: bool = True,
    **options: Unpack[ServerOptions],
) -> EmbeddingChutePack:
    """Create a chute that forwards `/v1/embeddings` to port 10101. Start vLLM with the `command` of the result.

    Args:
        username: The owner's name.
        model_name: The model's repository, which is also the name of the chute.
        node_selector: The GPUs that one replica needs.
        image: The container image.
        pooling_type: The pooling of token embeddings, such as "CLS" or "MEAN"; "auto" is the model's default.
        max_embed_len: The maximum length of a text in tokens, if texts are processed in chunks.
        enable_chunked_processing: Whether to split a text that is longer than the model's context into chunks.
        options: `revision`, the commit of the model, is required. `engine_args` are extra arguments for vLLM. The
            others are those of `Chute`; `concurrency` is 32 by default.

    Raises:
        ValueError: `revision` is missing, or is among the `engine_args`.
    """
    chute = new_chute("embedding", username, model_name, node_selector, image, options)
    pooler: dict[str, Any] = {} if pooling_type == "auto" else {"pooling_type": pooling_type}
    if enable_chunked_processing:
        pooler |= {"enable_chunked_processing": True, "max_embed_len": max_embed_len}
    command = ["vllm", "serve", model_name, "--revision", str(chute.revision), "--runner", "pooling"]
    if pooler:
        command += ["--pooler-config", json.dumps(pooler)]
    add_models_cord(chute)
    embed = add_passthrough_cord(chute, "embed", "/v1/embeddings", "Embed texts.")
    return EmbeddingChutePack(chute=chute, command=server_command(chute, command, options), embed=embed)
