"""The image that a server of SGLang runs in."""

SGLANG = "chutes/sglang:nightly-2025111800"
