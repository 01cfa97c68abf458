"""What runs before the first request and after the last, in order of priority."""

import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from chutes.chute._loop.user_loop import is_coroutine_function

Hook = tuple[int, Callable[[], Awaitable[Any]]]


def make_hook(func: Callable[..., Any], chute: object) -> Callable[[], Awaitable[Any]]:
    """A coroutine function without parameters that calls the author's, which takes the chute or nothing.

    A plain function is called right on the loop's thread: what it sets for its thread (a CUDA device, say) holds
    for the handlers on that loop.
    """
    arguments = [chute] if inspect.signature(func).parameters else []

    async def hook() -> Any:
        result = func(*arguments)
        return await result if is_coroutine_function(func) or inspect.isawaitable(result) else result

    hook.__name__ = getattr(func, "__name__", "hook")
    return hook


def by_priority(hooks: Iterable[Hook]) -> list[Hook]:
    """The lowest number first; equal ones in the order they were written."""
    return sorted(hooks, key=lambda hook: hook[0])


def check_parentheses(decorator: str, argument: object, arguments: str = "") -> None:
    """TypeError when a decorator was used without its parentheses, so that the function came as its argument."""
    if callable(argument):
        name = getattr(argument, "__name__", "function")
        raise TypeError(f"@chute.{decorator} needs parentheses: write @chute.{decorator}({arguments}) above {name!r}")
