from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.testclient import TestClient

from benchmarks.harness.waiting import wait_for
from chutes.chute import Chute
from chutes.server import Settings, create_app
from chutes.server.redirects import make_relative


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    chute = Chute(username="test", name="redirects", image="none")
    (tmp_path / "files" / "deep").mkdir(parents=True)
    (tmp_path / "files" / "deep" / "index.html").write_text("x")
    chute.mount("/files", StaticFiles(directory=tmp_path / "files", html=True))

    @chute.cord(public_api_path="/draw")
    async def draw(self: Any) -> None:
        pass

    @chute.get("/away")
    async def away(request: Request) -> Response:
        return RedirectResponse("https://elsewhere.example/x")

    @chute.get("/named")
    async def named(request: Request) -> Response:
        return RedirectResponse(request.url_for("away"))

    @chute.get("/any/{rest:path}/")
    async def anything(rest: str) -> str:
        return rest

    @chute.job()
    async def train(self: Any) -> None:
        pass

    settings = Settings(keys_file=tmp_path / "keys.json")
    with TestClient(create_app(chute, settings), follow_redirects=False) as client:
        wait_for(lambda: client.get("/ready").status_code == 200)
        yield client


@pytest.mark.parametrize("host", ["localhost:8000", "evil.example", "not a host", "evil.example:99999999"])
@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/draw/?a=1", "/draw?a=1"),
        ("/jobs/", "/jobs"),
        ("/files/deep", "/files/deep/"),
        ("/named", "/away"),
        ("/away", "https://elsewhere.example/x"),
    ],
)
def test_only_the_authors_redirects_name_a_host(client: TestClient, host: str, path: str, location: str) -> None:
    answer = client.get(path, headers={"Host": host})
    assert answer.status_code == 307
    assert answer.headers["location"] == location


@pytest.mark.parametrize(
    ("root", "location", "relative"),
    [
        ("", "http://h:1/a/?q=http://h:1/", "/a/?q=http://h:1/"),
        ("", "http://h:1", "/"),
        ("", "http://h:1?a", "/?a"),
        ("", "http://h:10/a", "http://h:10/a"),
        ("", "http://h:1.evil.example/a", "http://h:1.evil.example/a"),
        ("", "http://h:1@evil.example/a", "http://h:1@evil.example/a"),
        ("", "https://h:1/a", "https://h:1/a"),  # to another scheme
        ("", "http://10.0.0.1:80/a", "/a"),
        ("", "/a", "/a"),
        ("", "http://h:1//evil.example/", "/%2Fevil.example/"),
        ("", "http://h:1/\\evil.example/", "/%2Fevil.example/"),
        ("/slug", "http://h:1/a/", "/slug/a/"),
        ("/slug", "http://h:1/slug/a/", "/slug/a/"),
        ("/slug", "http://h:1/slugs", "/slug/slugs"),
    ],
)
def test_only_the_servers_own_host_is_removed(root: str, location: str, relative: str) -> None:
    message: dict[str, Any] = {"status": 307, "headers": [(b"Location", location.encode())]}
    scope = {"scheme": "http", "root_path": root, "server": ("10.0.0.1", 80), "headers": [(b"host", b"h:1")]}
    make_relative(message, scope)
    assert message["headers"] == [(b"Location", relative.encode())]
