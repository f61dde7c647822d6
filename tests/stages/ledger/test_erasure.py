"""A person is erased within one tenant, and again when a backup brings the name back."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import asyncpg
import pytest
from database_copies import copy_database
from threaded_server import serving
from usage_records import record, run_ledger, until_written

from llm_proxy.errors import NotFound, StoreUnavailable, UpstreamUnreachable
from llm_proxy.identity import Actor, Person, admin_transaction
from llm_proxy.identity.audit import write_audit
from llm_proxy.ledger import Erasures, ErasureTargets, LangfuseClient, person_digest
from llm_proxy.ledger.observers import Payload
from llm_proxy.ledger.record import encode, row_of
from llm_proxy.ledger.spool import REJECTED_FILE
from llm_proxy.upstream import CachePurge

Pool = asyncpg.Pool
Json = dict[str, Any]
NAME = "ada.lovelace@example.org"
ANNA = Actor("anna", "192.0.2.7", "owner")
NOW = datetime.now(UTC)
_ONE_MORE = """
    INSERT INTO requests SELECT (jsonb_populate_record(r, jsonb_build_object(
        'request_id', gen_random_uuid(), 'user_id', $1::text, 'started_at', $3::timestamptz))).*
    FROM requests AS r WHERE r.user_id = $2 LIMIT 1"""
_TABLES = """
    SELECT c.relname FROM pg_class AS c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'"""


@dataclass
class Outside:
    """What lies outside the database, as this test wants it; `purged` is whose cache was purged."""

    directory: Path | None = None
    langfuse: LangfuseClient | None = None
    watched: bool = False
    cache: str = "none"
    purged: list[str | None] = field(default_factory=list[str | None])
    erased: list[bytes] = field(default_factory=list[bytes])

    async def purge(self, tenant: str | None, _model: str | None) -> CachePurge:
        """Delete nothing, as a cache would that is there, away, or not configured."""
        if self.cache == "none":
            raise NotFound("There is no response cache that can be purged.", code="no_cache")
        if self.cache == "away":
            raise UpstreamUnreachable("No model backend can be reached.")
        self.purged.append(tenant)
        return CachePurge(3, complete=True)

    async def erase_answers(self, person: bytes) -> int:
        """Delete two answers of a person's idempotency keys."""
        if self.cache == "away":
            raise StoreUnavailable("The Redis of the kept answers does not answer.")
        self.erased.append(person)
        return 2

    @property
    def places(self) -> ErasureTargets:
        """As the gateway has them."""
        answers = self.erase_answers if self.cache != "none" else None
        return ErasureTargets(self.purge, self.langfuse, lambda: self.watched, self.directory, answers)


@pytest.fixture
async def pool(database_url: str, tmp_path: Path) -> AsyncIterator["Pool[asyncpg.Record]"]:
    """A pool on a database in which one name has calls in three tenants, today and 40 days ago."""
    said = b'{"content": "what ada said"}'
    async with run_ledger(database_url, tmp_path / "first") as ledger:
        for tenant in ("acme", "zeta", None):
            for days in (0, 0, 40):
                at = NOW - timedelta(days=days, minutes=1)
                one = record(tenant=tenant, user=NAME, session=f"s-{NAME}", started_at=at)
                ledger.call_finished(one)
                if not days:
                    ledger.keep_payload(Payload(one.request_id, at, tenant, None, NAME, said, said))
            ledger.call_finished(record(tenant=tenant, user="another", started_at=NOW - timedelta(minutes=1)))
        await until_written(ledger)
    async with asyncpg.create_pool(database_url, min_size=0, max_size=4) as made:
        await made.execute("INSERT INTO api_keys (key_id, name, tenant, user_id, revoked_at)"
                           " VALUES ('k-1', 'old', 'acme', $1, now())", NAME)  # fmt: skip
        reached = json.dumps({"scope": "user_model", "kind": "budget", "subject": f"user {NAME} at gpt"})
        await made.execute(
            "INSERT INTO refusals (request_id, refused_at, status, refused_by, tenant, user_id, reached)"
            " SELECT gen_random_uuid(), now() - interval '1 minute', 429, 'limit', t, $1, $2::jsonb"
            " FROM unnest(ARRAY['acme', 'zeta', NULL]) AS t", NAME, reached,
        )  # fmt: skip
        yield made


def erasures_of(pool: "Pool[asyncpg.Record]", outside: Outside) -> Erasures:
    """The erasures of a gateway in which nothing is under way."""
    return Erasures(pool, outside.places, settle_timeout_s=0)


async def places_of(pool: "Pool[asyncpg.Record]", name: str = NAME) -> dict[str, int]:
    """In how many rows of which tables the name stands, in whatever column."""
    found: dict[str, int] = {}
    for row in await pool.fetch(_TABLES):
        table = row["relname"]
        statement = f"SELECT count(*) FROM {table} AS t WHERE t::text LIKE '%' || $1 || '%'"  # noqa: S608 -- ours
        if counted := await pool.fetchval(statement, name):
            found[table.rstrip("_0123456789")] = found.get(table.rstrip("_0123456789"), 0) + counted
    return found


async def sums(pool: "Pool[asyncpg.Record]") -> list[tuple[Any, ...]]:
    """What each tenant used, by every table that says so."""
    reported: list[tuple[Any, ...]] = []
    for table in ("usage_daily", "usage_users", "usage_user_days", "requests"):
        rows = "count(*)" if table == "requests" else "sum(requests)"
        statement = (
            f"SELECT coalesce(tenant, '') AS tenant, {rows} AS n, sum(cost_usd), sum(prompt_tokens)"  # noqa: S608 -- ours
            f" FROM {table} GROUP BY 1 ORDER BY 1"
        )
        reported += [(table, *row) for row in await pool.fetch(statement)]
    return reported


async def test_a_person_is_erased_within_one_tenant(pool: "Pool[asyncpg.Record]") -> None:
    """Text and name are erased, sums stay, and the same name elsewhere is another person."""
    before, outside = await sums(pool), Outside(cache="there")
    assert await places_of(pool) == {
        "payloads": 6, "requests": 9, "usage_users": 6, "usage_user_days": 6, "api_keys": 1, "refusals": 3,
    }  # fmt: skip
    certificate = await erasures_of(pool, outside).erase("acme", NAME, ANNA)
    assert certificate["complete"]
    assert NAME not in json.dumps(certificate)
    states = {name: (one["state"], one["found"]) for name, one in certificate["stores"].items()}
    assert states == {
        "payloads": ("erased", 2),
        "requests": ("erased", 3),
        "roll-ups": ("erased", 4),
        "revoked keys": ("erased", 1),
        "refusals": ("erased", 1),
        "console sessions": ("nothing", 0),
        "audit log": ("erased", 1),
        "live keys": ("nothing", 0),
        "limit rules": ("nothing", 0),
        "old audit log": ("nothing", 0),
        "notifications": ("nothing", 0),
        "planner statistics": ("nothing", 0),
        "spool and journal": ("nothing", 0),
        "response cache": ("erased", 3),
        "idempotent answers": ("erased", 2),
        "langfuse": ("nothing", 0),
    }
    assert outside.purged == ["acme"]
    assert outside.erased == [person_digest("acme", NAME)]
    assert await places_of(pool) == {
        "payloads": 4, "requests": 6, "usage_users": 4, "usage_user_days": 4, "refusals": 2,
    }  # fmt: skip
    assert await sums(pool) == before
    pseudonym = certificate["pseudonym"]
    assert await pool.fetchval("SELECT count(*) FROM requests WHERE user_id = $1", pseudonym) == 3
    assert (
        await pool.fetchval("SELECT count(*) FROM requests WHERE tenant = 'acme' AND session_id <> ''") == 0
    )
    [last] = await pool.fetch("SELECT action, target FROM audit_entries ORDER BY seq DESC LIMIT 1")
    assert tuple(last) == ("people.erased", certificate["id"])


async def test_calls_without_a_tenant_are_separate(pool: "Pool[asyncpg.Record]") -> None:
    """An empty tenant means none, not all."""
    certificate = await erasures_of(pool, Outside()).erase("", NAME, ANNA)
    assert certificate["complete"]
    assert (certificate["tenant"], certificate["stores"]["requests"]["found"]) == (None, 3)
    assert (await places_of(pool))["requests"] == 6


async def test_roll_ups_without_rows_keep_their_sums_under_the_pseudonym(
    pool: "Pool[asyncpg.Record]",
) -> None:
    """Roll-ups are kept longer than the rows."""
    before = (await sums(pool))[:9]
    await pool.execute("SELECT requests_retire(current_date - 30)")
    certificate = await erasures_of(pool, Outside()).erase("acme", NAME, ANNA)
    assert certificate["stores"]["requests"]["found"] == 2
    assert certificate["stores"]["roll-ups"]["found"] == 4
    assert (await places_of(pool))["usage_users"] == 4
    assert (await sums(pool))[:9] == before
    assert not await pool.fetch("SELECT 1 FROM usage_users WHERE requests < 1")


async def test_a_certificate_counts_renamed_notifications_and_roll_ups_once(
    pool: "Pool[asyncpg.Record]",
) -> None:
    """However often the erasure is tried; also a day with later calls."""
    await pool.execute(
        "INSERT INTO notifications (event_id, subject_id, kind, tenant, user_id, facts, keep_until)"
        " SELECT gen_random_uuid(), gen_random_uuid(), 'budget', t, $1, '{}', now() + interval '1 day'"
        " FROM unnest(ARRAY['acme', 'acme', 'zeta']) AS t", NAME,
    )  # fmt: skip
    await pool.execute(_ONE_MORE, NAME, NAME, NOW + timedelta(hours=1))
    outside = Outside(cache="away")
    erasures = erasures_of(pool, outside)
    first = (await erasures.erase("acme", NAME, ANNA))["stores"]
    assert (first["roll-ups"]["found"], first["notifications"]["found"]) == (4, 2)
    outside.cache = "there"
    [last] = await erasures.retry_unfinished(ANNA)
    assert last["stores"]["notifications"] == {"state": "erased", "found": 2, "note": ""}
    assert last["stores"]["roll-ups"]["found"] == 4
    assert await pool.fetchval("SELECT count(*) FROM notifications WHERE user_id = $1", NAME) == 1


async def test_planner_statistics_lose_the_name(pool: "Pool[asyncpg.Record]") -> None:
    """Unless another tenant's row has it; then the certificate says so."""
    await pool.execute("DELETE FROM payloads")
    await pool.execute("ANALYZE")
    named = "SELECT count(*) FROM pg_stats WHERE position($1 IN most_common_vals::text) > 0"
    assert await pool.fetchval(named, NAME)
    kept = (await erasures_of(pool, Outside()).erase("acme", NAME, ANNA))["stores"]["planner statistics"]
    assert (kept["state"], kept["found"]) == ("kept", 0)
    for tenant in ("zeta", ""):
        last = await erasures_of(pool, Outside()).erase(tenant, NAME, ANNA)
    assert last["complete"]
    assert last["stores"]["planner statistics"]["state"] == "erased"
    assert not await pool.fetchval(named, NAME)


async def test_an_unavailable_store_makes_the_erasure_incomplete(
    pool: "Pool[asyncpg.Record]",
) -> None:
    """The gateway retries by itself, and the same request does too."""
    outside = Outside(cache="away")
    erasures = erasures_of(pool, outside)
    first = await erasures.erase("acme", NAME, ANNA)
    assert not first["complete"]
    assert first["finished_at"] is None
    for store in ("response cache", "idempotent answers"):
        assert first["stores"][store]["state"] == "incomplete"
    again = await erasures.erase("acme", NAME, ANNA)
    assert (again["id"], again["complete"]) == (first["id"], False)
    outside.cache = "there"
    [last] = await erasures.retry_unfinished(ANNA)
    assert (last["id"], last["complete"]) == (first["id"], True)
    assert last["stores"]["requests"] == {"state": "erased", "found": 3, "note": ""}
    assert await erasures.retry_unfinished() == []
    assert await erasures.certificate(first["id"]) == last
    assert await pool.fetchval("SELECT count(*) FROM erasures WHERE name IS NOT NULL") == 0


async def test_an_erasure_continues_if_returned_people_cannot_be_found(pool: "Pool[asyncpg.Record]") -> None:
    """That query may time out on a large database."""
    outside = Outside(cache="away")
    erasures = erasures_of(pool, outside)
    assert not (await erasures.erase("acme", NAME, ANNA))["complete"]
    outside.cache = "there"
    await pool.execute("ALTER FUNCTION erased_people_met() RENAME TO too_slow")
    assert (await erasures.retry_unfinished())[0]["complete"]


async def test_odd_and_long_names_are_erased_everywhere(pool: "Pool[asyncpg.Record]") -> None:
    """Rows of calls keep 128 characters of a name, keys and policies all of it."""
    odd = "'; DROP TABLE x; -- %_\\ \u202e\U0001f600" + "x" * 200
    await pool.execute("UPDATE requests SET user_id = left($1, 128) WHERE user_id = 'another'", odd)
    await pool.execute(
        "INSERT INTO api_keys (key_id, name, tenant, user_id) VALUES ('k-2', 'new', 'acme', $1)", odd
    )
    await pool.execute(
        "INSERT INTO limit_rules (scope, subject, tenant, rpm) VALUES ('user_model', $1, '*', 1)", odd
    )
    async with admin_transaction(pool) as connection:
        await write_audit(connection, ANNA, "keys.create", "k-2", {"user": Person(odd, "acme")})
    erasures = erasures_of(pool, Outside())
    first = await erasures.erase("acme", odd, ANNA)
    assert {name for name, one in first["stores"].items() if one["state"] == "incomplete"} == {
        "live keys", "limit rules",
    }  # fmt: skip
    assert (first["stores"]["requests"]["found"], first["stores"]["audit log"]["found"]) == (1, 2)
    await pool.execute("DELETE FROM limit_rules; UPDATE api_keys SET revoked_at = now()")
    assert (await erasures.retry_unfinished())[0]["complete"]
    assert await places_of(pool, odd[:100]) == {"requests": 2, "usage_users": 2, "usage_user_days": 2}


async def test_concurrent_erasures_leave_connections_to_others(pool: "Pool[asyncpg.Record]") -> None:
    """They run one at a time; all complete."""
    erasures = erasures_of(pool, Outside())
    done = await asyncio.gather(*(erasures.erase("acme", f"person-{n}", ANNA) for n in range(8)))
    assert all(one["complete"] for one in done)


async def test_a_valid_key_that_names_the_person_keeps_the_erasure_incomplete(
    pool: "Pool[asyncpg.Record]",
) -> None:
    """Its next call would bring the name back."""
    await pool.execute(
        "INSERT INTO api_keys (key_id, name, tenant, user_id) VALUES ('k-2', 'new', 'acme', $1)", NAME
    )
    certificate = await erasures_of(pool, Outside()).erase("acme", NAME, ANNA)
    assert not certificate["complete"]
    assert certificate["stores"]["live keys"]["note"].startswith("1: they name this person")


async def test_a_person_restored_from_a_backup_is_erased_again(
    pool: "Pool[asyncpg.Record]", database_url: str, copy_url: str, tmp_path: Path
) -> None:
    """By the list beside the spool: the backup's own list is older."""
    outside = Outside(directory=tmp_path, cache="there")
    await pool.expire_connections()
    await copy_database(database_url, copy_url)
    certificate = await erasures_of(pool, outside).erase("acme", NAME, ANNA)
    assert certificate["complete"]
    assert NAME not in (tmp_path / "erased-people.jsonl").read_text()
    async with asyncpg.create_pool(copy_url, min_size=0) as restored:
        assert (await places_of(restored))["requests"] == 9
        [again] = await erasures_of(restored, outside).retry_unfinished()
        assert (again["complete"], again["pseudonym"]) == (True, certificate["pseudonym"])
        assert (await places_of(restored))["requests"] == 6
        assert await erasures_of(restored, outside).retry_unfinished() == []


async def test_late_records_are_erased_when_they_arrive(pool: "Pool[asyncpg.Record]") -> None:
    """Another replica's spool may keep them for days; later calls are not erased."""
    erasures = erasures_of(pool, Outside())
    certificate = await erasures.erase("acme", NAME, ANNA)
    await pool.execute(_ONE_MORE, NAME, certificate["pseudonym"], datetime.now(UTC))
    assert await erasures.retry_unfinished() == []


async def test_replayed_answers_are_erased_also_on_a_day_without_a_call(
    pool: "Pool[asyncpg.Record]", database_url: str, tmp_path: Path
) -> None:
    """They keep their row of the roll-ups, which leads to them; late ones are found again."""
    erasures = erasures_of(pool, Outside())
    alone = record(
        tenant="acme", user=NAME, replay_of=str(uuid4()), run_name=NAME, started_at=NOW - timedelta(days=2)
    )
    late = alone._replace(request_id=uuid4(), started_at=NOW - timedelta(days=3))
    async with run_ledger(database_url, tmp_path / "second") as ledger:
        ledger.call_finished(alone)
        await until_written(ledger)
        await erasures.erase("acme", NAME, ANNA)
        rows = "SELECT count(*) FROM requests WHERE user_id = $1 AND tenant = 'acme'"
        assert await pool.fetchval(rows, NAME) == 0
        assert await pool.fetchval("SELECT count(*) FROM requests WHERE run_name = $1", NAME) == 0
        ledger.call_finished(late)
        await until_written(ledger)
    [again] = await erasures.retry_unfinished()
    assert again["complete"]
    assert await pool.fetchval(rows, NAME) == 0
    users = "SELECT count(*) FROM usage_user_days WHERE user_id = $1 AND tenant = 'acme'"
    assert await pool.fetchval(users, NAME) == 0


async def test_waiting_records_are_reported_and_rejected_records_rewritten(
    pool: "Pool[asyncpg.Record]", tmp_path: Path
) -> None:
    """A spool that cannot be emptied makes the erasure incomplete."""
    slot = tmp_path / "worker-0"
    slot.mkdir()
    theirs, others = record(tenant="acme", user=NAME), record(tenant="zeta", user=NAME)
    lines = b"".join(encode(row_of(one)) + b"\n" for one in (theirs, others))
    (slot / REJECTED_FILE).write_bytes(b"torn\n" + lines)
    (slot / "000000000001.records").write_bytes(lines)
    certificate = await erasures_of(pool, Outside(directory=tmp_path)).erase("acme", NAME, ANNA)
    assert not certificate["complete"]
    assert certificate["stores"]["spool and journal"] == {
        "state": "incomplete", "found": 0, "note": "1 records still wait on this host",
    }  # fmt: skip
    assert certificate["stores"]["rejected records"]["found"] == 1
    kept = (slot / REJECTED_FILE).read_bytes().splitlines()
    assert kept[0] == b"torn"
    assert NAME.encode() not in kept[1]
    assert certificate["pseudonym"].encode() in kept[1]
    assert kept[2] == encode(row_of(others))


class Traces(ThreadingHTTPServer):
    """Langfuse's API: traces by id, with their user and tags."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), TracesApi)
        self.kept: dict[str, tuple[str, list[str]]] = {}
        self.slow = False


class TracesApi(BaseHTTPRequestHandler):
    """Lists two traces a page, and deletes the requested ones."""

    @property
    def traces(self) -> "Traces":
        """Whose these are."""
        assert isinstance(self.server, Traces)
        return self.server

    def do_GET(self) -> None:
        """One page of a user's traces, with all of these tags."""
        requested = parse_qs(urlsplit(self.path).query)
        tags = set(requested.get("tags", []))
        found = [
            {"id": trace, "userId": user, "tags": kept}
            for trace, (user, kept) in self.traces.kept.items()
            if user == requested["userId"][0] and tags <= set(kept)
        ]
        page = int(requested["page"][0])
        self._answer({"data": found[2 * page - 2 : 2 * page], "meta": {"totalPages": -(-len(found) // 2)}})

    def do_DELETE(self) -> None:
        """Forget these; a slow one does it later."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not self.traces.slow:
            for trace in body["traceIds"]:
                del self.traces.kept[trace]
        self._answer({"message": "Traces deleted successfully"})

    def _answer(self, document: Json) -> None:
        self.send_response(200 if self.headers["authorization"] == "Basic cGs6c2s=" else 401)
        raw = json.dumps(document).encode()
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the standard library's name
        """Say nothing."""


@pytest.fixture
def traces() -> Iterator[Traces]:
    """It runs, with traces of one name in two tenants and in none."""
    server = Traces()
    for number in range(5):
        server.kept[f"acme-{number}"] = (NAME, ["tenant:acme", "agent:a"])
    server.kept |= {"zeta": (NAME, ["tenant:zeta"]), "none": (NAME, []), "other": ("other", ["tenant:acme"])}
    with serving(server):
        yield server


async def test_traces_are_deleted_within_the_tenant(pool: "Pool[asyncpg.Record]", traces: Traces) -> None:
    """All pages of them; a trace that Langfuse still lists does not count as deleted."""
    outside = Outside(
        langfuse=LangfuseClient(f"http://127.0.0.1:{traces.server_port}/", "pk", "sk"), watched=True
    )
    erasures = erasures_of(pool, outside)
    traces.slow = True
    first = await erasures.erase("acme", NAME, ANNA)
    assert first["stores"]["langfuse"] == {
        "state": "incomplete", "found": 0, "note": "5 traces are still listed",
    }  # fmt: skip
    traces.slow = False
    [second] = await erasures.retry_unfinished()
    assert (second["complete"], second["stores"]["langfuse"]["found"]) == (True, 5)
    assert set(traces.kept) == {"zeta", "none", "other"}
    assert (await erasures.erase("", NAME, ANNA))["complete"]
    assert set(traces.kept) == {"zeta", "other"}


async def test_an_unavailable_or_unconfigured_langfuse_is_incomplete(
    pool: "Pool[asyncpg.Record]", traces: Traces
) -> None:
    """Nothing is claimed about it."""
    away = LangfuseClient("http://127.0.0.1:9", "pk", "sk")
    refusing = LangfuseClient(f"http://127.0.0.1:{traces.server_port}", "pk", "wrong")
    for known, note in (
        (away, "it did not answer"),
        (refusing, "it answered 401"),
        (None, "a sidecar reports"),
    ):
        certificate = await erasures_of(pool, Outside(langfuse=known, watched=True)).erase("acme", NAME, ANNA)
        assert not certificate["complete"]
        assert certificate["stores"]["langfuse"]["note"].startswith(note)
