"""Signing in at the console: with keys, with links; what a session's cookie can do and when it ends."""

import asyncio
import os
import subprocess
import sys

import httpx
import pytest
from loopback import NO_TLS
from running_console import RunningConsole, post, token_of
from running_stack import ADMIN_KEY

from llm_proxy.console.pages.sign_in import local_path
from llm_proxy.console.sign_in_attempts import BURST, SECONDS_PER_ATTEMPT
from llm_proxy.identity.virtual_keys import display_prefix, generate_key


async def test_a_stranger_is_sent_to_the_sign_in_and_back_to_the_page_asked_for(
    console: RunningConsole,
) -> None:
    async with console.stranger() as client:
        sent = await client.get("/sessions?before=x")
        assert (sent.status_code, sent.headers["location"]) == (303, "/sign-in?next=%2Fsessions%3Fbefore%3Dx")
        shown = await client.get(sent.headers["location"])
        assert 'name="next" value="/sessions?before=x"' in shown.text
        done = await client.post("/sign-in", data={"key": ADMIN_KEY, "next": "/sessions?before=x"})
        assert (done.status_code, done.headers["location"]) == (303, "/sessions?before=x")


async def test_a_fragment_that_a_stranger_asks_for_sends_the_whole_page_to_the_sign_in(
    console: RunningConsole,
) -> None:
    async with console.stranger() as client:
        sent = await client.get("/sessions", headers={"hx-request": "true"})
    assert (sent.status_code, sent.headers["hx-redirect"]) == (401, "/sign-in")


async def test_roles_come_from_the_key(console: RunningConsole) -> None:
    key = await console.stack.new_key(tenant="acme")
    async with console.signed_in(key) as holder, console.admin("tenant", "acme") as tenant:
        assert "key of acme" in (await holder.get("/sessions")).text
        assert (await holder.get("/notifications")).status_code == 403
        assert "tenant of acme" in (await tenant.get("/sessions")).text
        assert (await tenant.get("/notifications")).status_code == 403


@pytest.mark.parametrize("key", ["", "nonsense", "sk-llmp-" + "a" * 51, "schl\u00fcssel", ADMIN_KEY + "x"])
async def test_a_wrong_key_signs_nobody_in(console: RunningConsole, key: str) -> None:
    async with console.stranger() as client:
        answer = await client.post("/sign-in", data={"key": key})
        assert answer.status_code == 401
        assert not client.cookies
        assert 'role="alert"' in answer.text


async def test_failed_sign_ins_are_refused_after_a_burst_and_stand_with_the_refused_credentials(
    console: RunningConsole,
) -> None:
    """With the address; other addresses and links still sign in, and an empty field is no attempt."""
    burst, other = {"x-forwarded-for": "198.51.100.7"}, {"x-forwarded-for": "198.51.100.8"}
    key = generate_key().text
    async with console.stranger() as client:
        tries = [client.post("/sign-in", data={"key": key}, headers=burst) for _ in range(BURST + 5)]
        answers = await asyncio.gather(*tries)
        assert sorted(one.status_code for one in answers) == [401] * BURST + [429] * 5
        refused = await client.post("/sign-in", data={"key": ADMIN_KEY}, headers=burst)
        assert refused.status_code == 429
        assert 0 < int(refused.headers["retry-after"]) <= SECONDS_PER_ATTEMPT
        assert "Too many sign-ins failed" in refused.text
        for _ in range(BURST + 5):
            assert (await client.post("/sign-in", data={"key": ""}, headers=other)).status_code == 401
        assert (await client.post("/sign-in", data={"key": ADMIN_KEY}, headers=other)).status_code == 303
    async with console.stranger() as client:
        assert (await client.post("/sign-in/link/no-such-link", headers=burst)).status_code == 401
        assert (await client.post(await console.link(), headers=burst)).status_code == 303
        prefix, counted = display_prefix(key.split("-")[2]), dict[tuple[str, str], int]()
        async with asyncio.timeout(30):
            while counted.get(("/sign-in", prefix)) != BURST + 5 or ("/sign-in/link", "") not in counted:
                await asyncio.sleep(0.2)  # counts are written every ten seconds
                counted = await counted_of(console, "198.51.100.7")
        shown = (await client.get("/audit/refused-credentials")).text
    assert "198.51.100.7" in shown
    assert not [text for text in (key, "no-such-link", ADMIN_KEY, "198.51.100.8") if text in shown]


async def counted_of(console: RunningConsole, address: str) -> dict[tuple[str, str], int]:
    """Returns how often credentials of an address were refused, by path and public part of the key."""
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    async with httpx.AsyncClient(base_url=console.stack.url, headers=headers, verify=NO_TLS) as client:
        rows = (await client.get("/admin/refused-credentials", params={"limit": 1000})).json()["data"]
    counted: dict[tuple[str, str], int] = {}
    for row in rows:
        if row["client_ip"] == address:
            which = row["path"], row["prefix"]
            counted[which] = counted.get(which, 0) + row["times"]
    return counted


async def test_an_internal_key_is_no_persons(console: RunningConsole) -> None:
    async with console.stranger() as client:
        assert (await client.post("/sign-in", data={"key": console.stack.key})).status_code == 401


async def test_a_sign_in_opens_a_new_session_and_ends_the_one_before(console: RunningConsole) -> None:
    async with console.signed_in() as client:
        before = dict(client.cookies)
        await client.post("/sign-in", data={"key": ADMIN_KEY})
        assert dict(client.cookies) != before
    async with httpx.AsyncClient(base_url=console.url, cookies=before) as thief:
        assert (await thief.get("/sessions")).status_code == 303


async def test_a_cookie_that_was_planted_is_not_taken_over(console: RunningConsole) -> None:
    async with console.stranger() as client:
        client.cookies.set("llmp_console", "planted-by-another", domain="127.0.0.1", path="/")
        answer = await client.post("/sign-in", data={"key": ADMIN_KEY})
        cookie = answer.headers["set-cookie"]
    assert "planted-by-another" not in cookie
    assert all(word in cookie for word in ("HttpOnly", "SameSite=lax", "Path=/"))


async def test_signing_out_ends_the_session(console: RunningConsole) -> None:
    async with console.signed_in() as client:
        kept = dict(client.cookies)
        assert (await post(client, "/sign-out")).headers["location"] == "/sign-in"
        assert not client.cookies
    async with httpx.AsyncClient(base_url=console.url, cookies=kept) as thief:
        assert (await thief.get("/sessions")).status_code == 303


async def test_a_revoked_key_ends_its_sessions(console: RunningConsole) -> None:
    key = await console.stack.new_key()
    async with console.signed_in(key) as client, httpx.AsyncClient(base_url=console.stack.url) as gateway:
        assert (await client.get("/sessions")).status_code == 200
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        prefix = "-".join(key.split("-")[:3])
        await gateway.delete(f"/admin/keys/{prefix}", headers=headers)
        assert (await client.get("/sessions")).status_code == 303


async def test_a_form_needs_the_sessions_token(console: RunningConsole) -> None:
    async with console.signed_in() as client, console.signed_in() as other:
        foreign = await token_of(other)
        for fields in ({}, {"csrf": ""}, {"csrf": "x"}, {"csrf": foreign}):
            assert (await client.post("/sign-out", data=fields)).status_code == 403
        own = await token_of(client)
        for headers in (
            {"origin": "http://evil.example"},
            {"origin": "null"},
            {"sec-fetch-site": "cross-site"},
        ):
            answer = await client.post("/sign-out", data={"csrf": own}, headers=headers)
            assert answer.status_code == 403
            answer = await client.post("/sign-in", data={"key": ADMIN_KEY}, headers=headers)
            assert answer.status_code == 403
        assert (await client.post("/sign-out", headers={"x-csrf-token": own})).status_code == 303


async def test_a_link_signs_in_once_and_its_preview_does_not(console: RunningConsole) -> None:
    link = await console.link()
    async with console.stranger() as client, console.stranger() as late:
        for _ in range(2):
            assert (await client.get(link)).status_code == 200
        assert (await client.post(link)).status_code == 303
        assert "admin_key" in (await client.get("/sessions")).text
        again = await late.post(link)
        assert again.status_code == 401
        assert "was used" in again.text


async def test_a_console_prints_a_link_that_signs_in_once_before_it_serves(console: RunningConsole) -> None:
    """The command ran one event loop by then; the pool of what it serves belongs to the next one."""
    log = console.process.managed.log
    assert log is not None
    link = log.read_text().partition(f"sign in: {console.url}")[2].split()[0]
    async with console.stranger() as client:
        assert [(await client.post(link)).status_code for _ in range(2)] == [303, 401]


async def test_only_one_of_many_at_once_gets_in_by_a_link(console: RunningConsole) -> None:
    link = await console.link()
    async with console.stranger() as client:
        answers = await asyncio.gather(*(client.post(link) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [303, 401, 401, 401, 401]


@pytest.mark.parametrize(
    "target",
    ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:x", "", "/a\nb", "/a\\b"],
)
def test_nobody_is_redirected_to_another_site(target: str) -> None:
    assert local_path(target) == "/"


def test_settings_that_are_not_safe_stop_the_start(tmp_path_factory: pytest.TempPathFactory) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": "postgresql://nobody@127.0.0.1:9/none",
        "LLM_PROXY__ENVIRONMENT": "production",
        "LLM_PROXY__CONSOLE_HOST": "0.0.0.0",  # noqa: S104 -- what is refused
        "LLM_PROXY__CONSOLE_URL": "http://console.example.com",
    }
    ended = subprocess.run(
        [sys.executable, "-m", "llm_proxy", "console"],
        env=environment, cwd=tmp_path_factory.mktemp("console"), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert "CONSOLE_URL is not https" in ended.stderr
