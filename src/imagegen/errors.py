"""Everything that can go wrong while drawing, each with the HTTP status that fits it.

    ImagegenError (500)
    ├── InputError (422)          a field of the request, named in `field`
    │   └── ImageTooLarge (413)
    ├── Unsupported (501)         the loaded model cannot do this
    ├── NotFinite (500)           the model produced NaN or infinite values
    ├── OutOfMemory (503)         the request does not fit; the next one may
    ├── EngineStopped (503)       shutting down, or not started
    ├── EngineFailed (503)        the GPU is beyond repair: the process must be started again
    └── LoadError (500)           at start-up: raised by `models`, never seen by a client
        ├── WeightsMissing
        └── NodeTooSmall

Messages of all but LoadError are safe to send to a client.
"""


class ImagegenError(Exception):
    """Something went wrong while drawing; `str()` is one clear line."""

    status = 500
    code = "generation_failed"


class InputError(ImagegenError):
    """A field of the request cannot be used; `field` is its name in the JSON body."""

    status = 422
    code = "value_error"

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.field = field


class ImageTooLarge(InputError):
    """An input image has more pixels than are taken; found in its header, so nothing was decoded."""

    status = 413
    code = "image_too_large"


class Unsupported(ImagegenError):
    """The loaded model cannot do what was asked."""

    status = 501
    code = "unsupported"


class NotFinite(ImagegenError):
    """The decoded picture holds NaN or infinite values: overflow, damaged weights or a faulty GPU."""


class OutOfMemory(ImagegenError):
    """The picture did not fit into the GPU's memory, not even smaller (where that was tried)."""

    status = 503
    code = "out_of_memory"


class EngineStopped(ImagegenError):
    """The engine is shutting down, or was never started."""

    status = 503
    code = "engine_stopped"


class EngineFailed(ImagegenError):
    """The GPU reported an error that only a new process recovers from."""

    status = 503
    code = "engine_failed"


class LoadError(ImagegenError):
    """The model cannot be loaded; the message says what to do about it."""

    code = "load_failed"


class WeightsMissing(LoadError):
    """The weights are not on this machine, or only in part."""

    code = "weights_missing"


class NodeTooSmall(LoadError):
    """This machine has fewer or smaller GPUs than the chute asks for."""

    code = "node_too_small"
