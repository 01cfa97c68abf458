"""Relative redirects.

Starlette builds the `Location` of a redirect from the request's `Host`. Behind a proxy that is often the wrong address,
and an attacker's `Host` would turn a cached response into a redirect to the attacker's site.
"""

from starlette.types import Message, Scope


def make_relative(message: Message, scope: Scope) -> None:
    """Remove the scheme and host from the `Location` of a redirect to this server; leave other redirects alone."""
    message["headers"] = [
        (name, _relative(value, scope) if name.lower() == b"location" else value)
        for name, value in message.get("headers", ())
    ]


def _relative(location: bytes, scope: Scope) -> bytes:
    for host in _hosts(scope):
        base = f"{scope.get('scheme', 'http')}://".encode() + host
        path = location.removeprefix(base)
        if path != location and path[:1] in {b"", b"/", b"?", b"#"}:
            return _below_root(path, scope.get("root_path", "").encode())
    return location


def _hosts(scope: Scope) -> list[bytes]:
    """Return the hosts of this server's own URLs: the request's `Host` and the address that it listens on."""
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    if server := scope.get("server"):
        host, port = server
        host = f"[{host}]" if ":" in host else host
        hosts += [f"{host}:{port}".encode(), host.encode()]
    return hosts


def _below_root(path: bytes, root: bytes) -> bytes:
    """Return the path as clients see it: on a cluster it begins with the chute's slug."""
    if not path.startswith(b"/"):
        path = b"/" + path
    if root and not (path == root or path.startswith((root + b"/", root + b"?"))):
        path = root + path
    # Browsers read `//name` and `/\name` as another host.
    return b"/%2F" + path[2:] if path[1:2] in {b"/", b"\\"} else path
