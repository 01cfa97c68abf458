"""The prebuilt image for chutes that run SGLang."""

SGLANG = "chutes/sglang:nightly-2025111800"
