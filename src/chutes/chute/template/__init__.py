"""Ready-made chutes around a model. A language model runs in a server of its own, and requests are passed on to it."""

from chutes.chute.template.vllm import build_vllm_chute

__all__ = ["build_vllm_chute"]
