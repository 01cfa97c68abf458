"""A chute's life: loading, ready, draining, or failed.

The startup hooks run in the background on the chute's own loop, so the port is open and `/health` answers from the
first moment. What decides that the process must end (a failed load, a chute that says it cannot go on) resolves
`exit_code` with the exit code.
"""

import asyncio
import logging
import time
from enum import IntEnum, StrEnum
from typing import Any

from chutes._extras import import_hint
from chutes.chute import Chute
from chutes.exception import ChutesError, CommandError, Draining, Fatal, NotReady, Unavailable
from chutes.loader import raised_at
from chutes.server.admission import Admission

log = logging.getLogger(__name__)

_SHUTDOWN_HOOKS = 15.0  # seconds for all of them
_INTERRUPTED = 2.0  # seconds for what was cancelled to end; if it blocks it can only be left behind
_TELL_EVERY = 1.0  # seconds between lines that say how far loading is
_RETRY_LOADING = 5  # seconds: models load in tens of seconds, so asking sooner is of no use


class ExitCode(IntEnum):
    """How the process ends."""

    OK = 0
    USAGE = 1  # the caller's or the author's mistake, found before anything ran
    LOAD_FAILED = 3  # a startup hook raised
    FATAL = 4  # the chute said that it cannot go on, as with a poisoned GPU: start it again
    ABORTED = 5  # the grace period was over and requests were still running


class State(StrEnum):
    """Where in its life a chute is."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


class Lifecycle:
    """Runs the hooks of one chute and knows whether it can serve."""

    def __init__(self, chute: Chute, admission: Admission) -> None:
        self.chute = chute
        self.state = State.LOADING
        self.exit_code: asyncio.Future[ExitCode] | None = None
        self.ready = asyncio.Event()
        self.failure = ""  # why it is FAILED, in one line for the log
        self.abandoned = False
        self._admission = admission
        self._stop = asyncio.Event()
        self._life: asyncio.Task[None] | None = None
        self._began = time.monotonic()
        chute.lifecycle_managed = True

    def start(self) -> None:
        """Begin to load, in the background."""
        loop = asyncio.get_running_loop()
        self.exit_code = loop.create_future()
        self._began = time.monotonic()
        self.chute.on_fail(lambda reason: loop.call_soon_threadsafe(self._fatal, reason))
        self._life = asyncio.create_task(self._live(), name="chute-life")

    async def _live(self) -> None:
        """Load, wait for the end, run the shutdown hooks. One task, as a lifespan must be left where it was entered."""
        chute = self.chute
        try:
            async with chute.router.lifespan_context(chute):
                telling = asyncio.create_task(self._tell())
                try:
                    await chute.initialize()
                finally:
                    telling.cancel()
                took = round(time.monotonic() - self._began, 1)
                log.info("Ready", extra={"seconds": took, "info": _plain(chute.info)})
                if self.state is State.LOADING:
                    self.state = State.READY
                self.ready.set()
                await self._stop.wait()
                await chute.shutdown()
        except Exception as error:
            if self.ready.is_set():
                log.exception("A shutdown hook failed")
                return
            self.failure = describe(error)
            log.error("Startup failed: %s", self.failure)  # noqa: TRY400 - one clear line, its traceback is for debugging
            log.debug("Startup failed", exc_info=True)
            self._end(ExitCode.LOAD_FAILED)

    async def _tell(self) -> None:
        """Log how far loading is, as often as there is something new to say."""
        said: dict[str, Any] = {}
        while True:
            await asyncio.sleep(_TELL_EVERY)
            now = self.chute.progress.snapshot()
            if now["stage"] and now != said:
                share = "" if now["fraction"] is None else f", {now['fraction']:.0%}"
                log.info("Loading: %s%s", now["stage"], share, extra={"progress": now})
                said = now

    def _fatal(self, reason: str) -> None:
        self.failure = reason
        log.error("The chute cannot go on: %s", reason)
        self._end(ExitCode.FATAL)

    def _end(self, code: ExitCode) -> None:
        self.state = State.FAILED
        self._admission.close()
        if self.exit_code is not None and not self.exit_code.done():
            self.exit_code.set_result(code)

    def check(self) -> None:
        """Raise what a request is to be told while the chute is not ready: NotReady, Draining."""
        if self.state is State.READY:
            return
        if self.state is State.LOADING:
            stage = self.chute.progress.snapshot().get("stage")
            raise NotReady(
                f"Still loading: {stage}" if stage else "Still loading", headers={"Retry-After": str(_RETRY_LOADING)}
            )
        if self.state is State.DRAINING:
            raise Draining(headers={"Connection": "close"})
        raise Unavailable(Fatal.message, headers={"Retry-After": str(_RETRY_LOADING)})

    def drain(self) -> None:
        """Take no more requests; those that run go on, those that wait are sent away."""
        if self.state is not State.FAILED:
            self.state = State.DRAINING
        self._admission.close()

    async def close(self, within: float = _SHUTDOWN_HOOKS) -> None:
        """Run the shutdown hooks, for at most so many seconds, or give up a load still going on.

        What cannot be stopped in time is `abandoned`: the process then has to end without it.
        """
        self.drain()
        self._stop.set()
        if self._life is None:
            return
        if not self.ready.is_set():
            self._life.cancel()
        blocked = not self.ready.is_set() or self._admission.running > 0
        within = min(within, _INTERRUPTED) if blocked else within
        _, pending = await asyncio.wait({self._life}, timeout=within)
        if pending:
            log.warning("Still running after %g seconds: left behind", within)
        self.abandoned = bool(pending)
        self.chute.lifecycle_managed = False  # a test may use the chute without this application afterwards


def describe(error: BaseException) -> str:
    """An exception in one line: what, and in which line of the author's it was raised."""
    text = " ".join(str(error).split())
    if isinstance(error, (ChutesError, CommandError)):
        return text
    kind = type(error).__name__
    line = f"{kind}: {text}{raised_at(error)}" if text else f"{kind}{raised_at(error)}"
    hint = import_hint(error)
    return f"{line}.{hint}" if hint else line


def _plain(info: dict[str, Any]) -> dict[str, Any]:
    """What of the chute's info fits on a line."""
    return {key: value for key, value in info.items() if isinstance(value, (str, int, float, bool))}
