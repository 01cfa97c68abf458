"""The server of a chute: its ASGI application and the process around it.

`create_app(chute, settings)` returns the application, and `serve(ref, settings)` runs the process. The names of this
package are imported on first use, so that `chutes keys` and `chutes --help` load no web framework.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chutes.server.keys import KeyStore
    from chutes.server.lifecycle import ExitCode
    from chutes.server.process import serve
    from chutes.server.runtime import Runtime, create_app
    from chutes.server.settings import Settings

__all__ = ["ExitCode", "KeyStore", "Runtime", "Settings", "create_app", "serve"]

_MODULES = {
    "ExitCode": "lifecycle",
    "KeyStore": "keys",
    "Runtime": "runtime",
    "Settings": "settings",
    "create_app": "runtime",
    "serve": "process",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
