"""The limits of a request. This module imports nothing, so that `chutes build` works without the `imagegen` extra."""

MIN_SIDE, MAX_SIDE = 128, 2048  # of a requested image, in pixels
MAX_SEED = 2**32 - 1
