"""What the relay keeps of the files of jobs, for the operator: a list, and to fetch, verify and prune them."""

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from relay.core.artifacts import FILE_STATES, StoredFile
from relay.core.audit import Noted
from relay.core.job import artifact_id, iso
from relay.core.keeping import FileLost, FilesWanted
from relay.errors import Conflict, NotFound
from relay.store.contract import PAGE_MAX
from relay.web.audit import asked_for, deed
from relay.web.problem import Json, listed, read_object, read_query, whole
from relay.web.subscriptions import read_model

PAGE_DEFAULT: Final = 50
FETCHED_MAX: Final = 1_000


class WhatToFetch(BaseModel):
    """The body of `POST /v1/artifacts/fetch`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    job: str | None = Field(None, max_length=300)


class WhatToPrune(BaseModel):
    """The body of `POST /v1/artifacts/prune`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    olderThanS: int | None = Field(None, ge=0, le=10**10)  # noqa: N815 # the name on the wire


async def index(request: Request) -> Response:
    """A page of files, newest first: what is kept, wanted, given up, or on its way out."""
    state: Any = request.app.state
    query = read_query(request, many=("state", "job"), one=("cursor", "limit"))
    limit = whole(query, "limit", PAGE_DEFAULT, 1, PAGE_MAX)
    before = whole(query, "cursor", 0, 1, 10**18) or None
    states = listed(query, "state", FILE_STATES)
    found: list[StoredFile] = await state.store.files(states, query["job"], before, limit + 1)
    page = found[:limit]
    data = [_shown(file, state.settings.retention_artifacts) for file in page]
    return Json({"data": data, "next": str(page[-1].seq) if len(found) > limit else None})


async def fetch(request: Request) -> Response:
    """202 and how many files are fetched now: those of a job that are missing, or what is missing of all."""
    state: Any = request.app.state
    _check_storage(state)
    given = read_model(WhatToFetch, await read_object(request))
    if given.job is not None:
        job = await state.store.job(given.job)
        if job is None:
            raise NotFound(f"there is no job {given.job[:80]}")
        jobs = [job.id]
    else:
        missing = await state.store.files(("wanted", "failed"), (), None, FETCHED_MAX)
        jobs = list(dict.fromkeys(file.job_id for file in missing))
    wanted = [asked_for(request, FilesWanted(job_id, state.clock.now_ms()), job_id) for job_id in jobs]
    return Json({"files": sum([await state.store.apply(one) for one in wanted])}, 202)


async def verify(request: Request) -> Response:
    """Whether a kept file is what it was, read from end to end; one that is not is fetched anew."""
    state: Any = request.app.state
    file: StoredFile | None = await state.store.file(request.path_params["id"])
    if file is None or file.state != "kept" or state.folder is None:
        raise NotFound("no such file is kept")
    reason = await state.folder.check(file)
    if reason is not None:
        await state.store.apply(FileLost(file.job_id, file.id, state.clock.now_ms(), reason))
    return Json({"id": file.id, "sound": reason is None, "reason": reason})


async def prune(request: Request) -> Response:
    """How many files go now: the older ones, or those that the retention lets go; none of which anything is owed."""
    state: Any = request.app.state
    given = read_model(WhatToPrune, await read_object(request))
    _check_storage(state)
    age_s = state.settings.retention_artifacts if given.olderThanS is None else given.olderThanS
    await state.store.apply(Noted(deed(request)))
    return Json({"files": await state.mirror.prune(state.clock.now_ms() - age_s * 1000)})


def _check_storage(state: Any) -> None:
    if state.folder is None:
        raise Conflict("this relay keeps no files: RELAY_ARTIFACTS is none")


def _shown(file: StoredFile, retention_s: int) -> dict[str, Any]:
    kept_ms = file.kept_at_ms if file.state == "kept" else None
    return {
        "id": file.id,
        "job": file.job_id,
        "artifact": artifact_id(file.job_id, file.position),
        "preview": file.preview,
        "state": file.state,
        "sizeBytes": file.size_bytes,
        "contentType": file.content_type,
        "sha256": file.sha256,
        "attempts": file.attempts,
        "reason": file.reason,
        "nextTryAt": iso(file.next_at_ms) if file.state == "wanted" else None,
        "keptAt": iso(kept_ms),
        "keptUntil": iso(None if kept_ms is None else kept_ms + retention_s * 1000),
    }
