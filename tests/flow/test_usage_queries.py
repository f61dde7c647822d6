"""Usage queries over HTTP and on the command line, on one running gateway."""

import asyncio
import csv
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import asyncpg
import httpx
import pytest
from flow.usage_gateway import ADMIN, INTERNAL, Gateway, Json, made, recorded, total, until
from running_stack import say

if TYPE_CHECKING:
    from pathlib import Path

TEAM, OTHER = "team-a", "team-b"


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_url: str,
    limits_redis_url: str,
    stack_ports: dict[str, int],
) -> Iterator[Gateway]:
    """A running gateway, and six calls: of two keys, of people, with tags."""
    folder: Path = tmp_path_factory.mktemp("questions")
    started = made(folder, postgres_url, limits_redis_url, stack_ports["sidecar"])
    with started.running():
        demo = key(started, "demo", tenant=TEAM, tags=["prod", "search"])
        plain = key(started, "plain", tenant=OTHER)
        started.chat(key=demo["key"], user="ann", headers={"X-Tags": "nightly, prod", "X-Run-Id": "run-1"})
        started.chat(key=demo["key"], metadata={"tags": "nightly", "run_id": "run-1", "session_id": "s-1"})
        started.chat(key=demo["key"], metadata={"tags": ["batch"]}, headers={"X-Session-Id": "s-1"})
        started.chat(key=plain["key"], user="(unnamed)")
        started.chat(key=plain["key"])
        last = started.chat(agent="agent:x")
        until(lambda: total(started)["requests"] == 6)
        until(partial(recorded, started, last))
        yield started


def key(gateway: Gateway, name: str, **fields: object) -> Json:
    """A new key."""
    answer = httpx.post(f"{gateway.url}/admin/keys", json={"name": name, **fields}, headers=ADMIN)
    assert answer.status_code == 201, answer.text
    document: Json = answer.json()
    return document


def grouped(gateway: Gateway, by: str, **asked: str) -> Json:
    """Requests of each group, by what it is called."""
    answer = gateway.asked("/v1/usage", ADMIN, group_by=by, **asked).json()
    return {line[by]: line["requests"] for line in answer["data"]}


def rows(text: str) -> list[dict[str, str]]:
    """The rows of CSV."""
    return list(csv.DictReader(io.StringIO(text)))


def test_requests_without_a_name_are_a_row_of_their_own(gateway: Gateway) -> None:
    """Null in JSON, empty in CSV; a table distinguishes a value that really is that text."""
    assert grouped(gateway, "user") == {None: 4, "ann": 1, "(unnamed)": 1}
    assert grouped(gateway, "session") == {None: 4, "s-1": 2}
    assert total(gateway, user="")["requests"] == 4
    assert total(gateway, user="(unnamed)")["requests"] == 1
    sheet = rows(gateway.asked("/v1/usage", ADMIN, group_by="user", format="csv").text)
    assert {row["user"]: row["requests"] for row in sheet} == {"": "4", "ann": "1", "(unnamed)": "1"}
    table = gateway.command("usage", "--by", "user").stdout
    shown = [line.split()[0] for line in table.splitlines() if "unnamed" in line]
    assert shown == ["(unnamed)", '"(unnamed)"']


def test_keys_are_named_and_found_by_name_prefix_or_id(gateway: Gateway) -> None:
    """In every route and command."""
    lines = gateway.asked("/v1/usage", ADMIN, group_by="key").json()["data"]
    ids = {line["key_name"]: line["key"] for line in lines}
    assert set(ids) == {"demo", "plain", None}
    document = httpx.get(f"{gateway.url}/admin/keys/demo", headers=ADMIN).json()
    for found in ("demo", ids["demo"], document["prefixes"][0]):
        assert total(gateway, key=found)["requests"] == 3
    asked = gateway.command("requests", "--key", "demo", "--json")
    assert len(json.loads(asked.stdout)) == 3
    table = gateway.command("usage", "--by", "key").stdout
    assert "demo" in table
    assert ids["demo"] not in table


def test_an_unknown_name_is_404(gateway: Gateway) -> None:
    """Exit code 1, never an empty answer."""
    for name in ("agent", "tenant", "key", "model", "provider", "user", "session", "run", "tag"):
        refused = gateway.asked("/v1/usage", ADMIN, **{name: "nobody"})
        assert (refused.status_code, refused.json()["error"]["param"]) == (404, name)
        assert f"No {name} called 'nobody'" in refused.json()["error"]["message"]
    for words in (("usage", "--where", "agent=nobody"), ("requests", "--key", "nobody")):
        done = gateway.command(*words)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert "called 'nobody' is on record" in done.stderr


def test_tags_sessions_and_runs_are_groups_and_filters(gateway: Gateway) -> None:
    """A call with several tags is in the row of each; the total counts it once."""
    answer = gateway.asked("/v1/usage", ADMIN, group_by="tag").json()
    assert {line["tag"]: line["requests"] for line in answer["data"]} == {
        "prod": 3, "search": 3, "nightly": 2, "batch": 1, None: 3,
    }  # fmt: skip
    assert answer["total"]["requests"] == 6
    assert total(gateway, tag="nightly", run="run-1")["requests"] == 2
    assert total(gateway, tag="")["requests"] == 3
    assert grouped(gateway, "run", tag="nightly") == {"run-1": 2}
    [batch] = json.loads(gateway.command("requests", "--tag", "batch", "--json").stdout)
    assert (batch["tags"], batch["session_id"]) == (["prod", "search", "batch"], "s-1")
    assert "counts it once" in gateway.command("usage", "--by", "tag").stdout


def test_the_command_has_the_filters_of_the_search_and_writes_all_matches_as_csv(gateway: Gateway) -> None:
    """Each filter of `GET /v1/requests`, with the same rows; a wrong value is said by its name."""

    def asked(*words: str) -> set[str]:
        done = gateway.command("requests", "--json", *words)
        assert done.returncode == 0, done.stderr
        return {row["request_id"] for row in json.loads(done.stdout)}

    for filters in (
        {"min_ms": "0", "status": "2xx"}, {"status": "5xx"}, {"outcome": "failed"}, {"max_cost": "0"},
        {"endpoint": "chat.completions", "outcome": "ok"}, {"cause": "nothing"}, {"session": "s-1"},
    ):  # fmt: skip
        answer = gateway.asked("/v1/requests", ADMIN, limit="1000", **filters).json()
        words = [part for name, value in filters.items() for part in ("--" + name.replace("_", "-"), value)]
        assert asked("--limit", "1000", *words) == {row["request_id"] for row in answer["data"]}, filters
    every = httpx.get(f"{gateway.url}/v1/requests?format=csv&outcome=ok", headers=ADMIN).text
    printed = gateway.command("requests", "--csv", "--outcome", "ok", "--limit", "1").stdout
    assert sorted(printed.splitlines()) == sorted(every.splitlines())
    assert len(printed.splitlines()) > 2
    wrong = gateway.command("requests", "--status", "good")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "2xx, 4xx, 5xx" in wrong.stderr


def test_a_key_s_tags_are_changed_by_route_and_command(gateway: Gateway) -> None:
    """And bounded there, as on a call."""
    assert json.loads(gateway.command("keys", "show", "demo", "--json").stdout)["tags"] == ["prod", "search"]
    for given, tags in ((("--tag", "a", "--tag", "b"), ["a", "b"]), (("--unset", "tag"), [])):
        changed = gateway.command("keys", "change", "demo", *given, "--json")
        assert json.loads(changed.stdout)["tags"] == tags
    address = f"{gateway.url}/admin/keys/demo"
    for tags in (["x" * 51], ["a,b"], [str(number) for number in range(11)]):
        refused = httpx.patch(address, json={"tags": tags}, headers=ADMIN)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tags")
    put_back = httpx.patch(address, json={"tags": ["prod", "search"]}, headers=ADMIN)
    assert put_back.json()["tags"] == ["prod", "search"]
    assert httpx.patch(address, json={"rpm": 90}, headers=ADMIN).json()["tags"] == ["prod", "search"]
    for wrong in (7, ["a,b"], "x" * 51, {"a": "b"}, list("abcdefghijk")):
        body = {"model": "plain", "messages": say("x"), "metadata": {"tags": wrong}}
        refused = httpx.post(f"{gateway.url}/v1/chat/completions", json=body, headers=INTERNAL)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "metadata.tags")


def test_a_range_is_parsed_in_its_time_zone(gateway: Gateway) -> None:
    """The last minutes, words for days, offsets; extremes are 400 and name their field."""
    for since, tz in (("10m", "UTC"), ("this-week", "Asia/Kolkata"), ("1h", "+05:30")):
        assert total(gateway, since=since, tz=tz)["requests"] == 6
    unencoded = httpx.get(f"{gateway.url}/v1/usage?since=1h&tz=+05:30", headers=ADMIN).json()
    assert (unencoded["tz"], unencoded["total"]["requests"]) == ("+05:30", 6)
    days = gateway.asked("/v1/usage", ADMIN, group_by="day,hour", tz="Asia/Kolkata").json()["data"]
    assert sum(line["requests"] for line in days) == 6
    for line in days:
        assert line["hour"].endswith(":00:00+05:30")
        assert line["hour"].startswith(line["day"])
    for name, value in (
        ("until", "9999-12-31T12:00Z"), ("since", "0001-01-01"), ("since", "NaN"), ("tz", "+99:99"),
        ("tz", "Mars"), ("top", "0"), ("top", "NaN"), ("top", "1e400"), ("day", "9999-12-31"),
        ("format", "xml"), ("user", "\0"), ("group_by", "tag,tag"),
    ):  # fmt: skip
        refused = gateway.asked("/v1/usage", ADMIN, **{name: value})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, name), refused.text
    twice = httpx.get(f"{gateway.url}/v1/usage?tag=a&tag=b", headers=ADMIN)
    assert (twice.status_code, twice.json()["error"]["param"]) == (400, "tag")
    table = gateway.command("usage", "--since", "yesterday", "--tz", "Europe/Berlin")
    assert table.stdout.splitlines()[0].count(" 00:00") == 2
    done = gateway.command("usage", "--until", "9999-12-31T12:00Z")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_the_most_expensive_row_is_first_above_the_total(gateway: Gateway) -> None:
    """In a table; JSON and CSV have the rows only."""
    table = gateway.command("usage", "--since", "this-week", "--by", "key", "--top", "1").stdout
    words = [(line.split() or [""])[0] for line in table.splitlines()]
    assert [word for word in words if word in {"demo", "plain", "total"}] == ["demo", "total"]
    [best] = json.loads(gateway.command("usage", "--by", "key", "--top", "1", "--json").stdout)
    both = json.loads(gateway.command("usage", "--by", "key", "--by", "model", "--json").stdout)
    assert {"key", "model"} <= both[0].keys()
    assert (best["key_name"], best["requests"]) == ("demo", 3)
    [row] = rows(gateway.command("usage", "--by", "key", "--top", "1", "--csv").stdout)
    assert set(row) == set(best)


def test_focus_has_its_mandatory_columns_and_the_same_sums(gateway: Gateway) -> None:
    """By day, in UTC, the same by route and by command."""
    reported = gateway.asked("/v1/usage", ADMIN, format="focus", since="this-week").text
    assert (
        reported.replace("\r", "")
        == gateway.command("usage", "--format", "focus", "--since", "this-week").stdout
    )
    charges = rows(reported)
    whole = total(gateway, since="this-week")
    assert round(sum(float(row["BilledCost"]) for row in charges), 9) == whole["cost_usd"]
    assert sum(int(row["x_Requests"]) for row in charges) == 6
    for row in charges:
        assert row["ChargePeriodStart"].endswith("T00:00:00Z")
        names = ("BillingPeriodStart", "ChargePeriodStart", "ChargePeriodEnd", "BillingPeriodEnd")
        assert sorted(row[name] for name in names) == [row[name] for name in names]
        assert all(row[name] for name in MANDATORY), row
    assert {row["x_KeyName"] for row in charges} == {"demo", "plain", ""}
    assert gateway.asked("/v1/usage", ADMIN, format="focus", group_by="tag").status_code == 400


MANDATORY = (
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd",
    "BillingPeriodStart", "ChargeCategory", "ChargeDescription", "ChargePeriodEnd", "ChargePeriodStart",
    "ContractedCost", "EffectiveCost", "InvoiceIssuerName", "ListCost", "PricingQuantity", "PricingUnit",
    "ProviderName", "PublisherName", "ServiceCategory", "ServiceName",
)  # fmt: skip
"""Of FOCUS 1.2, but for `ChargeClass`, which is null unless a charge corrects another."""


def test_hanging_queries_do_not_delay_key_look_ups(gateway: Gateway) -> None:
    """They have connections of their own."""
    keys = [key(gateway, f"fresh-{number}")["key"] for number in range(4)]

    def hangs(_: int) -> bool:
        try:
            httpx.get(f"{gateway.url}/v1/usage", headers=ADMIN, timeout=2)
        except httpx.ReadTimeout:
            return True
        return False

    async def held() -> None:
        connection = await asyncpg.connect(gateway.environment["DATABASE_URL"])
        await connection.execute("BEGIN; LOCK TABLE usage_daily")
        with ThreadPoolExecutor(24) as askers:
            asking = [askers.submit(hangs, number) for number in range(24)]
            await asyncio.sleep(0.2)
            async with httpx.AsyncClient(timeout=2) as client:
                for one in keys:
                    mine = {"Authorization": f"Bearer {one}"}
                    assert (await client.get(f"{gateway.url}/v1/models", headers=mine)).status_code == 200
            assert all(one.result() for one in asking)
        await connection.close()

    asyncio.run(held())
    assert total(gateway)["requests"] == 6


def test_budgets_are_forecast_for_admins(gateway: Gateway) -> None:
    """A tenant's admin sees its tenant's alone; a caller's key is no admin key."""
    keys, address = f"{gateway.url}/admin/keys", "/admin/budgets"
    budgets = [
        {"limit_usd": "5", "period": "month"},
        {"limit_requests": 10, "period": "day"},
    ]
    for name in ("demo", "plain"):
        changed = httpx.patch(f"{keys}/{name}", json={"budgets": budgets}, headers=ADMIN)
        assert changed.status_code == 200, changed.text
    every = gateway.asked(address, ADMIN).json()
    assert len(every["data"]) == 4
    calls = {(one["id"], one["unit"]): one for one in every["data"]}
    demo = httpx.get(f"{keys}/demo", headers=ADMIN).json()["id"]
    used = total(gateway, key="demo")
    counted, money = calls[demo, "requests"], calls[demo, "usd"]
    assert (counted["limit"], counted["spent"], counted["share"]) == (10, used["requests"], 0.3)
    assert float(money["spent_usd"]) == pytest.approx(used["cost_usd"])
    assert (money["limit_usd"], money["lasts"], money["runs_out_at"]) == ("5.000000000", True, None)
    made = httpx.post(
        f"{gateway.url}/admin/admin-keys",
        json={"name": "of-team", "role": "tenant", "tenant": TEAM},
        headers=ADMIN,
    )
    of_team = {"Authorization": f"Bearer {made.json()['key']}"}
    assert {one["id"] for one in gateway.asked(address, of_team).json()["data"]} == {demo}
    assert {one["id"] for one in gateway.asked(address, of_team, tenant=OTHER).json()["data"]} == {demo}
    assert gateway.asked(address, ADMIN, tenant="without-keys").json()["data"] == []
    assert gateway.asked(address, INTERNAL).status_code == 401
