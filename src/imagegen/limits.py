"""The limits of a request. This module needs no package, so a machine that only builds images can import it."""

MIN_SIDE, MAX_SIDE = 128, 2048  # of a requested image, in pixels
MAX_SEED = 2**32 - 1
