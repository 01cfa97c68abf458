"""The process around a chute, told in order: check, bind, load, serve, drain, exit with a code that says why.

uvicorn speaks HTTP. What is ours is the end: on SIGTERM the port stays open while running requests finish, so that
new ones are told to go elsewhere, and the process then exits with 0. A second signal ends it at once.
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

_LOADING = 50_000, 50, 1000  # thresholds while imports make much and free little, so that it is looked through seldom
_LAST_WORDS = 2.0  # seconds that running requests get to answer after the chute said that it cannot go on
_LAST_READS = 10.0  # seconds that clients get to read their answers when the server ends
_LOOK_EVERY = 0.1  # seconds, while what runs is waited for
_SWEEP_EVERY = 1.0  # seconds between looks at all connections
_UNREAD_SHARE = 4  # times the largest body: what answers may take that clients have not read
_WARN_EVERY = 60.0  # seconds between warnings about file descriptors
_NEARLY_ALL = 0.9  # of the file descriptors
_DESCRIPTORS = "/dev/fd"


class _StoppedError(KeyboardInterrupt):
    """A signal came while the chute's module was being imported."""


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
    """Raise _StoppedError when a signal asks the process to end; a second one ends it at once."""

    def stop(received: int, _: FrameType | None) -> None:
        log.info("%s: stopping while the chute is imported", signal.Signals(received).name)
        for each in HANDLED_SIGNALS:
            signal.signal(each, end)
        raise _StoppedError

    def end(*_: object) -> None:
        os._exit(ExitCode.OK)

    before = {each: signal.signal(each, stop) for each in HANDLED_SIGNALS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _serve(chute: Chute, settings: Settings, listener: socket.socket) -> ExitCode:
    server = Server(Runtime(chute, settings, guarded=True), settings)
    server.run(sockets=[listener])
    return server.code


def bind(host: str, port: int) -> socket.socket:
    """A socket that has the port but does not listen yet. AddressUnavailable says in one line what is in the way."""
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
        raise _in_use(host, port, error) from error
    return listener


def _in_use(host: str, port: int, error: Exception) -> AddressUnavailable:
    reason = getattr(error, "strerror", None) or error
    return AddressUnavailable(f"Cannot listen on {host}:{port}: {reason}. Choose another host or port.")


class Server(uvicorn.Server):
    """uvicorn's server, with a drain before its shutdown."""

    def __init__(self, runtime: Runtime, settings: Settings) -> None:
        config = uvicorn.Config(
            runtime,
            http=HttpProtocol,
            ws=WebSocketProtocol,
            ws_per_message_deflate=False,  # a few kilobytes would become many megabytes
            log_config=None,
            access_log=False,
            lifespan="on",
            timeout_keep_alive=int(settings.keep_alive),
            timeout_graceful_shutdown=int(settings.drain_grace),
            server_header=False,
        )
        super().__init__(config)
        self.code = ExitCode.OK
        self._runtime = runtime
        self._settings = settings
        self._ending: asyncio.Task[None] | None = None
        self._received: set[signal.Signals] = set()
        self._warn_again = 0.0  # when the next warning about file descriptors is due

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the port, then wait in the background for the chute to say that it is over."""
        for listener in sockets or []:
            try:
                listener.listen()
            except OSError as error:  # another process has bound it at the same time, and was the first to listen
                host, port = listener.getsockname()[:2]
                raise _in_use(host, port, error) from error
        await super().startup(sockets)
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            log.info("Listening on http://%s:%d", f"[{host}]" if ":" in host else host, port)
        self._watching = [
            asyncio.create_task(each) for each in (self._wait_for_the_end(), self._settle(), self._sweep())
        ]

    async def _settle(self) -> None:
        """Spare the garbage collector the load, and afterwards what was made until then, which stays."""
        usual = gc.get_threshold()
        gc.set_threshold(*_LOADING)
        try:
            await self._runtime.lifecycle.ready.wait()
            gc.collect()
            gc.freeze()
        finally:
            gc.set_threshold(*usual)

    async def _sweep(self) -> None:
        """Close the connections of clients that have stalled, and warn when file descriptors run out."""
        while True:
            now = time.monotonic()
            try:
                connections = self._http_connections()
                for connection in connections:
                    connection.close_if_stalled(now, self._settings.header_timeout, self._settings.send_timeout)
                self._bound_unread_answers(connections)
                if now > self._warn_again and _few_descriptors_are_left():
                    self._warn_again = now + _WARN_EVERY
            except Exception:
                log.exception("Stalled connections could not be closed")
            await asyncio.sleep(_SWEEP_EVERY)

    def _http_connections(self) -> list[HttpProtocol]:
        return [each for each in self.server_state.connections if isinstance(each, HttpProtocol)]

    def _bound_unread_answers(self, connections: list[HttpProtocol]) -> None:
        """Abort the connections that have waited longest for their clients, if all unread answers take too much."""
        unread = sum(connection.unread for connection in connections)
        for connection in sorted(connections, key=lambda each: each.sent_since):
            if unread <= _UNREAD_SHARE * self._settings.max_body_bytes:
                return
            unread -= connection.unread
            if connection.unread:
                connection.transport.abort()

    async def _wait_for_the_end(self) -> None:
        """A failed load or a fatal error ends the process, with its code."""
        over = self._runtime.lifecycle.exit_code
        if over is None:
            return
        self.code = await over
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS):
                await self._runtime.admission.wait_idle()
        self._runtime.abort_all()
        self.force_exit = self.code is ExitCode.FATAL  # its hooks would touch what is broken
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the port and run the shutdown hooks.

        Unless all went well the process ends right here: somebody's code may hold a thread that cannot be stopped, and
        Python would wait for it on its way out.
        """
        await super().shutdown(sockets)
        if self.code or self.force_exit or self._runtime.lifecycle.abandoned:
            logging.shutdown()
            sys.stdout.flush()
            os._exit(self.code)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Drain on the first signal; uvicorn would close the port first, and end by the signal and not by a code."""
        loop = asyncio.get_running_loop()
        for each in HANDLED_SIGNALS:
            loop.add_signal_handler(each, self._on_signal, each)
        try:
            yield
        finally:
            for each in HANDLED_SIGNALS:
                loop.remove_signal_handler(each)

    def _on_signal(self, received: signal.Signals) -> None:
        if self._ending is None:
            log.info("%s: draining", received.name)
            self._ending = asyncio.create_task(self._drain())
        elif received in self._received:
            log.warning("%s again: stopping at once", received.name)
            self._abort_all()
            self.force_exit = True
        self._received.add(received)

    async def _drain(self) -> None:
        """Let what runs finish, for the grace period at most."""
        ends = time.monotonic() + self._settings.drain_grace
        self._runtime.drain()
        try:
            async with asyncio.timeout(self._settings.drain_grace):
                await self._runtime.admission.wait_idle()
                # Routes that take no slot; uvicorn has no event for the end of a request.
                while any(each.busy for each in self._http_connections()):  # noqa: ASYNC110
                    await asyncio.sleep(_LOOK_EVERY)
        except TimeoutError:
            log.warning("Still running after %g seconds: cut off", self._settings.drain_grace)
            self._abort_all()
        # Answers that have not been read yet get a moment of what is left.
        left = min(ends - time.monotonic(), self._settings.send_timeout, _LAST_READS)
        self.config.timeout_graceful_shutdown = max(1, int(left))
        self.should_exit = True

    def _abort_all(self) -> None:
        if self._runtime.admission.running:
            self.code = ExitCode.ABORTED
            self._runtime.abort_all()
        self.should_exit = True


def _few_descriptors_are_left() -> bool:
    """Return whether the process has nearly run out of file descriptors, and log a warning if so."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    try:
        used = len(os.listdir(_DESCRIPTORS))  # noqa: PTH208 - names are enough
    except OSError:  # listing them needs one
        used = limit
    if used <= _NEARLY_ALL * limit:
        return False
    log.warning("%d of %d file descriptors are in use: raise the limit (ulimit -n)", used, limit)
    return True
