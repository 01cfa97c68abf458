"""The exceptions of this package, in two trees.

Two more subclasses are in the modules that raise them: `chutes.server.job_result.InvalidResult` of the first tree, and
`chutes.util.hf.CacheVerificationError` of the second.

An error of the first tree becomes an HTTP response. It has a status and a code, and its message is sent to the client:

    ChutesError (500)
    ├── BadRequest (400)                   ambiguous or malformed Host, API keys, cookies or compression
    ├── Unauthorized (401)                 missing or invalid API key
    ├── HostNotAllowed (403)               host name that does not belong to this server
    ├── OriginNotAllowed (403)             request from a web page of another origin
    ├── UploadTimeout (408)                request body that did not arrive in time
    ├── BodyTooLarge (413)                 request body over the size limit
    ├── BodyTooComplex (413)               request body that would take too long to parse
    ├── UnsupportedMediaType (415)         media type or content encoding that the route does not accept
    ├── QueueFull (429)                    no free slot and no room in the queue
    ├── Fatal (503)                        failure that only a new process recovers from
    ├── Unavailable (503)                  temporary condition: try again later
    │   ├── NotReady                       the chute is loading
    │   │   └── StillProvisioning          the hosted platform's name for it
    │   ├── Draining                       the process is shutting down
    │   └── QueueTimeout                   the request waited too long for a slot
    ├── UpstreamUnavailable (502)          no answer from the server behind a passthrough cord
    │   └── UpstreamTimeout (504)
    └── RequestTimeout (504)               handler that ran longer than allowed

An error of the second tree ends a command. The command prints `Error: ` and the message, and exits with 1;
`chutes deploy` exits with `exit_code`:

    CommandError (exit code 1)
    ├── InvalidPath (also ValueError)      malformed path of a cord
    ├── DuplicatePath (also ValueError)    two cords with the same internal path
    ├── NotConfigured                      no configuration file
    ├── AuthenticationRequired             no account in the configuration file
    ├── LoadError                          chute that cannot be found or imported
    ├── InsecureSettings                   public address without a usable API key
    ├── AddressUnavailable                 address on which the server cannot listen
    ├── BuildContextError                  file that cannot be part of an image
    ├── NoCluster                          no cluster that can be reached
    ├── UnknownChute                       no deployed chute of that name
    ├── InvalidChuteName                   name that cannot be deployed, or that is taken
    ├── Unschedulable                      no node that can run the chute
    └── RolloutFailed (exit code 3)        version that did not become ready, or deleted chute that still runs

`ChutesWarning` is the category of warnings about a chute's definition.
"""

from collections.abc import Mapping
from typing import ClassVar


class ChutesWarning(UserWarning):
    """A chute's definition works, but probably not as its author intended."""


class ChutesError(Exception):
    """An error that becomes an HTTP response.

    Args:
        message: One line for the client, without paths or other internals; by default the `message` of the class.
        headers: Headers to add to the response.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    message: ClassVar[str] = "Internal server error."
    headers: Mapping[str, str]

    def __init__(self, message: str | None = None, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(self.message if message is None else message)
        self.headers = dict(headers or {})


class BadRequest(ChutesError):
    """The request has an ambiguous or malformed `Host`, API key, cookie or compression."""

    status = 400
    code = "bad_request"
    message = "Bad request."


class Unauthorized(ChutesError):
    """The request has no API key, or an invalid one."""

    status = 401
    code = "invalid_api_key"
    message = "An API key is required. Send it as 'Authorization: Bearer KEY'."


class HostNotAllowed(ChutesError):
    """The request's host name does not belong to this server."""

    status = 403
    code = "host_not_allowed"
    message = "Host not allowed. Add it to CHUTES_ALLOWED_HOSTS."


class OriginNotAllowed(ChutesError):
    """The request comes from a web page of another origin."""

    status = 403
    code = "origin_not_allowed"
    message = "Origin not allowed. Add it to CHUTES_CORS_ORIGINS."


class UploadTimeout(ChutesError):
    """The request body did not arrive in time."""

    status = 408
    code = "upload_timeout"
    message = "The request body did not arrive in time."


class BodyTooLarge(ChutesError):
    """The request body is over the size limit."""

    status = 413
    code = "body_too_large"
    message = "The request body is too large."


class BodyTooComplex(ChutesError):
    """The request body would take too long to parse: it has too many values, fields or escapes."""

    status = 413
    code = "body_too_complex"
    message = "The request body has too many values, fields or escapes."


class UnsupportedMediaType(ChutesError):
    """The route does not accept the media type or the content encoding of the request body."""

    status = 415
    code = "unsupported_media_type"
    message = "The media type of the request body is not supported."


class QueueFull(ChutesError):
    """All slots are taken and the queue is full."""

    status = 429
    code = "queue_full"
    message = "Too many requests are waiting. Try again later."


class Fatal(ChutesError):
    """Only a new process recovers from this failure, such as a GPU error. `/health` fails and the process exits."""

    status = 503
    code = "fatal"
    message = "The service has failed and is restarting. Try again later."


class Unavailable(ChutesError):
    """The service cannot take this request now; a later one may succeed."""

    status = 503
    code = "unavailable"
    message = "The service is temporarily unavailable. Try again later."


class NotReady(Unavailable):
    """The chute is still loading."""

    code = "not_ready"
    message = "The service is still loading. Try again later."


class StillProvisioning(NotReady, RuntimeError):
    """The hosted platform's name for NotReady."""


class Draining(Unavailable):
    """The process is shutting down: it finishes running requests and accepts no others."""

    code = "draining"
    message = "The service is shutting down. Try again later."


class QueueTimeout(Unavailable):
    """The request waited too long for a slot; its handler never ran."""

    code = "queue_timeout"
    message = "The request waited too long for a free slot. Try again later."


class UpstreamUnavailable(ChutesError):
    """The server behind a passthrough cord cannot be reached, or closed the connection."""

    status = 502
    code = "upstream_unavailable"
    message = "The server behind this route does not answer."


class UpstreamTimeout(UpstreamUnavailable):
    """The server behind a passthrough cord took too long."""

    status = 504
    code = "upstream_timeout"
    message = "The server behind this route took too long to answer."


class RequestTimeout(ChutesError):
    """The handler ran longer than allowed and was cancelled."""

    status = 504
    code = "timeout"
    message = "The request took too long and was cancelled."


class CommandError(Exception):
    """An error that ends a command or the import of a chute.

    Args:
        message: One line for the user at the terminal; by default the `message` of the class.
    """

    exit_code: ClassVar[int] = 1
    message: ClassVar[str] = "The command failed."

    def __init__(self, message: str | None = None) -> None:
        super().__init__(self.message if message is None else message)


class InvalidPath(CommandError, ValueError):
    """The path of a cord is malformed.

    Each part consists of lower-case letters, digits, `_` and `-`, and does not start with `-`.
    """


class DuplicatePath(CommandError, ValueError):
    """Two cords have the same internal path."""


class NotConfigured(CommandError, RuntimeError):
    """There is no configuration file for `get_config` to read."""

    message = "No configuration file found. Create ~/.chutes/config.ini, or set CHUTES_CONFIG_PATH."


class AuthenticationRequired(CommandError, RuntimeError):
    """The configuration file has no complete account for `get_config` to read."""

    message = "The configuration file has no complete account. Add all five keys of its section [auth]."


class LoadError(CommandError):
    """A chute cannot be found or imported."""

    message = "The chute could not be loaded."


class InsecureSettings(CommandError):
    """The server would listen on a public address without a usable API key."""


class AddressUnavailable(CommandError):
    """The server cannot listen on the address, for example because another process uses it."""


class BuildContextError(CommandError):
    """A file cannot be part of the image's build context."""


class NoCluster(CommandError):
    """No cluster answers at the address, or none is running on this machine."""

    message = "No cluster is running on this machine. Start one with `chutes deploy`."


class UnknownChute(CommandError):
    """No chute of this name is deployed."""


class InvalidChuteName(CommandError):
    """The chute cannot be deployed under this name, because the slug would be empty or belongs to another chute."""


class Unschedulable(CommandError):
    """No node of the cluster can run this chute."""


class RolloutFailed(CommandError):
    """A new version did not become ready, or a deleted chute still runs. The message states the reason."""

    exit_code = 3
