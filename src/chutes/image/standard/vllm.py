"""The prebuilt image for chutes that run vLLM."""

VLLM = "chutes/vllm:nightly-2025111700"
