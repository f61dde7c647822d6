"""Keys that a LiteLLM proxy handed out, imported by the command, used with curl's and the SDK's requests."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from uuid import uuid4

import asyncpg
import httpx
import openai
import pytest
from commands import run
from litellm_database import LiteLLMDatabase, make_database, stored_by_litellm
from loopback import NO_TLS
from running_stack import RunningStack, say

KEYS = [
    f"sk-{name}-{uuid4().hex[:12]}"
    for name in ("free", "spent", "begun", "blocked", "team", "narrow", "custom")
]
FREE, SPENT, BEGUN, BLOCKED, OF_TEAM, NARROW, CUSTOM = KEYS
SALT, SECRET = "sk-the-salt", "provider-secret-0123456789"
TEAM = f"search-{uuid4().hex[:6]}"
FAR = datetime(2999, 1, 1)  # noqa: DTZ001 -- as Prisma stores times


@pytest.fixture(scope="module")
async def litellm_url(postgres_url: str) -> AsyncIterator[str]:
    """A LiteLLM proxy's database with a team, keys and a model."""
    name = f"litellm_{uuid4().hex}"
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(f"CREATE DATABASE {name}")
    url = f"{postgres_url.rpartition('/')[0]}/{name}"
    await make_database(url)
    stored = stored_by_litellm(KEYS, [SECRET, "openai/gpt-4o"], SALT)
    own = await asyncpg.connect(url)
    write = LiteLLMDatabase(own)
    await write.insert(
        "TeamTable",
        team_id="t-1",
        team_alias=TEAM,
        max_budget=1.0,
        spend=1.0,
        budget_duration="30d",
        budget_reset_at=FAR,
    )
    await write.insert("BudgetTable", budget_id="b-1", max_budget=1.0)
    await write.insert("EndUserTable", user_id=f"{TEAM}-spent", budget_id="b-1", spend=1.5)
    rows: dict[str, dict[str, object]] = {
        FREE: {},
        SPENT: {"max_budget": 2.0, "spend": 2.5},
        BEGUN: {"max_budget": 100.0, "spend": 40.25, "budget_duration": "1d", "budget_reset_at": FAR},
        BLOCKED: {"blocked": True},
        OF_TEAM: {"team_id": "t-1"},
        NARROW: {"models": ["plain"], "rpm_limit": 2},
        CUSTOM: {},
    }
    for key, row in rows.items():
        await write.insert(
            "VerificationToken", token=stored.digests[key], key_alias=key.rpartition("-")[0] + TEAM, **row
        )
    params = {"model": stored.xsalsa20["openai/gpt-4o"], "api_key": stored.aes[SECRET]}
    await write.insert("ProxyModelTable", model_id="m-1", model_name="gpt-4o", litellm_params=params)
    yield url
    await own.close()
    await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await connection.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the command writes."""
    return tmp_path_factory.mktemp("imported")


@pytest.fixture(scope="module")
async def imported(
    litellm_url: str, files: Path, postgres_url: str, limits_redis_url: str, stack_ports: dict[str, int]
) -> dict[str, object]:
    """The command's document, after it was applied to the running gateway's database."""
    assert stack_ports
    printed = await run(
        postgres_url,
        *command(litellm_url, files),
        "--apply",
        LITELLM_SALT_KEY=SALT,
        LIMITS_REDIS_URL=limits_redis_url,
    )
    assert SECRET not in printed
    found: dict[str, object] = json.loads(printed)
    await _known(stack_ports["gateway"])
    return found


async def _known(port: int) -> None:
    """Waits until the gateway knows that there are imported keys: within a second of the first import."""
    async with httpx.AsyncClient(verify=NO_TLS, headers={"Authorization": f"Bearer {FREE}"}) as client:
        for _ in range(400):
            if (await client.get(f"http://127.0.0.1:{port}/key/info")).status_code != 401:
                return
            await asyncio.sleep(0.05)
    pytest.fail("the gateway does not know of the imported keys")


def command(litellm_url: str, files: Path) -> list[str]:
    """The command's words."""
    named = ["--models-file", str(files / "models.yaml"), "--env-file", str(files / "env")]
    return ["import", "litellm", "--from", litellm_url, *named, "--source", TEAM, "--json"]


async def chat(
    stack: RunningStack, key: str, model: str = "plain", user: str = "end-user", **headers: str
) -> httpx.Response:
    """One chat."""
    sent = headers or {"Authorization": f"Bearer {key}"}
    body = {"model": model, "messages": say("hello"), "max_tokens": 5, "user": user}
    async with httpx.AsyncClient(verify=NO_TLS, timeout=30) as client:
        return await client.post(f"{stack.url}/v1/chat/completions", json=body, headers=sent)


async def test_a_litellm_key_calls_and_is_billed_as_its_row_says(
    stack: RunningStack, imported: dict[str, object]
) -> None:
    """With the OpenAI SDK, and with LiteLLM's own header; the caller may name any `user`."""
    assert imported["applied"]
    async with openai.AsyncOpenAI(
        base_url=f"{stack.url}/v1", api_key=FREE, http_client=openai.DefaultAsyncHttpxClient(verify=NO_TLS)
    ) as sdk:
        answer = await sdk.chat.completions.create(model="plain", messages=say("hello"), user="an-end-user")
    assert answer.choices[0].message.content
    by_header = {"x-litellm-api-key": f"Bearer {CUSTOM}"}
    assert (await chat(stack, CUSTOM, **by_header)).status_code == 200
    assert (await chat(stack, FREE + "x")).status_code == 401


async def test_spend_so_far_counts(stack: RunningStack, imported: dict[str, object]) -> None:
    """A spent budget rejects the first call here; a begun one says what is left."""
    assert imported["applied"]
    spent, of_team = await chat(stack, SPENT), await chat(stack, OF_TEAM)
    assert (spent.status_code, spent.json()["error"]["code"]) == (429, "insufficient_quota")
    assert (of_team.status_code, of_team.json()["error"]["code"]) == (429, "insufficient_quota")
    of_user = await chat(stack, FREE, user=f"{TEAM}-spent")
    assert (of_user.status_code, of_user.json()["error"]["code"]) == (429, "insufficient_quota")
    assert (await chat(stack, BEGUN)).status_code == 200
    async with httpx.AsyncClient(verify=NO_TLS, headers={"Authorization": f"Bearer {BEGUN}"}) as client:
        status = (await client.get(f"{stack.url}/v1/limits")).json()
    assert "40.25" in json.dumps(status) or "59.7" in json.dumps(status), status


async def test_limits_models_and_blocks_hold(stack: RunningStack, imported: dict[str, object]) -> None:
    """As LiteLLM had them."""
    assert imported["applied"]
    assert (await chat(stack, BLOCKED)).status_code == 403
    assert (await chat(stack, NARROW, model="claude")).status_code == 404
    assert [(await chat(stack, NARROW)).status_code for _ in range(3)] == [200, 200, 429]


async def test_the_files_hold_models_and_secrets_apart_and_a_second_run_changes_nothing(
    imported: dict[str, object], files: Path, litellm_url: str, postgres_url: str
) -> None:
    """The secrets' file is its owner's alone."""
    assert imported["models"] == 1
    assert "os.environ/GPT_4O_API_KEY" in (files / "models.yaml").read_text()
    assert f"GPT_4O_API_KEY={SECRET}" in (files / "env").read_text()
    assert (files / "env").stat().st_mode & 0o777 == 0o600
    again = json.loads(
        await run(postgres_url, *command(litellm_url, files), "--apply", LITELLM_SALT_KEY=SALT)
    )
    assert {one["change"] for one in again["changes"]} == {"unchanged"}
    (files / "env").write_text("edited by hand")
    await run(postgres_url, *command(litellm_url, files), "--apply", code=2, LITELLM_SALT_KEY=SALT)


async def test_wrong_input_is_said_in_a_line(litellm_url: str, files: Path, postgres_url: str) -> None:
    """No salt key, another one, another database, an address that is none."""
    words = command(litellm_url, files)
    printed = [
        await run(postgres_url, *words, code=2, LITELLM_SALT_KEY="", LITELLM_MASTER_KEY=""),
        await run(postgres_url, *words, code=2, LITELLM_SALT_KEY="sk-another"),
        await run(postgres_url, "import", "litellm", "--from", postgres_url, code=2),
        await run(postgres_url, "import", "litellm", "--from", "mysql://a:secret@b/c", code=2),
    ]
    assert [text.count("\n") for text in printed] == [1] * 4, printed
    assert "secret" not in printed[3]


async def test_what_litellm_s_clients_ask_about_models_and_their_key(
    stack: RunningStack, imported: dict[str, object]
) -> None:
    """Only what the key may use; its own budget with what was spent; no other key."""
    assert imported["applied"]
    async with httpx.AsyncClient(verify=NO_TLS, base_url=stack.url, timeout=20) as client:
        narrow, begun = {"Authorization": f"Bearer {NARROW}"}, {"Authorization": f"Bearer {BEGUN}"}
        for path in ("/v1/model/info", "/model/info"):
            [model] = (await client.get(path, headers=narrow)).json()["data"]
            assert (model["model_name"], model["model_info"]["id"]) == ("plain", "plain")
            assert model["model_info"]["input_cost_per_token"] == 1e-6
            assert "api_key" not in model["litellm_params"]
        assert (await client.get("/model/info?litellm_model_id=none", headers=narrow)).json() == {"data": []}
        claude = (await client.get("/v1/model/info?litellm_model_id=claude", headers=begun)).json()["data"]
        assert claude[0]["model_info"]["supports_vision"]
        info = (await client.get("/key/info", headers=begun, params={"key": BEGUN})).json()["info"]
        assert (info["max_budget"], info["budget_duration"], info["models"]) == (100.0, "1d", [])
        assert 40.25 <= info["spend"] < 41
        assert (await client.get("/key/info", headers=begun, params={"key": FREE})).status_code == 404
        assert (await client.get("/key/info")).status_code == 401


@pytest.mark.parametrize(
    "path", ["/key/generate", "/team/new", "/spend/logs", "/model/new", "/ui/", "/health/services"]
)
async def test_a_path_of_litellm_s_says_where_it_went(stack: RunningStack, path: str) -> None:
    """404 in OpenAI's envelope, with what takes its place."""
    async with httpx.AsyncClient(verify=NO_TLS, base_url=stack.url) as client:
        error = (await client.post(path, json={})).json()["error"]
        other = (await client.get("/keyring")).json()["error"]
    assert (error["code"], "This path of LiteLLM's API is not served: " in error["message"]) == (
        "unknown_url",
        True,
    )
    assert "LiteLLM" not in other["message"]


@pytest.mark.parametrize(
    "path",
    [
        "/health",
        "/health/liveliness",
        "/health/liveness",
        "/health/readiness",
        "/health/live",
        "/health/ready",
    ],
)
async def test_litellm_s_health_paths_answer(stack: RunningStack, path: str) -> None:
    """What probes and monitors of a LiteLLM proxy ask."""
    async with httpx.AsyncClient(verify=NO_TLS, base_url=stack.url) as client:
        assert (await client.get(path)).status_code == 200
