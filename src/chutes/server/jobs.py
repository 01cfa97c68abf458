"""Jobs over HTTP: begun with `POST /jobs/{name}`, asked after, cancelled, and forgotten in time.

A job runs in the background in one of the chute's slots, like a request, so that the two never share the GPU; there
is no request that could time out. What it writes to `output_dir` can be fetched until the job is forgotten.
"""

import asyncio
import logging
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Body, HTTPException, Request
from fastapi.encoders import jsonable_encoder
from starlette.responses import FileResponse, JSONResponse, Response

from chutes.chute import Chute, Job
from chutes.chute._route import CordRoute
from chutes.chute.job import JobTimeout
from chutes.exception import ChutesError
from chutes.metrics import last_request_timestamp, request_duration, total_requests
from chutes.server import metrics
from chutes.server.admission import Admission
from chutes.server.errors import json_safe
from chutes.server.lifecycle import Lifecycle
from chutes.server.logs import request_id

log = logging.getLogger(__name__)


class Status(StrEnum):
    """Where a job is."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    COMPLETE = "complete"
    ERROR = "error"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"


_OVER = {Status.COMPLETE, Status.ERROR, Status.CANCELLED, Status.TIMEOUT}


@dataclass
class Record:
    """One job that was begun, and what became of it."""

    job: Job
    folder: Path
    id: str = field(default_factory=lambda: uuid4().hex)
    status: Status = Status.QUEUED
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    started: datetime | None = None
    finished: datetime | None = None
    result: Any = None
    detail: str | None = None
    files: list[str] = field(default_factory=list)
    """What the finished job has written, relative to its `output_dir`."""
    task: "asyncio.Task[None] | None" = None

    def list_files(self) -> None:
        """Look once, when the job is done: there may be thousands."""
        self.files = sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())

    def told(self) -> dict[str, Any]:
        """What a client sees."""
        return {
            "id": self.id,
            "name": self.job.name,
            "status": str(self.status),
            "created": _iso(self.created),
            "started": _iso(self.started),
            "finished": _iso(self.finished),
            "result": self.result,
            "detail": self.detail,
            "files": self.files if self.status in _OVER else [],
        }


def _iso(when: datetime | None) -> str | None:
    return when.isoformat(timespec="milliseconds") if when else None


class Jobs:
    """The jobs of one chute: those that wait, those that run, and the last `kept` that ended."""

    def __init__(self, chute: Chute, admission: Admission, *, kept: int) -> None:
        self._chute_id = chute.uid
        self._jobs = {job.name: job for job in chute.jobs}
        self._admission = admission
        self._kept = kept
        self._records: dict[str, Record] = {}

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records.values())

    def find(self, job_id: str) -> Record:
        """The record of this id; 404 if there is none (any more)."""
        if (record := self._records.get(job_id)) is None:
            raise HTTPException(404, "There is no such job (any more)")
        return record

    def begin(self, name: str, data: dict[str, Any]) -> Record:
        """Put a job in line for a slot. 404, 422, QueueFull, Draining."""
        if (job := self._jobs.get(name)) is None:
            raise HTTPException(404, f"There is no job named {name[:100]}")
        job.arguments(data)  # 422 now, rather than an error when its turn comes
        turn = self._admission.line_up()
        try:
            record = Record(job, Path(tempfile.mkdtemp(prefix="chutes-job-")))
        except BaseException:  # a full disk, for one
            self._admission.give_up(turn)
            raise
        self._records[record.id] = record
        task = asyncio.create_task(self._run(record, turn, data), name=f"job-{record.id}")
        # Not a `finally` inside the task: one that is cancelled before its first step never gets there.
        task.add_done_callback(lambda task: self._ended(record, turn, task))
        record.task = task
        self._forget_the_oldest()
        return record

    async def _run(self, record: Record, turn: "asyncio.Future[None]", data: dict[str, Any]) -> None:
        request_id.set(record.id)
        await turn
        record.status, record.started = Status.RUNNING, datetime.now(UTC)
        log.info("Job %s begins", record.job.name)
        try:
            outcome = await record.job.call(data, output_dir=str(record.folder))
        finally:
            await asyncio.to_thread(record.list_files)
        record.result = json_safe(jsonable_encoder(outcome))

    def _ended(self, record: Record, turn: "asyncio.Future[None]", task: "asyncio.Task[None]") -> None:
        """It has really ended: free its slot, and keep what became of it."""
        self._admission.give_up(turn)
        record.finished = datetime.now(UTC)
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or (error is not None and record.status is Status.CANCELLING):
            record.status = Status.CANCELLED
        elif error is None:
            record.status = Status.COMPLETE
        elif isinstance(error, JobTimeout):
            record.status = Status.TIMEOUT
            record.detail = f"Not done within {record.job.timeout} seconds"
        else:
            record.status = Status.ERROR
            record.detail = _for_clients(error)
            log.error("Job %s failed", record.job.name, exc_info=error, extra={"job": record.id})
        log.info("Job %s: %s", record.job.name, record.status, extra={"job": record.id})
        labels = {"chute_id": self._chute_id, "function": record.job.name}
        took = (record.finished - (record.started or record.finished)).total_seconds()
        total_requests.labels(**labels, status=str(record.status)).inc()
        request_duration.labels(**labels, status=str(record.status)).observe(took)
        last_request_timestamp.labels(**labels).set_to_current_time()

    def count_refused(self, error: ChutesError) -> None:
        """Count a job that was not begun."""
        metrics.rejections.labels(self._chute_id, error.code).inc()

    def cancel(self, record: Record) -> None:
        """Ask a job to stop; one that is over is forgotten instead."""
        if record.status in _OVER:
            self._forget(record)
        elif record.task is not None and record.status is not Status.CANCELLING:
            record.status = Status.CANCELLING
            record.task.cancel()

    def _forget_the_oldest(self) -> None:
        over = [record for record in self if record.status in _OVER]
        for record in over[: max(0, len(over) - self._kept)]:
            self._forget(record)

    def _forget(self, record: Record) -> None:
        self._records.pop(record.id, None)
        asyncio.get_running_loop().run_in_executor(None, _remove, record.folder)

    def cut_off(self) -> None:
        """Cancel all that is not over."""
        for record in list(self):
            if record.status not in _OVER:
                self.cancel(record)

    def close(self) -> None:
        """Remove what the jobs have written."""
        for record in self:
            _remove(record.folder)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _for_clients(error: BaseException) -> str:
    """What went wrong, if that was meant for clients."""
    if isinstance(error, HTTPException):
        return str(error.detail)
    return str(error) if isinstance(error, ChutesError) else "The job failed; its log says why"


def router(jobs: Jobs, lifecycle: Lifecycle) -> APIRouter:
    """The routes under `/jobs`."""
    routes = APIRouter(prefix="/jobs", tags=["jobs"], route_class=CordRoute)

    @routes.post("/{name}", status_code=202)
    async def begin(name: str, request: Request, data: Annotated[dict[str, Any] | None, Body()] = None) -> Response:
        """Begin a job with these arguments."""
        try:
            lifecycle.check()
            record = jobs.begin(name, data or {})
        except ChutesError as error:
            jobs.count_refused(error)
            raise
        return JSONResponse(record.told(), 202, {"Location": f"{request.scope['root_path']}/jobs/{record.id}"})

    @routes.get("")
    async def every() -> Response:
        """All jobs, the newest first."""
        return JSONResponse({"jobs": [record.told() for record in reversed(list(jobs))]})

    @routes.get("/{job_id}")
    async def one(job_id: str) -> Response:
        """One job, and what became of it."""
        return JSONResponse(jobs.find(job_id).told())

    @routes.delete("/{job_id}")
    async def cancel(job_id: str) -> Response:
        """Cancel a job, or forget one that is over."""
        record = jobs.find(job_id)
        jobs.cancel(record)
        return Response(status_code=204) if record.status in _OVER else JSONResponse(record.told(), 202)

    @routes.get("/{job_id}/files/{name:path}")
    async def file(job_id: str, name: str) -> Response:
        """A file that the job has written."""
        record = jobs.find(job_id)
        if record.status not in _OVER or name not in record.files or not (record.folder / name).is_file():
            raise HTTPException(404, "The job has written no such file")
        return FileResponse(record.folder / name)

    return routes
