"""The errors of `imagegen`.

    ImagegenError
    ├── InputError                a field of the request cannot be used; `field` is its name
    │   └── ImageTooLarge
    ├── ImageRejected             the model's own safety checker rejected the image
    ├── Unsupported               the loaded model cannot do this task
    ├── NotFinite                 the model produced NaN or infinite values
    ├── OutOfMemory               the image does not fit into the GPU's memory; a later one may fit
    ├── EngineStopped             the engine is stopping or was never started
    ├── EngineFailed              the GPU is lost; only a new process can use it again
    └── LoadError                 the model cannot be loaded
        ├── MissingExtra
        ├── NodeTooSmall
        └── WeightsMissing

A client may read the messages. Only those of LoadError, which is raised at startup, may name local paths.
`imagegen.http.responses` maps each class to an HTTP status.
"""

import re

_INTERNAL = re.compile(r"[<>/\\]|[A-Za-z_]\.[A-Za-z_]")


class ImagegenError(Exception):
    """Base class of the errors of `imagegen`. Its message is one line."""


class InputError(ImagegenError):
    """A field of the request cannot be used; `field` is its name in the request's body."""

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.field = field


class ImageTooLarge(InputError):
    """An input image has too many pixels. Its header is checked before it is decoded."""


class ImageRejected(ImagegenError):
    """The safety checker that belongs to the model rejected the generated image."""


class Unsupported(ImagegenError):
    """The loaded model has no pipeline for the request's task."""


class NotFinite(ImagegenError):
    """The decoded image holds NaN or infinite values: overflow, damaged weights or a faulty GPU."""


class OutOfMemory(ImagegenError):
    """The image does not fit into the GPU's memory, not even at half the size if `oom_fallback` is on."""


class EngineStopped(ImagegenError):
    """The engine is stopping, or was never started."""


class EngineFailed(ImagegenError):
    """The GPU failed or hangs. Only a new process can use it again."""


class LoadError(ImagegenError):
    """The model cannot be loaded; the message says what to do about it."""


class MissingExtra(LoadError, ImportError):
    """A package of the extra `imagegen` is not installed."""


class NodeTooSmall(LoadError):
    """This machine has fewer or smaller GPUs than the chute requires."""


class WeightsMissing(LoadError):
    """Some or all weights are not on this machine."""


def client_reason(error: Exception) -> str:
    """Return the first line of a library's message for a client; empty if it names a class, a path or an attribute."""
    reason = (str(error).splitlines() or [""])[0].rstrip(". ")
    return "" if _INTERNAL.search(reason) else reason
