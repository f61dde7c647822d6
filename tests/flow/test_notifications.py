"""Notifications of a gateway with two workers, real stores and an unavailable sidecar."""

from collections.abc import Iterator
from typing import TYPE_CHECKING
from uuid import uuid4

import httpx
import pytest
from flow.usage_gateway import ADMIN, Gateway, made
from prometheus_page import value
from running_stack import say
from waiting import until
from webhook_receiver import WebhookReceiver, run_receiver

from llm_proxy.notify.notifier import MIN_REFUSED_CREDENTIALS
from llm_proxy.stack import probe

if TYPE_CHECKING:
    from pathlib import Path

COST_USD = 0.000063
"""The cost of a call with 17 prompt and 23 completion tokens."""


@pytest.fixture(scope="module")
def receiver() -> Iterator[WebhookReceiver]:
    """Yields a receiver that rejects the first delivery."""
    with run_receiver() as started:
        started.answers.append(500)
        yield started


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_url: str,
    limits_redis_url: str,
    stack_ports: dict[str, int],
    receiver: WebhookReceiver,
) -> Iterator[Gateway]:
    """Yields a gateway with the receiver as webhook, rejected credentials and an unavailable sidecar."""
    folder: Path = tmp_path_factory.mktemp("notifying")
    built = made(folder, postgres_url, limits_redis_url, stack_ports["sidecar"])
    built.environment["LLM_PROXY__LITELLM_PROXY_URL"] += f",http://127.0.0.1:{probe.free_port()}"
    built.environment |= {
        "LLM_PROXY__NOTIFY_WEBHOOKS": f"json={receiver.url()}",
        "LLM_PROXY__NOTIFY_SECRET": "only-for-this-test-0123456789",
        "LLM_PROXY__NOTIFY_ALLOW_PRIVATE": "true",
        "LLM_PROXY__NOTIFY_SIDECAR_AWAY_S": "1",
    }
    with built.running():
        for _ in range(MIN_REFUSED_CREDENTIALS):
            assert ask(built, "sk-somebody-elses").status_code == 401
        yield built


def ask(gateway: Gateway, key: str, model: str = "plain") -> httpx.Response:
    """Sends one chat."""
    body = {"model": model, "messages": say(uuid4().hex)}
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers, timeout=20)


def test_budget_shares_and_exhaustion_are_sent_once(gateway: Gateway, receiver: WebhookReceiver) -> None:
    """With the key's name; the first delivery fails and is repeated with the same id."""
    name = f"demo-{uuid4().hex[:8]}"
    spec = {
        "name": name,
        "tenant": "acme",
        "models": ["*"],
        "budgets": [{"limit_usd": str(1.9 * COST_USD), "period": "day"}],
    }
    made_key = httpx.post(f"{gateway.url}/admin/keys", json=spec, headers=ADMIN, timeout=20)
    key = made_key.json()["key"]

    def received(kind: str) -> list[object]:
        mine = [one["data"] for one in receiver.of(kind) if one["data"].get("name") == name]
        return [one.get("share_percent") for one in mine]

    assert ask(gateway, key).status_code == 200
    until(lambda: 50 in received("budget.share"), 20)
    assert ask(gateway, key).status_code == 200
    assert [ask(gateway, key).json()["error"]["code"] for _ in range(3)] == ["insufficient_quota"] * 3
    until(lambda: bool(received("budget.exhausted")) and {80, 100} <= {*received("budget.share")}, 20)
    found = httpx.get(f"{gateway.url}/admin/notifications", headers=ADMIN, timeout=20)
    mine = [one for one in found.json()["data"] if one["data"].get("name") == name]
    assert sorted(one["data"].get("share_percent", 0) for one in mine) == [0, 50, 80, 100]
    distinct = {one["id"] for one in receiver.of("budget.share") + receiver.of("budget.exhausted")}
    assert distinct >= {one["id"] for one in mine}
    assert f"key {name} (tenant acme)" in mine[0]["data"]["message"]
    assert made_key.json()["key"] not in found.text
    assert str(receiver.port) not in str([one["deliveries"] for one in mine])


def test_rejected_credentials_and_lost_sidecar_are_sent(gateway: Gateway, receiver: WebhookReceiver) -> None:
    """Each kind once."""
    assert gateway.chat("wrong-key")
    until(lambda: bool(receiver.of("provider.credentials_refused")), 30)
    until(lambda: bool(receiver.of("sidecar.lost")), 30)
    until(lambda: bool(receiver.of("credentials.refused")), 60)
    [address] = {one["data"]["client_ip"] for one in receiver.of("credentials.refused")}
    assert address == "127.0.0.1"
    [deployment] = {one["data"]["deployment"] for one in receiver.of("provider.credentials_refused")}
    assert deployment == "wrong-key"
    for kind in ("credentials.refused", "provider.credentials_refused", "sidecar.lost"):
        assert len({one["id"] for one in receiver.of(kind)}) == 1
    counted = httpx.get(f"{gateway.url}/metrics", headers=ADMIN, timeout=20).text
    assert value(counted, "llm_proxy_notifications_total", result="failed") == 1


def test_webhook_without_database_stops_the_start(gateway: Gateway) -> None:
    """The error is one line."""
    kept = gateway.environment.pop("DATABASE_URL")
    try:
        done = gateway.command("serve")
    finally:
        gateway.environment["DATABASE_URL"] = kept
    assert done.returncode == 2
    assert "NOTIFY_WEBHOOKS is set and DATABASE_URL is not" in done.stderr
