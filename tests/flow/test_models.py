"""`/admin/models` and its commands: prices, live health, and a probe on request."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from typing import Any
from uuid import uuid4

import httpx
import pytest
from anyio import run_process
from running_stack import Json, RunningStack, say, script

from llm_proxy.stack import probe


async def admin_request(
    stack: RunningStack, method: str, path: str, key: str | None = None
) -> httpx.Response:
    """Sends a request with an admin key."""
    headers = {"Authorization": f"Bearer {key or stack.admin_key}"}
    async with httpx.AsyncClient(base_url=stack.url, headers=headers, timeout=60) as client:
        return await client.request(method, path)


async def group(stack: RunningStack, name: str) -> Json:
    """Returns one group of `/admin/models`."""
    async with asyncio.timeout(10):
        while (answer := await admin_request(stack, "GET", "/admin/models")).status_code == 503:  # noqa: ASYNC110 -- the catalogue is read beside the first requests
            await asyncio.sleep(0.1)
    assert answer.status_code == 200, answer.text
    listed = answer.json()["data"]
    return next(one for one in listed if one["id"] == name)


async def test_admins_see_deployments_and_prices_of_a_group(stack: RunningStack) -> None:
    """Dollars per million tokens, as decimal text; wildcards are listed as such."""
    plain = await group(stack, "plain")
    [behind] = plain["deployments"]
    assert (plain["mode"], plain["providers"], plain["wildcard"]) == ("chat", ["openai"], False)
    assert (behind["id"], behind["model"]) == ("plain", "plain")
    assert (behind["input_usd_per_million"], behind["output_usd_per_million"]) == ("1", "2")
    assert (await group(stack, "p/*"))["wildcard"] is True
    [ranking] = (await group(stack, "ranker"))["deployments"]
    assert (behind["unit_prices_usd"], ranking["unit_prices_usd"]) == ({}, {"query": "0.002"})


async def test_a_gateway_that_was_started_alone_tells_its_configuration_and_how_to_reload(
    stack: RunningStack,
) -> None:
    """The findings are the sidecar's own; without a launcher nothing is reloaded, and the answer says how."""
    found = (await admin_request(stack, "GET", "/admin/config")).json()
    assert [one["changed"] for one in found["sidecars"]] == [False]
    assert not [one for one in found["findings"] if one["prevents_start"]]
    status = (await admin_request(stack, "GET", "/admin/reload")).json()
    assert (status["available"], status["last"]) == (False, None)
    answer = await admin_request(stack, "POST", "/admin/reload")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_launcher")
    assert answer.json()["error"]["message"] == status["instructions"]


async def test_a_provider_with_another_s_api_has_its_own_name(stack: RunningStack) -> None:
    """The configured name, in lists and headers; it is called as before."""
    assert (await group(stack, "retried"))["providers"] == ["inhouse"]
    body = {"model": "retried", "messages": say("hello"), "top_k": 3}
    async with httpx.AsyncClient(base_url=stack.url, headers=stack.auth) as client:
        answer = await client.post("/v1/chat/completions", json=body)
    assert answer.headers["x-llm-proxy-provider"] == "inhouse"
    [call] = await stack.calls()
    assert call["body"]["top_k"] == 3


async def test_health_comes_from_live_traffic(stack: RunningStack) -> None:
    """A success and a failure show; a caller's own fault does not; no model is called for it."""
    before = (await group(stack, "plain"))["health"]
    await stack.openai.chat.completions.create(model="plain", messages=say(f"hello {uuid4().hex}"))
    for directive in ({"do": "status-500"}, {"do": "status-400"}):
        with pytest.raises(Exception, match=r"50\d|400"):
            await stack.openai.chat.completions.create(model="plain", messages=say(script(**directive)))
    calls = len(await stack.calls())
    async with asyncio.timeout(10):
        while (after := (await group(stack, "plain"))["health"])["calls"] - before["calls"] < 2:  # noqa: ASYNC110 -- nothing tells when records are written
            await asyncio.sleep(0.1)
    assert after["last_success_at"] is not None
    assert after["last_failure_at"] is not None
    assert after["last_failure_code"]
    assert after["calls"] - before["calls"] == 2
    assert after["failures"] - before["failures"] == 1
    assert 0 < after["error_rate"] <= 1
    assert len(await stack.calls()) == calls


async def test_a_probe_is_one_capped_call_with_latency_and_cost(stack: RunningStack) -> None:
    """A few tokens, never from the cache, recorded, by name or through a wildcard."""
    for name in ("plain", "p/any"):
        tried = (await admin_request(stack, "POST", f"/admin/models/{name}/test")).json()
        assert tried["ok"] is True
        assert tried["error"] is None
        assert tried["provider"] == "openai"
        assert tried["latency_ms"] > 0
        assert float(tried["cost_usd"]) > 0
    [first, second] = await stack.calls()
    assert [call["body"]["max_tokens"] for call in (first, second)] == [16, 16]
    assert (await admin_request(stack, "POST", "/admin/models/plain/test")).json()["ok"] is True
    assert len(await stack.calls()) == 3


async def test_a_failed_probe_shows_its_error(stack: RunningStack) -> None:
    """The response is 200: the probe ran."""
    answer = await admin_request(stack, "POST", "/admin/models/p/status-401/test")
    tried = answer.json()
    assert answer.status_code == 200
    assert tried["ok"] is False
    assert tried["cost_usd"] is None
    assert tried["error"]["code"]


async def test_models_need_an_admin_key_and_an_unknown_model_is_404(stack: RunningStack) -> None:
    """A caller's key is rejected by each route."""
    assert (await admin_request(stack, "GET", "/admin/models", stack.key)).status_code == 401
    assert (await admin_request(stack, "POST", "/admin/models/plain/test", stack.key)).status_code == 401
    assert (await admin_request(stack, "POST", "/admin/models/nobody/test")).status_code == 404


def models(stack: RunningStack, *words: str) -> "subprocess.CompletedProcess[str]":
    """Runs `llm-proxy models`."""
    return command(stack, "models", *words)


def command(stack: RunningStack, name: str, *words: str) -> "subprocess.CompletedProcess[str]":
    """Runs a command that calls the gateway."""
    argv = [sys.executable, "-m", "llm_proxy", name, "--url", stack.url, *words]
    env = {
        "PATH": os.environ["PATH"],
        "LLM_PROXY__ADMIN_KEY": stack.admin_key,
        "LLM_PROXY__INTERNAL_API_KEY": stack.key,
        "COLUMNS": "200",
    }
    return subprocess.run(argv, env=env, capture_output=True, text=True, check=False, cwd="/")


async def test_the_command_shows_a_table_or_json(stack: RunningStack) -> None:
    """The same facts in both."""
    table = models(stack)
    assert table.returncode == 0, table.stderr
    [row] = [line for line in table.stdout.splitlines() if line.startswith("plain ")]
    assert "openai" in row
    [row] = [line for line in table.stdout.splitlines() if line.startswith("ranker ")]
    assert "$0.002 a search" in row
    [row] = [line for line in table.stdout.splitlines() if line.startswith("painter ")]
    assert "$0.009 to $0.2 an image" in row
    found: list[dict[str, Any]] = json.loads(models(stack, "--json", "plain").stdout)
    assert [one["id"] for one in found] == ["plain"]
    unknown = models(stack, "plain", "nosuch")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "no model group is named 'nosuch'" in unknown.stderr


async def test_status_and_explain_exit_with_the_gateway_s_verdict(stack: RunningStack) -> None:
    """No model is called."""
    status = command(stack, "status", "--json")
    assert status.returncode == 0, status.stderr
    assert {"sidecars", "limits"} <= {one["part"] for one in json.loads(status.stdout)["parts"]}
    good = command(stack, "explain", "--model", "plain", "--tenant", "t", "--agent", "scout")
    assert (good.returncode, good.stdout.split()[:2]) == (0, ["verdict", "admitted"])
    bad = command(stack, "explain", "--model", "no-such-model", "--json")
    assert (bad.returncode, json.loads(bad.stdout)["refusal"]["code"]) == (1, "model_not_found")
    other = command(stack, "explain", "--model", "ranker", "--tenant", "t", "--json")
    assert (other.returncode, json.loads(other.stdout)["door"]) == (0, "rerank")
    assert await stack.calls() == []


async def test_check_calls_each_group_once_and_fails_if_one_fails(stack: RunningStack) -> None:
    """Latency, cost and error of each; exit code 1 only if one failed; wildcards have no model to call."""
    good = models(stack, "--check", "plain", "p/*")
    assert good.returncode == 0, good.stderr
    assert "ok" in good.stdout
    assert len(await stack.calls()) == 1
    bad = models(stack, "--check", "--json", "plain", "retried")
    results = {one["id"]: one for one in json.loads(bad.stdout)}
    assert results["plain"]["ok"] is True
    assert bad.returncode == (0 if all(one["ok"] for one in results.values()) else 1)


async def test_the_command_line_rejects_a_model_that_is_not_served(
    stack: RunningStack, postgres_url: str
) -> None:
    """Unless it is forced; without a gateway the key is created, with a warning."""
    env = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": postgres_url,
        "LLM_PROXY__ADMIN_KEY": stack.admin_key,
    }
    named = ["--name", uuid4().hex, "--model", "plain", "--model", "p/any"]
    away = probe.free_port()
    for words, port, code, reported in (
        ([*named, "--model", "nosuch*"], stack.port, 2, "no served model group matches 'nosuch*'"),
        (named, stack.port, 0, "this is the only time"),
        (["--name", uuid4().hex, "--model", "nosuch*", "--force"], stack.port, 0, "this is the only time"),
        (["--name", uuid4().hex, "--model", "nosuch*"], away, 0, "no gateway answers"),
    ):
        command = [sys.executable, "-P", "-m", "llm_proxy", "keys", "create", *words]
        env["LLM_PROXY__PORT"] = str(port)
        done = await run_process(command, env=env, cwd=tempfile.gettempdir(), check=False)
        assert (done.returncode, reported in done.stderr.decode()) == (code, True), done.stderr
