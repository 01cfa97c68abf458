"""Listening on a public address requires an API key, and then only clients with a key are accepted."""

import base64
from pathlib import Path

import pytest

from benchmarks.harness.server import serving

HELLO = """
@chute.cord(public_api_path="/hello")
async def hello(self) -> str:
    return "hello"

@chute.cord(public_api_path="/v1/hello")
async def openai_hello(self) -> str:
    return "hello"
"""

KEY = "a-key-of-mine"


def test_a_public_address_without_a_key_is_one_error_line(tmp_path: Path) -> None:
    with serving(tmp_path, HELLO, wait=False, host="0.0.0.0") as server:
        assert server.wait() == 1
        print(server.lines)
        assert len(server.lines) == 1
        for way_out in ("CHUTES_API_KEYS", "chutes keys create", "--no-auth"):
            assert way_out in server.lines[0]


def test_no_auth_allows_a_public_address_without_a_key(tmp_path: Path) -> None:
    with serving(tmp_path, HELLO, host="0.0.0.0", no_auth=True) as server:
        assert server.post("/hello").json() == "hello"


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_with_a_key_only_clients_that_send_it_are_accepted(tmp_path: Path, host: str) -> None:
    with serving(tmp_path, HELLO, host=host, api_keys=f"other,{KEY}") as server:
        missing = server.post("/hello")
        assert missing.status_code == 401
        assert missing.headers["www-authenticate"].startswith("Bearer")
        assert server.post("/hello", headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert server.post("/hello", headers={"X-API-Key": KEY[:-1]}).status_code == 401
        assert server.get("/openapi.json").status_code == 401
        assert server.post("/nowhere").status_code == 401
        assert set(server.post("/v1/hello").json()["error"]) == {"message", "type", "code", "param"}

        basic = base64.b64encode(f"me:{KEY}".encode()).decode()
        for headers in (
            {"Authorization": f"Bearer {KEY}"},
            {"authorization": f"bearer {KEY}"},
            {"X-API-Key": KEY},
            {"Authorization": f"Basic {KEY}"},
            {"Authorization": f"Basic {basic}"},
        ):
            assert server.post("/hello", headers=headers).json() == "hello", headers
        for probe in ("/health", "/ready"):
            assert server.get(probe).status_code == 200
        assert KEY not in "\n".join(server.lines)
