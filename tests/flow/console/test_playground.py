"""The playground: calls, explanations and programs, with which key, and for which roles."""

import asyncio
import html
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from anyio import run_process
from running_console import RunningConsole, post, token_of
from running_stack import script

KEY_TEXT = re.compile(r"sk-llmp-[0-9A-Za-z]{12}-[0-9A-Za-z]{38}")
SNIPPET = re.compile(r'<pre id="snippet-(\w+)"[^>]*>(.*?)</pre>', re.DOTALL)
TURNS = re.compile(r'name="turns" id="turns" value="([^"]*)"')
PROMPT = "its `$HOME` and {${x}"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)


def chat(prompt: str = "hello", **fields: str) -> dict[str, str]:
    """The form of a chat."""
    return {"path": "/v1/chat/completions", "model": "plain", "prompt": prompt, "max_tokens": "16"} | fields


async def test_an_admin_calls_with_a_key_of_an_hour_which_no_page_shows(console: RunningConsole) -> None:
    admin_key = await console.new_admin_key("operator")
    async with console.signed_in(admin_key) as client:
        who = re.search(r'class="name" title="([^"]+)"', (await client.get("/playground")).text)
        assert who is not None
        name = f"playground-{who[1]}"
        listed = (await console.admin_api("GET", f"/admin/keys?text={name}"))["data"]
        assert listed == []  # to look makes no key
        called = await post(client, "/playground", **chat(), action="call")
        assert "delta0 timber1" in called.text
        [key] = (await console.admin_api("GET", f"/admin/keys?text={name}"))["data"]
        assert key["budgets"] == [{"limit_usd": "1", "period": "day"}]
        assert key["expires_at"] is not None
        assert KEY_TEXT.findall(called.text) == []
        shown = await post(client, "/playground", path="", model="", action="key")
        [text] = KEY_TEXT.findall(shown.text)
        assert text.startswith(key["prefixes"][0])
        audit = await console.admin_api("GET", f"/admin/audit?subject={key['id']}")
        assert {one["actor"] for one in audit["data"]} == {who[1]}
    async with console.signed_in(admin_key) as later:  # another session: the same key, another secret
        assert "delta0 timber1" in (await post(later, "/playground", **chat(), action="call")).text
        [same] = (await console.admin_api("GET", f"/admin/keys?text={name}"))["data"]
        assert (same["id"], len(same["prefixes"])) == (key["id"], 2)
    await console.admin_api("DELETE", f"/admin/keys/{key['id']}")
    async with console.signed_in(admin_key) as closed:
        answer = await post(closed, "/playground", **chat(), action="call")
        assert answer.status_code == 403
        assert "was revoked" in answer.text


async def test_a_stream_arrives_as_it_comes_and_ends_with_the_browser(console: RunningConsole) -> None:
    key = await console.stack.new_key(tenant="t")
    async with console.signed_in(key) as client:
        form = chat(script(do="ok", frames=200, gap_ms=50), stream="on")
        headers = {"x-csrf-token": await token_of(client)}
        begun = asyncio.get_running_loop().time()
        async with client.stream("POST", "/playground/stream", data=form, headers=headers) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            assert response.headers["x-request-id"]
            first = await anext(aiter(response.aiter_lines()))
            assert first.startswith("data:")
            assert asyncio.get_running_loop().time() - begun < 9  # the whole stream takes ten seconds
        async with asyncio.timeout(20):
            while (await console.admin_api("GET", "/admin/calls"))["data"]:  # noqa: ASYNC110 -- another process
                await asyncio.sleep(0.1)


async def test_a_holder_calls_with_its_own_key_within_its_limits(console: RunningConsole) -> None:
    made = await console.admin_api(
        "POST", "/admin/keys", name=os.urandom(6).hex(), tenant="t",
        budgets=[{"limit_requests": 1, "period": "total"}],
    )  # fmt: skip
    async with console.signed_in(made["key"]) as client:
        assert "delta0 timber1" in (await post(client, "/playground", **chat(), action="call")).text
        used_up = await post(client, "/playground", **chat(), action="call")
        assert "insufficient_quota" in used_up.text
        explained = await post(client, "/playground", **chat(), action="explain")
        assert ">refused</span>" in explained.text
        assert made["key"] not in explained.text
        hidden = await post(client, "/playground", **chat(), action="key")
        assert made["key"] not in hidden.text


async def test_what_is_explained_is_what_would_be_called(console: RunningConsole) -> None:
    key = await console.stack.new_key(tenant="t", models=["plain"])
    async with console.signed_in(key) as client:
        assert ">admitted</span>" in (await post(client, "/playground", **chat(), action="explain")).text
        other = await post(client, "/playground", **chat(model="ranker"), action="explain")
        assert "model_not_found" in other.text
        wrong = await post(client, "/playground", **chat(temperature="hot"), action="call")
        assert wrong.status_code == 400
        assert re.search(r'id="error-temperature" class="bad"', wrong.text)
    assert await console.stack.calls() == []


async def test_pictures_tools_and_the_other_dialects_are_sent(console: RunningConsole) -> None:
    key = await console.stack.new_key(tenant="t")
    tools = '[{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]'
    async with console.signed_in(key) as client:
        fields = {"csrf": await token_of(client), "action": "call", **chat(tools=tools)}
        sent = await client.post("/playground", data=fields, files={"file": ("a.png", PNG, "image/png")})
        assert "delta0 timber1" in sent.text
        [call] = await console.stack.calls()
        assert call["body"]["tools"][0]["function"]["name"] == "look"
        assert call["body"]["messages"][0]["content"][1]["image_url"]["url"].startswith("data:image/png")
        for path in ("/v1/responses", "/v1/messages"):
            answer = await post(client, "/playground", **chat(path=path), action="call")
            assert "delta0 timber1" in answer.text
        ranked = await post(
            client, "/playground", path="/v1/rerank", model="ranker", prompt="q\na\nb", action="call"
        )
        assert "relevance_score" in ranked.text


@pytest.mark.parametrize(
    ("path", "stream"), [("/v1/chat/completions", "on"), ("/v1/messages", ""), ("/v1/responses", "")]
)
async def test_the_programs_run(console: RunningConsole, tmp_path: Path, path: str, stream: str) -> None:
    key = await console.stack.new_key(tenant="t")
    async with console.signed_in(key) as client:
        fields = chat(PROMPT, path=path, stream=stream)
        page = (await post(client, "/playground", **fields, action="code")).text
    assert key not in page
    found = {name: html.unescape(text) for name, text in SNIPPET.findall(page)}
    assert [*found] == ["curl", "Python", "Node"]
    commands = {
        "curl": ["bash", "-c"],
        "Python": [sys.executable, "-c"],
        "Node": ["node", "--input-type=module", "-e"],
    }
    env = {"PATH": os.environ["PATH"], "LLM_PROXY_KEY": key, "HOME": str(tmp_path)}
    for name, text in found.items():
        if shutil.which(commands[name][0]) is None:
            continue  # Node is not on every machine
        done = await run_process([*commands[name], text], env=env, cwd=tmp_path, check=False)
        assert done.returncode == 0, (name, done.stderr.decode())
        assert "timber1" in done.stdout.decode(), name
    sent = [one["body"]["messages"][-1]["content"] for one in await console.stack.calls()]
    assert all(PROMPT in str(one) for one in sent)


async def test_roles(console: RunningConsole) -> None:
    async with console.admin("viewer") as viewer:
        assert (await viewer.get("/playground")).status_code == 403
        for path in ("/playground", "/playground/stream"):
            assert (await post(viewer, path, **chat())).status_code == 403
    async with console.admin("tenant", "acme") as tenant:
        assert "delta0 timber1" in (await post(tenant, "/playground", **chat(), action="call")).text
        found = (await console.admin_api("GET", "/admin/keys?tenant=acme&text=acme/playground-"))["data"]
        assert all(one["tenant"] == "acme" for one in found)
        assert found


@pytest.mark.parametrize("stream", [{}, {"stream": "on"}])
@pytest.mark.parametrize(
    "path",
    ["/v1/chat/completions", "/v1/responses", "/v1/messages", "/v1beta/models/{model}:generateContent"],
)
async def test_a_conversation_goes_on_without_scripts(
    console: RunningConsole, path: str, stream: dict[str, str]
) -> None:
    """The second call sends the messages before; a button begins anew."""
    async with console.signed_in(await console.stack.new_key(tenant="t")) as client:
        fields = chat("how are you?", path=path) | stream
        first = await post(client, "/playground", **fields, action="call")
        assert first.status_code == 200, first.text
        turns = html.unescape(TURNS.findall(first.text)[0])
        assert [one["role"] for one in json.loads(turns)] == ["user", "assistant"]
        assert json.loads(turns)[1]["text"].startswith("delta0 timber1")
        second = await post(
            client, "/playground", **(fields | {"prompt": "and now?", "turns": turns}), action="call"
        )
        assert len(json.loads(html.unescape(TURNS.findall(second.text)[0]))) == 4
        explained = await post(client, "/playground", **(fields | {"turns": turns}), action="explain")
        assert "admitted" in explained.text
        fresh = await post(client, "/playground", **(fields | {"turns": turns}), action="fresh")
        assert TURNS.findall(fresh.text) == ["[]"]
        wrong = await post(client, "/playground", **(fields | {"turns": "{"}), action="call")
        assert (wrong.status_code, "This is not a conversation." in wrong.text) == (400, True)


async def test_a_viewer_is_told_why_there_is_no_playground(console: RunningConsole) -> None:
    async with console.admin("viewer") as viewer:
        page = await viewer.get("/playground")
        assert page.status_code == 403
        assert "a viewer may not create keys" in page.text
        assert (await post(viewer, "/playground", **chat(), action="call")).status_code == 403
