"""The image that a server of vLLM runs in."""

VLLM = "chutes/vllm:nightly-2025111700"
