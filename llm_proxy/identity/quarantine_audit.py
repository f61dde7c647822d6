"""Writes into the audit log which runs the loop guard has put into quarantine, beside the calls.

Invariants: `report` never waits or raises; an entry that Postgres does not take is in the log of the process.
"""

import logging

from llm_proxy.background import spawn
from llm_proxy.errors import APIError
from llm_proxy.identity.audit import Actor, admin_transaction, write_audit
from llm_proxy.identity.postgres_store import Pool
from llm_proxy.json_access import Json

log = logging.getLogger(__name__)

GUARD = Actor("loop guard")


class QuarantineAudit:
    """The audit entries of runs that were stopped."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def report(self, evidence: Json) -> None:
        """Writes an entry of a run that goes into quarantine, with the evidence."""
        spawn("quarantine-audit", self._write(evidence))

    async def _write(self, evidence: Json) -> None:
        try:
            async with admin_transaction(self._pool) as connection:
                await write_audit(connection, GUARD, "runs.quarantine", f"run {evidence['run']}", evidence)
        except APIError as fault:
            log.warning("a run's quarantine is not in the audit log", extra={"why": fault.message})
