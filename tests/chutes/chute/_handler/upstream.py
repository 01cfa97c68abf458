"""A small server for passthrough cords."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route


async def echo(request: Request) -> Response:
    body = (await request.body()).decode()
    seen = {"method": request.method, "query": request.url.query, "headers": dict(request.headers), "body": body}
    status = int(request.query_params.get("status", "200"))
    headers = {"x-upstream": "yes", "x-request-id": "upstream's"}
    return JSONResponse(seen, status, headers={**headers, "connection": "x-upstream-hop", "x-upstream-hop": "1"})


async def stream(request: Request) -> Response:
    async def events() -> Any:
        for i in range(3):
            yield f"data: {json.dumps({'i': i})}\n\n"
            await asyncio.sleep(0)

    return StreamingResponse(events(), media_type="text/event-stream")


async def cut(request: Request) -> Response:
    async def pieces() -> Any:
        yield b"half"
        raise ConnectionError

    return StreamingResponse(pieces(), headers={"content-length": "8"})


async def packed(request: Request) -> Response:
    import gzip

    return Response(gzip.compress(b"unpacked"), headers={"content-encoding": "gzip"})


@contextmanager
def running() -> Iterator[int]:
    """Run the server, and yield its port."""
    methods = ["GET", "POST"]
    routes = [Route(f"/v1/{f.__name__}", f, methods=methods) for f in (echo, stream, cut, packed)]
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), port=0, log_config=None, log_level="critical"))
    sock = server.config.bind_socket()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield sock.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
