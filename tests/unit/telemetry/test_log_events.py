"""The texts of log lines leave the process: alerts and searches of operators name them."""

import ast
from collections.abc import Iterator
from pathlib import Path

import llm_proxy

LEVELS = frozenset({"debug", "info", "warning", "error", "exception"})
EVENTS = {
    "a run is stopped: it repeats itself",
    "a run's quarantine is not in the audit log",
    "a response could not be stored",
    "without LLM_PROXY__SEALING_KEYS no response is stored, and no reasoning comes back",
    "the %s store does not answer at the start",
    "the %s store answers again",
    "the %s store cannot be reached",
    "the %s store does not answer",
    "the connection to the %s store is lost",
    "without a limits store no `Idempotency-Key` is read",
    "the delivery of a notification cannot be recorded",
    "a journal entry cannot be read",
    "a line of the list of erased people cannot be read",
    "a notification cannot be kept",
    "a page could not be read from the database",
    "a page failed",
    "a sign-in by the identity provider failed",
    "a provider rejected the credentials of this installation",
    "a record could not be taken",
    "a rejected admin action cannot be recorded",
    "a rejected credential cannot be recorded",
    "a rejected record cannot be put aside",
    "a request failed",
    "the calls at a sidecar that does not answer are ended",
    "an admin's change",
    "an operator stopped a call",
    "running calls are not published: the limits store is away",
    "the store forgets this process by itself",
    "an erasure was tried again",
    "an old secret is still used",
    "an upload cannot be stored",
    "background work failed and goes on",
    "background work succeeds again",
    "a budget cannot be rebuilt from the records",
    "budgets are looked at when the limits store is back",
    "draining",
    "epoch not restored",
    "epoch restored from memory",
    "erasures wait for the database",
    "the limits store did not take the heartbeat",
    "the limits store did not renew leases",
    "the limits store does not answer: other replicas read the change from Postgres",
    "the limits store may evict limits and budgets",
    "no budget of scope `global`: nothing bounds what all callers together may spend",
    "no database is configured: internal secrets only, records stay in the spool",
    "no limits store configured: limits hold per process",
    "notifications wait for the database",
    "old days of rejected credentials are not deleted yet",
    "old months of the audit log are dropped",
    "old months of the audit log are not dropped yet",
    "old notifications are not dropped yet",
    "other sidecars take over",
    "postgres %s; records go to the spool",
    "postgres rejects a batch of background work",
    "postgres rejects a maintenance task",
    "postgres rejects a count of refusals",
    "postgres rejects a payload",
    "postgres rejects a sample",
    "postgres takes records again",
    "postgres rejects a record for good",
    "records cannot be kept on disk, a crash would lose them",
    "too many admin actions are rejected: the audit log leaves some out",
    "rejected credentials are not recorded yet",
    "rejected credentials cannot be read now",
    "limit policies cannot be read at the start: defaults apply",
    "served without llm-proxy serve: no bounds of heads and connections, no drain (docs/deployment.md)",
    "running calls were ended by the drain's limit",
    "%d settlements are lost at the end",
    "spans were not delivered",
    "the database was brought to this version",
    "the database came out of a backup: nothing is admitted until that is acknowledged",
    "the database does not answer yet",
    "the database is trusted again: calls are admitted",
    "the database's marker cannot be read now",
    "the limits store does not answer: what it saw of the database is left out",
    "the console is up",
    "the gateway is up",
    "the identity provider cannot be read",
    "the keys file is applied",
    "the keys file is not applied",
    "the keys file is not applied yet",
    "the keys file names a key that is not there",
    "the list of erased people cannot be written",
    "the result of a change is not in the audit log",
    "the spool cannot be written",
    "the spool's folder cannot be used: records wait in memory",
    "the records of a worker that ended are recovered",
    "people whom a backup restored cannot be looked up",
    "work left by a migration",
}


def _events(path: Path) -> Iterator[str]:
    """Yields the constant texts that a module logs."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="log"), attr=level),
                args=[ast.Constant(value=str(text)), *_],
            ) if level in LEVELS:
                yield text
            case _:
                pass


def test_log_events_keep_their_texts() -> None:
    """A new event is added here; a changed one breaks an operator's alert."""
    modules = Path(llm_proxy.__file__).parent.rglob("*.py")
    assert {event for module in modules for event in _events(module)} == EVENTS
