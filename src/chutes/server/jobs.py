"""Jobs over HTTP: `POST /jobs/{name}` starts one, and other routes report, cancel and delete it.

A job runs in the background. It needs a slot of the chute like a request, so the two never share the GPU. The files
that it writes to `output_dir` can be fetched until the job is deleted: by a client, or to make room for newer jobs.
"""

import asyncio
import json
import logging
import mimetypes
import os
import threading
from collections.abc import Awaitable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, BinaryIO
from uuid import uuid4

from fastapi import APIRouter, Body, HTTPException, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from chutes.chute import Chute, Job
from chutes.chute._routing.route import BodyCheckRoute
from chutes.chute.job import JobTimeout
from chutes.exception import ChutesError, Draining
from chutes.metrics import last_request_timestamp, request_duration, total_requests
from chutes.server import metrics
from chutes.server.admission import Admission
from chutes.server.body import UPLOAD, Upload
from chutes.server.errors import json_safe
from chutes.server.job_files import JobFolders, list_files, open_file, remove, remove_abandoned
from chutes.server.job_result import InvalidResult, encode
from chutes.server.lifecycle import Lifecycle
from chutes.server.logs import request_id
from chutes.server.paths import JOBS

log = logging.getLogger(__name__)


class JobStatus(StrEnum):
    """The state of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    COMPLETE = "complete"
    ERROR = "error"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"


_MAX_DETAIL = 1000  # characters
_MAX_SHOWN = 100  # characters of a name or an id that an error message repeats
_OUTCOME = "outcome"  # name of the file with the result in a job's folder
_CHUNK = 64 * 1024  # bytes
_FINISHED = {JobStatus.COMPLETE, JobStatus.ERROR, JobStatus.CANCELLED, JobStatus.TIMEOUT}


@dataclass
class JobRecord:
    """One submitted job and its state."""

    job: Job
    id: str
    folder: Path
    status: JobStatus = JobStatus.QUEUED
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    started: datetime | None = None
    finished: datetime | None = None
    detail: str | None = None
    task: "asyncio.Task[None] | None" = None

    @property
    def is_finished(self) -> bool:
        """Whether the job has ended."""
        return self.status in _FINISHED

    @property
    def output(self) -> Path:
        """The job's `output_dir`."""
        return self.folder / "output"

    def save_outcome(self, result: Any, limit: int) -> None:
        """Write the result and the names of the output files to the disk, when the job has ended.

        Both may be large, and a hundred jobs are kept, so they do not stay in memory. Raise InvalidResult or OSError.
        """
        text, invalid = b"null", None
        try:
            text = encode(result, limit)
        except InvalidResult as error:
            invalid = error
        names, more = list_files(self.output)
        listed = json.dumps({"files": names, "more_files": more}, ensure_ascii=False).encode()
        with (self.folder / _OUTCOME).open("xb") as file:  # "x" fails at a file or link that the job made here
            # The rest of a JSON object that begins with the summary, so that a response copies it from the disk.
            file.write(b'"result":' + text + b"," + listed[1:])
        if invalid is not None:
            raise invalid

    def open_outcome(self) -> BinaryIO | None:
        """Open the file that `save_outcome` wrote; None if there is none."""
        return open_file(self.folder, _OUTCOME)

    def to_dict(self) -> dict[str, Any]:
        """Return the response for a job without an outcome."""
        return {**self.summary(), "result": None, "files": [], "more_files": False}

    def summary(self) -> dict[str, Any]:
        """Return the job as an item of a list."""
        return {
            "id": self.id,
            "name": self.job.name,
            "status": str(self.status),
            "created": _iso(self.created),
            "started": _iso(self.started),
            "finished": _iso(self.finished),
            "detail": self.detail,
        }


def _iso(time: datetime | None) -> str | None:
    return time.isoformat(timespec="milliseconds") if time else None


class JobManager:
    """The jobs of one chute. The last `kept` that have ended are kept.

    `max_result_bytes` is the largest size of a result as JSON.
    """

    def __init__(self, chute: Chute, admission: Admission, *, kept: int, max_result_bytes: int) -> None:
        self._chute_id = chute.uid
        self._jobs = {job.name: job for job in chute.jobs}
        self._admission = admission
        self._kept = kept
        self._max_result_bytes = max_result_bytes
        self._records: dict[str, JobRecord] = {}
        self._folders = JobFolders()
        self._remover = ThreadPoolExecutor(1, thread_name_prefix="chutes-jobs")  # slow, so it has a thread of its own

    def start(self) -> None:
        """Remove the files of killed processes in a background thread."""
        if self._jobs:
            threading.Thread(target=remove_abandoned, name="chutes-jobs-abandoned", daemon=True).start()

    def __iter__(self) -> Iterator[JobRecord]:
        return iter(self._records.values())

    def find(self, job_id: str) -> JobRecord:
        """Return the job of this id. Raise HTTPException (404) if there is none."""
        if (record := self._records.get(job_id)) is None:
            raise HTTPException(404, f"No job has the id {job_id[:_MAX_SHOWN]}. It may have been deleted.")
        return record

    def submit(self, name: str, data: dict[str, Any], upload: Upload | None = None) -> JobRecord:
        """Queue a job, and start it as soon as a slot is free. The bytes of `upload` count until the job ends.

        Raise HTTPException (404), RequestValidationError (422), QueueFull, Draining or OSError.
        """
        if (job := self._jobs.get(name)) is None:
            raise HTTPException(404, f"This chute has no job named {name[:_MAX_SHOWN]}.")
        job.arguments(data)  # a 422 now, not an error when the job starts
        waiter = self._admission.enqueue()
        try:
            job_id = uuid4().hex
            record = JobRecord(job, job_id, self._folders.make(job_id))
            record.output.mkdir()
        except BaseException:  # such as a full disk
            self._admission.withdraw(waiter)
            raise
        self._records[record.id] = record
        task = asyncio.create_task(self._run(record, waiter, data), name=f"job-{record.id}")
        # Not a `finally` inside the task: a task that is cancelled before its first step never reaches it.
        task.add_done_callback(lambda task: self._finish(record, waiter, task))
        if upload is not None:
            release = upload.transfer()
            task.add_done_callback(lambda _: release())
        record.task = task
        self._delete_oldest()
        return record

    async def _run(self, record: JobRecord, waiter: "asyncio.Future[None]", data: dict[str, Any]) -> None:
        request_id.set(record.id)
        await waiter
        record.status, record.started = JobStatus.RUNNING, datetime.now(UTC)
        log.info("Job %s started", record.job.name)
        result = None
        try:
            result = await record.job.call(data, output_dir=str(record.output))
        finally:
            await _finish_despite_cancellation(asyncio.to_thread(record.save_outcome, result, self._max_result_bytes))

    def _finish(self, record: JobRecord, waiter: "asyncio.Future[None]", task: "asyncio.Task[None]") -> None:
        """Release the slot of a job that has ended, and record its state."""
        self._admission.withdraw(waiter)  # it returns the slot, or leaves the queue if the job never ran
        record.task = None  # its exception holds the local variables of the job's functions
        record.finished = datetime.now(UTC)
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or (error is not None and record.status is JobStatus.CANCELLING):
            record.status = JobStatus.CANCELLED
        elif error is None:
            record.status = JobStatus.COMPLETE
        elif isinstance(error, JobTimeout):
            record.status = JobStatus.TIMEOUT
            record.detail = f"The job was cancelled after {record.job.timeout} seconds, its time limit."
        else:
            record.status = JobStatus.ERROR
            record.detail = _client_detail(error)
            if not isinstance(error, Draining):  # otherwise the job never ran, so its code did not fail
                log.error("Job %s failed", record.job.name, exc_info=error, extra={"job": record.id})
        log.info("Job %s ended: %s", record.job.name, record.status, extra={"job": record.id})
        labels = {"chute_id": self._chute_id, "function": record.job.name}
        duration = (record.finished - (record.started or record.finished)).total_seconds()
        total_requests.labels(**labels, status=str(record.status)).inc()
        request_duration.labels(**labels, status=str(record.status)).observe(duration)
        last_request_timestamp.labels(**labels).set_to_current_time()

    def count_rejected(self, error: ChutesError) -> None:
        """Count a job that was rejected."""
        metrics.rejections.labels(self._chute_id, error.code).inc()

    def cancel(self, record: JobRecord) -> None:
        """Cancel a job, or delete one that has ended."""
        if record.is_finished:
            self._delete(record)
        elif record.task is not None and record.status is not JobStatus.CANCELLING:
            record.status = JobStatus.CANCELLING
            record.task.cancel()

    def _delete_oldest(self) -> None:
        finished = [record for record in self if record.is_finished]
        for record in finished[: max(0, len(finished) - self._kept)]:
            self._delete(record)

    def _delete(self, record: JobRecord) -> None:
        self._records.pop(record.id, None)
        self._remover.submit(remove, record.folder)

    def abort_all(self) -> None:
        """Cancel all jobs that have not ended."""
        for record in list(self):
            if not record.is_finished:
                self.cancel(record)

    async def close(self) -> None:
        """Remove the files of all jobs."""
        await asyncio.get_running_loop().run_in_executor(self._remover, self._folders.close)
        self._remover.shutdown(wait=False)


async def _finish_despite_cancellation(work: Awaitable[None]) -> None:
    """Wait for work in a thread, which cannot be cancelled. Raise a cancellation when the work is done."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        task.exception()  # marks it as retrieved
        raise


def _client_detail(error: BaseException) -> str:
    """Return the message for clients: that of an error meant for clients, or a general one for any other error."""
    if isinstance(error, HTTPException):
        detail = str(error.detail)
    else:
        detail = str(error) if isinstance(error, ChutesError) else "The job failed. The log has the reason."
    return str(json_safe(detail[:_MAX_DETAIL]))


async def _full_response(record: JobRecord) -> Response:
    """Return the response for one job, with its result and the names of its files from the disk."""
    outcome = await asyncio.to_thread(record.open_outcome) if record.is_finished else None
    if outcome is None:
        return JSONResponse(record.to_dict())
    start = json.dumps(record.summary()).encode()[:-1] + b","

    def parts() -> Iterator[bytes]:
        with outcome:
            yield start
            while part := outcome.read(_CHUNK):
                yield part

    length = len(start) + os.fstat(outcome.fileno()).st_size
    return StreamingResponse(parts(), 200, {"Content-Length": str(length)}, media_type="application/json")


class _OpenFileResponse(FileResponse):
    """A response with an open file, so that the file that was checked is sent even if its name changes."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        super().__init__(
            f"/dev/fd/{file.fileno()}",
            # The file may contain what a client sent, so no browser may run it as a page of this server.
            headers={"Content-Security-Policy": "sandbox", "X-Content-Type-Options": "nosniff"},
            media_type=mimetypes.guess_type(name)[0] or "application/octet-stream",
            stat_result=os.fstat(file.fileno()),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:
            await super().__call__(scope, receive, send)


def router(jobs: JobManager, lifecycle: Lifecycle) -> APIRouter:
    """Return the routes under `/jobs`."""
    routes = APIRouter(prefix=JOBS, tags=["jobs"], route_class=BodyCheckRoute)

    @routes.post("/{name}", status_code=202)
    async def submit(name: str, request: Request, data: Annotated[dict[str, Any] | None, Body()] = None) -> Response:
        """Start a job with these arguments."""
        try:
            lifecycle.check()
            record = jobs.submit(name, data or {}, request.scope.get(UPLOAD))
        except ChutesError as error:
            jobs.count_rejected(error)
            raise
        return JSONResponse(record.to_dict(), 202, {"Location": f"{request.scope['root_path']}{JOBS}/{record.id}"})

    @routes.get("")
    async def list_jobs() -> Response:
        """List all jobs, newest first, without their results and files."""
        return JSONResponse({"jobs": [record.summary() for record in reversed(list(jobs))]})

    @routes.get("/{job_id}")
    async def get_job(job_id: str) -> Response:
        """Return a job with its result and the names of its files."""
        return await _full_response(jobs.find(job_id))

    @routes.delete("/{job_id}")
    async def cancel(job_id: str) -> Response:
        """Cancel a job, or delete one that has ended."""
        record = jobs.find(job_id)
        jobs.cancel(record)
        return Response(status_code=204) if record.is_finished else JSONResponse(record.to_dict(), 202)

    @routes.get("/{job_id}/files/{name:path}")
    async def get_file(job_id: str, name: str) -> Response:
        """Return a file that the job has written."""
        record = jobs.find(job_id)
        if not record.is_finished:
            raise HTTPException(404, f"Job {record.id} is {record.status}. Get its files when it has ended.")
        file = await asyncio.to_thread(open_file, record.output, name)
        if file is None:
            raise HTTPException(404, f"Job {record.id} has no file named {name[:_MAX_SHOWN]}.")
        return _OpenFileResponse(file, name)

    return routes
