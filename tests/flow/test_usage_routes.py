"""Usage over HTTP, on the command line and for Prometheus; and after a worker was killed."""

import csv
import io
import json
import signal
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from flow.usage_gateway import ADMIN, INTERNAL, Gateway, made, recorded, total, until
from processes import descendants, signal_all
from prometheus_page import series, value
from running_stack import say, script

SOFIA, HUGO = f"agent:sofia-{uuid4().hex[:8]}", "agent:hugo"


@pytest.fixture
def gateway(tmp_path: Path, postgres_url: str, limits_redis_url: str, stack_ports: dict[str, int]) -> Gateway:
    """A gateway to start."""
    return made(tmp_path, postgres_url, limits_redis_url, stack_ports["sidecar"])


def test_every_route_and_command_returns_the_same_usage(gateway: Gateway) -> None:
    """One agent's totals, by any dimension, as CSV, per request, per command."""
    with gateway.running():
        ids = [gateway.chat(agent=SOFIA) for _ in range(6)]
        gateway.chat("p/status-500", agent=SOFIA)
        gateway.chat(agent=HUGO)
        until(lambda: total(gateway)["requests"] == 8)
        reported = gateway.asked("/internal/llm/usage", INTERNAL, agent_id=SOFIA).json()
        assert (reported["total_requests"], reported["success_rate"]) == (7, round(6 / 7, 4))
        assert reported["total_tokens"] > 0
        assert reported["avg_latency_ms"] > 0
        assert reported["limits"]["limit"] == 30
        assert reported["limits"]["remaining"] == 23
        lines = gateway.asked("/v1/usage", ADMIN, group_by="agent,model").json()["data"]
        assert {(line["agent"], line["model"]): line["requests"] for line in lines} == {
            (SOFIA, "plain"): 6, (SOFIA, "p/status-500"): 1, (HUGO, "plain"): 1,
        }  # fmt: skip
        assert all(0 < line["p50_latency_ms"] <= line["p95_latency_ms"] for line in lines)
        assert all(line["latency_requests"] == line["requests"] for line in lines)
        sheet = gateway.asked("/v1/usage", ADMIN, group_by="agent", format="csv", model="plain")
        assert sheet.headers["content-type"] == "text/csv; charset=utf-8"
        rows = list(csv.DictReader(io.StringIO(sheet.text)))
        assert all(set(row) == set(lines[0]) - {"model"} for row in rows)
        assert {row["agent"]: row["requests"] for row in rows} == {SOFIA: "6", HUGO: "1"}
        story = gateway.asked(f"/v1/requests/{ids[0]}", INTERNAL).json()
        assert (story["agent"], story["outcome"], story["status"]) == (SOFIA, "ok", 200)
        printed = json.loads(gateway.command("usage", "--by", "agent", "--json").stdout)
        assert {line["agent"]: line["requests"] for line in printed} == {SOFIA: 7, HUGO: 1}


def test_an_unknown_agent_used_nothing(gateway: Gateway) -> None:
    """Zeros, not an error; unknown requests and invalid queries are errors."""
    with gateway.running():
        reported = gateway.asked("/internal/llm/usage", INTERNAL, agent_id="agent:nobody").json()
        assert [
            reported[name] for name in ("total_requests", "total_tokens", "avg_latency_ms", "success_rate")
        ] == [0] * 4
        assert gateway.asked(f"/v1/requests/{uuid4()}", ADMIN).status_code == 404
        assert gateway.asked("/v1/usage", ADMIN, group_by="password").status_code == 400
        assert gateway.asked("/v1/usage", ADMIN, since="tomorrow").status_code == 400
        assert gateway.asked("/v1/usage", ADMIN, format="xml").status_code == 400
        assert gateway.asked("/v1/usage", {}).status_code == 401


def test_any_filter_is_answered_or_rejected_by_name(gateway: Gateway) -> None:
    """Days and hours too; a value that no column can hold is 400."""
    with gateway.running():
        gateway.chat(agent=SOFIA)
        until(lambda: total(gateway)["requests"] == 1)
        [line] = gateway.asked("/v1/usage", ADMIN, group_by="day,hour", since="2d").json()["data"]
        for since in ("2d", "47h"):
            for found in ({"day": line["day"]}, {"hour": line["hour"]}, {"agent": SOFIA}):
                assert total(gateway, ADMIN, since=since, **found)["requests"] == 1
            assert total(gateway, since=since, day="2020-01-01")["requests"] == 0
        for name, text in (("day", "x"), ("hour", "noon"), ("agent", "a\0b"), ("agnet", SOFIA)):
            asked: dict[str, str] = {name: text}
            refused = gateway.asked("/v1/usage", ADMIN, **asked)
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, name)
        assert gateway.asked("/v1/usage", ADMIN, since="0001-01-01T00:00+14:00").status_code == 400
        for agent in ("", "a\0b"):
            assert gateway.asked("/internal/llm/usage", INTERNAL, agent_id=agent).status_code == 400


def test_unstated_tokens_are_not_recorded_as_the_providers(gateway: Gateway) -> None:
    """LiteLLM counts a stream's, the gateway estimates a complete answer's."""
    with gateway.running():
        for streamed, source in ((True, "sidecar"), (False, "estimated")):
            body = {"model": "plain", "messages": say(script(do="ok", counted=False)), "stream": streamed}
            body |= {"stream_options": {"include_usage": True}} if streamed else {}
            answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=body, headers=INTERNAL)
            assert "llmp" not in answer.text
            request_id = answer.headers["x-request-id"]
            until(partial(recorded, gateway, request_id))
            story = gateway.asked(f"/v1/requests/{request_id}", ADMIN).json()
            assert (story["usage_source"], story["outcome"]) == (source, "ok")
            assert story["completion_tokens"] > 0


def test_a_virtual_key_sees_its_own_usage_and_an_admin_all(gateway: Gateway) -> None:
    """Sums and single requests; another key's request is unknown."""
    with gateway.running():
        made = httpx.post(f"{gateway.url}/admin/keys", json={"name": "one", "tenant": "acme"}, headers=ADMIN)
        key = made.json()["key"]
        mine = {"Authorization": f"Bearer {key}"}
        own, others = gateway.chat(key=key), gateway.chat()
        until(lambda: total(gateway)["requests"] == 2)
        assert total(gateway, mine)["requests"] == 1
        assert total(gateway, mine, key="one")["requests"] == 1
        assert gateway.asked("/v1/usage", mine, key="internal").status_code == 404
        assert gateway.asked(f"/v1/requests/{own}", mine).status_code == 200
        assert gateway.asked(f"/v1/requests/{others}", mine).status_code == 404
        assert gateway.asked(f"/v1/requests/{others}", ADMIN).status_code == 200


def test_metrics_are_one_page_for_all_workers(gateway: Gateway) -> None:
    """Whichever worker answers: every call is counted, both workers are alive, no key no page."""
    with gateway.running():
        for _ in range(20):
            gateway.chat()
        httpx.get(f"{gateway.url}/v1/usage")
        assert gateway.asked("/metrics", INTERNAL).status_code == 401
        until(lambda: (requests(gateway), in_flight(gateway)) == (20, 0))
        for _ in range(4):
            page = gateway.asked("/metrics", ADMIN).text
            assert sum(series(page, "llm_proxy_requests_total").values()) == 20
            assert value(page, "llm_proxy_workers") == 2
            assert value(page, "llm_proxy_in_flight") == 0


def test_all_workers_return_the_same_model_health(gateway: Gateway) -> None:
    """The calls of both workers are in the database."""

    def calls() -> int:
        groups = gateway.asked("/admin/models", ADMIN).json().get("data", [])
        return sum(one["health"]["calls"] for one in groups if one["id"] == "plain")

    with gateway.running():
        for _ in range(12):
            gateway.chat()
        until(lambda: {calls() for _ in range(10)} == {12})
        assert calls() == 12


def requests(gateway: Gateway) -> float:
    """Calls that the workers have counted."""
    return sum(series(gateway.asked("/metrics", ADMIN).text, "llm_proxy_requests_total").values())


def in_flight(gateway: Gateway) -> float:
    """Calls that run, as the workers have counted them."""
    return value(gateway.asked("/metrics", ADMIN).text, "llm_proxy_in_flight")


def test_calls_in_flight_in_a_killed_worker_are_recorded_as_lost(gateway: Gateway) -> None:
    """And finished calls are recorded once."""
    slow = script(do="slow-first", first_ms=9000)
    with gateway.running() as process:
        ended = [gateway.chat() for _ in range(5)]
        with ThreadPoolExecutor(4) as callers:
            pending = [callers.submit(gateway.chat, text=slow) for _ in range(4)]
            until(lambda: in_flight(gateway) == 4)
            signal_all(descendants(process.pid), signal.SIGKILL)
        assert all(isinstance(one.exception(), httpx.TransportError) for one in pending)
        until(lambda: total(gateway)["requests"] == 9)
        rows = json.loads(gateway.command("requests", "--json", "--outcome", "lost").stdout)
        assert [(row["model"], row["usage_source"], row["cost_usd"]) for row in rows] == [
            ("plain", "unknown", None)
        ] * 4
        assert all(gateway.asked(f"/v1/requests/{one}", ADMIN).json()["outcome"] == "ok" for one in ended)


def test_commands_report_a_fault_in_one_line(gateway: Gateway) -> None:
    """No database, one that is not migrated, an unknown dimension."""
    done = gateway.command("usage")
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert "llm-proxy migrate" in done.stderr
    assert gateway.command("migrate").stdout.startswith("applied 001_requests.sql\n")
    assert gateway.command("migrate").stdout == "nothing to do: the schema has this version\n"
    done = gateway.command("usage", "--by", "password")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no request has this id" in gateway.command("requests", str(uuid4())).stderr
    assert gateway.command("reconcile").stdout == "no differences\n"
    del gateway.environment["DATABASE_URL"]
    done = gateway.command("usage")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "DATABASE_URL is not set" in done.stderr


def test_commands_print_a_table_and_a_sparkline(gateway: Gateway) -> None:
    """And one request by its id."""
    with gateway.running():
        request_id = gateway.chat(agent=SOFIA)
        until(lambda: total(gateway)["requests"] == 1)
    reported = gateway.command("usage", "--by", "agent").stdout
    assert SOFIA in reported
    story = gateway.command("requests", request_id).stdout
    assert SOFIA in story
    assert "outcome" in story
    assert request_id in gateway.command("requests").stdout
    differences = gateway.command("reconcile", "--until", "0m", "--json")
    assert json.loads(differences.stdout)["differences"][0]["kinds"] == ["missing_there"]


def test_a_person_is_erased_by_a_command(gateway: Gateway) -> None:
    """Text and name of one tenant's user are erased; the tenant's sums and the other tenant's user stay."""
    gateway.environment["LLM_PROXY__LOG_PAYLOADS"] = "full"
    said = {"model": "plain", "user": "ada", "messages": say("what ada said")}
    with gateway.running():
        ids: dict[str, str] = {}
        for tenant in ("acme", "zeta"):
            body = said | {"metadata": {"microdao_id": tenant}}
            answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=body, headers=INTERNAL, timeout=20)
            ids[tenant] = answer.headers["x-request-id"]
        kept = [f"/admin/payloads/{request_id}" for request_id in ids.values()]
        until(lambda: all(gateway.asked(path, ADMIN).status_code == 200 for path in kept))
        before = total(gateway, tenant="acme")
        erase = ("erase", "user", "ada", "--tenant", "acme", "--yes", "--url", gateway.url)
        done = gateway.command(*erase, "--json")
        assert done.returncode == 0, done.stderr
        certificate = json.loads(done.stdout)
        found = {name: one["found"] for name, one in certificate["stores"].items()}
        assert (certificate["complete"], found["payloads"], found["requests"]) == (True, 1, 1)
        assert [gateway.asked(path, ADMIN).status_code for path in kept] == [404, 200]
        assert (
            gateway.asked(f"/v1/requests/{ids['acme']}", ADMIN).json()["user_id"] == certificate["pseudonym"]
        )
        assert gateway.asked(f"/v1/requests/{ids['zeta']}", ADMIN).json()["user_id"] == "ada"
        assert total(gateway, tenant="acme") == before
        reported = gateway.command(*erase)
        assert "result     nothing of this name was found" in reported.stdout
        again = gateway.command("erase", "replay", "--url", gateway.url)
        assert again.stdout.startswith("no erased person was restored")
        asked = gateway.asked(f"/admin/erasures/{certificate['id']}", ADMIN)
        assert asked.json() == certificate
