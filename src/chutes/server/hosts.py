"""Host names and addresses: how `Host` headers and settings spell them, and which are loopback addresses."""

import re
from ipaddress import ip_address

_AUTHORITY = re.compile(r"(?:\[([0-9a-f:.]+)\]|([\w-]+(?:\.[\w-]+)*)\.?)(?::[0-9]*)?", re.ASCII)


def host_name(authority: str) -> str | None:
    """Return the host of `host:port` in lower case, without brackets or a trailing dot; None if it is malformed."""
    found = _AUTHORITY.fullmatch(authority.lower())
    return found[1] or found[2] if found else None


def is_ip_address(host: str) -> bool:
    """Return whether a host is an IPv4 or IPv6 address, without brackets."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return "%" not in host


def is_loopback(host: str) -> bool:
    """Return whether a host is `localhost` or an address of the loopback interface."""
    return host == "localhost" or (is_ip_address(host) and ip_address(host).is_loopback)
