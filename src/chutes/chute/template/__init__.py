"""Builders of chutes for a model. The chutes for language models forward requests to another server."""

from chutes.chute.template.vllm import build_vllm_chute

__all__ = ["build_vllm_chute"]
