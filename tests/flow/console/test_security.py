"""Attacks on the console: markup in names, foreign rows, raised roles, host names, forged forms, bodies."""

import asyncio
import re
from collections.abc import AsyncGenerator
from html.parser import HTMLParser
from uuid import uuid4

import httpx
import pytest
from fastapi.routing import APIRoute
from loopback import NO_TLS
from running_console import RunningConsole, post, token_of
from running_stack import ADMIN_KEY, say, script

from llm_proxy.console import create_console
from llm_proxy.console.pages import PAGES
from llm_proxy.settings import load

CANARY = "<img src=x onerror=alert(1)>"
IN_SCRIPT = "\"'><script>alert(1)</script>"
RAW = ("<img src=x", "<script>alert")
HEADERS = {
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
LINK = re.compile(r'href="(/[^"#]*)"')
PUBLIC = {"/sign-in", "/sign-in/link/{secret}", "/sign-in/oidc", "/sign-in/oidc/callback"}
PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")


class InlineCode(HTMLParser):
    """Finds what a strict content security policy forbids."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    @classmethod
    def found_in(cls, text: str) -> list[str]:
        """Returns the forbidden parts of a page."""
        parser = cls()
        parser.feed(text)
        return parser.found

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Looks at an element."""
        given = dict(attrs)
        if tag in ("style", "base", "iframe", "object", "embed") or (tag == "script" and "src" not in given):
            self.found.append(tag)
        self.found += [name for name in given if name == "style" or name.startswith("on")]
        for name in ("href", "src", "action", "formaction"):
            address = (given.get(name) or "").strip().lower()
            if address and not address.startswith(("/", "?", "#")):
                self.found.append(f"{name}={address}")


async def routes() -> list[APIRoute]:
    """Returns every route of a console, which belongs to the running loop."""
    settings = load(database_url="postgresql://nobody@127.0.0.1:9/none")
    hardened = create_console(settings, "http://127.0.0.1:9")
    return [one for one in hardened.routes if isinstance(one, APIRoute)]


ROUTES = [(method, one.path) for one in asyncio.run(routes()) for method in sorted(one.methods or ())]


async def every_page(client: httpx.AsyncClient) -> list[httpx.Response]:
    """Returns the pages in the navigation and those they link to, each path once."""
    start = await client.get("/", follow_redirects=True)
    waiting, seen, pages = LINK.findall(start.text), set[str](), list[httpx.Response]()
    depth = 2
    for _ in range(depth):
        found: list[str] = []
        for path in dict.fromkeys(one.replace("&amp;", "&") for one in waiting):
            if path in seen or path.startswith("/static/") or len(seen) > 120:
                continue
            seen.add(path)
            answer = await client.get(path)
            pages.append(answer)
            if answer.headers.get("content-type", "").startswith("text/html"):
                found += LINK.findall(answer.text)
        waiting = found
    return pages


async def test_no_page_is_a_strangers(console: RunningConsole) -> None:
    """Every route but those of the sign-in sends there."""
    assert len(ROUTES) > 30
    async with console.stranger() as client:
        for method, path in ROUTES:
            if path not in PUBLIC:
                answer = await client.request(method, PARAMETER.sub("x", path))
                assert answer.status_code == 303, path
                assert answer.headers["location"].startswith("/sign-in"), path


async def test_no_form_is_taken_without_its_sessions_token(console: RunningConsole) -> None:
    """Every route that takes a form, with another's token and from another site."""
    async with console.signed_in() as client:
        token, foreign = await token_of(client), {"origin": "https://evil.example"}
        for method, path in ROUTES:
            if method == "GET" or path in PUBLIC:
                continue
            at = PARAMETER.sub("x", path)
            answer = await client.request(method, at, data={"csrf": "0" * 64})
            assert answer.status_code == 403, path
            answer = await client.request(method, at, data={"csrf": token}, headers=foreign)
            assert answer.status_code == 403, path


async def test_a_keys_holder_opens_only_what_is_its_own(console: RunningConsole) -> None:
    """A page of other roles is 403; of an unknown row there is none."""
    allowed = {page.path for page in PAGES if "key" in page.roles}
    async with console.signed_in(await console.stack.new_key()) as client:
        for method, path in ROUTES:
            if method != "GET" or path in PUBLIC:
                continue
            answer = await client.get(PARAMETER.sub(str(uuid4()), path))
            assert answer.status_code < 500, path
            if answer.status_code == 200 and "{" not in path:
                assert any(path.startswith(one) for one in allowed) or path == "/find", path


async def test_a_viewer_changes_nothing(console: RunningConsole) -> None:
    """Every form but those of its own session is 403, whatever it holds."""
    own = {"/sign-out", "/sessions/{session_id}/end", "/keys/find"}  # the last one is a search
    async with console.admin("viewer") as client:
        token = await token_of(client)
        for method, path in ROUTES:
            if method == "POST" and path not in PUBLIC | own:
                answer = await client.post(PARAMETER.sub("x", path), data={"csrf": token})
                assert answer.status_code in (400, 403, 404), (path, answer.status_code)


async def test_markup_in_names_models_and_messages_stays_text(console: RunningConsole) -> None:
    """In the names of key, tenant, agent, user, run, model and admin, in a prompt and an error."""
    stack, marked = console.stack, f"{CANARY}{uuid4().hex}"
    key = await stack.new_key(name=marked, tenant=f"t{marked}"[:100], agent="*")
    headers = {
        "Authorization": f"Bearer {key}",
        "X-Run-Id": IN_SCRIPT,
        "X-Session-Id": IN_SCRIPT,
        "User-Agent": IN_SCRIPT,
    }
    rejected = ""
    calls = (("plain", IN_SCRIPT), (CANARY, "x"), ("plain", script(do="status-400")))
    async with httpx.AsyncClient(base_url=stack.url, verify=NO_TLS, timeout=20) as gateway:
        for model, text in calls:
            body = {
                "model": model,
                "messages": say(text),
                "user": IN_SCRIPT,
                "metadata": {"agent_id": CANARY},
            }
            answer = await gateway.post("/v1/chat/completions", json=body, headers=headers)
            assert answer.status_code in (200, 400, 404), answer.text
            if answer.status_code == 404:
                assert CANARY in answer.json()["error"]["message"]
                rejected = answer.headers["x-request-id"]
            else:
                await stack.story(answer.headers["x-request-id"])
        admin = {"Authorization": f"Bearer {ADMIN_KEY}"}
        rule = {"scope": "agent", "subject": CANARY, "tenant": f"t{marked}"[:100], "rpm": 5}
        await gateway.put("/admin/limits", json=rule, headers=admin)
    await asyncio.sleep(1)  # rejected requests are sampled once a second
    admin_key = await console.new_admin_key("owner", name=f"{IN_SCRIPT}{uuid4().hex}")
    async with console.signed_in(admin_key) as client:
        client.headers["user-agent"] = IN_SCRIPT
        pages = await every_page(client)
        pages.append(await client.get(f"/requests/{rejected}"))
        pages.append(await client.get("/requests", params={"agent": CANARY, "since": "1h"}))
        pages.append(await client.get("/audit", params={"actor": IN_SCRIPT}))
        pages.append(await client.get("/find", params={"id": IN_SCRIPT}))
    texts = [one.text for one in pages if one.headers.get("content-type", "").startswith("text/html")]
    assert any("&lt;img src=x" in one for one in texts), "the canary is on no page"
    for text, page in zip(texts, pages, strict=False):
        assert not any(raw in text for raw in RAW), page.url


async def test_markup_in_a_providers_own_message_stays_text(console: RunningConsole) -> None:
    """On the pages of the request, of its run, of models and a test of one, of lists, of the playground."""
    stack, model, agent = console.stack, "p/says-markup", uuid4().hex
    headers = {"Authorization": f"Bearer {await stack.new_key(agent='*')}", "X-Run-Id": agent}
    body = {"model": model, "messages": say("x"), "metadata": {"agent_id": agent}}
    async with httpx.AsyncClient(base_url=stack.url, verify=NO_TLS, timeout=20) as gateway:
        failed = await gateway.post("/v1/chat/completions", json=body, headers=headers)
    assert failed.status_code == 400, failed.text
    assert "<script>alert" in failed.json()["error"]["message"]
    request_id = failed.headers["x-request-id"]
    await stack.story(request_id)
    async with console.signed_in() as client:
        csrf = await token_of(client)
        form = {"csrf": csrf, "path": "/v1/chat/completions", "model": model, "prompt": "x"}
        shown = {
            "request": await client.get(f"/requests/{request_id}"),
            "test": await client.post("/models/test", data={"csrf": csrf, "model": model}),
            "playground": await client.post("/playground", data=form),
        }
        pages = [*shown.values(), *await every_page(client)]
        pages += [
            await client.get(path, params={"agent": agent, "since": "1h"})
            for path in ("/requests", "/live", f"/runs/{agent}", "/overview", "/usage")
        ]
    for name, page in shown.items():
        assert "&lt;script&gt;alert(1)" in page.text, (name, page.text)
    for page in pages:
        if page.headers.get("content-type", "").startswith("text/html"):
            assert not any(raw in page.text for raw in (*RAW, "<i>messages", "<u>markup")), page.url
            assert not InlineCode.found_in(page.text), page.url


@pytest.mark.parametrize("role", ["tenant", "key"])
async def test_nobody_sees_rows_of_another_tenant(console: RunningConsole, role: str) -> None:
    """Over every page that is reached by links, and by the addresses of the other tenant's rows."""
    mine, other, keys = f"mine-{uuid4().hex}", f"other-{uuid4().hex}", dict[str, str]()
    request_id = ""
    for tenant in (mine, other):
        keys[tenant] = await console.stack.new_key(tenant=tenant, name=f"key-of-{tenant}", agent="*")
        request_id = await _call(console, keys[tenant], f"agent-of-{tenant}")
    prefix = "-".join(keys[other].split("-")[:3])
    browser = console.admin("tenant", mine) if role == "tenant" else console.signed_in(keys[mine])
    async with console.admin("tenant", other) as stranger, browser as client:
        assert (await stranger.get("/sessions")).status_code == 200  # a session of the other tenant
        for page in [*await every_page(client), await client.get("/sessions")]:
            assert other not in page.text, page.url
        for path in (
            f"/requests/{request_id}",
            f"/find?id={request_id}",
            f"/keys/key-of-{other}",
            f"/keys/{prefix}",
            f"/keys?tenant={other}",
            f"/tenants/{other}",
            f"/requests?tenant={other}&since=1h",
            f"/requests?agent=agent-of-{other}&since=1h",
            f"/requests?key={prefix}&since=1h",
            f"/requests.csv?tenant={other}",
            f"/usage?tenant={other}",
            "/usage?group_by=tenant&since=1h",
            "/usage?group_by=agent&since=1h",
            "/usage?group_by=key&since=1h",
            f"/runs?tenant={other}",
            "/overview?since=1h",
            f"/sessions?tenant={other}",
        ):
            answer = await client.get(path, follow_redirects=True)
            assert answer.status_code < 500, path
            for secret in (request_id[-8:], prefix, f"agent-of-{other}", f"key-of-{other}"):
                assert secret in path or secret not in answer.text, (path, secret)
            assert not re.search(rf"<td[^>]*>[^<]*{other}", answer.text), path


async def _call(console: RunningConsole, key: str, agent: str) -> str:
    """Makes a call and returns its id once it is recorded."""
    body = {"model": "plain", "messages": say("hello"), "metadata": {"agent_id": agent}}
    async with httpx.AsyncClient(base_url=console.stack.url, verify=NO_TLS) as gateway:
        headers = {"Authorization": f"Bearer {key}"}
        answer = await gateway.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    request_id = answer.headers["x-request-id"]
    await console.stack.story(request_id)
    return request_id


async def test_one_session_cannot_end_that_of_another_tenant_or_key(console: RunningConsole) -> None:
    def id_in(page: str) -> str:
        found = re.search(r"/sessions/(ses_[0-9a-f]+)/end", page)
        assert found is not None
        return found[1]

    key = await console.stack.new_key(tenant="one")
    async with (
        console.admin("tenant", "two") as two,
        console.signed_in(key) as holder,
        console.admin("viewer") as viewer,
    ):
        theirs, own = id_in((await two.get("/sessions")).text), id_in((await holder.get("/sessions")).text)
        assert (await post(holder, f"/sessions/{theirs}/end")).status_code == 403
        assert (await post(viewer, f"/sessions/{own}/end")).status_code == 403
        assert (await post(two, f"/sessions/{own}/end")).status_code == 404
        assert (await holder.get("/sessions")).status_code == 200
        assert (await post(holder, f"/sessions/{own}/end")).status_code == 303
        assert (await holder.get("/sessions")).status_code == 303


async def test_every_answer_is_hardened(console: RunningConsole) -> None:
    async with console.signed_in() as client:
        for path in ("/sessions", "/no-such-page", "/sign-in", "/audit?before=x"):
            answer = await client.get(path)
            assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS, path
            policy = answer.headers["content-security-policy"]
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy


async def test_no_page_has_a_script_a_style_or_a_handler_of_its_own(console: RunningConsole) -> None:
    async with console.signed_in() as client:
        pages = await every_page(client)
    assert len(pages) > 3
    for page in pages:
        if page.headers.get("content-type", "").startswith("text/html"):
            assert not InlineCode.found_in(page.text), page.url
            assert page.status_code < 500, page.url


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil@127.0.0.1:x", "", "localhost.evil"]
)
async def test_another_host_name_is_not_answered(console: RunningConsole, host: str) -> None:
    async with console.stranger() as client:
        answer = await client.get("/sign-in", headers={"host": host})
    assert answer.status_code in (400, 421)


async def test_bodies_are_bounded(console: RunningConsole) -> None:
    async with console.stranger() as client:
        assert (await client.post("/sign-in", content=b"key=" + b"x" * (21 * 2**20))).status_code == 413

        async def endless() -> AsyncGenerator[bytes]:
            yield b"key="

        assert (await client.post("/sign-in", content=endless())).status_code == 413


@pytest.mark.parametrize("body", [b"\xff\xfe", b"a=%zz", b"--x", b"csrf=" + b"\x00"])
@pytest.mark.parametrize(
    "kind", ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "a/b", ""]
)
async def test_no_body_is_a_crash(console: RunningConsole, body: bytes, kind: str) -> None:
    async with console.signed_in() as client:
        for path in ("/sign-in", "/sign-out", "/sessions/x/end"):
            answer = await client.post(path, content=body, headers={"content-type": kind})
            assert answer.status_code < 500, path
