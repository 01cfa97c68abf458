"""The process of `chutes run`: it binds the port, serves, drains on a signal, and returns the exit code.

uvicorn implements HTTP, and this module adds the shutdown. On SIGTERM the port stays open while running requests
finish, so new requests get 503 instead of a refused connection. Then the process exits with 0. If the same signal
arrives again, it ends at once.
"""

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Generator, Iterator
from types import FrameType

import uvicorn
from uvicorn.server import HANDLED_SIGNALS

from chutes.chute import Chute
from chutes.exception import AddressUnavailable
from chutes.loader import load_chute, locate
from chutes.server import logs
from chutes.server.auth import check_exposure
from chutes.server.http_protocol import HttpProtocol
from chutes.server.lifecycle import ExitCode
from chutes.server.misspelt_settings import misspelt_settings
from chutes.server.runtime import Runtime
from chutes.server.settings import Settings
from chutes.server.websocket_protocol import WebSocketProtocol

log = logging.getLogger(__name__)

_LOADING_THRESHOLDS = 50_000, 50, 1000  # of the garbage collector while imports allocate much and free little
_FATAL_GRACE = 2.0  # seconds that running requests get after a fatal error
_MAX_READ_GRACE = 10.0  # seconds that clients get to read their responses when the server ends
_POLL_INTERVAL = 0.1  # seconds between checks for requests without a slot
_SWEEP_INTERVAL = 1.0  # seconds between checks of all connections
_UNREAD_FACTOR = 4  # times `max_body_bytes`: the memory for responses that clients have not read
_WARN_INTERVAL = 60.0  # seconds between warnings about file descriptors
_HIGH_USAGE = 0.9  # fraction of the file descriptors
_DESCRIPTORS = "/dev/fd"


class _StoppedError(KeyboardInterrupt):
    """A signal arrived while the chute's module was being imported."""


def serve(target: str | Chute, settings: Settings | None = None) -> int:
    """Serve a chute, or the chute that a reference names, until a signal stops it. Return the exit code.

    Raise CommandError if the server cannot start. After a later failure, or if the author's code still runs after the
    grace period, end the process with one of the codes of `ExitCode`.
    """
    settings = settings or Settings()
    logs.configure(settings.log_level, settings.log_format)
    for warning in misspelt_settings(os.environ):
        log.warning("%s", warning)
    try:
        check_exposure(settings)
        source = locate(target) if isinstance(target, str) else None
        with bind(settings.host, settings.port) as listener, _stop_on_signal():
            chute = target if isinstance(target, Chute) else load_chute(source or target)
            return _serve(chute, settings, listener)
    except _StoppedError:
        return ExitCode.OK


@contextlib.contextmanager
def _stop_on_signal() -> Iterator[None]:
    """Raise _StoppedError on the first signal, and end the process on the second."""

    def stop(received: int, _: FrameType | None) -> None:
        log.info("%s: stopping during the import of the chute", signal.Signals(received).name)
        for handled in HANDLED_SIGNALS:
            signal.signal(handled, end)
        raise _StoppedError

    def end(*_: object) -> None:
        os._exit(ExitCode.OK)

    previous = {handled: signal.signal(handled, stop) for handled in HANDLED_SIGNALS}
    try:
        yield
    finally:
        for handled, handler in previous.items():
            signal.signal(handled, handler)


def _serve(chute: Chute, settings: Settings, listener: socket.socket) -> ExitCode:
    server = Server(Runtime(chute, settings, check_origins=True), settings)
    server.run(sockets=[listener])
    return server.exit_code


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that is bound but does not listen yet. Raise AddressUnavailable."""
    listener = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, _, _, address = found[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, UnicodeError) as error:
        if listener is not None:
            listener.close()
        raise _address_unavailable(host, port, error) from error
    return listener


def _address_unavailable(host: str, port: int, error: Exception) -> AddressUnavailable:
    reason = getattr(error, "strerror", None) or error
    return AddressUnavailable(f"Cannot listen on {host}:{port}: {reason}. Choose another host or port.")


class Server(uvicorn.Server):
    """uvicorn's server with a drain before its shutdown."""

    def __init__(self, runtime: Runtime, settings: Settings) -> None:
        config = uvicorn.Config(
            runtime,
            http=HttpProtocol,
            ws=WebSocketProtocol,
            ws_per_message_deflate=False,  # a few compressed kilobytes could become many megabytes
            log_config=None,
            access_log=False,
            lifespan="on",
            timeout_keep_alive=int(settings.keep_alive),
            timeout_graceful_shutdown=int(settings.drain_grace),
            server_header=False,
        )
        super().__init__(config)
        self.exit_code = ExitCode.OK
        self._runtime = runtime
        self._settings = settings
        self._draining: asyncio.Task[None] | None = None
        self._received_signals: set[signal.Signals] = set()
        self._next_warning_at = 0.0  # monotonic time of the next warning about file descriptors

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen on the port, and start the background tasks."""
        for listener in sockets or []:
            try:
                listener.listen()
            except OSError as error:  # another process bound the same port and was the first to listen
                host, port = listener.getsockname()[:2]
                raise _address_unavailable(host, port, error) from error
        await super().startup(sockets)
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            log.info("Listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
        background = (self._wait_for_exit(), self._tune_garbage_collection(), self._sweep())
        self._background = [asyncio.create_task(coroutine) for coroutine in background]

    async def _tune_garbage_collection(self) -> None:
        """Relax the garbage collector while loading, then freeze startup objects, which live until exit."""
        thresholds = gc.get_threshold()
        gc.set_threshold(*_LOADING_THRESHOLDS)
        try:
            await self._runtime.lifecycle.ready.wait()
            gc.collect()
            gc.freeze()
        finally:
            gc.set_threshold(*thresholds)

    async def _sweep(self) -> None:
        """Close stalled connections, and warn when file descriptors run out, about every second."""
        while True:
            now = time.monotonic()
            try:
                connections = self._http_connections()
                for connection in connections:
                    connection.close_if_stalled(now, self._settings.header_timeout, self._settings.send_timeout)
                self._bound_unread_responses(connections)
                if now > self._next_warning_at and _descriptors_run_out():
                    self._next_warning_at = now + _WARN_INTERVAL
            except Exception:
                log.exception("Closing stalled connections failed")
            await asyncio.sleep(_SWEEP_INTERVAL)

    def _http_connections(self) -> list[HttpProtocol]:
        return [connection for connection in self.server_state.connections if isinstance(connection, HttpProtocol)]

    def _bound_unread_responses(self, connections: list[HttpProtocol]) -> None:
        """Abort the connections whose clients have been idle longest, if unread responses take too much memory."""
        unread = sum(connection.unread for connection in connections)
        for connection in sorted(connections, key=lambda connection: connection.last_read_at):
            if unread <= _UNREAD_FACTOR * self._settings.max_body_bytes:
                return
            unread -= connection.unread
            if connection.unread:
                connection.transport.abort()

    async def _wait_for_exit(self) -> None:
        """End the process after a failed load or a fatal error."""
        failure = self._runtime.lifecycle.exit_code
        if failure is None:
            return
        self.exit_code = await failure
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FATAL_GRACE):
                await self._runtime.admission.wait_idle()
        self._runtime.abort_all()
        self.force_exit = self.exit_code is ExitCode.FATAL  # the shutdown hooks could touch the broken GPU
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the port and run the shutdown hooks.

        After a failure, end the process here. The author's code may hold threads that cannot be stopped, and Python
        would wait for them.
        """
        await super().shutdown(sockets)
        if self.exit_code or self.force_exit or self._runtime.lifecycle.abandoned:
            logging.shutdown()
            sys.stdout.flush()
            os._exit(self.exit_code)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Handle signals in place of uvicorn, which would close the port before requests have finished."""
        loop = asyncio.get_running_loop()
        for handled in HANDLED_SIGNALS:
            loop.add_signal_handler(handled, self._on_signal, handled)
        try:
            yield
        finally:
            for handled in HANDLED_SIGNALS:
                loop.remove_signal_handler(handled)

    def _on_signal(self, received: signal.Signals) -> None:
        if self._draining is None:
            log.info("%s: draining", received.name)
            self._draining = asyncio.create_task(self._drain())
        elif received in self._received_signals:
            log.warning("%s again: stopping at once", received.name)
            self._abort_all()
            self.force_exit = True
        self._received_signals.add(received)

    async def _drain(self) -> None:
        """Wait for running requests, for at most the grace period."""
        deadline = time.monotonic() + self._settings.drain_grace
        self._runtime.drain()
        try:
            async with asyncio.timeout(self._settings.drain_grace):
                await self._runtime.admission.wait_idle()
                # Requests without a slot: uvicorn has no event for their end.
                while any(connection.busy for connection in self._http_connections()):  # noqa: ASYNC110
                    await asyncio.sleep(_POLL_INTERVAL)
        except TimeoutError:
            log.warning(
                "Aborting requests that still run after the grace period of %g seconds", self._settings.drain_grace
            )
            self._abort_all()
        # Clients get some of the remaining time to read their responses.
        remaining = min(deadline - time.monotonic(), self._settings.send_timeout, _MAX_READ_GRACE)
        self.config.timeout_graceful_shutdown = max(1, int(remaining))
        self.should_exit = True

    def _abort_all(self) -> None:
        if self._runtime.admission.running:
            self.exit_code = ExitCode.ABORTED
            self._runtime.abort_all()
        self.should_exit = True


def _descriptors_run_out() -> bool:
    """Return whether the process uses nearly all of its file descriptors, and log a warning if so."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    try:
        used = len(os.listdir(_DESCRIPTORS))  # noqa: PTH208 - names are enough
    except OSError:  # listing them needs a descriptor
        used = limit
    if used <= _HIGH_USAGE * limit:
        return False
    log.warning("%d of %d file descriptors are in use. Raise the limit with ulimit -n.", used, limit)
    return True
