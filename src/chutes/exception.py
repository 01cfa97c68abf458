"""Every exception that can become an HTTP answer, in one tree, each with its status; a command's own stand beside it.

    ChutesError (500)
    ├── InvalidPath (also ValueError)      a cord's path is not one
    ├── DuplicatePath (also ValueError)    two different cords at one internal path
    ├── NotConfigured                      no configuration file, and one was needed
    ├── AuthenticationRequired (401)       the configuration holds no account
    ├── LoadError                          a chute could not be loaded from its file
    ├── Fatal (503)                        only a new process recovers from this: liveness fails
    ├── BadRequest (400)                   ambiguous: which host, or which key, is unclear
    ├── Unauthorized (401)                 no API key, or a wrong one
    ├── HostNotAllowed (403)               a host name that is not this server's
    ├── OriginNotAllowed (403)             a web page of another site
    ├── BodyTooLarge (413)
    ├── BodyTooComplex (413)               the JSON body has too many values
    ├── UnsupportedMediaType (415)         the body's type or encoding is not accepted here
    ├── UploadTimeout (408)                the body did not arrive in time
    ├── QueueFull (429)                    all slots taken, and the line is full
    ├── Unavailable (503)                  try again later
    │   ├── NotReady                       still loading
    │   │   └── StillProvisioning
    │   ├── Draining                       shutting down
    │   └── QueueTimeout                   waited in line for too long
    ├── RequestTimeout (504)
    └── UpstreamUnavailable (502)          a passthrough cord's server does not answer
        └── UpstreamTimeout (504)

A message is sent to clients as it stands, so it names no path and no internals. `ChutesWarning` is the category of
what an author is warned of while a chute is being defined.
"""

from collections.abc import Mapping
from typing import ClassVar


class ChutesWarning(UserWarning):
    """Something in a chute's definition works, but probably not as its author meant."""


class ChutesError(Exception):
    """Something went wrong; `str()` is one line that a client may read.

    Raised without a message it says its class's own `message`. `headers` are sent along with the answer.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    message: ClassVar[str] = "Internal server error"
    headers: Mapping[str, str]

    def __init__(self, message: str | None = None, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(self.message if message is None else message)
        self.headers = dict(headers or {})


class InvalidPath(ChutesError, ValueError):
    """A cord's path is not one: parts of lower-case letters, digits, `_` and `-` that start with no `-`."""

    code = "invalid_path"


class DuplicatePath(ChutesError, ValueError):
    """Two different cords want the same internal path."""

    code = "duplicate_path"


class NotConfigured(ChutesError):
    """There is no configuration file, and one was needed."""

    code = "not_configured"
    message = "There is no configuration file"


class AuthenticationRequired(ChutesError):
    """The configuration holds no account, and one was needed."""

    status = 401
    code = "authentication_required"
    message = "The configuration holds no account"


class LoadError(ChutesError):
    """A chute could not be loaded from its file or module: one line that says why."""

    code = "load_failed"
    message = "The chute could not be loaded"


class Fatal(ChutesError):
    """Only a new process recovers from this (a poisoned GPU): liveness fails, and the process exits."""

    status = 503
    code = "fatal"
    message = "The service has failed and is being restarted"


class BadRequest(ChutesError):
    """The request is ambiguous: proxies and servers may disagree about what it says."""

    status = 400
    code = "bad_request"
    message = "Bad request"


class HostNotAllowed(ChutesError):
    """The request is for a host name that is not this server's."""

    status = 403
    code = "host_not_allowed"
    message = "Host not allowed: see CHUTES_ALLOWED_HOSTS"


class OriginNotAllowed(ChutesError):
    """The request comes from a web page of another site."""

    status = 403
    code = "origin_not_allowed"
    message = "Origin not allowed: see CHUTES_CORS_ORIGINS"


class Unauthorized(ChutesError):
    """No API key came, or a wrong one."""

    status = 401
    code = "invalid_api_key"
    message = "A valid API key is needed: send it as 'Authorization: Bearer KEY'"


class BodyTooLarge(ChutesError):
    """The request's body is larger than is taken."""

    status = 413
    code = "body_too_large"
    message = "The request body is too large"


class BodyTooComplex(ChutesError):
    """The request's JSON body has more values than are accepted."""

    status = 413
    code = "body_too_complex"
    message = "The JSON body has too many values"


class UnsupportedMediaType(ChutesError):
    """The request's body has a media type or a content encoding that is not accepted."""

    status = 415
    code = "unsupported_media_type"
    message = "The body's media type is not supported"


class UploadTimeout(ChutesError):
    """The request's body did not arrive in time."""

    status = 408
    code = "upload_timeout"
    message = "The request body did not arrive in time"


class QueueFull(ChutesError):
    """All slots are taken and the line in front of them is full."""

    status = 429
    code = "queue_full"
    message = "Too many requests are waiting already, try again later"


class Unavailable(ChutesError):
    """The service cannot take this request now; a later one may pass."""

    status = 503
    code = "unavailable"
    message = "Temporarily unavailable, try again later"


class NotReady(Unavailable):
    """The chute is still loading."""

    code = "not_ready"
    message = "Still loading, try again later"


class StillProvisioning(NotReady):
    """Upstream's name for a chute that is not up yet."""


class Draining(Unavailable):
    """The process is shutting down: what runs is finished, nothing new is begun."""

    code = "draining"
    message = "Shutting down, try again later"


class QueueTimeout(Unavailable):
    """The request waited in line for too long and was never started."""

    code = "queue_timeout"
    message = "Waited too long for a free slot, try again later"


class RequestTimeout(ChutesError):
    """The request took longer than is allowed, and was cancelled."""

    status = 504
    code = "timeout"
    message = "The request took too long and was cancelled"


class UpstreamUnavailable(ChutesError):
    """The server behind a passthrough cord cannot be reached, or hung up."""

    status = 502
    code = "upstream_unavailable"
    message = "The server behind this route does not answer"


class UpstreamTimeout(UpstreamUnavailable):
    """The server behind a passthrough cord took too long."""

    status = 504
    code = "upstream_timeout"
    message = "The server behind this route took too long to answer"
