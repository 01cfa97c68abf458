"""The state of a chute: loading, ready, draining or failed.

The startup hooks run in the background on the chute's own event loop, so the port is open and `/health` answers from
the beginning. If loading fails, or the chute declares a fatal error, the future `exit_code` resolves and the process
ends.
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

SHUTDOWN_TIMEOUT = 15.0  # seconds for all shutdown hooks
SHUTDOWN_MARGIN = 5.0  # seconds to abort requests and to close the process, besides the time for the shutdown hooks
_CANCEL_TIMEOUT = 2.0  # seconds for cancelled code to end; code that blocks is abandoned
_PROGRESS_INTERVAL = 1.0  # seconds between log lines about the progress of loading

RETRY_AFTER = 5
"""Seconds after which clients may try again while no replica is ready. Models take tens of seconds to load."""


class ExitCode(IntEnum):
    """Exit codes of the process. A CommandError ends it with 1 before the chute runs."""

    OK = 0
    LOAD_FAILED = 3  # a startup hook raised an exception
    FATAL = 4  # the chute declared a fatal error, such as a GPU error; a new process may recover
    ABORTED = 5  # requests were still running at the end of the grace period


class State(StrEnum):
    """One of the four states of a chute."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


class Lifecycle:
    """The startup hooks, state and shutdown hooks of one chute.

    - `ready`: an event that is set after the startup hooks.
    - `exit_code`: a future that resolves when the process must end.
    - `failure`: the reason why the chute has failed, in one line for the log.
    - `abandoned`: whether the author's code was still running at the time limit of `close`.
    """

    def __init__(self, chute: Chute, admission: Admission) -> None:
        self.chute = chute
        self.state = State.LOADING
        self.exit_code: asyncio.Future[ExitCode] | None = None
        self.ready = asyncio.Event()
        self.failure = ""
        self.abandoned = False
        self._admission = admission
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._started_at = time.monotonic()
        chute.lifecycle_managed = True

    def start(self) -> None:
        """Begin to load in the background."""
        loop = asyncio.get_running_loop()
        self.exit_code = loop.create_future()
        self._started_at = time.monotonic()
        self.chute.set_failure_callback(lambda reason: loop.call_soon_threadsafe(self._on_fatal, reason))
        self._task = asyncio.create_task(self._run(), name="chute-lifecycle")

    async def _run(self) -> None:
        """Load, wait for `close`, and run the shutdown hooks, in one task because a lifespan must not change tasks."""
        chute = self.chute
        try:
            async with chute.router.lifespan_context(chute):
                progress = asyncio.create_task(self._log_progress())
                try:
                    await chute.initialize()
                finally:
                    progress.cancel()
                seconds = round(time.monotonic() - self._started_at, 1)
                log.info("Ready", extra={"seconds": seconds, "info": simple_info(chute)})
                if self.state is State.LOADING:
                    self.state = State.READY
                self.ready.set()
                await self._stop.wait()
                await chute.shutdown()
        except Exception as error:
            if self.ready.is_set():
                log.exception("A shutdown hook failed")
                return
            self.failure = describe_error(error)
            log.error("Startup failed: %s", self.failure)  # noqa: TRY400 - one line; the traceback is logged at level debug
            log.debug("Startup failed", exc_info=True)
            self._fail(ExitCode.LOAD_FAILED)

    async def _log_progress(self) -> None:
        """Log the progress of loading whenever it has changed."""
        logged: dict[str, Any] = {}
        while True:
            await asyncio.sleep(_PROGRESS_INTERVAL)
            current = self.chute.progress.snapshot()
            if current["stage"] and current != logged:
                percent = "" if current["fraction"] is None else f", {current['fraction']:.0%}"
                log.info("Loading: %s%s", current["stage"], percent, extra={"progress": current})
                logged = current

    def _on_fatal(self, reason: str) -> None:
        self.failure = reason
        log.error("Fatal error: %s", reason)
        self._fail(ExitCode.FATAL)

    def _fail(self, code: ExitCode) -> None:
        self.state = State.FAILED
        self._admission.close()
        if self.exit_code is not None and not self.exit_code.done():
            self.exit_code.set_result(code)

    def check(self) -> None:
        """Raise NotReady, Draining or Unavailable if the chute cannot take requests."""
        if self.state is State.READY:
            return
        if self.state is State.LOADING:
            stage = self.chute.progress.snapshot().get("stage")
            raise NotReady(
                f"The service is still loading ({stage}). Try again later." if stage else None,
                headers={"Retry-After": str(RETRY_AFTER)},
            )
        if self.state is State.DRAINING:
            raise Draining(headers={"Connection": "close"})
        raise Unavailable(Fatal.message, headers={"Retry-After": str(RETRY_AFTER)})

    def drain(self) -> None:
        """Accept no more requests, and reject those in the queue. Running requests continue."""
        if self.state is not State.FAILED:
            self.state = State.DRAINING
        self._admission.close()

    async def close(self, within: float = SHUTDOWN_TIMEOUT) -> None:
        """Run the shutdown hooks, or cancel loading, for at most `within` seconds.

        Code that does not end in time is abandoned: the process must end without waiting for it.
        """
        self.drain()
        self._stop.set()
        if self._task is None:
            return
        if not self.ready.is_set():
            self._task.cancel()
        blocked = not self.ready.is_set() or self._admission.running > 0
        within = min(within, _CANCEL_TIMEOUT) if blocked else within
        _, pending = await asyncio.wait({self._task}, timeout=within)
        if pending:
            log.warning("Abandoned the author's code, which still runs after %g seconds", within)
        self.abandoned = bool(pending)
        self.chute.lifecycle_managed = False  # a test may use the chute without this application afterwards


def describe_error(error: BaseException) -> str:
    """Return an exception in one line, with the author's file and line that raised it."""
    text = " ".join(str(error).split())
    if isinstance(error, (ChutesError, CommandError)):
        return text
    kind = type(error).__name__
    line = f"{kind}: {text}{raised_at(error)}" if text else f"{kind}{raised_at(error)}"
    hint = import_hint(error)
    return f"{line}.{hint}" if hint else line


def simple_info(chute: Chute) -> dict[str, Any]:
    """Return the entries of a chute's info that are text, numbers or booleans, for a log line or a report."""
    return {key: value for key, value in chute.info.items() if isinstance(value, (str, int, float, bool))}
