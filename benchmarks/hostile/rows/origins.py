"""Origins of requests: other sites' pages, DNS rebinding, proxies and keys (B1 to B4)."""

from collections.abc import Callable

from benchmarks.hostile.attack import Outcome, Row
from benchmarks.hostile.rows.bodies import OK, TOO_LARGE
from benchmarks.hostile.wire import Part, get, head, post

REFUSED: frozenset[Outcome] = frozenset({403})
BAD: frozenset[Outcome] = frozenset({400})
NO_KEY: frozenset[Outcome] = frozenset({401})
EVIL = "http://evil.example"
KEYED = {"api_keys": "a-key"}
APP = "https://app.example"


def sent(target: str, *headers: str, host: str | None = "127.0.0.1") -> Callable[[], list[Part]]:
    """POST without a body, which needs no preflight."""
    return lambda: [post(target, b"", *headers, kind=None, host=host)]


def asked(target: str, *headers: str, host: str | None = "127.0.0.1") -> Callable[[], list[Part]]:
    """Send a GET."""
    return lambda: [get(target, *headers, host=host)]


ROWS = [
    # B1: other sites' pages.
    Row(
        "B1",
        "a foreign Origin, no body",
        sent("/generate", f"Origin: {EVIL}"),
        REFUSED,
        contains=b"chutes_cors_origins",
    ),
    Row("B1", "a foreign Origin starts a job", sent("/jobs/work", f"Origin: {EVIL}"), REFUSED),
    Row("B1", "a foreign Origin lists jobs", asked("/jobs", f"Origin: {EVIL}"), REFUSED),
    Row("B1", "`Origin: null`", sent("/generate", "Origin: null"), REFUSED),
    Row(
        "B1",
        "an Origin that begins with localhost",
        sent("/generate", "Origin: http://localhost.evil.example"),
        REFUSED,
    ),
    Row("B1", "an Origin of this machine, another port", sent("/generate", "Origin: http://localhost:3000"), OK),
    Row("B1", "two Origins", sent("/generate", "Origin: http://localhost", f"Origin: {EVIL}"), REFUSED | BAD),
    Row(
        "B1",
        "DNS rebinding: a foreign Host lists jobs",
        asked("/jobs", host="evil.example:8000"),
        REFUSED,
        contains=b"chutes_allowed_hosts",
    ),
    Row("B1", "a Host that begins with 127.0.0.1", asked("/jobs", host="127.0.0.1.evil.example"), REFUSED),
    Row("B1", "`Host: app.localhost:8000`", asked("/jobs", host="app.localhost:8000"), OK),
    Row("B1", "`Host: [::1]:8000`", asked("/jobs", host="[::1]:8000"), OK),
    Row("B1", "an empty Host", asked("/jobs", host=""), REFUSED | BAD),
    Row("B1", "no Host", asked("/health", host=None), BAD),
    Row("B1", "two Hosts", asked("/health", "Host: localhost"), BAD),
    Row(
        "B1",
        "a cross-site fetch without Origin",
        sent("/generate", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors"),
        REFUSED,
    ),
    Row(
        "B1",
        "a cross-site image lists jobs",
        asked("/jobs", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors"),
        REFUSED,
    ),
    Row(
        "B1",
        "a link to the documentation",
        asked("/docs", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate"),
        OK,
    ),
    Row("B1", "a link to a cord", asked("/search", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate"), REFUSED),
    # B2: CORS.
    Row(
        "B2",
        "an allowed origin reads an error",
        lambda: [
            head("POST", "/generate", f"Origin: {APP}", "Content-Type: application/json", f"Content-Length: {10**12}")
        ],
        TOO_LARGE,
        contains=b"access-control-allow-origin: " + APP.encode(),
        settings={"cors_origins": APP},
    ),
    Row(
        "B2",
        "a preflight of another origin",
        lambda: [head("OPTIONS", "/generate", f"Origin: {EVIL}", "Access-Control-Request-Method: POST")],
        REFUSED | BAD,
        settings={"cors_origins": APP},
    ),
    # B3 and B4: trust and keys.
    Row(
        "B3",
        "`/metrics` through a proxy, no key",
        asked("/metrics", "X-Forwarded-For: 203.0.113.9"),
        NO_KEY,
        settings=KEYED,
    ),
    Row(
        "B3",
        "`/metrics` with `Forwarded`, no key",
        asked("/metrics", "Forwarded: for=203.0.113.9"),
        NO_KEY,
        settings=KEYED,
    ),
    Row("B3", "`/metrics` with `Via`, no key", asked("/metrics", "Via: 1.1 proxy"), NO_KEY, settings=KEYED),
    Row(
        "B4",
        "two Authorization headers",
        sent("/generate", "Authorization: Bearer wrong", "Authorization: Bearer a-key"),
        BAD,
        settings=KEYED,
    ),
]
