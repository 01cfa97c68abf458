"""Startup and shutdown hooks: functions that run before the first request and after the last."""

import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

Hook = tuple[int, Callable[[], Awaitable[Any]]]
"""A priority, and the coroutine function to run."""


def make_hook(func: Callable[..., Any], chute: object) -> Callable[[], Awaitable[Any]]:
    """Wrap an author's function, which takes the chute or nothing, as a coroutine function without parameters.

    A plain function runs on the loop's thread too. State that belongs to a thread, such as the current CUDA device, is
    therefore set for the handlers on that loop.
    """
    arguments = [chute] if inspect.signature(func).parameters else []

    async def hook() -> Any:
        result = func(*arguments)
        return await result if inspect.isawaitable(result) else result

    hook.__name__ = getattr(func, "__name__", "hook")
    return hook


def by_priority(hooks: Iterable[Hook]) -> list[Hook]:
    """Sort hooks by ascending priority; equal priorities keep the order of definition."""
    return sorted(hooks, key=lambda hook: hook[0])
