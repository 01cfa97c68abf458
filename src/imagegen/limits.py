"""The limits of a request. This module imports nothing, so that `chutes build` works without the `imagegen` extra."""

MIN_SIDE, MAX_SIDE = 128, 2048  # of a requested image, in pixels
MAX_INPUT_PIXELS = 24 * 1024**2  # of a photo that the client sends
MAX_JPEG_PIXELS = 64 * 1024**2  # likewise; JPEGs can be decoded at a smaller scale
MAX_SEED = 2**32 - 1
