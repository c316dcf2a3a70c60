"""Reading the audit trail."""

from datetime import datetime

from gateway.audit.records import Admission, Outcome
from gateway.ledger.audit import list_admissions, list_outcomes
from gateway.ledger.engine import Ledger
from gateway.scope import visible_projects
from services.common.names import parse_job
from services.common.pages import decode_token, encode_token, page_size


class Trail:
    """The decisions and measurements that the caller of the call being served may see."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def admissions(
        self, project: str, job: str, since: datetime | None, size: int, token: str
    ) -> tuple[list[Admission], str]:
        """Return a page of decisions, newest first, and the next page's token; project `-` means all."""
        projects = visible_projects(project)
        job_id = parse_job(job, "job")[1] if job else ""
        scope, limit = f"admissions {project} {job_id} {since}", page_size(size)
        before = decode_token(token, {"id": int}, scope)["id"] if token else None
        found = await self._ledger.read(
            lambda tx: list_admissions(tx, projects, job=job_id, since=since, before=before, limit=limit + 1)
        )
        more = len(found) > limit
        return found[:limit], encode_token({"id": found[limit - 1].id}, scope) if more else ""

    async def outcomes(self, since: datetime | None, size: int, token: str) -> tuple[list[Outcome], str]:
        """Return a page of measurements, newest first, and the next page's token."""
        projects, scope, limit = visible_projects("-"), f"outcomes {since}", page_size(size)
        before = decode_token(token, {"id": int}, scope)["id"] if token else None
        found = await self._ledger.read(
            lambda tx: list_outcomes(tx, projects, since=since, before=before, limit=limit + 1)
        )
        more = len(found) > limit
        return found[:limit], encode_token({"id": found[limit - 1].id}, scope) if more else ""
