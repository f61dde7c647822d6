"""Audit log, refused credentials, notifications, settings and the self-check, as operators see them."""

from pathlib import Path
from uuid import uuid4

import httpx
from loopback import NO_TLS
from pydantic import SecretStr
from running_console import RunningConsole, post, serve_console
from running_stack import ADMIN_KEY, MASTER_KEY, say

from llm_proxy.settings import load
from llm_proxy.shown_settings import shown_settings


async def test_the_audit_log_has_who_what_and_the_difference(console: RunningConsole) -> None:
    name = f"audited-{uuid4().hex}"
    await console.stack.new_key(name=name)
    async with console.admin("viewer") as client:
        page = (await client.get(f"/audit?subject={name}")).text
        assert "keys.create" in page
        assert "admin_key" in page
        assert (await client.get("/audit?action=no.such.action")).status_code == 200
        assert 'role="alert"' in (await client.get("/audit?since=whenever")).text


async def test_the_audit_log_is_read_page_by_page(console: RunningConsole) -> None:
    async with console.signed_in() as client, httpx.AsyncClient(base_url=console.stack.url) as gateway:
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        for _ in range(101):
            await gateway.put(
                "/admin/limits", json={"scope": "agent", "subject": "pages", "rpm": 1}, headers=headers
            )
        first = (await client.get("/audit?action=limits.*")).text
        assert "before=" in first
        path = first.split('<nav class="pager"')[1].split('href="')[1].split('"')[0].replace("&amp;", "&")
        older = await client.get(path)
        assert older.status_code == 200
        assert "<tbody>" in older.text


async def test_refused_credentials_are_shown(console: RunningConsole) -> None:
    async with console.signed_in() as client:
        assert (await client.get("/audit/refused-credentials")).status_code == 200
        assert (await client.get("/audit/refused-credentials?before=never")).status_code == 400


async def test_settings_hold_no_secret(console: RunningConsole, postgres_url: str) -> None:
    async with console.signed_in() as client:
        page = (await client.get("/settings")).text
    assert "LLM_PROXY__ADMIN_KEY" in page
    assert "The settings of the gateway behind this console" in page
    told = (await console.admin_api("GET", "/admin/settings"))["data"]
    for row in told:
        assert row["variable"] in page
    for secret in (ADMIN_KEY, MASTER_KEY, console.stack.key, postgres_url):
        assert secret not in page


def test_passwords_in_addresses_are_not_shown() -> None:
    settings = load(
        litellm_proxy_url="http://sidecar:4000",
        otlp_endpoint="https://collector/v1?token=hunter2",
        admin_key=SecretStr("hunter2-hunter2-hunter2"),
    )
    shown = " ".join(row.value for row in shown_settings(settings))
    assert "hunter2" not in shown
    assert "sidecar:4000" in shown


async def test_the_self_check_follows_a_call_through_the_chain(console: RunningConsole) -> None:
    async with console.signed_in() as client:
        shown = (await client.get("/self-check")).text
        assert "Make one small call" in shown
        done = (await post(client, "/self-check")).text
        assert "Its record" in done
        assert done.count("works") > shown.count("works")


async def test_a_viewer_makes_no_call(console: RunningConsole) -> None:
    async with console.admin("viewer") as client:
        assert "Make one small call" not in (await client.get("/self-check")).text
        assert (await post(client, "/self-check")).status_code == 403


async def test_without_a_gateway_every_page_says_so(
    console: RunningConsole, service_folder: Path, postgres_url: str
) -> None:
    with serve_console(service_folder, postgres_url, "http://127.0.0.1:9") as served:
        alone = RunningConsole(served, console.stack)
        async with alone.signed_in() as client:
            check = (await client.get("/self-check")).text
            assert "It does not answer." in check
            assert "Only the local test model" not in check
            assert "None is served" not in check
            runs = await client.get("/runs")
            assert runs.status_code == 503
            assert "is not known right now" in runs.text
            page = await client.get("/notifications")
            assert page.status_code == 503
            assert "The gateway does not answer." in page.text
            assert (await client.get("/sessions")).status_code == 200


async def test_what_is_not_known_is_not_called_fine(
    console: RunningConsole, service_folder: Path, postgres_url: str
) -> None:
    """Without a gateway, to whatever role."""
    key = await console.stack.new_key()
    with serve_console(service_folder, postgres_url, "http://127.0.0.1:9") as served:
        alone = RunningConsole(served, console.stack)
        for browser in (alone.signed_in(), alone.admin("tenant", "acme"), alone.signed_in(key)):
            async with browser as client:
                page = (await client.get("/overview/problems")).text
                assert page.count("Not everything is known now") == 1
                assert "Nothing is wrong" not in page


async def test_a_provider_that_rejects_its_key_is_wrong_now(console: RunningConsole) -> None:
    body = {"model": "p/status-401", "messages": say("hello")}
    headers = {"Authorization": f"Bearer {await console.stack.new_key()}"}
    async with httpx.AsyncClient(base_url=console.stack.url, headers=headers, verify=NO_TLS) as caller:
        answer = await caller.post("/v1/chat/completions", json=body)
    assert answer.json()["error"]["code"] == "provider_auth"
    await console.stack.story(answer.headers["x-request-id"])
    async with console.admin("viewer") as client:
        page = (await client.get("/overview/problems")).text
    assert "rejects the gateway&#39;s key" in page
    assert "/requests?cause=provider_auth" in page
