import pytest

from chutes.server.hosts import host_name, is_ip_address, is_loopback


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        ("example.com", "example.com"),
        ("Example.COM:8000", "example.com"),
        ("example.com.:", "example.com"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("[::1]:80", "::1"),
        ("[FD00::1]", "fd00::1"),
        ("::1", None),
        ("a b", None),
        ("example..com", None),
        ("exämple.com", None),
        ("example.com:port", None),
        ("user@example.com", None),
        ("", None),
    ],
)
def test_host_name_parses_an_authority(authority: str, host: str | None) -> None:
    assert host_name(authority) == host


def test_addresses_and_names_are_distinguished() -> None:
    assert all(map(is_ip_address, ("127.0.0.1", "::1", "203.0.113.9", "fd00::1")))
    assert not any(map(is_ip_address, ("localhost", "[::1]", "1.2.3", "fe80::1%eth0", "")))
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.9.9.9", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "example.com", "10.0.0.1", "")))
