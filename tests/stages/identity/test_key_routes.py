"""Admin routes of keys, limits and kill switches, and the routes of a caller's limits, on a real Postgres."""

from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from fastapi import FastAPI, Request
from stages.admission.limiter_outages import build_admission, settings_of

from llm_proxy.dialects import Call
from llm_proxy.dialects.routes import RouteTable
from llm_proxy.edge import management_app
from llm_proxy.edge.request import Scope
from llm_proxy.edge.routes import audit, keys, limits, policies
from llm_proxy.errors import APIError, NotFound, Unauthorized
from llm_proxy.identity import (
    Actor,
    AuditLog,
    AuthFailureLog,
    Caller,
    KeyRaiseRepository,
    KeyRepository,
    Limits,
    PolicyRepository,
    QueueShares,
)
from llm_proxy.identity.key_search import list_tenants
from llm_proxy.identity.virtual_keys import generate_key
from llm_proxy.upstream import CurrentCatalog

if TYPE_CHECKING:
    import asyncpg

Json = dict[str, Any]


@pytest.fixture
async def announced() -> list[Mapping[str, int]]:
    """The published epochs."""
    return []


@pytest.fixture
async def client(
    pool: "asyncpg.Pool[asyncpg.Record]", announced: list[Mapping[str, int]]
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the admin routes; the header `x-role` is its role."""

    async def announce(epochs: Mapping[str, int]) -> None:
        announced.append(epochs)

    async def by(request: Request) -> Actor:
        if not request.headers.get("x-role"):
            raise Unauthorized("who?")
        return Actor("ann", "192.0.2.9", "owner")

    key_router = keys.router(
        KeyRepository(pool), KeyRaiseRepository(pool), publish=announce, require_actor=by
    )
    policy_router = policies.router(
        PolicyRepository(pool), publish=announce, require_actor=by, catalog=CurrentCatalog()
    )
    records = audit.router(AuditLog(pool), AuthFailureLog(pool), require_actor=by)
    tenants = keys.tenants_router(partial(list_tenants, pool), require_actor=by)
    transport = httpx.ASGITransport(app=_app(key_router, policy_router, records, tenants))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as made:
        made.headers["x-role"] = "write"
        yield made


def _app(*routers: Any) -> FastAPI:
    def refused(_scope: Scope, _: APIError) -> None:
        return None

    async def any_actor(_: Request) -> None:
        return None

    return management_app.create_management_app(
        routers,
        inference=RouteTable(()),
        version="0",
        lifespan=None,  # type: ignore[arg-type]  # FastAPI takes none
        on_error=refused,
        openapi_access=any_actor,
    )


async def test_a_key_is_managed_by_routes(
    client: httpx.AsyncClient, announced: list[Mapping[str, int]]
) -> None:
    """Created, listed, shown, changed, rotated, revoked; its text is in two answers only."""
    made = await client.post("/admin/keys", json={"name": "n", "tenant": "t", "rpm": 5, "models": ["gpt-*"]})
    assert made.status_code == 201
    text = made.json()["key"]
    listed = (await client.get("/admin/keys")).json()["data"]
    shown = (await client.get(f"/admin/keys/{made.json()['id']}")).json()
    assert listed == [shown]
    assert shown == {name: value for name, value in made.json().items() if name != "key"}
    changed = await client.patch(
        "/admin/keys/n", json={"rpm": 7, "budgets": [{"limit_usd": 1.5, "period": "day"}]}
    )
    assert (changed.json()["rpm"], changed.json()["models"]) == (7, ["gpt-*"])
    assert changed.json()["budgets"] == [{"limit_usd": "1.5", "period": "day"}]
    rotated = await client.post("/admin/keys/n/rotate", json={"overlap_s": 60})
    assert rotated.json()["key"] != text
    assert len(rotated.json()["prefixes"]) == 2
    revoked = await client.delete("/admin/keys/n")
    assert revoked.json()["revoked_at"] is not None
    assert [sorted(epochs) for epochs in announced] == [["t"]] * 3
    assert text not in (await client.get("/admin/audit")).text


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({}, ["acme/a", "b", "c_d", "cXd", "old"]),
        ({"text": "ACME"}, ["acme/a", "b"]),
        ({"text": "c_d"}, ["c_d"]),  # no pattern
        ({"text": "%"}, []),
        ({"text": "scout"}, ["b"]),
        ({"text": "eve"}, ["cXd"]),
        ({"agent": "scout"}, ["b"]),
        ({"user": "eve"}, ["cXd"]),
        ({"user": "ev"}, []),
        ({"state": "active"}, ["acme/a", "b", "cXd"]),
        ({"state": "revoked"}, ["c_d"]),
        ({"state": "expired"}, ["old"]),
        ({"tenant": "acme", "text": "b"}, ["b"]),
        ({"tenant": "acme", "text": "nothing"}, []),
        ({"text": "c", "after": "b", "limit": "1"}, ["cXd"]),
    ],
    ids=str,
)
async def test_keys_are_searched_and_filtered(
    client: httpx.AsyncClient, query: dict[str, str], names: list[str]
) -> None:
    """By a part of a name in any case, by binding and by state; a search is no pattern."""
    for spec in (
        {"name": "acme/a", "tenant": "acme"},
        {"name": "b", "tenant": "acme", "agent": "scout"},
        {"name": "c_d"},
        {"name": "cXd", "tenant": "other", "user": "eve"},
        {"name": "old"},
    ):
        assert (await client.post("/admin/keys", json=spec)).status_code == 201
    assert (await client.patch("/admin/keys/old", json={"expires_at": "2020-01-01"})).status_code == 200
    await client.delete("/admin/keys/c_d")
    found = (await client.get("/admin/keys", params=query)).json()
    assert sorted(one["name"] for one in found["data"]) == sorted(names)


async def test_a_key_is_found_by_its_prefix_or_its_id(client: httpx.AsyncClient) -> None:
    """By the beginning of a prefix too; never by its secret; a name with NUL is rejected."""
    made = (await client.post("/admin/keys", json={"name": "n"})).json()
    await client.post("/admin/keys", json={"name": "other"})
    [prefix] = made["prefixes"]
    for text in (prefix, prefix[:-2], made["id"]):
        found = (await client.get("/admin/keys", params={"text": text})).json()["data"]
        assert [one["name"] for one in found] == ["n"], text
    assert (await client.get("/admin/keys", params={"text": made["key"]})).json()["data"] == []
    for name in ("text", "tenant", "agent", "user"):
        assert (await client.get("/admin/keys", params={name: "a\0b"})).status_code == 400


async def test_tenants_are_those_with_keys_or_limits(client: httpx.AsyncClient) -> None:
    """With their keys counted; in pages; one of them alone."""
    for spec in ({"name": "a", "tenant": "acme"}, {"name": "b", "tenant": "acme"}, {"name": "c"}):
        await client.post("/admin/keys", json=spec)
    await client.delete("/admin/keys/b")
    await client.put("/admin/limits", json={"scope": "tenant", "tenant": "beta", "rpm": 1})
    await client.put("/admin/kill-switches", json={"kind": "tenant", "subject": "beta"})
    acme = {"tenant": "acme", "keys": 2, "active_keys": 1, "switched_off": False}
    beta = {"tenant": "beta", "keys": 0, "active_keys": 0, "switched_off": True}
    for query, rows in (({}, [acme, beta]), ({"tenant": "beta"}, [beta]), ({"after": "acme"}, [beta])):
        assert (await client.get("/admin/tenants", params=query)).json() == {"data": rows, "has_more": False}
    first = (await client.get("/admin/tenants", params={"limit": 1})).json()
    assert first == {"data": [acme], "has_more": True}
    assert (await client.get("/admin/tenants", params={"tenant": "nobody"})).json()["data"] == []


async def test_an_invalid_field_is_named(client: httpx.AsyncClient) -> None:
    """Unknown, out of range, taken, missing."""
    for body, param in (
        ({"name": "n", "colour": 1}, "colour"),
        ({"name": "n", "rpm": -1}, "rpm"),
        ({"name": "n", "expires_at": "2020-01-01"}, "expires_at"),
        ({"name": "n", "budgets": [{"period": "day", "limit_usd": True}]}, "budgets[0].limit_usd"),
        ({"name": "n", "budgets": [{"period": "day", "limit_usd": {"a": 1}}]}, "budgets[0].limit_usd"),
        ({"name": "n", "budgets": [{}, {"colour": 1}]}, "budgets[1].colour"),
        ({"name": "n", "models": ["a", 5]}, "models[1]"),
        (list[str](), "body"),
        ({}, "name"),
    ):
        answer = await client.post("/admin/keys", json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    await client.post("/admin/keys", json={"name": "n"})
    assert (await client.post("/admin/keys", json={"name": "n"})).json()["error"]["param"] == "name"
    assert (await client.get("/admin/keys/nobody")).status_code == 404
    for raw in (b"\xff\xfe", b"{", b'{"name": nil}'):
        answer = await client.post("/admin/keys", content=raw, headers={"content-type": "application/json"})
        error = answer.json()["error"]
        assert (answer.status_code, error["param"], error["code"]) == (400, None, "invalid_json")


async def test_a_policy_names_what_it_lacks(client: httpx.AsyncClient) -> None:
    """A key that does not exist is its subject; an empty rule of the loop guard is no rule."""
    missing = await client.put("/admin/limits", json={"scope": "key", "subject": "nobody", "rpm": 1})
    assert (missing.status_code, missing.json()["error"]["param"]) == (404, "subject")
    switch = await client.put("/admin/kill-switches", json={"kind": "key", "subject": "nobody"})
    assert (switch.status_code, switch.json()["error"]["param"]) == (404, "subject")
    empty = await client.put("/admin/limits", json={"scope": "agent", "loop_guard": {}})
    assert (empty.status_code, empty.json()["error"]["param"]) == (400, "rpm")


async def test_limits_and_kill_switches_are_managed_by_routes(
    client: httpx.AsyncClient, announced: list[Mapping[str, int]]
) -> None:
    """Set, listed, deleted; published each time."""
    policy = {"scope": "agent", "tenant": "t", "subject": "scout", "rpm": 3, "mode": "shadow"}
    laid = (await client.put("/admin/limits", json=policy)).json()
    assert (await client.get("/admin/limits")).json()["data"] == [laid]
    gone = await client.delete("/admin/limits", params={"scope": "agent", "tenant": "t", "subject": "scout"})
    assert gone.status_code == 200
    switch = {"kind": "model", "subject": "gpt"}
    assert (await client.put("/admin/kill-switches", json=switch)).status_code == 200
    for path in ("/admin/kill-switches", "/admin/kills"):  # two names of one route
        assert [one["subject"] for one in (await client.get(path)).json()["data"]] == ["gpt"]
    assert (await client.delete("/admin/kills?kind=model&subject=gpt")).status_code == 200
    assert (await client.delete("/admin/kill-switches?kind=model&subject=gpt")).status_code == 404
    assert [sorted(epochs) for epochs in announced] == [["t"], ["t"], ["*", "t"], ["*", "t"]]
    actors = {row["actor"] for row in (await client.get("/admin/audit")).json()["data"]}
    assert actors == {"ann"}


ODD = [
    "1E+999999999", "1e400", "-1", "NaN", "Infinity", "-Infinity", "1e-30", "true", '"NaN"', '"1E+999999999"',
    "1E-999999999", "1e-400", "0.0000000001", '"1e-30"', "[]", "{}", '""', "9" * 400, "9" * 5000,
    "-0.000000001", '"5 "',
]  # fmt: skip


@pytest.mark.parametrize("number", ODD, ids=lambda one: one[:20])
async def test_invalid_numbers_are_rejected_by_name_and_never_500(
    client: httpx.AsyncClient, pool: "asyncpg.Pool[asyncpg.Record]", number: str
) -> None:
    """In keys, limits and rotations, as JSON texts that only some parsers accept."""
    assert (await client.post("/admin/keys", json={"name": "fine"})).status_code == 201
    budget = f'"budgets": [{{"limit_usd": {number}, "period": "day"}}]'
    sent = [
        ("POST", "/admin/keys", f'{{"name": "odd", {budget}}}', "limit_usd"),
        ("PUT", "/admin/limits", f'{{"scope": "tenant", "tenant": "t", {budget}}}', "limit_usd"),
        ("POST", "/admin/keys/fine/rotate", f'{{"overlap_s": {number}}}', "overlap_s"),
    ]
    sent += [
        ("POST", "/admin/keys", f'{{"name": "odd", "{field}": {number}}}', field)
        for field in ("rpm", "tpm", "parallel", "max_tokens_cap")
    ]
    json_type = {"content-type": "application/json"}
    for method, path, body, field in sent:
        answer = await client.request(method, path, content=body, headers=json_type)
        assert answer.status_code == 400, (body[:80], answer.text)
        if len(number) < 4300:  # longer ones are no JSON to Python
            assert field in answer.json()["error"]["param"]
    for query in (f"limit={number}", f"before={number}"):
        assert (await client.get(f"/admin/audit?{query}")).status_code == 400
    assert await pool.fetchval("SELECT count(*) FROM api_keys") == 1
    assert await pool.fetchval("SELECT count(*) FROM limit_rules") == 0


async def test_without_a_database_the_routes_are_503() -> None:
    """Not 500."""

    async def any_actor(_: Request) -> Actor:
        return Actor("ann")

    async def announce(_: Mapping[str, int]) -> None:
        return None

    key_router = keys.router(None, None, publish=announce, require_actor=any_actor)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=_app(key_router)), base_url="http://g"
    ) as client:
        assert (await client.get("/admin/keys")).status_code == 503


async def test_a_caller_sees_its_limits_and_what_would_reject_a_request(limits_redis_url: str) -> None:
    """Its own limits only."""
    admission = build_admission(settings_of(store_timeout_ms=5_000, limits_redis_url=limits_redis_url))
    await admission.start()
    who = Caller(
        "k", "virtual", tenant=generate_key().lookup, agent="scout", models=("gpt",), limits=Limits(tpm=1_000)
    )

    async def caller(_: Request) -> Caller:
        return who

    async def of_key(_: Request, name: str) -> limits.LimitSubject:
        raise NotFound(f"No such key: {name}.")

    async def read(request: Request, _: Caller | None) -> tuple[Caller, Call]:
        group = (await request.json())["model"]
        return who, Call("chat.completions", "openai", group, group, {}, prompt_bytes=400, max_tokens=100)

    key_router = _app(
        limits.router(
            admission, caller=caller, of_key=of_key, read=read, describe=lambda _: {}, shares=QueueShares()
        )
    )
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=key_router), base_url="http://g"
    ) as client:
        standing = (await client.get("/v1/limits")).json()
        assert [
            (one["scope"], one["kind"], one["limit"], one["remaining"]) for one in standing["limits"]
        ] == [
            ("key", "tokens", 1_000, 1_000),
            ("agent", "requests", 10, 10),
        ]
        good = (await client.post("/v1/explain", json={"model": "gpt"})).json()
        assert (good["verdict"], good["group"]) == ("admitted", "gpt")
        bad = (await client.post("/v1/explain", json={"model": "claude"})).json()
        assert (bad["verdict"], bad["refusal"]["code"]) == ("refused", "model_not_found")
        assert (await client.get("/v1/limits?key=x")).status_code == 404
        assert (await client.post("/v1/explain?key=x", json={"model": "gpt"})).status_code == 404
    await admission.stop()
