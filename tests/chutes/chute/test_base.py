import asyncio
import threading
import uuid
import warnings
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from chutes.chute import Chute, ChutePack, NodeSelector
from chutes.exception import ChutesWarning, Fatal, InvalidPath, QueueFull

Serve = Callable[[Chute], TestClient]


def make(**options: Any) -> Chute:
    return Chute(**{"username": "myuser", "name": "FLUX.1-dev-generator", "image": "img"} | options)


@pytest.mark.parametrize(
    ("username", "name", "uid"),
    [
        ("myuser", "FLUX.1-dev-generator", "b0e4bd4d-8660-59be-b3e3-5c30f6fe1590"),
        ("chutes", "FLUX.1-dev", "2afe988d-be44-553f-9c85-3caa3d8c0f97"),
    ],
)
def test_uid(username: str, name: str, uid: str) -> None:
    assert make(username=username, name=name).uid == uid


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("FLUX.1-dev-generator", "myuser-flux-1-dev-generator"),
        ("my_app", "myuser-my-app"),
        ("Shitao/OmniGen-v1", "myuser-shitao-omnigen-v1"),
        ("Übung", "myuser-ubung"),
        ("x" * 100, "myuser-" + "x" * 51),
    ],
)
def test_slug(name: str, slug: str) -> None:
    assert make(name=name).slug == slug


def test_defaults() -> None:
    chute = make()
    assert (chute.concurrency, chute.max_instances, chute.min_replicas) == (1, 1, 1)
    assert (chute.shutdown_after_seconds, chute.scaling_threshold, chute.scale_up_threshold) == (300, 0.75, None)
    assert (chute.tagline, chute.readme, chute.standard_template, chute.node_selector) == ("", "", None, None)
    assert (chute.revision, chute.passthrough_headers, chute.tee, chute.lock_modules) == (None, {}, False, None)
    assert not chute.allow_external_egress
    assert not chute.encrypted_fs
    assert isinstance(chute, FastAPI)


def test_both_names_of_the_scaling_arguments() -> None:
    seed = make(concurrency=2, max_replicas=5, scale_up_threshold=10, scale_down_delay=300)
    assert (seed.max_instances, seed.max_replicas) == (5, 5)
    assert (seed.scale_up_threshold, seed.scaling_threshold) == (10, 0.75)
    assert (seed.shutdown_after_seconds, seed.scale_down_delay) == (300, 300)
    upstream = make(max_instances=3, scaling_threshold=0.5, shutdown_after_seconds=60)
    assert (upstream.max_replicas, upstream.scaling_threshold, upstream.scale_down_delay) == (3, 0.5, 60)
    warm = make(min_instances=2)
    assert (warm.min_instances, warm.min_replicas) == (2, 2)
    assert make(scale_up_threshold=0.8).scaling_threshold == 0.8  # a part of one is a utilization
    with pytest.warns(ChutesWarning, match="mean the same"):
        assert make(max_instances=2, max_replicas=4).max_instances == 4


def test_unknown_arguments_warn_at_the_authors_line_and_are_kept() -> None:
    with pytest.warns(ChutesWarning) as caught:
        chute = make(max_replica=5, timeout_seconds=10)
    assert chute.extra == {"max_replica": 5, "timeout_seconds": 10}
    assert len(caught) == 2
    assert "Did you mean 'max_replicas'?" in str(caught[0].message)
    assert caught[0].filename == __file__


def test_fastapis_arguments_reach_fastapi() -> None:
    chute = make(title="T", version="9", docs_url=None)
    assert (chute.title, chute.version, chute.extra) == ("T", "9", {})
    with TestClient(chute) as client:
        assert client.get("/docs").status_code == 404


def test_fastapis_own_routes_and_middleware_work(serve: Serve) -> None:
    chute = make()

    @chute.get("/native")
    async def native() -> str:
        return "n"

    @chute.middleware("http")
    async def stamp(request: Any, call_next: Any) -> Any:
        response = await call_next(request)
        response.headers["x-stamp"] = "1"
        return response

    response = serve(chute).get("/native")
    assert (response.json(), response.headers["x-stamp"]) == ("n", "1")


def test_hooks_run_by_priority_on_the_authors_loop(serve: Serve) -> None:
    chute = make()
    order: list[str] = []
    threads: set[int] = set()

    @chute.on_startup(priority=90)
    async def last(self: Chute) -> None:
        threads.add(threading.get_ident())
        order.append("last")

    @chute.on_startup(priority=10)
    def first(self: Chute) -> None:
        threads.add(threading.get_ident())
        assert self is chute
        order.append("first")

    @chute.on_startup()
    def second() -> None:
        order.append("second")

    @chute.on_startup()
    async def third(self: Any) -> None:
        self.lock = asyncio.Lock()
        order.append("third")

    @chute.on_shutdown(priority=60)
    def closing(self: Chute) -> None:
        order.append("closing")

    @chute.on_shutdown(priority=1)
    async def broken(self: Chute) -> None:
        order.append("broken")
        raise RuntimeError("cannot close")

    @chute.cord()
    async def locked(self: Any) -> int:
        async with self.lock:
            return threading.get_ident()

    with TestClient(chute) as client:
        assert order == ["first", "second", "third", "last"]
        assert {client.post("/locked").json()} == threads
    assert order[4:] == ["broken", "closing"]
    assert [priority for priority, _ in chute._startup_hooks] == [90, 10, 50, 50]


def test_an_error_in_a_startup_hook_stops_the_start() -> None:
    chute = make()

    @chute.on_startup()
    async def load(self: Chute) -> None:
        raise RuntimeError("no weights")

    @chute.on_shutdown()
    async def close(self: Chute) -> None:
        raise AssertionError("nothing was started")

    with pytest.raises(RuntimeError, match="no weights"), TestClient(chute):
        pass


def test_initialize_runs_once() -> None:
    chute = make()
    runs: list[int] = []
    chute.on_startup()(lambda: runs.append(1))

    async def main() -> None:
        await chute.initialize()
        await chute.initialize()
        await chute.shutdown()

    asyncio.run(main())
    assert runs == [1]


def test_a_chute_can_be_used_again_after_its_shutdown(serve: Serve) -> None:
    chute = Chute("myuser", "again", "img")

    @chute.cord(public_api_path="/hello")
    async def hello(self: Chute) -> str:
        return "hello"

    for _ in range(2):
        with TestClient(chute) as client:
            assert client.post("/hello").json() == "hello"
    assert TestClient(chute).post("/hello").json() == "hello"
    chute.executor.stop()


def test_a_managed_lifecycle_leaves_the_hooks_to_the_server() -> None:
    chute = make()
    chute.on_startup()(lambda: pytest.fail("not mine to run"))
    chute.lifecycle_managed = True
    with TestClient(chute):
        pass


def test_the_authors_own_lifespan_runs_inside_the_hooks() -> None:
    order: list[str] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> Any:
        order.append("lifespan")
        yield
        order.append("end")

    chute = make(lifespan=lifespan)
    chute.on_startup()(lambda: order.append("hook"))
    chute.on_shutdown()(lambda: order.append("unhook"))
    with TestClient(chute):
        pass
    assert order == ["hook", "lifespan", "end", "unhook"]


@pytest.mark.parametrize("decorator", ["cord", "on_startup", "on_shutdown", "job"])
def test_a_decorator_without_parentheses_says_so(chute: Chute, decorator: str) -> None:
    def load(self: Chute) -> None: ...

    with pytest.raises(TypeError, match=rf"Write @chute\.{decorator}\(.*\) above 'load'"):
        getattr(chute, decorator)(load)


def test_decorated_names_are_still_the_functions() -> None:
    chute = make()

    @chute.on_startup()
    async def load(self: Any) -> str:
        return f"loaded {self.name}"

    @chute.cord()
    async def generate(self: Any, n: int) -> int:
        return n + 1

    assert asyncio.run(load(chute)) == "loaded FLUX.1-dev-generator"
    assert asyncio.run(generate(chute, 1)) == 2


def test_a_chutes_error_answers_with_its_status(serve: Serve) -> None:
    chute = make()

    @chute.cord()
    async def full(self: Any) -> None:
        raise QueueFull(headers={"Retry-After": "3"})

    response = serve(chute).post("/full")
    assert (response.status_code, response.headers["retry-after"]) == (429, "3")
    assert response.json() == {"detail": QueueFull.message}


def test_progress_and_failure_can_be_reported_from_any_thread() -> None:
    chute = make()
    reasons: list[str] = []
    chute.set_failure_callback(reasons.append)
    threads = [
        threading.Thread(target=chute.fail, args=["poisoned"]),
        threading.Thread(target=chute.progress.update, args=["reading", 1, 4, "GB"]),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert chute.progress.snapshot() == {"stage": "reading", "done": 1, "total": 4, "unit": "GB", "fraction": 0.25}
    assert (reasons, chute.failure) == (["poisoned"], "poisoned")
    later: list[str] = []
    chute.set_failure_callback(later.append)  # the new callback replaces the first
    chute.fail("again")
    assert (reasons, later) == (["poisoned"], ["again"])


def test_a_chute_needs_a_name() -> None:
    with pytest.raises(ValueError, match="Chute name must not be empty"):
        Chute(username="test", name="", image="none")


def test_progress_without_a_total_has_no_fraction() -> None:
    chute = make()
    chute.progress.update("compiling")
    assert chute.progress.snapshot()["fraction"] is None
    chute.progress.update("reading", 5, 4)
    assert chute.progress.snapshot()["fraction"] == 1


def test_a_pack_holds_a_chute() -> None:
    chute = make(node_selector=NodeSelector())
    assert ChutePack(chute=chute).chute is chute


def test_nothing_warns_in_an_ordinary_definition() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(tagline="t", readme="r", concurrency=2)


def test_an_invalid_path_says_what_is_valid(chute: Chute) -> None:
    with pytest.raises(InvalidPath, match="lower-case"):
        chute.cord(public_api_path="/Generate")
    assert uuid.UUID(chute.uid)


def test_fatal_fails_the_load_or_later_the_chute_once(chute: Chute) -> None:
    reasons: list[str] = []
    chute.set_failure_callback(reasons.append)
    loading = True

    @chute.on_startup()
    async def load(self: Any) -> None:
        if loading:
            raise Fatal("loading")

    async def work(reason: str) -> None:
        raise Fatal(reason)

    async def main() -> None:
        nonlocal loading
        with pytest.raises(Fatal):
            await chute.initialize()
        assert reasons == []
        loading = False
        await chute.initialize()
        for reason in ("first", "second"):
            with pytest.raises(Fatal):
                await chute.executor.run(work, reason)
        await chute.shutdown()

    asyncio.run(main())
    assert reasons == ["first"]
