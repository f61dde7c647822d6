"""Why a request was rejected: the log, the sample, exact counts, and details by id."""

import json
import math
import time
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import pytest
from flow.usage_gateway import ADMIN, Gateway, Json, made, until
from running_stack import say, script

from llm_proxy.ledger.rejected_requests import SAMPLE_PER_S
from llm_proxy.telemetry import uuid7

if TYPE_CHECKING:
    import subprocess


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the gateway writes its log."""
    return tmp_path_factory.mktemp("why")


@pytest.fixture(scope="module")
def gateway(
    folder: Path, postgres_url: str, limits_redis_url: str, stack_ports: dict[str, int]
) -> Generator[Gateway]:
    """One gateway for the module."""
    gateway = made(folder, postgres_url, limits_redis_url, stack_ports["sidecar"])
    with gateway.running():
        yield gateway


def make_key(gateway: Gateway, **limits: Any) -> tuple[str, Json]:
    """A key's name and the headers of its holder."""
    name = f"k-{uuid4().hex[:8]}"
    wanted = {"name": name, "tenant": name, "models": ["*"], **limits}
    made = httpx.post(f"{gateway.url}/admin/keys", json=wanted, headers=ADMIN)
    assert made.status_code == 201, made.text
    return name, {"Authorization": f"Bearer {made.json()['key']}"}


def ask(gateway: Gateway, headers: Json, model: str = "plain", **fields: Any) -> httpx.Response:
    """One call."""
    body = {"model": model, "messages": say(uuid4().hex), **fields}
    return httpx.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers, timeout=20)


def until_refused(gateway: Gateway, headers: Json, **fields: Any) -> httpx.Response:
    """Returns the first rejection of sequential calls."""
    answers = (ask(gateway, headers, **fields) for _ in range(10))
    return next(answer for answer in answers if answer.status_code == 429)


def story(gateway: Gateway, request_id: str, headers: Json = ADMIN) -> Json:
    """The story, once it is on record."""
    path = f"/v1/requests/{request_id}"
    until(lambda: gateway.asked(path, headers).status_code == 200)
    told: Json = gateway.asked(path, headers).json()
    return told


def printed(gateway: Gateway, *arguments: str) -> Json:
    """What `llm-proxy requests ... --json` says."""
    done: subprocess.CompletedProcess[str] = gateway.command("requests", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    told: Json = json.loads(done.stdout)
    return told


def times(counts: list[Json]) -> dict[str, int]:
    """Returns the number of rejections by each limit."""
    found: Counter[str] = Counter()
    for row in counts:
        found[f"{row['limit_scope']}:{row['limit_kind']}".strip(":") or row["code"]] += row["times"]
    return dict(found)


def test_a_full_window_is_reported_with_its_subject_use_and_wait(gateway: Gateway, folder: Path) -> None:
    """In the record, in one log line, and in the request's lines; to its key too."""
    name, headers = make_key(gateway, rpm=2)
    refused = until_refused(gateway, headers)
    request_id = refused.headers["x-request-id"]
    told = story(gateway, request_id)
    reached = told["reached"]
    assert (told["outcome"], told["status"], told["code"], told["tenant"]) == (
        "refused", 429, "rate_limit_exceeded", name,
    )  # fmt: skip
    assert {field: reached[field] for field in ("kind", "scope", "limit", "used", "wanted", "unit")} == {
        "kind": "requests", "scope": "key", "limit": 2, "used": 2, "wanted": 1, "unit": "requests",
    }  # fmt: skip
    assert reached["subject"] == f"key {told['key_prefix']}"
    assert reached["wait_ms"] == int(refused.headers["retry-after-ms"])
    full = "2 of 2 requests a minute used; wanted 1 request"
    assert f"requests of key {name} (scope key); {full}" in told["story"][-1]
    assert story(gateway, request_id, headers)["reached"] == reached
    lines = [line for line in (folder / "gateway.log").read_text().splitlines() if request_id in line]
    assert [(json.loads(line)["event"], json.loads(line)["limit"]) for line in lines] == [
        ("refused", reached)
    ]
    shown = gateway.command("requests", request_id).stdout
    assert told["story"][-1] in shown


@pytest.mark.parametrize("limit_usd", ["0", "0.0001"])
def test_a_spent_budget_is_reported_in_dollars_with_its_next_period(gateway: Gateway, limit_usd: str) -> None:
    """There is no wait: a short one would not help."""
    _, headers = make_key(gateway, budgets=[{"limit_usd": limit_usd, "period": "day"}])
    refused = until_refused(gateway, headers)
    reached = story(gateway, refused.headers["x-request-id"])["reached"]
    assert (reached["kind"], reached["unit"], reached["period"]) == ("budget", "usd", "day")
    assert float(reached["limit"]) == float(limit_usd)
    assert float(reached["used"]) >= float(limit_usd)
    assert float(reached["wanted"]) > 0
    assert "wait_ms" not in reached
    assert reached["resets_at"] == refused.headers["x-llm-proxy-budget-reset"]


def test_parallel_calls_and_tokens_are_reported_with_their_units(gateway: Gateway) -> None:
    """A second parallel call, and one more than the tokens of a minute."""
    _, headers = make_key(gateway, parallel=1)
    slow = {"messages": say(script(do="slow-first", first_ms=1500))}
    with ThreadPoolExecutor(4) as callers:
        asked = [callers.submit(ask, gateway, headers, **slow) for _ in range(4)]
        answers = [one.result() for one in asked]
    refused = next(one for one in answers if one.status_code == 429)
    reached = story(gateway, refused.headers["x-request-id"])["reached"]
    assert (reached["kind"], reached["unit"], reached["used"], reached["limit"]) == (
        "parallel",
        "calls",
        1,
        1,
    )
    _, headers = make_key(gateway, tpm=20)
    refused = until_refused(gateway, headers, max_tokens=15)
    reached = story(gateway, refused.headers["x-request-id"])["reached"]
    assert (reached["kind"], reached["unit"], reached["limit"]) == ("tokens", "tokens", 20)
    assert reached["wanted"] > 0


def test_counts_are_exact_and_an_id_outside_the_sample_says_so(gateway: Gateway) -> None:
    """Every rejection of a storm is counted; an id outside the sample is answered with the counts."""
    name, headers = make_key(gateway, rpm=2)
    begun = time.monotonic()
    with ThreadPoolExecutor(8) as callers:
        pending = [callers.submit(ask, gateway, headers) for _ in range(120)]
        answers = [one.result() for one in pending]
    seconds = math.ceil(time.monotonic() - begun) + 1
    refused = [one for one in answers if one.status_code == 429]
    assert len(refused) == 118
    asked = ("--outcome", "refused", "--key", name, "--limit", "1000")
    until(lambda: times(printed(gateway, *asked)["refusal_counts"]) == {"key:requests": 118})
    told = printed(gateway, *asked)
    ids = {row["request_id"] for row in told["requests"]}
    assert ids <= {str(one.headers["x-request-id"]) for one in refused}
    assert 0 < len(ids) <= 2 * SAMPLE_PER_S * seconds  # of two workers
    # On a slow machine the sample may hold the whole storm: then an id of now is outside it.
    left_out = (one.headers["x-request-id"] for one in refused if one.headers["x-request-id"] not in ids)
    outside = next(left_out, str(uuid7()))
    for who in (headers, ADMIN):
        error = gateway.asked(f"/v1/requests/{outside}", who)
        assert (error.status_code, error.json()["error"]["code"]) == (404, "request_not_kept")
        assert "only a sample is kept" in error.json()["error"]["message"]
        assert "by key:requests" in error.json()["error"]["message"]
    _, stranger = make_key(gateway)
    error = gateway.asked(f"/v1/requests/{outside}", stranger)
    assert error.json()["error"]["code"] == "request_not_found"
    done = gateway.command("requests", outside)
    assert (done.returncode, "so it may have been rejected" in done.stderr) == (1, True)
    table = gateway.command("requests", *asked[:4]).stdout
    assert "key:requests" in table
    assert name in table


def test_unknown_callers_do_not_fill_the_sample_of_known_ones(gateway: Gateway) -> None:
    """A storm of wrong credentials; a rejection by a limit in the midst of it is sampled."""
    _, headers = make_key(gateway, rpm=1)
    ask(gateway, headers)
    with ThreadPoolExecutor(8) as callers:
        storm = [callers.submit(ask, gateway, {"Authorization": f"Bearer wrong-{n}"}) for n in range(100)]
        refused = ask(gateway, headers)
        assert all(one.result().status_code == 401 for one in storm)
    assert refused.status_code == 429, refused.text
    assert story(gateway, refused.headers["x-request-id"])["reached"]["scope"] == "key"
    until(lambda: times(printed(gateway, "--outcome", "refused")["refusal_counts"])["invalid_api_key"] == 100)


def test_a_filter_that_rejections_do_not_have_is_rejected_by_name(gateway: Gateway) -> None:
    """And an unknown key."""
    done = gateway.command("requests", "--outcome", "refused", "--provider", "openai")
    assert done.returncode != 0
    assert "Rejected requests cannot be filtered by 'provider'." in done.stderr
    assert gateway.command("requests", "--outcome", "refused", "--key", "nobody").returncode == 1


def test_figures_of_a_shared_limit_are_for_admins_only(gateway: Gateway) -> None:
    """A key learns that such a limit is reached, an admin its figures."""
    _, headers = make_key(gateway)
    rule = {"scope": "provider", "subject": "inhouse", "rpm": 1}
    assert httpx.put(f"{gateway.url}/admin/limits", json=rule, headers=ADMIN).status_code == 200
    request_id = until_refused(gateway, headers, model="retried").headers["x-request-id"]
    told, own = story(gateway, request_id), story(gateway, request_id, headers)
    assert (told["reached"]["scope"], told["reached"]["limit"]) == ("provider", 1)
    assert set(own["reached"]) == {"kind", "scope", "subject", "unit", "wait_ms"}
    assert " used" not in own["story"][-1]
    assert "1 of 1 request a minute used" in told["story"][-1]


def test_the_model_that_a_rejected_request_named_is_recorded(gateway: Gateway) -> None:
    """Unknown names and bad bodies, in the body and in the path: bounded, printable, without secrets."""
    name, headers = make_key(gateway)
    path = "/openai/deployments/no%2Fsuch-deployment/chat/completions?api-version=2024-10-21"
    body = {"messages": say("Hello")}
    answers = {
        "claude-sonnet-5-5": ask(gateway, headers, "claude-sonnet-5-5"),
        "plain": ask(gateway, headers, "plain", messages="no list"),
        "no/such-deployment": httpx.post(gateway.url + path, json=body, headers=headers),
        "a?b" + 125 * "x": ask(gateway, headers, "a\u0007b" + 400 * "x"),
        "-": httpx.post(f"{gateway.url}/v1/chat/completions", content=b"[]", headers=headers),
    }
    assert {one.status_code for one in answers.values()} == {400, 404}
    ids = {model: one.headers["x-request-id"] for model, one in answers.items()}
    told = {model: story(gateway, request_id) for model, request_id in ids.items()}
    assert {model: one["model"] or "-" for model, one in told.items()} == {model: model for model in ids}
    assert "for claude-sonnet-5-5 by key" in told["claude-sonnet-5-5"]["story"][0]
    for before in ("", 113 * "x" + " "):  # whole, and cut by the bound
        secret = ask(gateway, headers, before + "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789")
        assert "abcdef" not in json.dumps(story(gateway, secret.headers["x-request-id"]))
    found = printed(gateway, "--key", name, "--model", "claude-sonnet-5-5", "--outcome", "rejected")
    assert [row["request_id"] for row in found["requests"]] == [ids["claude-sonnet-5-5"]]
    table = gateway.command("requests", "--key", name, "--outcome", "failed").stdout
    line = next(line for line in table.splitlines() if ids["claude-sonnet-5-5"] in line)
    assert {"claude-sonnet-5-5", "404", "rejected", "model_not_found"} <= {*line.split()}


def test_a_failed_call_s_message_is_for_admins_only(gateway: Gateway) -> None:
    """An admin reads the provider's message; the key, whose caller received a 502, does not."""
    _, headers = make_key(gateway)
    answer = ask(gateway, headers, "p/once", messages=say(script(do="status-500")))
    assert answer.status_code == 502
    request_id = answer.headers["x-request-id"]
    told, own = story(gateway, request_id), story(gateway, request_id, headers)
    assert told["story"][1].startswith("hop 1: p/* at scripted: status 500")
    assert told["story"][1].endswith(told["provider_message"])
    assert "the times of its hops are unknown" in told["story"][2]
    assert "cost unknown" in told["story"][-1]
    assert "provider_message" not in own
    assert told["provider_message"] not in json.dumps(own)
    shown = gateway.command("requests", request_id).stdout
    assert all(line in shown for line in told["story"])


def test_a_key_reads_the_provider_s_message_that_its_caller_received(gateway: Gateway) -> None:
    """With a 400."""
    _, headers = make_key(gateway)
    answer = ask(gateway, headers, "p/status-400", messages=say(script(do="status-400")))
    assert answer.status_code == 400
    own = story(gateway, answer.headers["x-request-id"], headers)
    assert own["provider_message"]
    assert any(own["provider_message"] in line for line in own["story"])
