"""The smallest chute: a startup hook that sets up state, and a route with plain parameters.

Run:  chutes run examples/hello.py
Call: curl localhost:8000/greet -H 'Content-Type: application/json' -d '{"name": "you"}'
"""

from typing import Any

from chutes.chute import Chute

chute = Chute(username="myuser", name="hello", image="python:3.12-slim", concurrency=8)


@chute.on_startup()
async def prepare(self: Any) -> None:
    """Create the state that all requests share, such as a model or a connection pool."""
    self.greeted = 0


@chute.cord(public_api_path="/greet", method="POST")
async def greet(self: Any, name: str = "world") -> dict[str, object]:
    """Greet someone, and count the greetings."""
    self.greeted += 1
    return {"greeting": f"Hello, {name}!", "greeted": self.greeted}
