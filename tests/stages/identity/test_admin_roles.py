"""Admin keys with names and roles, on two real gateways and a real Postgres."""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from gateway_lifespan import lifespan
from pydantic import SecretStr
from stages.admission.limiter_outages import settings_of

from llm_proxy.app import Gateway
from llm_proxy.edge.auth import ROUTE_ACCESS, AuthDependencies
from llm_proxy.edge.routes.audit import PER_MINUTE
from llm_proxy.telemetry import uuid7

if TYPE_CHECKING:
    import asyncpg

Json = dict[str, Any]
OWNER = "the-settings-admin-key"
READER = "the-settings-read-key"
CALLER = "the-internal-secret"
MAY: dict[str, str] = {
    "GET /admin/keys": "owner operator viewer tenant",
    "POST /admin/keys": "owner operator tenant",
    "GET /admin/keys/{key}": "owner operator viewer tenant",
    "PATCH /admin/keys/{key}": "owner operator tenant",
    "PUT /admin/keys/{key}/raise": "owner operator tenant",
    "DELETE /admin/keys/{key}/raise": "owner operator tenant",
    "POST /admin/keys/{key}/rotate": "owner operator tenant",
    "DELETE /admin/keys/{key}": "owner operator tenant",
    "POST /admin/keys/{key}/revoke": "owner operator tenant",
    "GET /admin/tenants": "owner operator viewer tenant",
    "GET /admin/limits": "owner operator viewer",
    "GET /admin/budgets": "owner operator viewer tenant",
    "PUT /admin/limits": "owner operator",
    "DELETE /admin/limits": "owner operator",
    "POST /admin/simulate": "owner operator viewer",
    "GET /admin/kill-switches": "owner operator viewer",
    "PUT /admin/kill-switches": "owner operator",
    "DELETE /admin/kill-switches": "owner operator",
    "GET /admin/kills": "owner operator viewer",
    "PUT /admin/kills": "owner operator",
    "DELETE /admin/kills": "owner operator",
    "GET /admin/admin-keys": "owner operator viewer",
    "POST /admin/admin-keys": "owner",
    "DELETE /admin/admin-keys/{key}": "owner",
    "POST /admin/admin-keys/{key}/revoke": "owner",
    "GET /admin/audit": "owner operator viewer",
    "GET /admin/refused-credentials": "owner operator viewer",
    "GET /admin/models": "owner operator viewer",
    "GET /admin/settings": "owner operator viewer",
    "GET /admin/config": "owner operator viewer",
    "GET /admin/reload": "owner operator viewer",
    "POST /admin/reload": "owner operator",
    "GET /admin/notifications": "owner operator viewer",
    "GET /admin/calls": "owner operator viewer tenant",
    "DELETE /admin/calls/{request_id}": "owner operator tenant",
    "GET /admin/runs/quarantined": "owner operator viewer tenant",
    "POST /admin/runs/release": "owner operator tenant",
    "POST /admin/models/{model:path}/test": "owner operator",
    "DELETE /admin/cache": "owner operator",
    "GET /admin/payloads/{request_id}": "owner operator viewer",
    "DELETE /admin/payloads": "owner operator",
    "POST /admin/erasures": "owner operator",
    "POST /admin/erasures/replay": "owner operator",
    "GET /admin/erasures/{erasure_id}": "owner operator viewer",
    "GET /metrics": "owner operator viewer",
    "GET /openapi.json": "owner operator viewer tenant",
    "GET /v1/usage": "owner operator viewer tenant",
    "GET /v1/requests": "owner operator viewer tenant",
    "GET /v1/requests/{request_id}": "owner operator viewer tenant",
    "GET /v1/runs": "owner operator viewer tenant",
    "GET /v1/runs/{run:path}": "owner operator viewer tenant",
}
"""Every route for admin keys, and who may use it; a new one needs a line here and in `ROUTE_ACCESS`."""
ABOUT_A_KEY: dict[str, str] = {
    "GET /v1/limits": "owner operator viewer tenant",
    "POST /v1/explain": "owner operator viewer tenant",
}
"""Routes of callers that take an admin key together with `?key=`, and change nothing."""


@pytest.fixture
async def replicas(
    pool: "asyncpg.Pool[asyncpg.Record]", database_url: str, tmp_path: Path
) -> AsyncIterator[list[Gateway]]:
    """Two gateways on one database; no sidecar answers them."""
    del pool  # the schema is there
    made = [
        Gateway(
            settings_of(
                environment="development",
                internal_api_key=SecretStr(CALLER),
                admin_key=SecretStr(OWNER),
                admin_read_key=SecretStr(READER),
                litellm_api_key=SecretStr("the-sidecar-key"),
                litellm_proxy_url=("http://127.0.0.1:1",),
                database_url=SecretStr(database_url),
                spool_dir=tmp_path / str(number),
            )
        )
        for number in range(2)
    ]
    async with lifespan(made[0]), lifespan(made[1]):
        yield made


@asynccontextmanager
async def client(gateway: Gateway, key: str) -> AsyncGenerator[httpx.AsyncClient]:
    """A client with a key."""
    headers = {"authorization": f"Bearer {key}"}
    app: Any = gateway.asgi
    transport = httpx.ASGITransport(app=app, client=("192.0.2.7", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://g", headers=headers) as made:
        yield made


async def issue(gateway: Gateway, name: str, role: str, **said: str) -> str:
    """The text of a new admin key."""
    async with client(gateway, OWNER) as owner:
        made = await owner.post("/admin/admin-keys", json={"name": name, "role": role, **said})
        assert made.status_code == 201, made.text
        return str(made.json()["key"])


def admin_routes(gateway: Gateway) -> Iterator[str]:
    """Every route of the running application that asks for an admin key."""
    asking = {
        AuthDependencies.require_admin,
        AuthDependencies.require_actor,
        AuthDependencies.caller_or_admin,
    }

    def asks(dependant: Dependant) -> bool:
        called = getattr(dependant.call, "__func__", None)
        return called in asking or any(asks(one) for one in dependant.dependencies)

    for route in gateway.routes:
        if isinstance(route, APIRoute) and asks(route.dependant):
            yield from (f"{method} {route.path}" for method in route.methods or ())


async def test_every_route_has_its_roles(replicas: list[Gateway]) -> None:
    """The table of the code equals the table above and the application; a new route fails here."""
    first = replicas[0]
    assert sorted(admin_routes(first)) == sorted(MAY)
    assert {f"{method} {path}": access.roles for (method, path), access in ROUTE_ACCESS.items()} == {
        route: frozenset(roles.split()) for route, roles in (MAY | ABOUT_A_KEY).items()
    }
    changing = {key for key in ROUTE_ACCESS if key[0] != "GET" and " ".join(key) not in ABOUT_A_KEY}
    assert changing <= {key for key, access in ROUTE_ACCESS.items() if access.action}
    keys = {role: await issue(first, f"a-{role}", role) for role in ("owner", "operator", "viewer")}
    keys["tenant"] = await issue(first, "a-tenant", "tenant", tenant="acme")
    for role, key in keys.items():
        async with client(first, key) as one:
            for route, roles in MAY.items():
                method, path = route.split()
                path = re.sub(r"\{[^}]+\}", str(uuid4()), path)
                status = (await one.request(method, path, params={"colour": "red"})).status_code
                # An unknown parameter, or no body: who may is answered 400, 404 or 200, and nothing is done.
                assert (status == 403) == (role not in roles.split()), (role, route, status)
                assert status not in {401, 500}
            for route in ABOUT_A_KEY:
                assert (await one.request(*route.split(), params={"key": "nobody"})).status_code == 404
    async with client(first, "sk-nobody-0000000000") as nobody:
        for route in MAY:
            method, path = route.split()
            path = re.sub(r"\{[^}]+\}", str(uuid4()), path)
            json = {"name": "x", "role": "owner", "scope": "tenant", "kind": "key", "subject": "x"}
            answer = await nobody.request(method, path, json=json if method in {"POST", "PUT"} else None)
            assert answer.status_code in {401, 400}, route


async def test_an_admin_key_is_created_listed_and_revoked_on_every_replica(
    replicas: list[Gateway], pool: "asyncpg.Pool[asyncpg.Record]"
) -> None:
    """At once; the settings' keys stay valid; no table contains the text."""
    first, second = replicas
    key = await issue(first, "anna", "operator")
    async with client(first, OWNER) as owner, client(second, key) as anna:
        assert (await anna.get("/admin/keys")).status_code == 200
        [listed] = (await owner.get("/admin/admin-keys")).json()["data"]
        assert (listed["name"], listed["role"], listed["prefix"]) == ("anna", "operator", key[:20])
        assert (await anna.get("/v1/limits")).status_code == 401  # an admin is no caller
        secret = key.rpartition("-")[2]
        for table in ("admin_keys", "audit_entries"):
            assert secret not in await pool.fetchval(f"SELECT string_agg(t::text, ' ') FROM {table} t")  # noqa: S608 -- ours
        assert (await owner.delete("/admin/admin-keys/anna")).json()["revoked_at"]
        assert (await anna.get("/admin/keys")).status_code == 401
        assert (await owner.get("/admin/keys")).status_code == 200
        wrong = key[:-7] + ("a" if key[-7] != "a" else "b") + key[-6:]
    async with client(second, wrong) as thief:
        assert (await thief.get("/admin/keys")).status_code == 401
    ended = await issue(first, "past", "viewer", expires_at="2040-01-01")
    await pool.execute("UPDATE admin_keys SET expires_at = now() WHERE name = 'past'")
    async with client(second, ended) as past:
        assert "expired" in (await past.get("/admin/keys")).text
    async with client(first, READER) as reader:
        assert (await reader.get("/metrics")).status_code == 200
        assert (await reader.delete("/admin/admin-keys/past")).status_code == 403


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ({"name": "x", "role": "king"}, "role"),
        ({"name": "x", "role": "tenant"}, "tenant"),
        ({"name": "x", "role": "owner", "tenant": "acme"}, "tenant"),
        ({"name": "admin_key", "role": "owner"}, "name"),
        ({"name": "", "role": "owner"}, "name"),
        ({"name": "x", "role": "owner", "expires_at": "soon"}, "expires_at"),
        ({"name": "x", "role": "owner", "expires_at": "2020-01-01"}, "expires_at"),
        ({"name": "taken", "role": "owner"}, "name"),
    ],
    ids=str,
)
async def test_an_invalid_admin_key_is_rejected_by_field(
    replicas: list[Gateway], said: Json, param: str
) -> None:
    """Nothing is created."""
    await issue(replicas[0], "taken", "viewer")
    async with client(replicas[0], OWNER) as owner:
        answer = await owner.post("/admin/admin-keys", json=said)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
        assert len((await owner.get("/admin/admin-keys")).json()["data"]) == 1


@pytest.mark.parametrize(
    ("method", "path", "param"),
    [
        ("GET", "keys/a%00", "key"),
        ("POST", "keys/%00/rotate", "key"),
        ("GET", "keys?after=%00", "after"),
        ("GET", "budgets?tenant=%00", "tenant"),
        ("DELETE", "limits?scope=tenant&tenant=%00", "tenant"),
    ],
)
async def test_a_parameter_with_nul_is_named(
    replicas: list[Gateway], method: str, path: str, param: str
) -> None:
    """In the path and in the query."""
    async with client(replicas[0], OWNER) as owner:
        answer = await owner.request(method, f"/admin/{path}")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("path", ["notifications", "refused-credentials", "audit"])
async def test_an_invalid_time_of_a_page_is_rejected_by_field(replicas: list[Gateway], path: str) -> None:
    """Times outside the calendar too."""
    field = "until" if path == "audit" else "before"
    async with client(replicas[0], OWNER) as owner:
        for wrong in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "NaN", "1e400", "soon"):
            answer = await owner.get(f"/admin/{path}", params={field: wrong})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)
        assert (await owner.get(f"/admin/{path}", params={field: "2026-11-01"})).status_code == 200


async def test_a_tenant_s_admin_sees_no_other_tenant(replicas: list[Gateway]) -> None:
    """Neither by name, id, prefix or filter, nor by a name that is taken: all are 404."""
    first = replicas[0]
    key = await issue(first, "tina", "tenant", tenant="acme")
    async with client(first, OWNER) as owner, client(first, key) as tina:
        other = (await owner.post("/admin/keys", json={"name": "demo", "tenant": "other"})).json()
        assert (await tina.get("/admin/keys")).json()["data"] == []
        own = (await owner.post("/admin/keys", json={"name": "given", "tenant": "acme"})).json()
        for name in ("demo", other["id"], other["prefixes"][0], "nothing"):
            for method, path in (
                ("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/rotate"), ("POST", "/revoke"),
            ):  # fmt: skip
                body: Json | None = {} if method in {"PATCH", "POST"} else None
                answer = await tina.request(method, f"/admin/keys/{name}{path}", json=body)
                message = answer.json()["error"]["message"]
                assert (answer.status_code, message.partition(":")[0]) == (404, "No such key")
        made = await tina.post("/admin/keys", json={"name": "demo", "rpm": 3})
        assert (made.status_code, made.json()["name"], made.json()["tenant"]) == (201, "acme/demo", "acme")
        assert (await tina.get("/admin/keys/demo")).json()["id"] == made.json()["id"]
        assert [one["name"] for one in (await tina.get("/admin/keys")).json()["data"]] == [
            "acme/demo",
            "given",
        ]
        assert (await tina.patch("/admin/keys/given", json={"rpm": 2})).json()["name"] == "given"
        for tenant in ("other", "nothing"):
            assert (await tina.post("/admin/keys", json={"name": "x", "tenant": tenant})).status_code == 403
            assert (await tina.patch(f"/admin/keys/{own['id']}", json={"tenant": tenant})).status_code == 403
            for path in ("/admin/keys", "/v1/usage", "/admin/tenants"):
                assert (await tina.get(path, params={"tenant": tenant})).status_code == 403
        assert (await tina.patch("/admin/keys/given", json={"tenant": None})).status_code == 403
        assert (await tina.get("/v1/usage", params={"group_by": "tenant"})).json()["data"] == []
        found = (await tina.get("/admin/keys", params={"text": "demo"})).json()["data"]
        assert [(one["name"], one["last_used_at"]) for one in found] == [("acme/demo", None)]
        assert [one["tenant"] for one in (await tina.get("/admin/tenants")).json()["data"]] == ["acme"]
        assert "parts" not in (await tina.get("/health")).json()
        assert (await tina.delete("/admin/keys/demo")).status_code == 200
        unknown = await owner.get("/admin/keys", params={"tenant": "nobody"})
        assert (unknown.status_code, unknown.json()["error"]["param"]) == (404, "tenant")
        after = {"tenant": "acme", "after": "zzz"}
        assert (await owner.get("/admin/keys", params=after)).json() == {"data": [], "has_more": False}
        assert (await owner.get("/admin/keys/demo")).json()["revoked_at"] is None


async def test_a_rejected_action_is_audited_with_its_reason(replicas: list[Gateway]) -> None:
    """403, 400 and 404, with author and address; unknown keys leave nothing."""
    first = replicas[0]
    key = await issue(first, "vera", "viewer")
    policy = {"scope": "tenant", "tenant": "acme", "rpm": 1}
    async with client(first, key) as vera, client(first, OWNER) as owner, client(first, "sk-x") as stranger:
        await vera.put("/admin/limits", json=policy)
        await owner.put("/admin/limits", json=policy | {"rpm": -1})
        await owner.request("DELETE", "/admin/keys/nobody")
        await owner.put("/admin/limits", content=b"{", headers={"content-type": "application/json"})
        await stranger.put("/admin/limits", json=policy)
        rows = (await owner.get("/admin/audit", params={"limit": 4})).json()["data"]
        reported = [
            (row["actor"], row["role"], row["action"], row["target"], row["status"]) for row in rows[::-1]
        ]
        about = "scope=tenant tenant=acme"
        assert reported == [
            ("vera", "viewer", "limits.set", about, 403),
            ("admin_key", "owner", "limits.set", about, 400),
            ("admin_key", "owner", "keys.revoke", "nobody", 404),
            ("admin_key", "owner", "limits.set", "", 400),
        ]
        assert {row["client_ip"] for row in rows} == {"192.0.2.7"}
        assert "rpm" in rows[2]["reason"]
        assert "viewer" in rows[3]["reason"]
        everything = (await owner.get("/admin/audit")).json()["data"]
        assert [row["action"] for row in everything][4:] == ["admin_keys.create"]


async def test_rejected_actions_are_bounded_in_the_audit_log(
    replicas: list[Gateway], pool: "asyncpg.Pool[asyncpg.Record]"
) -> None:
    """For one admin key; another's rejections are recorded all the same."""
    first = replicas[0]
    keys = [await issue(first, name, "viewer") for name in ("vera", "otto")]
    async with client(first, keys[0]) as vera, client(first, keys[1]) as otto:
        for _ in range(PER_MINUTE * 3):
            assert (await vera.delete("/admin/keys/some")).status_code == 403
        assert (await otto.delete("/admin/keys/some")).status_code == 403
    kept = await pool.fetch("SELECT count(*) FROM audit_entries WHERE status = 403 GROUP BY actor ORDER BY 1")
    assert kept[0][0] == 1
    assert PER_MINUTE <= kept[1][0] <= 2 * PER_MINUTE  # a minute may end meanwhile


async def test_a_rejected_action_names_no_person_and_no_key(
    replicas: list[Gateway], pool: "asyncpg.Pool[asyncpg.Record]"
) -> None:
    """Names of admins and users (also in mistyped scopes) can be erased; secrets are redacted."""
    secret = "sk-proj-" + "a1b2c3d4" * 4
    key = await issue(replicas[0], "vera", "viewer")
    async with client(replicas[0], key) as vera, client(replicas[0], OWNER) as owner:
        for scope in ("user_model", "user-model"):
            policy = {"scope": scope, "tenant": "acme", "subject": "ulla", "rpm": -1}
            assert (await owner.put("/admin/limits", json=policy)).status_code == 400
        await vera.post("/admin/admin-keys", json={"name": "karl", "role": "owner"})
        for name in ("karl", secret, "sk-llma-0123456789ab"):
            assert (await vera.delete(f"/admin/admin-keys/{name}")).status_code == 403
        rows = (await owner.get("/admin/audit", params={"limit": 6})).json()["data"][::-1]
        assert [
            (row["target"], row["detail"].get("name") or row["detail"].get("subject")) for row in rows
        ] == [
            ("scope=user_model tenant=acme", "ulla"),
            ("scope=user-model tenant=acme", "ulla"),
            ("role=owner", "karl"),
            ("", "karl"),
            ("sk-[redacted]", None),
            ("sk-llma-0123456789ab", None),
        ]
    kept = await pool.fetchval(
        "SELECT string_agg(e::text, ' ') FROM audit_entries e WHERE status IS NOT NULL"
    )
    assert not any(name in kept for name in ("ulla", "karl", secret))


async def test_a_tenant_s_admin_queries_usage_of_its_tenant_only(
    replicas: list[Gateway], pool: "asyncpg.Pool[asyncpg.Record]"
) -> None:
    """Another tenant's key, agent, user and request are unknown."""
    first, now = replicas[0], datetime.now(UTC)
    key = await issue(first, "tina", "tenant", tenant="acme")
    ids = {tenant: uuid7() for tenant in ("acme", "other")}
    await pool.execute("SELECT requests_partition($1)", now.date())
    async with client(first, OWNER) as owner, client(first, key) as tina:
        for tenant, request_id in ids.items():
            made = await owner.post("/admin/keys", json={"name": f"{tenant}-key", "tenant": tenant})
            await pool.execute(
                "INSERT INTO requests (request_id, started_at, key_id, key_prefix, tenant, agent, user_id,"
                " door, dialect, model, model_group, streamed, status, outcome, usage_source, cache,"
                " attempts, latency_ms) VALUES ($1, $2, $3, 'sk', $4, $5, $6, 'd', 'd', 'm', 'm', false,"
                " 502, 'error', 'provider', 'miss', 1, 1)",
                request_id, now, made.json()["id"], tenant, f"{tenant}-agent", f"{tenant}-user",
            )  # fmt: skip
        reported = {}
        for tenant in ("acme", "other", "nothing"):
            for name in ("key", "agent", "user"):
                answer = await tina.get("/v1/usage", params={name: f"{tenant}-{name}"})
                reported[tenant, name] = answer.status_code, answer.text.replace(tenant, "…")
            await pool.execute("UPDATE requests SET provider_message = 'the operator''s'")
            path = f"/v1/requests/{ids.get(tenant, uuid7())}"
            assert "the operator's" not in (await tina.get(path)).text
            assert (await tina.get(path)).status_code == (200 if tenant == "acme" else 404)
        for name in ("key", "agent", "user"):
            assert reported["acme", name][0] == 200
            assert reported["other", name] == reported["nothing", name]
            assert reported["other", name][0] == 404
        assert (await tina.get("/v1/usage")).json()["total"]["requests"] == 1
        assert (await owner.get("/v1/usage")).json()["total"]["requests"] == 2
